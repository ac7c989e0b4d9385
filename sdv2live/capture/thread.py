"""The thread that reads a source. Owns: a played file's clock, stall and failure states, reopening.

Source -> ring of timestamped frames; knows nothing of chunks, engines or outputs. `start`, `stop` and `status`
are called from any thread; the source itself is opened, read and closed on the capture thread alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdv2live.capture.base import Source, SourceFrame, SourceInfo
from sdv2live.clock import Clock
from sdv2live.errors import SourceEnded, UserError, one_line
from sdv2live.frames import Frame
from sdv2live.queues import FrameRing

log = logging.getLogger(__name__)

REOPEN_DELAYS_S = (0.5, 1.0, 2.0, 5.0)
# A file that is decoded too slowly by more than this is not fast-forwarded: its clock is set anew.
REANCHOR_AFTER_S = 0.5
STALL_PERIODS = 5
STALL_AT_LEAST_S = 0.5
READ_TIMEOUT_S = 0.5
RATE_WINDOW_FRAMES = 31
HOLD_STEP_S = 0.05


@dataclass(frozen=True, slots=True)
class CaptureStatus:
    """How the source is doing.

    state: opening, running, stalled (no new frame for a while), ended (a file that does not loop), failed
    or closed; reason is the sentence behind stalled and failed. frames_in counts the frames put in the ring,
    refused those that were no picture. fps is measured over the last second or so, 0 unless running. size_wh
    is that of the newest frame. openings counts how often the source was opened: where it grows, what was
    made of the old frames (a chunk half full, the engine's memory) has nothing to do with the new ones.
    """

    name: str
    state: str
    reason: str
    frames_in: int
    refused: int
    fps: float
    size_wh: tuple[int, int]
    openings: int


class CaptureThread:
    """Reads one source into a ring until it ends or is stopped.

    A source that is not live keeps its own clock: frame i is due, and put in the ring, at start + media time. A
    live source that fails is closed and opened again after 0.5, 1, 2, 5, 5, ... seconds, for ever.

    plays: while it is not set, a source that is not live is held at its next frame and its clock stands still, so
    that a file does not run while an engine loads; a camera cannot be held and goes on. None: it plays at once.
    on_news(): on the capture thread, once it is known whether the source could be opened, and at the end.
    """

    def __init__(
        self,
        source: Source,
        ring: FrameRing,
        clock: Clock,
        *,
        plays: threading.Event | None = None,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        self.source = source
        self._ring = ring
        self._clock = clock
        self._plays = plays
        self._on_news = on_news
        self._stop = threading.Event()
        self._opened, self._ended = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._first_error: UserError | None = None
        self._state, self._reason = "opening", ""
        self._info: SourceInfo | None = None
        self._frames_in = self._refused = self._openings = 0
        self._size_wh = (0, 0)
        # When the newest frames came, and when the next one of a played file is due.
        self._times_s: deque[float] = deque(maxlen=RATE_WINDOW_FRAMES)
        self._waits_since_s = 0.0
        self._due_s: float | None = None
        self._is_held = False
        self._failures_in_row = 0
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self, open_timeout_s: float = 30.0) -> SourceInfo:
        """Open the source and read on. Raises the source's UserError if it cannot be opened.

        Waits at most `open_timeout_s` seconds of real time: some camera drivers take their time, and some hang.
        """
        self.begin()
        self._opened.wait(open_timeout_s)
        info = self.answer
        if info is None:
            self._stop.set()
            raise UserError(too_slow_sentence(open_timeout_s))
        return info

    def begin(self) -> None:
        """`start` without waiting: `answer` says how it went."""
        self._thread.start()

    @property
    def answer(self) -> SourceInfo | None:
        """What was opened first; None until it is. Raises the source's UserError if it could not be opened."""
        if self._first_error is not None:
            raise self._first_error
        return self._info

    @property
    def has_answered(self) -> bool:
        return self._opened.is_set()

    @property
    def has_ended(self) -> bool:
        """Whether the source is closed for good."""
        return self._ended.is_set()

    def let_go(self) -> None:
        """Have the source closed soon, by its own thread; does not wait. `stop` is still to be called."""
        self._stop.set()

    def stop(self, timeout_s: float = 1.0) -> None:
        """End the thread; one whose `read` hangs is left behind. May be called twice, and without `start`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("the source %s does not answer and its thread is left behind", self._name)
        with self._lock:
            self._state, self._reason = "closed", ""

    @property
    def info(self) -> SourceInfo | None:
        """What was opened last; None before the first time."""
        return self._info

    @property
    def status(self) -> CaptureStatus:
        # Stalled is worked out here, by the one who asks: a thread that hangs in `read` could not say so.
        now_s = self._clock.now_s()
        with self._lock:
            state, reason = self._state, self._reason
            waited_s = now_s - max(self._waits_since_s, self._due_s or self._waits_since_s)
            if state == "running" and not self._is_held and waited_s > self._stall_limit_s():
                state, reason = "stalled", f"The source {self._name} gives no new frame: is it still connected?"
            fps = self._measured_fps() if state == "running" else 0.0
            return CaptureStatus(
                self._name, state, reason, self._frames_in, self._refused, fps, self._size_wh, self._openings
            )

    @property
    def _name(self) -> str:
        return self._info.name if self._info is not None else type(self.source).__name__

    def _stall_limit_s(self) -> float:
        period_s = 1 / float(self._info.rate_fps) if self._info is not None and self._info.rate_fps > 0 else 0.0
        return max(STALL_PERIODS * period_s, STALL_AT_LEAST_S)

    def _measured_fps(self) -> float:
        span_s = self._times_s[-1] - self._times_s[0] if len(self._times_s) > 1 else 0.0
        return (len(self._times_s) - 1) / span_s if span_s > 0 else 0.0

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._open()
                self._play()
            except SourceEnded:
                self._set_state("ended")
                log.info("the source %s has ended", self._name)
                break
            except UserError as error:
                if not self._opened.is_set():
                    self._first_error = error
                self._fail(error)
            # The top of a thread: a driver's surprise must not end capture without a word.
            except Exception as error:
                log.exception("the source %s failed", self._name)
                sentence = f"The source {self._name} failed ({one_line(error)}): choose it again, or see the log."
                if not self._opened.is_set():
                    self._first_error = UserError(sentence)
                self._fail(UserError(sentence))
            finally:
                self.source.close()
            if self._first_error is not None or not self.source.is_live or self._wait_to_reopen():
                break
        self._opened.set()
        self._ended.set()
        self._on_news()

    def _open(self) -> None:
        info = self.source.open()
        with self._lock:
            self._info = info
            self._size_wh = info.size_wh
            self._openings += 1
            self._times_s.clear()
            self._waits_since_s, self._due_s = self._clock.now_s(), None
            if not self._stop.is_set():
                self._state, self._reason = "running", ""
        if self._openings > 1:
            log.info("the source %s is back", info.name)
        self._opened.set()
        self._on_news()

    def _play(self) -> None:
        """Read until stopped; raises what the source raises."""
        anchor_s: float | None = None
        while not self._stop.is_set():
            taken = self.source.read(READ_TIMEOUT_S)
            now_s = self._clock.now_s()
            if taken is None:
                continue
            if not is_picture(taken):
                with self._lock:
                    self._refused += 1
                continue
            captured_s = now_s
            if not self.source.is_live:
                if self._was_held():
                    anchor_s, now_s = None, self._clock.now_s()
                if anchor_s is None or now_s - (anchor_s + taken.media_time_s) > REANCHOR_AFTER_S:
                    anchor_s = now_s - taken.media_time_s
                captured_s = anchor_s + taken.media_time_s
                with self._lock:
                    self._due_s = captured_s
                if self._clock.wait_until(captured_s, self._stop):
                    break
            if self._stop.is_set():
                # Stopped while `read` hung: whoever took over must not find our frame in the ring.
                break
            self._deliver(taken, captured_s)

    def _was_held(self) -> bool:
        """Wait while the source is not to play; whether it had to wait."""
        if self._plays is None or self._plays.is_set():
            return False
        self._is_held = True
        while not self._stop.is_set() and not self._plays.wait(HOLD_STEP_S):
            pass
        self._is_held = False
        return True

    def _deliver(self, taken: SourceFrame, captured_s: float) -> None:
        with self._lock:
            frame = Frame(taken.pixels, captured_s, self._frames_in)
            self._frames_in += 1
            self._failures_in_row = 0
            self._size_wh = frame.size_wh
            self._times_s.append(captured_s)
            self._waits_since_s = self._clock.now_s()
        self._ring.append(frame)

    def _fail(self, error: UserError) -> None:
        reason = one_line(error)
        with self._lock:
            is_news = (self._state, self._reason) != ("failed", reason)
            # Closed stays closed: a thread left behind may still come by here.
            if self._stop.is_set():
                return
            self._state, self._reason = "failed", reason
        if is_news:
            log.error("%s", reason)

    def _set_state(self, state: str) -> None:
        with self._lock:
            if not self._stop.is_set():
                self._state, self._reason = state, ""

    def _wait_to_reopen(self) -> bool:
        """Pause before the next try; True if the app stops meanwhile."""
        delay_s = REOPEN_DELAYS_S[min(self._failures_in_row, len(REOPEN_DELAYS_S) - 1)]
        self._failures_in_row += 1
        return self._clock.wait_until(self._clock.now_s() + delay_s, self._stop)


def too_slow_sentence(limit_s: float) -> str:
    return f"The source did not open within {limit_s:.0f} s: unplug it, or choose another one."


def is_picture(taken: SourceFrame) -> bool:
    """Whether a source kept its promise; what a driver hands over in passing (an empty buffer) is not a frame."""
    pixels = taken.pixels
    return pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and 0 not in pixels.shape
