"""Captures the screen with mss: the sources `screen`, `screen:N` and `screen:X,Y,WxH`. Owns: regions and their pace.

A screen has no frames of its own, so the picture is taken when the clock says so. X11, Windows and macOS; a Wayland
session shows its screens to a window only: that is `gui`'s, and here a sentence. mss wants one object for each thread,
so everything but `list_screens` runs on the capture thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import mss
import numpy as np
from mss.exception import ScreenShotError

from sdv2live.capture.base import Source, SourceFrame, SourceInfo
from sdv2live.clock import Clock, MonotonicClock
from sdv2live.errors import UserError, one_line
from sdv2live.frames import Pixels

log = logging.getLogger(__name__)

DEFAULT_RATE_FPS = 30
# mss reads the screens' places once, when it connects: how often they are looked at anew.
LOOK_PERIOD_S = 1.0
LARGEST_SIDE = 16384
SPELLING = "screen, screen:N or screen:X,Y,WxH"
# What mss raises; where the X server has died it is its own assertion that an answer came.
GRAB_ERRORS = (ScreenShotError, OSError, AssertionError)
_REGION = re.compile(r"(-?\d{1,6}),(-?\d{1,6}),(\d{1,6})x(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of the desktop, in its pixels; left and top may lie below zero."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.width, self.height

    def within(self, whole: Region) -> bool:
        return (
            whole.left <= self.left
            and whole.top <= self.top
            and self.left + self.width <= whole.left + whole.width
            and self.top + self.height <= whole.top + whole.height
        )


@dataclass(frozen=True, slots=True)
class Screen:
    """One screen. number: as in `screen:N`, from 1."""

    number: int
    name: str
    region: Region
    is_primary: bool


class ScreenSource(Source):
    """A screen or a part of it, `rate_fps` pictures a second, the mouse pointer in it where mss can (X11).

    words: nothing (the primary screen), a screen's number (0: all of them as one), or X,Y,WxH. A screen that changes
    its size goes on in the new size; one that is gone is a UserError, and comes back when it does.
    """

    is_live = True
    ends = False

    def __init__(self, words: str = "", *, rate_fps: int = DEFAULT_RATE_FPS, clock: Clock | None = None) -> None:
        self._number, self._part = parsed_words(words)
        self._name = f"screen:{words}" if words else "screen"
        self._rate_fps = rate_fps
        self._clock = clock or MonotonicClock()
        self._closed = threading.Event()
        self._grabber: mss.MSS | None = None
        self._region = Region(0, 0, 0, 0)
        self._looked_s = self._opened_s = 0.0
        self._ticks = 0
        self._first_tick: int | None = None

    def open(self) -> SourceInfo:
        self.close()
        self._closed.clear()
        self._connect()
        self._grab()  # a screen that may not be seen says so now
        self._opened_s, self._ticks, self._first_tick = self._clock.now_s(), 0, None
        return SourceInfo(self._name, self._region.size_wh, Fraction(self._rate_fps))

    def read(self, timeout_s: float = 1.0) -> SourceFrame | None:
        if self._grabber is None:
            raise UserError(f"The source {self._name} is closed: choose it again.")
        now_s = self._clock.now_s()
        # Ticks that were missed are not made up for.
        self._ticks = max(self._ticks, int((now_s - self._opened_s) * self._rate_fps))
        due_s = self._opened_s + self._ticks / self._rate_fps
        if due_s - now_s > timeout_s:
            self._clock.wait_until(now_s + timeout_s, self._closed)
            return None
        if self._clock.wait_until(due_s, self._closed):
            return None
        self._first_tick = self._ticks if self._first_tick is None else self._first_tick
        media_time_s = (self._ticks - self._first_tick) / self._rate_fps
        self._ticks += 1
        if due_s - self._looked_s >= LOOK_PERIOD_S:
            self._connect()
        return SourceFrame(self._grab(), media_time_s)

    def close(self) -> None:
        self._closed.set()
        grabber, self._grabber = self._grabber, None
        if grabber is not None:
            disconnect(grabber)

    def _connect(self) -> None:
        """A connection that knows today's screens. Raises UserError where the wanted one is not among them."""
        grabber = connected()
        old, self._grabber = self._grabber, grabber
        if old is not None:
            disconnect(old)
        region = self._wanted(places(grabber))
        if old is not None and region != self._region:
            log.info("source %s is now %dx%d", self._name, *region.size_wh)
        self._region, self._looked_s = region, self._clock.now_s()

    def _wanted(self, monitors: list[Mapping[str, Any]]) -> Region:
        whole = region_of(monitors[0])
        if self._part is not None:
            if not self._part.within(whole):
                raise UserError(
                    f"The source {self._name} does not lie on the screen, which is {whole.width}x{whole.height} from "
                    f"{whole.left},{whole.top}: choose a part of that."
                )
            return self._part
        screens = screens_of(monitors)
        if self._number is None:
            return next((screen.region for screen in screens if screen.is_primary), screens[0].region)
        if self._number > len(screens):
            raise UserError(
                f"There is no screen {self._number}, only {len(screens)}: plug it in, or choose another source."
            )
        return screens[self._number - 1].region if self._number else whole

    def _grab(self) -> Pixels:
        try:
            return self._pixels()
        except GRAB_ERRORS as error:
            log.debug("source %s: %s", self._name, one_line(error))
        # The screen has shrunk since the last look, or the connection is gone: once more with a new one.
        self._connect()
        try:
            return self._pixels()
        except GRAB_ERRORS as error:
            raise UserError(f"The source {self._name} cannot be captured ({one_line(error)}): {_advice()}.") from error

    def _pixels(self) -> Pixels:
        assert self._grabber is not None
        region = self._region
        box = {"left": region.left, "top": region.top, "width": region.width, "height": region.height}
        shot = self._grabber.grab(box)
        # A screen with a scale of two gives four times the pixels that were asked for.
        picture = np.frombuffer(shot.raw, np.uint8).reshape(shot.height, shot.width, 4)
        return cv2.cvtColor(picture, cv2.COLOR_BGRA2RGB)  # type: ignore[return-value]


