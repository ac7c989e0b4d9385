"""Which source plays, and the change to another while everything else runs. Owns: the capture thread in use.

A new source is opened while the old one goes on, and takes its place once it is there; one that cannot be opened
changes nothing. Opening may take as long as a driver likes: it happens on the source's own thread, and where another
source is wanted meanwhile, that one is opened at once and the late one is closed as soon as it is there. The thread
`source switch` decides, and waits for no driver. Knows capture; knows nothing of chunks, engines or outputs.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sdv2live.capture.base import Source, SourceInfo
from sdv2live.capture.thread import CaptureStatus, CaptureThread, too_slow_sentence
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
    is_live: bool
    ring: FrameRing
    capture: CaptureThread

    @property
    def info(self) -> SourceInfo:
        info = self.capture.info
        assert info is not None, "it was opened"
        return info


@dataclass(slots=True)
class _Opening:
    """What is wanted and not there yet. begun: None until the device is let go by whoever had it before."""

    spec: str
    give_up_s: float
    begun: Playing | None = None


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
        self._opening: _Opening | None = None
        self._leaving: list[Playing] = []  # told to close, and not known to have done so
        self._thread = threading.Thread(target=self._run, name="source switch", daemon=True)
        self._frames_in = self._dropped = 0  # of the sources before this one
        self.playing: Playing | None = None

    def open(self, spec: str) -> SourceInfo:
        """Open the first source, waiting for it. Raises UserError."""
        playing = self._opened(spec)
        self._play(playing)
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
        self._abandon()
        leaving = list(self._leaving)
        self._close()
        for playing in leaving:
            playing.capture.stop()

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
                self._asked.wait_for(self._has_news, self._patience_s())
                if self._is_stopped:
                    return
                has_wish, wish = self._has_wish, self._wish
                self._wish, self._has_wish = None, False
            try:
                if has_wish:
                    self._want(wish)
                self._go_on()
            except Exception as error:  # a thread's top: the source that plays goes on
                spec = wish if has_wish or self._opening is None else self._opening.spec
                log.exception("the change of the source failed")
                self._abandon()
                self._on_refused(str(spec), f"The source {spec} failed ({one_line(error)}): choose another one.")

    def _has_news(self) -> bool:
        opening = self._opening
        if self._is_stopped or self._has_wish or opening is None:
            return self._is_stopped or self._has_wish
        return opening.begun.capture.has_answered if opening.begun is not None else self._is_free(opening.spec)

    def _patience_s(self) -> float | None:
        """How long nothing has to be done if nothing happens."""
        if self._opening is not None:
            return max(self._opening.give_up_s - self._clock.now_s(), 0.0)
        return AGAIN_S if self._again is not None else None

    def _want(self, spec: str | None) -> None:
        self._again = None
        opening = self._opening
        if opening is not None and opening.spec == spec and (opening.begun is None or opening.begun.is_live):
            return  # it is on its way; a file is opened anew, with what was set for it since
        self._abandon()
        # A device gives itself to one at a time: what is asked for again is closed first.
        if spec is None or (self.playing is not None and self.playing.spec == spec):
            self._close()
        if spec is not None:
            self._opening = self._opening_of(spec)

    def _go_on(self) -> None:
        """Take the opening one step further; without one, try again what was refused."""
        if self._opening is None and self._again is not None:
            self._opening = self._opening_of(self._again[0])
        opening = self._opening
        if opening is None:
            return
        try:
            if opening.begun is None and self._is_free(opening.spec):
                opening.begun = self._made(opening.spec)
                opening.begun.capture.begin()
            is_open = opening.begun is not None and opening.begun.capture.answer is not None
            if not is_open and self._clock.now_s() >= opening.give_up_s:
                raise UserError(too_slow_sentence(OPEN_TIMEOUT_S))
        except UserError as error:
            self._abandon()
            self._refuse(opening.spec, one_line(error))
            return
        if is_open and opening.begun is not None:
            self._opening = self._again = None
            self._play(opening.begun)

    def _opening_of(self, spec: str) -> _Opening:
        return _Opening(spec, self._clock.now_s() + OPEN_TIMEOUT_S)

    def _is_free(self, spec: str) -> bool:
        """Whether nobody of ours still has the device, or is still about to get it."""
        self._leaving = [playing for playing in self._leaving if not playing.capture.has_ended]
        return all(playing.spec != spec for playing in self._leaving)

    def _look(self) -> None:
        with self._asked:
            self._asked.notify()

    def _abandon(self) -> None:
        """Want it no more: its own thread closes it, however late it is opened."""
        opening, self._opening = self._opening, None
        if opening is not None and opening.begun is not None:
            opening.begun.capture.let_go()
            self._leaving.append(opening.begun)

    def _refuse(self, spec: str, sentence: str) -> None:
        is_news = self._again != (spec, sentence)
        if is_news:
            log.error("%s", sentence)
        is_alone = self.playing is None or self._again is not None
        if is_alone and self._fallback and spec != self._fallback and not self._has_wish:
            if self.playing is None:
                self._take(self._opened(self._fallback))
            self._again = (spec, sentence)
        if is_news:
            self._on_refused(spec, sentence)

    def _opened(self, spec: str) -> Playing:
        playing = self._made(spec)
        with contextlib.ExitStack() as stack:
            stack.callback(playing.capture.stop)
            playing.capture.start(OPEN_TIMEOUT_S)
            stack.pop_all()
        return playing

    def _made(self, spec: str) -> Playing:
        """It with a thread of its own, which has not begun."""
        source = self._make(spec)
        ring = FrameRing(arrived=self._wake)
        if source.is_live:
            self._plays.set()
        capture = CaptureThread(source, ring, self._clock, plays=self._plays, on_news=self._look)
        return Playing(spec, source.is_live, ring, capture)

    def _play(self, playing: Playing) -> None:
        self._take(playing)
        self._on_playing(playing)

    def _take(self, playing: Playing) -> None:
        self._close()
        info = playing.info
        log.info("source: %s, %dx%d at %.5g fps", info.name, *info.size_wh, float(info.rate_fps))
        self.playing = playing
        self._wake.set()

    def _close(self) -> None:
        old, self.playing = self.playing, None
        if old is None:
            return
        old.capture.stop()
        self._leaving.append(old)
        self._frames_in += old.capture.status.frames_in
        self._dropped += old.ring.dropped + len(old.ring.peek())
