"""Source -> chunker -> engine -> output clock. Owns: the thread that forms chunks, and what belongs to each of them.

Each chunk gets the settings of the moment it is formed and keeps them. The frames are cropped and resized once,
straight into the engine's shared memory. Knows the engine as a contract, through the supervisor.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdv2live.capture.preprocess import fit_into
from sdv2live.chunker import Chunker
from sdv2live.clock import Clock
from sdv2live.engine.base import Chunk, ChunkResult
from sdv2live.engine.client import EngineClient
from sdv2live.filters import apply_chain, parse_chain
from sdv2live.frames import Frame, Pixels
from sdv2live.pacing import Picture
from sdv2live.presenter import Presenter
from sdv2live.queues import FrameRing
from sdv2live.registry import Registry
from sdv2live.settings import settings_of
from sdv2live.stats import Series
from sdv2live.supervisor import Supervisor

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the app keeps of a chunk that is with the engine; the last one of a file may have fewer real frames."""

    sources: Pixels
    captured_s: tuple[float, ...]
    is_opening: bool


class Session:
    """One stream, from the newest frames of a ring to pictures at the presenter."""

    def __init__(
        self,
        *,
        registry: Registry,
        ring: FrameRing,
        supervisor: Supervisor,
        presenter: Presenter,
        chunker: Chunker,
        fit: str,
        clock: Clock,
        wake: threading.Event,
        has_source_ended: Callable[[], bool],
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry, self._ring, self._supervisor = registry, ring, supervisor
        self._presenter, self._chunker, self._fit, self._clock = presenter, chunker, fit, clock
        self._wake, self._on_ready, self._has_source_ended = wake, on_ready, has_source_ended
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)
        self._sent: dict[int, _Sent] = {}
        self._next_chunk = 0
        self._submitted_epoch = -1
        self._resets_seen = registry.get("stream.reset")
        self._engine_seen: EngineClient | None = None
        self._epoch_seen = -1
        self._is_flushing = False
        self.frames_used = 0
        self.frames_lost = 0  # used, and lost with a chunk that failed, an engine that died, or a reset
        self.frames_generated = 0
        self.chunk_ms = Series()
        self.stage_ms = {stage: Series() for stage in ("encode", "denoise", "decode")}
        self.noise_scale = self.motion = 0.0
        self.newest_frame: Frame | None = None
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._supervisor.start()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._supervisor.stop()

    @property
    def has_unfinished(self) -> bool:
        """Whether a chunk is with the engine."""
        return bool(self._sent)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._wake.wait(IDLE_WAIT_S)
                self._wake.clear()
                self.step()
        except Exception as error:  # a thread's top: the app ends with this error
            log.exception("the session stopped")
            self.failure = error

    def step(self) -> None:
        """Take what is finished, then hand over what is due. Never blocks on the engine."""
        self._follow_reset()
        for result in self._supervisor.poll():
            self._take(result)
        engine = self._supervisor.engine
        if engine is not None and engine.is_ready:
            self._follow_engine(engine)
        frames = self._ring.peek()
        if frames:
            self.newest_frame = frames[-1]
        if engine is None or not engine.is_idle:
            return
        if self._registry.get("stream.paused"):
            self._ring.clear()
            self._flush(engine)
            return
        wanted = engine.frames_wanted
        picked = self._chunker.pick([frame.captured_s for frame in frames], wanted)
        if picked is not None:
            self._submit(engine, [frames[index] for index in picked])
        elif self._has_source_ended():
            if frames:
                self._submit(engine, frames[:wanted])
            else:
                self._flush(engine)

    def _flush(self, engine: EngineClient) -> None:
        """No further chunk will push out those in flight (`throughput`): have them finished."""
        if self._sent and not self._is_flushing:
            self._is_flushing = True
            engine.request_flush()

    def _follow_engine(self, engine: EngineClient) -> None:
        """Another engine or another epoch: what was with the old one does not come back."""
        if engine is not self._engine_seen:
            self._engine_seen = engine
            self._ring.clear()
            self._on_ready()
        if engine.epoch != self._epoch_seen:
            self._epoch_seen = engine.epoch
            self.frames_lost += sum(len(sent.captured_s) for sent in self._sent.values())
            self._sent.clear()
            self._chunker.restart()
            self._is_flushing = False

    def _follow_reset(self) -> None:
        resets = self._registry.get("stream.reset")
        if resets != self._resets_seen:
            self._resets_seen = resets
            self._supervisor.reset()
            self._presenter.clear()

    def _submit(self, engine: EngineClient, frames: list[Frame]) -> None:
        buffer = engine.input_buffer()
        for target, frame in zip(buffer, frames, strict=False):
            fit_into(frame.pixels, target, self._fit)
        # The tail of a file is completed by its last frame; what that adds is not shown.
        buffer[len(frames) :] = buffer[len(frames) - 1]
        values = self._registry.snapshot()
        # Kept for the mix of camera and effect, unfiltered: the slot itself is the engine's from now on.
        sources = buffer.copy()
        if chain := parse_chain(values["input.filters"]):
            for target, source in zip(buffer, sources, strict=True):
                target[:] = apply_chain(chain, source)
            if chain.geometry:  # a mirrored effect over a camera that is not would be a ghost
                sources = np.stack([apply_chain(chain.geometry, source) for source in sources])
        times_s = tuple(frame.captured_s for frame in frames)
        is_opening = self._next_chunk == 0 or self._epoch_seen != self._submitted_epoch
        self._submitted_epoch = self._epoch_seen
        self._sent[self._next_chunk] = _Sent(sources, times_s, is_opening)
        engine.submit(Chunk(self._next_chunk, buffer), settings_of(values))
        self._next_chunk += 1
        self._is_flushing = False
        self.frames_used += len(frames)
        self._ring.release_through(frames[-1].index, used=len(frames))

    def _take(self, result: ChunkResult) -> None:
        sent = self._sent.get(result.chunk_id)
        if sent is None:
            return
        now_s = self._clock.now_s()
        self.noise_scale, self.motion = result.noise_scale, result.motion
        self.chunk_ms.add(result.stage_ms["chunk"])
        for stage, series in self.stage_ms.items():
            series.add(result.stage_ms[stage])
        if not sent.is_opening:  # the first one of an epoch is slower than those that follow
            self._chunker.engine_took(result.stage_ms["chunk"] / 1000, len(result.frames))
        pictures = [
            Picture(effect, source, captured_s)
            for effect, source, captured_s in zip(result.frames, sent.sources, sent.captured_s, strict=False)
        ]
        self.frames_generated += len(pictures)
        self._presenter.add(pictures, now_s)
        del self._sent[result.chunk_id]
