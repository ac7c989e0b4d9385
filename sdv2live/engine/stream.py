"""One chunk's way on one device: motion -> encode -> noise -> denoise -> decode. Owns the state of a stream.

One algorithm, two schedules with the same picture: every denoising step has a cache row of its own; `latency` runs
a chunk's steps one after another, `throughput` (the stream batch) runs one step of several chunks at once. All that
decides (slots, rows, timesteps, refreshes) is fixed on the host when a chunk enters. Runs on the engine's thread;
computing happens in `poll` and `flush`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sdv2live.engine.base import STAGES, Chunk, ChunkResult, ChunkSettings, Engine, EngineTraits
from sdv2live.engine.checkpoint import is_memory_full
from sdv2live.engine.codec import Codec, Prepared
from sdv2live.engine.kv_cache import KVCache, RowWrite
from sdv2live.engine.model.wan_transformer import TextContext, TimeContext, WanTransformer
from sdv2live.engine.noise import MotionController, NoiseSource, SeedMixer, Seeds, largest_change
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.schedule import chunk_timesteps, opening_timesteps, sigma_of
from sdv2live.engine.sinks import SinkKeeper
from sdv2live.engine.stage_clock import Mark, StageClock
from sdv2live.engine.stages import StageMap
from sdv2live.engine.step_limit import StepLimit
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.window import Window
from sdv2live.errors import ChunkError
from sdv2live.frames import Pixels
from sdv2live.limits import MAX_STEPS

SCENE_CUT_MOTION = 0.5  # root mean square, in [-1, 1] units: far beyond any camera move
log = logging.getLogger(__name__)
T = TypeVar("T")

KEPT_TIMESTEPS = 32
KEPT_EMBEDDINGS = 4
NO_CHUNK = -1  # the chunk id of a row that computes without a chunk
MEMORY_IS_FULL = (
    "its memory is full: close other programs, or start with a smaller --size, fewer --steps or --vae taehv"
)


@dataclass(slots=True)
class InFlight:
    """A chunk on its way. The first block is fixed when it enters; `latents` [1, F, C, h, w] float32 moves."""

    chunk_id: int
    number: int  # of the epoch, from 0
    first_frame: int  # latent frames first..newest
    newest_frame: int
    timesteps: tuple[int, ...]
    fork_from: int  # rows of the chunk before it; above them, row k+1 starts as a copy of row k
    sink: int | None  # the sink that takes this chunk's newest frame, if any
    noise_scale: float
    motion: float
    phase: float
    seeds: Seeds
    settings: ChunkSettings
    text: TextContext
    prepared: Prepared
    latents: Tensor
    side: object
    step: int = 0
    spans: list[tuple[str, Mark, Mark, float]] = field(default_factory=list)  # stage, start, end, this chunk's share

    @property
    def is_denoised(self) -> bool:
        return self.step == len(self.timesteps)


class StreamState:
    """Everything that belongs to one epoch; a reset replaces it whole, so nothing of the old one can be left."""

    def __init__(self, cache: KVCache, codec_state: object) -> None:
        self.cache = cache
        self.codec_state = codec_state
        self.motion = MotionController()
        self.noise = NoiseSource()
        self.seeds = SeedMixer()
        self.clean: dict[int, tuple[int, Tensor]] = {}  # by chunk number: its steps, its last latent frame
        self.chunks = 0  # entered so far
        self.latent_frames = 0
        self.rows = 0  # steps of the newest chunk
        self.sinks = SinkKeeper(cache.window)
        self.refresh_requests: int | None = None
        self.phase = 0.0
        self.last_pixels: Pixels | None = None
        self.rows_in_flight: dict[int, InFlight] = {}
        self.denoised: dict[int, InFlight] = {}
        self.decoded = 0


class StreamEngine(Engine):
    """The engine on one device, in this process."""

    def __init__(
        self,
        *,
        traits: EngineTraits,
        dit: WanTransformer,
        codec: Codec,
        prompts: PromptMixer,
        window: Window,
        stages: StageMap,
        dtype: torch.dtype,
        first_epoch: int = 0,
        new_cache: Callable[..., KVCache] = KVCache,
        warm_up_steps: int = 2,
    ) -> None:
        """warm_up_steps: one, for an engine whose memory was counted for one; two run all that there is."""
        self.traits = traits
        self._new_cache = new_cache
        self._dit, self._codec, self._prompts, self._window = dit, codec, prompts, window
        if len(stages.stages) != 1:
            raise ValueError("a stream in one process runs on one device; more of them need a process each")
        self._stages, self._device, self._dtype = stages, stages.first.device, dtype
        self._clock = StageClock(self._device)
        self._epoch = first_epoch
        self._waiting: tuple[Chunk, ChunkSettings] | None = None
        self._finished: list[ChunkResult] = []
        self._apart: deque[InFlight] = deque()  # encoded by itself and not denoised yet
        self._time_of: dict[int, TimeContext] = {}
        self._text_of: tuple[Tensor, TextContext] | None = None
        self._embedding_of: dict[int, tuple[Tensor, Tensor]] = {}  # by id: as it came, which keeps the id, and as sent
        self._schedule = "latency"
        self._warm_up_steps = warm_up_steps
        self._step_limit = StepLimit()
        self._steps_asked = 1  # by the newest chunk
        self._is_broken = False  # a chunk failed; what comes before the reset is dropped, as its results would be
        self._state = self._new_state()

    def prepare(self, texts: Sequence[str], *, falls_back: bool = False) -> None:
        """Have these prompts encoded. Blocks; raises UserError for one that cannot be.

        falls_back: live, a prompt that cannot be encoded is no reason where the one used last can be shown instead.
        """
        self._prompts.encode(texts, falls_back=falls_back)

    def warm_up(self) -> None:
        """Two chunks of grey with a prompt of zeros: the opening and one more."""
        config, prompts = self._dit.config, self._prompts
        self._prompts = PromptMixer(Direct(lambda _: torch.zeros(1, config.text_len, config.text_dim)))
        try:
            try:
                self._run_grey()
            except ChunkError:  # fewer steps are taken now, if that is what helps
                self.reset()
                self._run_grey()
        finally:
            self._prompts = prompts
        self.reset()

    def _run_grey(self) -> None:
        width, height = self.traits.size_wh
        for number in range(2):
            frames = np.full((self.frames_wanted, height, width, 3), 128, dtype=np.uint8)
            self.submit(Chunk(number, frames), ChunkSettings(steps=(600, 300), steps_count=self._warm_up_steps))
            self.poll()

    @property
    def frames_wanted(self) -> int:
        waiting = self._state.chunks + (self._waiting is not None)
        return self.traits.chunk_frames if waiting else self.traits.first_chunk_frames

    @property
    def can_submit(self) -> bool:
        return self._waiting is None

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def cache_bytes(self) -> int:
        return self._state.cache.bytes

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
        if self._waiting is not None:
            (chunk, settings), self._waiting = self._waiting, None
            if not self._is_broken:
                self._watched(lambda: self._run(chunk, settings))
        return self._take_finished()

    def _run(self, chunk: Chunk, settings: ChunkSettings) -> None:
        state = self._state
        self._choose_schedule(settings.schedule)
        item = self._enter(chunk, settings)
        if item.number == 0 or self._schedule == "latency":
            self._run_all_steps(item)
            busy_rows = len(item.timesteps) if item.number else 0  # the opening is easier than what comes after it
        else:
            state.rows_in_flight[0] = item
            busy_rows = len(state.rows_in_flight)
            self._micro_step()
        self._decode_finished()
        if busy_rows:
            self._step_limit.worked(busy_rows, is_full_load=state.latent_frames >= 2 * self._window.capacity)

    @torch.inference_mode()
    def flush(self) -> list[ChunkResult]:
        results = self.poll()
        if not self._is_broken:
            self._watched(self._drain)
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
        cache = self._state.cache
        taken = self._step_limit.failed(cache.rows, asked=self._steps_asked)
        if taken is None:
            raise ChunkError(MEMORY_IS_FULL)
        self._say_steps(cache.rows, taken)
        cache.give_back_rows(taken)
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
        self._watched(lambda: self._run_all_steps(item))

    @torch.inference_mode()
    def decode(self, item: InFlight) -> ChunkResult:
        """The chunk's pictures. Raises ValueError for one that is not the oldest denoised and not decoded."""
        if self._state.denoised.get(self._state.decoded) is not item:
            raise ValueError("chunks are decoded in the order in which they were encoded, each once, when denoised")
        del self._state.denoised[self._state.decoded]
        self._state.decoded += 1
        self._watched(lambda: self._deliver(item, *self._decode(item)))
        return self._finished.pop()

    def reset(self) -> int:
        self._epoch += 1
        self._waiting = None
        self._finished.clear()
        self._apart.clear()
        self._is_broken = False
        self._prompts.reset()
        # The old state goes before the new one comes: both at once may not fit.
        del self._state
        self._state = self._new_state()
        return self._epoch

    def close(self) -> None:
        self._prompts.close()
        self._waiting = None
        self._finished.clear()

    # How a chunk enters: everything about it is decided here, on the host.

    def _enter(self, chunk: Chunk, settings: ChunkSettings) -> InFlight:
        state, started = self._state, self._clock.mark()
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
        embedding = self._sent_embedding(prompt.embedding)
        latents, side = self._codec.encode(self._uploaded(chunk.frames), state.codec_state)
        first = state.latent_frames
        state.latent_frames += latents.shape[1]
        sink = None
        if not state.cache.judges_sinks:
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
            phase=state.phase,
            seeds=state.seeds.advance(settings.seed, settings.seed_transition_chunks),
            settings=settings,
            text=self._text_context(embedding),
            prepared=self._codec.prepare(embedding, noise_scale),
            latents=latents.float(),
            side=side,
        )
        if settings.feedback > 0:
            item.latents = self._with_feedback(item.latents, settings.feedback)
        item.latents = noise_scale * self._eps(item, step=0) + (1.0 - noise_scale) * item.latents
        state.chunks += 1
        state.rows = len(timesteps)
        item.spans.append(("encode", started, self._clock.mark(), 1.0))
        return item

    def _rows_that_fit(self, wanted: int, asked: int) -> int:
        """How many of the `wanted` rows the KV cache has memory for. What does not fit is tried once, not always.

        asked: the count of the settings, of which low noise may leave fewer wanted.
        """
        cache = self._state.cache
        self._steps_asked = asked
        wanted = min(wanted, self._step_limit.allowed(asked))
        try:
            cache.ensure_rows(wanted)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_full(error) or cache.rows == 0:
                raise
            self._step_limit.hold(cache.rows, asked=asked)
            self._say_steps(wanted, cache.rows)
        return min(wanted, cache.rows)

    def _uploaded(self, frames: Pixels) -> Tensor:
        """[T, H, W, 3] uint8 -> [1, T, 3, H, W] in [-1, 1], channels last in memory; uint8 crosses to the device."""
        pixels = self._sent(torch.from_numpy(frames))
        return pixels.permute(0, 3, 1, 2).to(self._dtype).mul_(2.0 / 255.0).sub_(1.0)[None]

    def _sent_embedding(self, embedding: Tensor) -> Tensor:
        """A prompt's embedding on the device, in the networks' dtype: sent once, and kept for when it comes back."""
        if (known := self._embedding_of.pop(id(embedding), None)) is None:
            known = (embedding, self._sent(embedding).to(self._dtype))
            if len(self._embedding_of) >= KEPT_EMBEDDINGS:
                self._embedding_of.pop(next(iter(self._embedding_of)))
        self._embedding_of[id(embedding)] = known
        return known[1]

    def _text_context(self, embedding: Tensor) -> TextContext:
        if self._text_of is None or self._text_of[0] is not embedding:
            self._text_of = (embedding, self._dit.encode_text(embedding))
        return self._text_of[1]

    def _time_context(self, timestep: int) -> TimeContext:
        """Kept: later steps are always the same timestep, and the first moves among few with the motion."""
        if timestep not in self._time_of:
            if len(self._time_of) >= KEPT_TIMESTEPS:
                self._time_of.pop(next(iter(self._time_of)))
            self._time_of[timestep] = self._dit.encode_time(torch.full((1, 1), float(timestep), device=self._device))
        return self._time_of[timestep]

    def _with_feedback(self, latents: Tensor, amount: float) -> Tensor:
        """Mix in the newest clean latent that both schedules have by now: of chunk j once j and its steps are over."""
        done = [number for number, (steps, _) in self._state.clean.items() if number + steps <= self._state.chunks]
        if not done:
            return latents
        return torch.lerp(latents, self._codec.as_encoded(self._state.clean[max(done)][1]).float(), amount)

    def _eps(self, item: InFlight, *, step: int) -> Tensor:
        draws = [
            weight
            * self._state.noise.eps(
                mode=item.settings.noise_mode,
                seed=seed,
                epoch=self._epoch,
                chunk=item.number,
                phase=item.phase,
                step=step,
                shape=tuple(item.latents.shape),
            )
            for seed, weight in item.seeds
        ]
        return self._sent(sum(draws[1:], start=draws[0]))

    def _sent(self, tensor: Tensor) -> Tensor:
        """A host tensor on the device. From pinned memory the copy waits for nothing that a GPU still does."""
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    # The two schedules.

    def _choose_schedule(self, wanted: str) -> None:
        wanted = "latency" if wanted == "auto" else wanted
        if wanted != self._schedule:
            # Once nothing is in flight the rows are the same in both, so the change costs nothing else.
            self._drain()
            self._schedule = wanted
            self._step_limit.forget_the_load()

    def _run_all_steps(self, item: InFlight) -> None:
        """One chunk, its steps one after another. The opening runs on row 0 and is then copied to every row."""
        cache, is_opening = self._state.cache, item.number == 0
        while not item.is_denoised:
            row = 0 if is_opening else item.step
            cache.ensure_rows(row + 1)
            self._forward([(row, item)])
        if is_opening:
            for row in range(1, len(item.timesteps)):
                cache.copy_row(0, row)
            if cache.writes_empty_rows:
                self._write_empty_rows(item)
        self._state.denoised[item.number] = item

    def _write_empty_rows(self, opening: InFlight) -> None:
        """What the reference's rows compute before a chunk reaches them: of zeros, then of what the row above made.

        Row i does it i times, always as the frame after the opening; all of it follows from the opening alone.
        """
        steps, frame = len(opening.timesteps), opening.newest_frame + 1
        zeros = torch.zeros_like(opening.latents[:, :1])
        above: dict[int, Tensor] = {}
        for call in range(1, steps):
            rows = [
                (
                    row,
                    replace(
                        opening,
                        chunk_id=NO_CHUNK,
                        number=call - row,
                        first_frame=frame,
                        newest_frame=frame,
                        fork_from=steps,
                        step=row,
                        latents=above.get(row - 1, zeros),
                        spans=[],
                    ),
                )
                for row in range(call, steps)
            ]
            self._forward(rows)
            above = {row: item.latents for row, item in rows}

    def _micro_step(self) -> None:
        """One step of every chunk in flight, each on its own row; then all move down by one row."""
        state = self._state
        rows = sorted(state.rows_in_flight.items())
        state.cache.ensure_rows(rows[-1][0] + 1)
        self._forward(rows)
        state.rows_in_flight = {row + 1: item for row, item in rows if not item.is_denoised}
        state.denoised.update({item.number: item for _, item in rows if item.is_denoised})

    def _drain(self) -> None:
        while self._state.rows_in_flight:
            self._micro_step()
        self._decode_finished()

    def _forward(self, rows: list[tuple[int, InFlight]]) -> None:
        """One denoising step of each item on its row, in one batch; then its re-noising and its cache's upkeep."""
        started, cache = self._clock.mark(), self._state.cache
        past = cache.attention(
            [RowWrite(row, item.first_frame, item.newest_frame, item.settings.sink_similarity) for row, item in rows]
        )
        latents = torch.cat([item.latents for _, item in rows])
        text = TextContext.stack([item.text for _, item in rows])
        told = [self._time_context(item.timesteps[item.step]) for _, item in rows]
        time = TimeContext.stack(told, latents.shape[1])
        x = self._dit.embed(latents.to(self._dtype))
        for stage in self._stages.stages:
            x = self._dit.run_blocks(x, time, text, past, stage.first_block, stage.end_block)
        grid_hw = (latents.shape[-2] // 2, latents.shape[-1] // 2)
        flow = self._dit.finish(x, time, grid_hw).float()
        for b, (row, item) in enumerate(rows):
            self._advance(item, row, flow[b : b + 1])
        ended = self._clock.mark()
        for _, item in rows:
            item.spans.append(("denoise", started, ended, 1.0 / len(rows)))

    def _advance(self, item: InFlight, row: int, flow: Tensor) -> None:
        clean = item.latents - sigma_of(item.timesteps[item.step]) * flow
        item.step += 1
        if item.is_denoised:
            item.latents = clean
            # The opening runs all its steps before the next chunk enters, in both schedules.
            self._state.clean[item.number] = (len(item.timesteps) if item.number else 1, clean[:, -1:])
            self._state.clean.pop(item.number - 2 * MAX_STEPS, None)
        else:
            sigma = sigma_of(item.timesteps[item.step])
            item.latents = (1.0 - sigma) * clean + sigma * self._eps(item, step=item.step)
        cache = self._state.cache
        if item.sink is not None:
            cache.refresh_sink(row, sink=item.sink, frame=item.newest_frame)
        if item.number and row + 1 >= item.fork_from and row + 1 < len(item.timesteps):
            # A row that joins starts as a copy of the row above as this chunk left it: the slot that this chunk
            # wrote is the one that it writes again there, so this is the row as it stood before the chunk.
            cache.copy_row(row, row + 1)

    # Out.

    def _decode_finished(self) -> None:
        """Decode in the order of entry: the decoder remembers, and a chunk of fewer steps may be denoised first."""
        state = self._state
        while state.decoded in state.denoised:
            item = state.denoised.pop(state.decoded)
            state.decoded += 1
            self._deliver(item, *self._decode(item))

    def _decode(self, item: InFlight) -> tuple[Tensor, Tensor]:
        """-> frames [T, H, W, 3] uint8 and whether they are finite, both on the device and not waited for."""
        started = self._clock.mark()
        codec_state = self._state.codec_state
        frames = self._codec.decode(item.latents.to(self._dtype), item.side, item.prepared, codec_state)
        is_finite = torch.isfinite(frames.sum())  # one pass: a value that is no number spoils the sum
        pixels = frames[0].permute(0, 2, 3, 1).float().mul(127.5).add_(128.0).clamp_(0, 255).to(torch.uint8)
        pixels = pixels.contiguous()
        item.spans.append(("decode", started, self._clock.mark(), 1.0))
        return pixels, is_finite

    def _deliver(self, item: InFlight, pixels: Tensor, is_finite: Tensor) -> None:
        """The one place where the host waits for the device: once a chunk, at its end."""
        if pixels.device.type == "cuda":
            host = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
            host.copy_(pixels, non_blocking=True)
        else:
            host = pixels
        finite = bool(is_finite)
        stage_ms = dict.fromkeys(STAGES, 0.0)
        for stage, start, end, share in item.spans:
            stage_ms[stage] += share * self._clock.ms_between(start, end)
        stage_ms["chunk"] = sum(stage_ms.values())
        self._finished.append(
            ChunkResult(
                chunk_id=item.chunk_id,
                epoch=self._epoch,
                frames=host.numpy(),
                is_finite=finite,
                noise_scale=item.noise_scale,
                motion=item.motion,
                steps=len(item.timesteps),
                stage_ms=stage_ms,
            )
        )

    def _take_finished(self) -> list[ChunkResult]:
        results, self._finished = self._finished, []
        return results

    def _new_state(self) -> StreamState:
        width, height = self.traits.size_wh
        config, scale = self._dit.config, self._codec.spatial_factor * 2
        cache = self._new_cache(
            self._window,
            layers=config.num_layers,
            heads=config.num_heads,
            head_dim=config.head_dim,
            grid_hw=(height // scale, width // scale),
            device=self._device,
            dtype=self._dtype,
        )
        return StreamState(cache, self._codec.new_state(self.traits.size_wh))
