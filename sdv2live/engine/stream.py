"""One chunk's way: motion -> encode -> noise -> denoise -> decode. Owns what is decided of a stream; computes nothing.

All that decides (slots, rows, timesteps, refreshes) is fixed on the host when a chunk enters. In which order its steps
then run is micro_steps.py's; they go to the stages as orders, to one stage or to several. Runs on the engine's thread;
computing happens in `poll` and `flush`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sdv2live.engine.base import STAGES, Chunk, ChunkResult, ChunkSettings, Engine, EngineTraits
from sdv2live.engine.checkpoint import is_memory_full
from sdv2live.engine.compile import telling
from sdv2live.engine.micro_steps import InFlight, MicroSteps
from sdv2live.engine.noise import MotionController, SeedMixer, largest_change
from sdv2live.engine.orders import NoiseKey
from sdv2live.engine.pipe import Pipe
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.schedule import chunk_timesteps, opening_timesteps
from sdv2live.engine.sinks import SinkKeeper
from sdv2live.engine.stage_clock import Arrivals, Mark
from sdv2live.engine.step_limit import StepLimit
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.window import Window
from sdv2live.errors import ChunkError
from sdv2live.frames import Pixels

SCENE_CUT_MOTION = 0.5  # root mean square, in [-1, 1] units: far beyond any camera move
log = logging.getLogger(__name__)
T = TypeVar("T")

KEPT_PROMPTS = 4
MEMORY_IS_FULL = (
    "its memory is full: close other programs, or start with a smaller --size, fewer --steps or --vae taehv"
)


@dataclass(slots=True)
class Leaving:
    """A chunk whose pictures are on their way to the host, where they are once the device has passed `arrived`."""

    item: InFlight
    frames: Tensor  # [T, H, W, 3] uint8
    is_finite: Tensor
    arrived: Mark


class StreamState:
    """Everything that is decided of one epoch; a reset replaces it whole, so nothing of the old one can be left."""

    def __init__(self, window: Window) -> None:
        self.motion = MotionController()
        self.seeds = SeedMixer()
        self.sinks = SinkKeeper(window)
        self.chunks = 0  # entered so far
        self.latent_frames = 0
        self.rows = 0  # steps of the newest chunk
        self.refresh_requests: int | None = None
        self.phase = 0.0
        self.last_pixels: Pixels | None = None
        self.leaving: deque[Leaving] = deque()


class StreamEngine(Engine):
    """The engine in this process: the whole of it, or its first stage."""

    def __init__(
        self,
        *,
        traits: EngineTraits,
        pipe: Pipe,
        prompts: PromptMixer,
        window: Window,
        first_epoch: int = 0,
        at_noise: Callable[[Tensor, float], Tensor] = lambda embedding, _: embedding,
        steps_count: int = 2,
        on_landed: Callable[[], None] = lambda: None,
    ) -> None:
        """at_noise: an embedding as a chunk with this noise scale is to read it; the same object where nothing changes.

        steps_count: of the first chunks. Memory was counted for as many, and a warm-up takes no more.

        on_landed: called from another thread when `poll` would give something that it left for later.
        """
        self.traits = traits
        self.pipe, self._prompts, self._window, self._at_noise = pipe, prompts, window, at_noise
        self.holds_split = False  # while this is set, no block moves to another rank
        self._clock = pipe.first.clock
        self._arrivals = Arrivals(self._clock, on_landed)
        self._epoch = first_epoch
        self._waiting: tuple[Chunk, ChunkSettings] | None = None
        self._finished: list[ChunkResult] = []
        self._apart: deque[InFlight] = deque()  # encoded by itself and not denoised yet
        self._prompt_of: dict[int, tuple[Tensor, int]] = {}  # by id: the embedding, which keeps the id, and its number
        self._prompts_made = 0
        self._schedule = "latency"
        self._steps_count = steps_count
        self._step_limit = StepLimit()
        self._steps_asked = 1  # by the newest chunk
        self.on_lengthy: Callable[[int], None] = lambda _: None  # told of a chunk before which blocks move
        self._is_broken = False  # a chunk failed; what comes before the reset is dropped, as its results would be
        self._state, self._micro_steps = StreamState(window), self._new_micro_steps()

    def _new_micro_steps(self) -> MicroSteps:
        return MicroSteps(
            self.pipe,
            epoch=self._epoch,
            clock=self._clock,
            deliver=self._deliver,
            kept_texts=lambda: {number for _, number in self._prompt_of.values()} | {item.text for item in self._apart},
        )

    def prepare(self, texts: Sequence[str], *, falls_back: bool = False) -> None:
        """Have these prompts encoded. Blocks; raises UserError for one that cannot be.

        falls_back: live, a prompt that cannot be encoded is no reason where the one used last can be shown instead.
        """
        self._prompts.encode(texts, falls_back=falls_back)

    def warm_up(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Grey with a prompt of zeros: the opening and one more chunk.

        Where parts are compiled it goes on until they have run: beyond a full window, in both schedules if they differ,
        with all steps, each of which is a row more. Else two run all that there is.
        say: told of each chunk then, and of each code that is compiled for it.
        """
        config, prompts = self.pipe.first.dit.config, self._prompts
        self._prompts = PromptMixer(Direct(lambda _: torch.zeros(1, config.text_len, config.text_dim)))
        try:
            with telling(say):
                try:
                    self._run_grey(say)
                except ChunkError:  # fewer steps are taken now, if that is what helps
                    self.reset()
                    self._run_grey(say)
        finally:
            self._prompts = prompts
        self.reset()

    def _run_grey(self, say: Callable[[str], None]) -> None:
        compiles = self.pipe.first.compiles
        steps = self._steps_count if compiles else min(self._steps_count, 2)
        timesteps = tuple(range(900, 900 - 90 * steps, -90))
        schedules = ["auto"] * (self._window.capacity + 2 if compiles else 2)
        if compiles and steps > 1:
            schedules += ["throughput"] * (steps + 1)
        width, height = self.traits.size_wh
        loras = self.pipe.first.loras
        strengths = loras.strengths if loras is not None else ()
        for number, schedule in enumerate(schedules):
            if compiles:
                say(f"compiling ({number + 1} of {len(schedules)})")
            frames = np.full((self.frames_wanted, height, width, 3), 128, dtype=np.uint8)
            settings = ChunkSettings(steps=timesteps, steps_count=steps, schedule=schedule, lora_strengths=strengths)
            self.submit(Chunk(number, frames), settings)
            self.poll()
        self.flush()

    @property
    def frames_wanted(self) -> int:
        waiting = self._state.chunks + (self._waiting is not None)
        return self.traits.chunk_frames if waiting else self.traits.first_chunk_frames

    @property
    def can_submit(self) -> bool:
        return self._waiting is None

    @property
    def device(self) -> torch.device:
        return self.pipe.first.device

    @property
    def reports(self) -> list[dict[str, Any]]:
        """How each of several ranks is doing; empty for one."""
        return self.pipe.reports

    @property
    def loras(self) -> list[dict[str, Any]]:
        """Which LoRAs are in the weights, and how strong (`Loras.lines`)."""
        loras = self.pipe.first.loras
        return loras.lines if loras is not None else []

    @property
    def cache_bytes(self) -> int:
        """Of the KV cache in this process."""
        return self.pipe.first.cache.bytes

    def submit(self, chunk: Chunk, settings: ChunkSettings) -> None:
        if self._apart:
            raise ChunkError("a chunk that was encoded by itself is not denoised yet")
        if self._waiting is not None:
            raise ChunkError("a chunk is waiting already")
        if not self._is_broken:  # else it is dropped, whatever it is
            self._check(chunk)
        self._waiting = (chunk, settings)

    def _check(self, chunk: Chunk) -> None:
        if len(chunk.frames) != self.frames_wanted:
            raise ChunkError(f"this chunk needs {self.frames_wanted} frames, not {len(chunk.frames)}")

    @torch.inference_mode()
    def poll(self) -> list[ChunkResult]:
        waiting, self._waiting = self._waiting, None
        if not self._is_broken:
            if waiting is not None:
                self._watched(lambda: self._run(*waiting))
            self._watched(self._micro_steps.land_what_is_ready)
            self._arrive(most_left=1 if self._overlaps else 0)
        return self._take_finished()

    def _run(self, chunk: Chunk, settings: ChunkSettings) -> None:
        state, started_s = self._state, time.perf_counter()
        self._choose_schedule(settings.schedule)
        if not self.holds_split and (counts := self.pipe.better_split()) is not None:
            self.on_lengthy(chunk.chunk_id)
            self._micro_steps.land_all()
            self.pipe.move_blocks(counts)
        if self._wants_other_strengths(settings):
            self._micro_steps.drain()  # what is in flight finishes as it began
            self._set_strengths(settings)
        item = self._enter(chunk, settings)
        if item.number == 0 or self._schedule == "latency":
            self._micro_steps.take_all(item)
            self._micro_steps.decode_finished()
            busy_rows = len(item.timesteps) if item.number else 0  # the opening is easier than what comes after it
        else:
            busy_rows = self._micro_steps.take_one(item)
        item.taken_ms = 1000 * (time.perf_counter() - started_s)
        if busy_rows:
            self._step_limit.worked(busy_rows, is_full_load=state.latent_frames >= 2 * self._window.capacity)

    @torch.inference_mode()
    def flush(self) -> list[ChunkResult]:
        results = self.poll()
        if not self._is_broken:
            self._watched(self._micro_steps.drain)
            self._arrive()
        return results + self._take_finished()

    def _watched(self, work: Callable[[], T]) -> T:
        """What `work` gives. Raises ChunkError where the memory is full: nothing comes then until a reset.

        Steps that have not stood the test go back to a count that worked, so that the stream goes on with that.
        """
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_memory_full(error):
                raise
        # Only here has the error let go of what it held on the device.
        self._is_broken = True
        rows = self.pipe.first.cache.rows
        taken = self._step_limit.failed(rows, asked=self._steps_asked)
        if taken is None:
            self.pipe.give_back_rows(0)
            raise ChunkError(MEMORY_IS_FULL)
        self._say_steps(rows, taken)
        self.pipe.give_back_rows(taken)
        raise ChunkError(f"its memory was full with {self._steps_asked} denoising steps, and now {taken} are taken")

    def _say_steps(self, wanted: int, taken: int) -> None:
        log.error(
            "%d denoising steps do not fit into the memory: %d are taken; close other programs, set it anew",
            wanted,
            taken,
        )

    # The stages apart, for those who want to look in between. Chunks go through each in the order of encoding.

    @torch.inference_mode()
    def encode(self, chunk: Chunk, settings: ChunkSettings) -> InFlight:
        """All that is decided for a chunk, and its noised latents. Raises ChunkError as `submit` does."""
        self._check(chunk)
        if self._is_broken:
            raise ChunkError("the chunk before failed, and there was no reset")

        def enter() -> InFlight:
            self._choose_schedule("latency")
            return self._enter(chunk, settings)

        item = self._watched(enter)
        self._apart.append(item)
        return item

    @torch.inference_mode()
    def denoise(self, item: InFlight) -> None:
        """All steps of the chunk. Raises ValueError for one that is not the oldest encoded and not denoised."""
        if not self._apart or self._apart[0] is not item:
            raise ValueError("chunks are denoised in the order in which they were encoded, each once")
        self._apart.popleft()

        def take() -> None:
            if self._wants_other_strengths(item.settings):
                self._set_strengths(item.settings)
            self._micro_steps.take_all(item)

        self._watched(take)

    @torch.inference_mode()
    def decode(self, item: InFlight) -> ChunkResult:
        """The chunk's pictures. Raises ValueError for one that is not the oldest denoised and not decoded."""
        if self._micro_steps.next_to_decode is not item:
            raise ValueError("chunks are decoded in the order in which they were encoded, each once, when denoised")
        self._watched(self._micro_steps.decode_next)
        self._arrive()
        return self._finished.pop()

    def reset(self) -> int:
        self._epoch += 1
        self._waiting = None
        self._finished.clear()
        self._apart.clear()
        self._is_broken = False
        self._prompts.reset()
        # The old state goes before the new one comes: both at once may not fit.
        self._state, self._micro_steps = StreamState(self._window), self._new_micro_steps()
        self.pipe.reset()
        return self._epoch

    def close(self) -> None:
        self._prompts.close()
        self._arrivals.close()
        self._waiting = None
        self._finished.clear()
        self.pipe.close()

    # How a chunk enters: everything about it is decided here, on the host.

    def _enter(self, chunk: Chunk, settings: ChunkSettings) -> InFlight:
        state, stage = self._state, self.pipe.first
        started = stage.encoding.mark(self._clock)
        is_opening = state.chunks == 0
        change = largest_change(chunk.frames, state.last_pixels)
        state.last_pixels = chunk.frames[-1].copy()
        motion = 0.0
        if is_opening:
            noise_scale = state.motion.open(maximum=settings.noise_max)
        else:
            noise_scale, motion = state.motion.update(
                change,
                maximum=settings.noise_max,
                minimum=settings.noise_min,
                sensitivity=settings.sensitivity,
                smoothing=settings.smoothing,
            )
        steps, count, offset = settings.steps, settings.steps_count, settings.timestep_offset
        if is_opening:
            timesteps = opening_timesteps(steps, count)
        else:
            timesteps = chunk_timesteps(steps, count, noise_scale=noise_scale, offset=offset)
        timesteps = timesteps[: self._rows_that_fit(len(timesteps), count)]
        prompt = self._prompts.advance(settings.mix, settings.transition_chunks, upcoming=settings.next_prompt)
        text = self._number_of(self._at_noise(prompt.embedding, noise_scale))
        latents, side = stage.encode(torch.from_numpy(chunk.frames))
        first = state.latent_frames
        state.latent_frames += latents.shape[1]
        sink = None
        if not stage.cache.judges_sinks:
            requests, state.refresh_requests = state.refresh_requests, settings.sink_requests
            sink = state.sinks.choose(
                chunk.frames[-1],
                first=first,
                newest=state.latent_frames - 1,
                outdated=(prompt.is_new and settings.sinks_follow_prompt) or change > SCENE_CUT_MOTION,
                requested=requests is not None and requests != settings.sink_requests,
                threshold=settings.sink_similarity,
            )
        state.phase += settings.noise_rate
        seeds = state.seeds.advance(settings.seed, settings.seed_transition_chunks)
        item = InFlight(
            chunk_id=chunk.chunk_id,
            number=state.chunks,
            first_frame=first,
            newest_frame=state.latent_frames - 1,
            timesteps=timesteps,
            fork_from=state.rows,
            sink=sink,
            noise_scale=noise_scale,
            motion=motion,
            noise=NoiseKey(settings.noise_mode, seeds, state.chunks, state.phase),
            settings=settings,
            text=text,
            pictures=len(chunk.frames),
            latents=latents.float(),
            side=side,
        )
        if settings.feedback > 0:
            item.latents = self._with_feedback(item.latents, settings.feedback)
        eps = stage.noise_of(item.noise, epoch=self._epoch, step=0, shape=tuple(item.latents.shape))
        item.latents = noise_scale * eps + (1.0 - noise_scale) * item.latents
        state.chunks += 1
        state.rows = len(timesteps)
        item.spans.append(("encode", started, stage.encoding.mark(self._clock), 1.0))
        return item

    def _rows_that_fit(self, wanted: int, asked: int) -> int:
        """How many of the `wanted` rows the KV cache has memory for. What does not fit is tried once, not always.

        asked: the count of the settings, of which low noise may leave fewer wanted.
        """
        self._steps_asked = asked
        wanted = min(wanted, self._step_limit.allowed(asked))
        there = self.pipe.first.cache.rows
        if there >= wanted:
            return wanted
        try:
            there = self.pipe.ensure_rows(wanted)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_full(error) or there == 0:
                raise
            there = self.pipe.first.cache.rows
        if there < wanted:
            self._step_limit.hold(there, asked=asked)
            self._say_steps(wanted, there)
        return min(wanted, there)

    def _number_of(self, embedding: Tensor) -> int:
        """A prompt's number, under which every stage knows it: sent once, and kept for when it comes back."""
        if (known := self._prompt_of.pop(id(embedding), None)) is None:
            self._prompts_made += 1
            known = (embedding, self._prompts_made)
            self.pipe.add_prompt(known[1], embedding)
            if len(self._prompt_of) >= KEPT_PROMPTS:
                self._prompt_of.pop(next(iter(self._prompt_of)))
        self._prompt_of[id(embedding)] = known
        return known[1]

    def _with_feedback(self, latents: Tensor, amount: float) -> Tensor:
        """Mix in the newest clean latent that there is in both schedules."""
        clean = self._micro_steps.newest_clean(self._state.chunks)
        if clean is None:
            return latents
        return torch.lerp(latents, self.pipe.first.codec.as_encoded(clean).float(), amount)

    # Between chunks.

    def _choose_schedule(self, wanted: str) -> None:
        if wanted == "auto":
            wanted = "latency" if self.pipe.depth == 1 else "throughput"
        if wanted != self._schedule:
            # Once nothing is in flight the rows are the same in both, so the change costs nothing else.
            self._micro_steps.drain()
            self._schedule = wanted
            self._step_limit.forget_the_load()

    def _wants_other_strengths(self, settings: ChunkSettings) -> bool:
        loras = self.pipe.first.loras
        return loras is not None and loras.resolved(settings.lora_strengths) != loras.strengths

    def _set_strengths(self, settings: ChunkSettings) -> None:
        """The LoRAs as a chunk wants them, for all that comes after it too; nothing may be in flight."""
        loras = self.pipe.first.loras
        assert loras is not None
        self.pipe.set_strengths(loras.resolved(settings.lora_strengths))

    # Out.

    def _deliver(self, item: InFlight, pixels: Tensor, is_finite: Tensor) -> None:
        """Have a chunk's pictures sent to the host, behind all that is under way."""
        self._state.leaving.append(Leaving(item, *self.pipe.first.to_host(pixels, is_finite)))

    @property
    def _overlaps(self) -> bool:
        """Whether a chunk may be decoded while the next one is encoded and denoised.

        It shows its pictures no sooner, so `latency` does without; and several ranks overlap as it is.
        """
        return self._schedule == "throughput" and self.pipe.depth == 1

    def _arrive(self, *, most_left: int = 0) -> None:
        """Finish what has come to the host; all but `most_left` chunks are waited for.

        The one place where the host waits for the device: once a chunk, at its end.
        """
        leaving = self._state.leaving
        while leaving and (len(leaving) > most_left or self._clock.has_passed(leaving[0].arrived)):
            self._clock.wait_for(leaving[0].arrived)
            self._finish(leaving.popleft())
        if leaving:
            self._arrivals.watch(leaving[-1].arrived)

    def _finish(self, leaving: Leaving) -> None:
        item = leaving.item
        stage_ms = dict.fromkeys(STAGES, 0.0)
        for stage, start, end, share in item.spans:
            stage_ms[stage] += share * self._clock.ms_between(start, end)
        # With several stages the next chunk enters while this one is on its way.
        stage_ms["chunk"] = (0.0 if self.pipe.depth == 1 else item.taken_ms) or sum(stage_ms.values())
        self._finished.append(
            ChunkResult(
                chunk_id=item.chunk_id,
                epoch=self._epoch,
                frames=leaving.frames.numpy(),
                is_finite=bool(leaving.is_finite),
                noise_scale=item.noise_scale,
                motion=item.motion,
                steps=len(item.timesteps),
                stage_ms=stage_ms,
            )
        )

    def _take_finished(self) -> list[ChunkResult]:
        results, self._finished = self._finished, []
        return results
