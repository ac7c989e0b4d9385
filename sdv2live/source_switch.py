"""Which source plays, and the change to another while everything else runs. Owns: the capture thread in use.

A new source is opened while the old one goes on, and takes its place once it is there; one that cannot be opened
changes nothing. Opening may take as long as a driver likes: it happens on the thread `source switch`. Knows capture;
knows nothing of chunks, engines or outputs.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sdv2live.capture.base import Source, SourceInfo
from sdv2live.capture.thread import CaptureStatus, CaptureThread
from sdv2live.clock import Clock
from sdv2live.errors import UserError, one_line
from sdv2live.queues import FrameRing

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 30.0
AGAIN_S = 5.0
NOTHING = CaptureStatus("none", "closed", "", 0, 0, 0.0, (0, 0), 0)


@dataclass(frozen=True, slots=True)
class Playing:
    """A source that was opened, with the ring that its frames come in."""

    spec: str
    info: SourceInfo
    is_live: bool
    ring: FrameRing
    capture: CaptureThread


class SourceSwitch:
    """One source at a time.

    fallback: what plays where nothing else can be opened; what was asked for is tried again every few seconds then, and
    takes over once it is there. make(spec) -> a source that is not yet open. plays: held until an engine can take
    frames (see CaptureThread).
    on_playing(playing) and on_refused(spec, sentence) are called on the thread `source switch`, or, by `open`, on the
    caller's; the fallback is not told as playing.
    """

    def __init__(
        self,
        make: Callable[[str], Source],
        clock: Clock,
        *,
        plays: threading.Event,
        wake: threading.Event,
        on_playing: Callable[[Playing], None],
        on_refused: Callable[[str, str], None],
        fallback: str = "",
    ) -> None:
        self._make, self._clock, self._plays, self._wake = make, clock, plays, wake
        self._on_playing, self._on_refused = on_playing, on_refused
        self._asked = threading.Condition()
        self._fallback = fallback
        self._again: tuple[str, str] | None = None  # what is tried again, and why it was refused
        self._wish: str | None = None
        self._has_wish = self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="source switch", daemon=True)
        self._frames_in = self._dropped = 0  # of the sources before this one
        self.playing: Playing | None = None

    def open(self, spec: str) -> SourceInfo:
        """Open the first source, waiting for it. Raises UserError."""
        playing = self._opened(spec)
        self._replace(playing)
        self._on_playing(playing)
        return playing.info

    def start(self) -> None:
        self._thread.start()

    def request(self, spec: str | None) -> None:
        """Play `spec` soon; None: close what plays. Never blocks; of several wishes the newest counts."""
        playing = self.playing
        if spec is None and playing is not None:
            playing.capture.let_go()  # at once, whatever else is being opened just now
        with self._asked:
            self._wish, self._has_wish = spec, True
            self._asked.notify()

    def stop(self) -> None:
        """Close the source; one whose driver hangs is left behind."""
        with self._asked:
            self._is_stopped = True
            self._asked.notify()
        if self._thread.is_alive():
            self._thread.join(1.0)
        self._close()

    @property
    def is_on_fallback(self) -> bool:
        return self._again is not None

    @property
    def status(self) -> CaptureStatus:
        playing = self.playing
        return playing.capture.status if playing is not None else NOTHING

    @property
    def details(self) -> str:
        """What was got of the device, beside size and rate."""
        playing = self.playing
        info = playing.capture.info if playing is not None else None
        return info.details if info is not None else ""

    @property
    def frames_in(self) -> int:
        """Of all sources that played."""
        return self._frames_in + self.status.frames_in

    @property
    def dropped(self) -> int:
        """Frames that came in and were not used, those that wait now among them."""
        playing = self.playing
        return self._dropped + (playing.ring.dropped + len(playing.ring.peek()) if playing is not None else 0)

    def _run(self) -> None:
        while True:
            with self._asked:
                pause_s = AGAIN_S if self._again is not None else None
                self._asked.wait_for(lambda: self._has_wish or self._is_stopped, pause_s)
                if self._is_stopped:
                    return
                if self._has_wish:
                    self._again = None
                elif self._again is not None:
                    self._wish = self._again[0]
                spec, self._wish, self._has_wish = self._wish, None, False
            try:
                self._go_to(spec)
            except Exception as error:  # a thread's top: the source that plays goes on
                log.exception("the change of the source failed")
                self._on_refused(str(spec), f"The source {spec} failed ({one_line(error)}): choose another one.")

    def _go_to(self, spec: str | None) -> None:
        # A device gives itself to one at a time: what is asked for again is closed first.
        if spec is None or (self.playing is not None and self.playing.spec == spec):
            self._close()
        if spec is None:
            return
        try:
            playing = self._opened(spec)
        except UserError as error:
            self._refuse(spec, one_line(error))
            return
        if self._is_stopped or self._has_wish:  # it took long, and something else is wanted by now
            playing.capture.stop()
            return
        self._again = None
        self._replace(playing)
        self._on_playing(playing)

    def _refuse(self, spec: str, sentence: str) -> None:
        is_news = self._again != (spec, sentence)
        if is_news:
            log.error("%s", sentence)
        is_alone = self.playing is None or self._again is not None
        if is_alone and self._fallback and spec != self._fallback and not self._has_wish:
            if self.playing is None:
                self._replace(self._opened(self._fallback))
            self._again = (spec, sentence)
        if is_news:
            self._on_refused(spec, sentence)

    def _opened(self, spec: str) -> Playing:
        source = self._make(spec)
        ring = FrameRing(arrived=self._wake)
        if source.is_live:
            self._plays.set()
        capture = CaptureThread(source, ring, self._clock, plays=self._plays)
        with contextlib.ExitStack() as stack:
            stack.callback(capture.stop)
            info = capture.start(OPEN_TIMEOUT_S)
            stack.pop_all()
        log.info("source: %s, %dx%d at %.5g fps", info.name, *info.size_wh, float(info.rate_fps))
        return Playing(spec, info, source.is_live, ring, capture)

    def _replace(self, playing: Playing) -> None:
        self._close()
        self.playing = playing
        self._wake.set()

    def _close(self) -> None:
        old, self.playing = self.playing, None
        if old is None:
            return
        old.capture.stop()
        self._frames_in += old.capture.status.frames_in
        self._dropped += old.ring.dropped + len(old.ring.peek())