def list_screens() -> list[Screen]:
    """The screens, in mss's order. Raises UserError where there is none to be captured."""
    grabber = connected()
    try:
        return screens_of(places(grabber))
    finally:
        disconnect(grabber)


def parsed_words(words: str) -> tuple[int | None, Region | None]:
    """What follows `screen:` -> (number, part); both None where it is empty. Raises UserError."""
    if not words:
        return None, None
    if words.isdecimal() and len(words) <= 3:
        return int(words), None
    match = _REGION.fullmatch(words)
    if match is None:
        raise UserError(f"The source 'screen:{words}' cannot be read: write {SPELLING}, as in screen:0,0,1280x720.")
    left, top, width, height = (int(group) for group in match.groups())
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise UserError(f"The source 'screen:{words}' has no usable size: give 1 to {LARGEST_SIDE} a side.")
    return None, Region(left, top, width, height)


def connected() -> mss.MSS:
    """An mss.MSS of this thread. Raises UserError where this session shows no screen."""
    if sys.platform == "linux":
        check_session(os.environ)
    try:
        return mss.MSS(with_cursor=True) if sys.platform == "linux" else mss.MSS()
    except GRAB_ERRORS as error:
        raise UserError(f"The screen cannot be captured ({one_line(error)}): {_advice()}.") from error


def disconnect(grabber: mss.MSS) -> None:
    """Never raises: a server that has died is disconnected from as well."""
    with contextlib.suppress(*GRAB_ERRORS):
        grabber.close()


def is_wayland(environ: Mapping[str, str]) -> bool:
    """Whether mss would see nothing but what X11 programs draw, or black.

    A session that was begun by hand in a text console is known by its socket alone.
    """
    kind = environ.get("XDG_SESSION_TYPE", "").lower()
    return kind == "wayland" or (kind != "x11" and bool(environ.get("WAYLAND_DISPLAY")))


def check_session(environ: Mapping[str, str]) -> None:
    """Raise a UserError where mss would see nothing, or black."""
    if is_wayland(environ):
        raise UserError(
            "This Wayland session shows its screens to a window only: start sdv2live without --headless, choose an "
            "Xorg session when you log in, or choose another source."
        )
    if not environ.get("DISPLAY"):
        raise UserError(
            "There is no screen to capture, because DISPLAY is not set: start sdv2live from a desktop session, or "
            "choose another source."
        )


def places(grabber: mss.MSS) -> list[Mapping[str, Any]]:
    """mss's list: all screens as one, then each. Raises UserError."""
    try:
        monitors: list[Mapping[str, Any]] = [*grabber.monitors]
    except GRAB_ERRORS as error:
        raise UserError(f"The screens cannot be listed ({one_line(error)}): {_advice()}.") from error
    if not monitors or 0 in region_of(monitors[0]).size_wh:
        raise UserError(f"No screen is switched on: {_advice()}, or choose another source.")
    return monitors


def screens_of(monitors: list[Mapping[str, Any]]) -> list[Screen]:
    """Each screen; a server that knows no screens has one, which is all of it."""
    return [
        Screen(
            number,
            str(monitor.get("name") or monitor.get("output") or f"Screen {number}"),
            region_of(monitor),
            bool(monitor.get("is_primary", number == 1)),
        )
        for number, monitor in enumerate(monitors[1:] or monitors[:1], start=1)
    ]


def region_of(monitor: Mapping[str, Any]) -> Region:
    return Region(monitor["left"], monitor["top"], monitor["width"], monitor["height"])


def _advice() -> str:
    if sys.platform == "darwin":
        return "allow it under System Settings > Privacy & Security > Screen Recording"
    return "see that the session is running and unlocked"
