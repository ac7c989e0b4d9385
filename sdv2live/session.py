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

from sdv2live.capture.preprocess import frame_into
from sdv2live.chunker import Chunker
from sdv2live.clock import Clock
from sdv2live.engine.base import Chunk, ChunkResult
from sdv2live.engine.client import EngineClient
from sdv2live.errors import UserError, one_line
from sdv2live.filters import apply_chain, parse_chain
from sdv2live.frames import Frame, Pixels
from sdv2live.pacing import Picture
from sdv2live.presenter import Presenter
from sdv2live.reaction import ChangeWatch
from sdv2live.registry import Registry
from sdv2live.settings import framing_of, settings_of
from sdv2live.source_switch import Playing
from sdv2live.stats import Series
from sdv2live.supervisor import State, Supervisor

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the app keeps of a chunk that is with the engine; the last one of a file may have fewer real frames."""

    sources: Pixels
    captured_s: tuple[float, ...]
    is_opening: bool
    changed_s: float | None


class Session:
    """One stream, from the newest frames of the source that plays to pictures at the presenter.

    before_start() is called on this thread before an engine is started on request, and raises UserError where none
    can be; go_back(reason) puts the settings of the engine before in force again, where there was one that worked;
    on_ready() is called when one can take chunks.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        playing: Callable[[], Playing | None],
        supervisor: Supervisor,
        presenter: Presenter,
        chunker: Chunker,
        clock: Clock,
        wake: threading.Event,
        has_source_ended: Callable[[], bool],
        before_start: Callable[[], None] = lambda: None,
        go_back: Callable[[str], bool] = lambda reason: False,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry, self._playing, self._supervisor = registry, playing, supervisor
        self._presenter, self._chunker, self._clock = presenter, chunker, clock
        self._wake, self._has_source_ended = wake, has_source_ended
        self._before_start, self._go_back, self._on_ready = before_start, go_back, on_ready
        self._changes = ChangeWatch(registry, clock)
        self._is_trial = False  # an engine started on request, in place of one that worked
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)
        self._sent: dict[int, _Sent] = {}
        self._next_chunk = 0
        self._submitted_epoch = -1
        self._resets_seen = registry.get("stream.reset")
        self._restarts_seen = registry.get("engine.restart")
        self._playing_seen: Playing | None = None
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
        self._changes.close()

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
        if not self._follow_running():
            return
        for result in self._supervisor.poll():
            self._take(result)
        playing = self._follow_source()
        engine = self._supervisor.engine
        if engine is not None and engine.is_ready:
            self._follow_engine(engine)
        frames = playing.ring.peek() if playing is not None else []
        if frames:
            self.newest_frame = frames[-1]
        if engine is None or not engine.is_idle:
            return
        if playing is None or self._registry.get("stream.paused"):
            if playing is not None:
                playing.ring.clear()
            self._changes.taken()  # how long a pause lasts is the user's affair
            self._flush(engine)
            return
        wanted = engine.frames_wanted
        picked = self._chunker.pick([frame.captured_s for frame in frames], wanted)
        if picked is not None:
            self._submit(engine, playing, [frames[index] for index in picked])
        elif self._has_source_ended():
            if frames:
                self._submit(engine, playing, frames[:wanted])
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
            if self._playing_seen is not None:
                self._playing_seen.ring.clear()
            self._is_trial = False
            self._on_ready()
        if engine.epoch != self._epoch_seen:
            self._epoch_seen = engine.epoch
            self._forget_sent()
            self._chunker.restart()

    def _forget_sent(self) -> None:
        self.frames_lost += sum(len(sent.captured_s) for sent in self._sent.values())
        self._sent.clear()
        self._is_flushing = False

    def _follow_source(self) -> Playing | None:
        """Another source: the next chunk is of its frames alone. The stream goes on, as over a cut in a film."""
        playing = self._playing()
        if playing is not self._playing_seen:
            self._playing_seen = playing
            if playing is None:
                self.newest_frame = None
            else:
                self._chunker.follow_source(float(playing.info.rate_fps))
                self._presenter.expect(period_s=1.0 / float(playing.info.rate_fps))
        return playing

    def _follow_running(self) -> bool:
        """Start, stop and restart the engine as asked for; -> whether it is to run."""
        restarts, is_on = self._registry.get("engine.restart"), bool(self._registry.get("stream.running"))
        is_stopped = self._supervisor.state is State.STOPPED
        if is_on and self._is_trial and self._supervisor.state is State.FAILED:
            self._is_trial = False
            if self._go_back(self._supervisor.reason):
                self._start_engine(is_trial=False)
        elif is_on and (is_stopped or restarts != self._restarts_seen):
            self._start_engine(is_trial=True)
        elif not is_on and not is_stopped:
            self._stop_engine()
            self.newest_frame = None
        self._restarts_seen = restarts
        return is_on

    def _start_engine(self, *, is_trial: bool) -> None:
        """Start one as the parameters say; where they make none, what runs is left alone."""
        try:
            self._before_start()
        except UserError as error:
            reason = one_line(error)
            if not (self._supervisor.engine is not None and self._go_back(reason)):
                self._supervisor.refuse(reason)
            return
        self._stop_engine()
        self._is_trial = is_trial
        self._supervisor.start_anew()

    def _stop_engine(self) -> None:
        self._supervisor.stop()
        self._presenter.clear()
        self._forget_sent()

    def _follow_reset(self) -> None:
        resets = self._registry.get("stream.reset")
        if resets != self._resets_seen:
            self._resets_seen = resets
            self._supervisor.reset()
            self._presenter.clear()

    def _submit(self, engine: EngineClient, playing: Playing, frames: list[Frame]) -> None:
        buffer = engine.input_buffer()
        changed_s = self._changes.taken()
        values = self._registry.snapshot()
        framing = framing_of(values)
        for target, frame in zip(buffer, frames, strict=False):
            frame_into(frame.pixels, target, framing)
        # The tail of a file is completed by its last frame; what that adds is not shown.
        buffer[len(frames) :] = buffer[len(frames) - 1]
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
        # Nothing was shown that the first chunk of an epoch could differ from.
        self._sent[self._next_chunk] = _Sent(sources, times_s, is_opening, None if is_opening else changed_s)
        engine.submit(Chunk(self._next_chunk, buffer), settings_of(values))
        self._next_chunk += 1
        self._is_flushing = False
        self.frames_used += len(frames)
        playing.ring.release_through(frames[-1].index, used=len(frames))

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
            Picture(effect, source, captured_s, sent.changed_s)
            for effect, source, captured_s in zip(result.frames, sent.sources, sent.captured_s, strict=False)
        ]
        self.frames_generated += len(pictures)
        self._presenter.add(pictures, now_s)
        del self._sent[result.chunk_id]
