"""Screens by way of Qt: the source of a Wayland session, where the desktop itself asks which screen is shown.

Owns QScreenCapture and how its pictures reach the capture thread. Qt's objects are made and ended on the GUI thread,
on which nobody waits here: a window that is blocked holds up the opening, never the pictures. QtMultimedia comes
with PySide6-Addons, which is installed by those who want it; it is imported when a screen is opened.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import sys
import textwrap
import threading
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import PySide6
from PySide6.QtCore import SLOT, QCoreApplication, QObject, Qt, QThread, Signal, Slot
from PySide6.QtGui import QGuiApplication, QImage
from PySide6.QtWidgets import QWidget

from sdv2live.capture.base import Source, SourceFrame, SourceInfo
from sdv2live.clock import Clock, MonotonicClock
from sdv2live.errors import UserError, one_line
from sdv2live.frames import Pixels
from sdv2live.queues import LatestSlot

if TYPE_CHECKING:
    from PySide6.QtMultimedia import QScreenCapture, QVideoFrame

log = logging.getLogger(__name__)

DEFAULT_RATE_FPS = 30
# A person has to read the desktop's question and answer it; the capture thread's own patience ends after 30 s.
ANSWER_LIMIT_S = 25.0
# A desktop sends a picture when something has changed: the next one is waited for from the first of these on, and the
# old one is given again at the second. In periods: a screen of 30 and one of 60 pictures a second both give 30.
SOONEST, LATEST = 0.75, 1.5
THREAD_LIMIT_MS = 2000
REFUSED = "The desktop was told to show no screen: choose the source again and allow it, or choose another source."
CLOSED = "The window is closed, and with it the screen that was shown to it."
ENDED = "The desktop shows the screen no more: choose the source again to be asked anew, or choose another source."
# Windows: what is drawn there is left out of every capture, from Windows 10 2004 on; before, it would be black.
WDA_NONE, WDA_EXCLUDEFROMCAPTURE, WINDOWS_10_2004 = 0x0, 0x11, 19041


class Share:
    """One opening of a screen, known to both sides. fail and leave may be called from any thread, and twice."""

    def __init__(self, number: int | None) -> None:
        self.number = number  # as in `screen:N`, None for the primary one; a desktop that asks does not mind it
        self.frames: LatestSlot[QVideoFrame] = LatestSlot()
        self.problem = ""
        self.is_shown = False  # whether there was a picture
        self.over = threading.Event()

    def fail(self, sentence: str) -> None:
        """What the reader shall say once it has taken what is there."""
        self.problem = self.problem or sentence
        self.leave()

    def leave(self) -> None:
        self.over.set()
        self.frames.close()


class ScreenDesk(QObject):
    """The GUI thread's side, made and closed there; `begin` and `end` are for the capture thread and never block."""

    _asked = Signal(object)
    _left = Signal(object)

    def __init__(self, application: QCoreApplication) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._shares: dict[Share, _Capture | None] = {}
        self._is_closed = False
        self._asked.connect(self._begin, Qt.ConnectionType.QueuedConnection)
        self._left.connect(self._end, Qt.ConnectionType.QueuedConnection)
        self._application = application  # lives as long as this
        # Once its loop has ended nobody would hear `end` any more.
        application.aboutToQuit.connect(self.close)
        if sys.platform == "linux":
            self._listen()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def begin(self, share: Share) -> None:
        """Have it captured soon; its frames, or its problem, say how that went."""
        with self._lock:
            if self._is_closed:
                share.fail(CLOSED)
                return
            self._shares[share] = None
        self._asked.emit(share)

    def end(self, share: Share) -> None:
        share.leave()
        if not self._is_closed:
            self._left.emit(share)

    def close(self) -> None:
        """End all of them, and refuse what comes later."""
        with self._lock:
            self._is_closed = True
            shares = list(self._shares)
        for share in shares:
            share.fail(CLOSED)
            self._end(share)

    def _begin(self, share: Share) -> None:
        if share.over.is_set():
            return
        try:
            capture = _Capture(share)
        except (ImportError, RuntimeError) as error:
            share.fail(f"Qt cannot capture a screen ({one_line(error)}): choose another source.")
            return
        with self._lock:
            self._shares[share] = capture
        capture.start()

    def _listen(self) -> None:
        """Hear what Qt 6.11 tells nobody: that the desktop's question was answered with no, or the showing ended."""
        from PySide6.QtDBus import QDBusConnection

        bus = QDBusConnection.sessionBus()
        refused: Any = SLOT("on_answer(uint,QVariantMap)")
        ended: Any = SLOT("on_ended()")
        portal, interface = "org.freedesktop.portal.Desktop", "org.freedesktop.portal"
        if not (
            bus.connect(portal, "", f"{interface}.Request", "Response", self, refused)
            and bus.connect(portal, "", f"{interface}.Session", "Closed", self, ended)
        ):
            log.debug("no session bus: a screen that is refused is noticed after %.0f s", ANSWER_LIMIT_S)

    @Slot("uint", "QVariantMap")
    def on_answer(self, code: int, results: dict[str, object]) -> None:
        """Of a portal that this process asked: for a screen, or, seldom at the same time, for a file."""
        if code:
            self._fail_all(REFUSED, are_shown=False)

    @Slot()
    def on_ended(self) -> None:
        self._fail_all(ENDED, are_shown=True)

    def _fail_all(self, sentence: str, *, are_shown: bool) -> None:
        with self._lock:
            shares = [share for share in self._shares if share.is_shown == are_shown]
        for share in shares:
            share.fail(sentence)

    def _end(self, share: Share) -> None:
        with self._lock:
            capture = self._shares.pop(share, None)
        if capture is not None:
            capture.end()


class _Capture:
    """The Qt objects of one share; for the GUI thread alone.

    The sink lives on a thread of its own. Qt sends it pictures through its thread's event queue, which has no end:
    on the GUI thread they would pile up while the window is blocked.
    """

    def __init__(self, share: Share) -> None:
        from PySide6.QtMultimedia import QMediaCaptureSession, QScreenCapture, QVideoSink

        self._share = share
        self._thread = QThread()
        self._thread.setObjectName("screen pictures")
        self._capture = QScreenCapture()
        self._capture.errorOccurred.connect(self._fail)
        self._capture.activeChanged.connect(self._follow)
        self._sink = QVideoSink()
        self._sink.videoFrameChanged.connect(share.frames.put, Qt.ConnectionType.DirectConnection)
        self._sink.moveToThread(self._thread)
        self._session = QMediaCaptureSession()
        self._session.setScreenCapture(self._capture)
        self._session.setVideoSink(self._sink)

    def start(self) -> None:
        screens = QGuiApplication.screens()
        number = self._share.number
        if number and number > len(screens):
            self._share.fail(f"There is no screen {number}, only {len(screens)}: plug it in, or choose another source.")
            return
        self._capture.setScreen(screens[number - 1] if number else QGuiApplication.primaryScreen())
        self._thread.start()
        self._capture.start()

    def end(self) -> None:
        self._share.leave()
        self._sink.videoFrameChanged.disconnect(self._share.frames.put)
        self._capture.stop()
        self._session.setVideoSink(None)  # type: ignore[arg-type]
        self._session.setScreenCapture(None)  # type: ignore[arg-type]
        self._thread.quit()
        if not self._thread.wait(THREAD_LIMIT_MS):
            # A QThread that runs must not be deleted.
            log.warning("the thread of a captured screen does not end and is left behind")
            _left_behind.append(self)

    def _fail(self, error: QScreenCapture.Error, words: str) -> None:
        log.debug("screen capture: %s, %s", error, words)
        self._share.fail(sentence_of(error.name, words))

    def _follow(self, is_active: bool) -> None:
        """The desktop has a button of its own that ends it."""
        if not is_active:
            self._share.fail(ENDED)


_left_behind: list[_Capture] = []


class QtScreenSource(Source):
    """A screen as Qt and the desktop give it, about `rate_fps` pictures a second, also of a screen that stands still.

    name: its spelling. number: as in `screen:N`. A screen that changes its size goes on in the new size. Where the
    desktop takes it away, that is a UserError for good: opened anew, the desktop would ask its question over and over.
    """

    is_live = True
    ends = False

    def __init__(
        self,
        desk: ScreenDesk,
        *,
        name: str = "screen",
        number: int | None = None,
        rate_fps: int = DEFAULT_RATE_FPS,
        clock: Clock | None = None,
    ) -> None:
        self._desk, self._name, self._number, self._rate_fps = desk, name, number, rate_fps
        self._clock = clock or MonotonicClock()
        self._share: Share | None = None
        self._last: Pixels | None = None
        self._first_s = self._given_s = 0.0
        self._end_words = ""

    def open(self) -> SourceInfo:
        self.close()
        if self._end_words:
            raise UserError(self._end_words)
        need_multimedia()
        share = self._share = Share(self._number)
        self._desk.begin(share)
        frame = share.frames.take(ANSWER_LIMIT_S)
        pixels = pixels_of(frame) if frame is not None else None
        if pixels is None:
            self.close()
            raise UserError(
                share.problem
                or f"The desktop has shown no screen within {ANSWER_LIMIT_S:.0f} s: choose the source again and answer "
                "what it asks, or choose another source."
            )
        share.is_shown = True
        self._last = pixels
        self._first_s = self._clock.now_s()
        self._given_s = self._first_s - LATEST / self._rate_fps
        height, width, _ = pixels.shape
        return SourceInfo(self._name, (width, height), Fraction(self._rate_fps))

    def read(self, timeout_s: float = 1.0) -> SourceFrame | None:
        share = self._share
        if share is None:
            raise UserError(f"The source {self._name} is closed: choose it again.")
        end_s = self._clock.now_s() + timeout_s
        soonest_s, latest_s = (self._given_s + periods / self._rate_fps for periods in (SOONEST, LATEST))
        self._clock.wait_until(min(soonest_s, end_s), share.over)
        frame = None
        if soonest_s <= end_s:
            waiting = share.frames.take(0.0)
            # Rather the next one as it comes than this one late; nothing comes after a screen's last change.
            frame = share.frames.take(max(min(latest_s, end_s) - self._clock.now_s(), 0.0))
            frame = waiting if frame is None else frame
        if share.problem and frame is None:
            if self._desk.is_closed:  # the app is ending, and will say so to this thread too
                self._clock.wait_until(end_s, threading.Event())
                return None
            self._end_words = share.problem
            raise UserError(share.problem)
        pixels = pixels_of(frame) if frame is not None else None
        if pixels is None:
            if self._last is None or end_s < latest_s:
                return None
            pixels = self._last.copy()  # what was given away may have been painted on
        else:
            self._last = pixels.copy()
        self._given_s = self._clock.now_s()
        return SourceFrame(pixels, self._given_s - self._first_s)

    def close(self) -> None:
        share, self._share = self._share, None
        if share is not None:
            self._desk.end(share)
        self._last = None


def need_multimedia() -> None:
    """Raises UserError where QtMultimedia cannot be loaded."""
    try:
        importlib.import_module("PySide6.QtMultimedia")
    except ModuleNotFoundError as error:
        raise UserError(
            "In a Wayland session a screen needs QtMultimedia, which is not installed: run `pip install "
            f"PySide6-Addons=={PySide6.__version__}`, or choose another source."
        ) from error
    except ImportError as error:
        # On Linux it is libpulse.so.0 that is missing, although nothing is heard.
        raise UserError(
            f"In a Wayland session a screen needs QtMultimedia, which cannot be loaded ({one_line(error)}): install "
            "the library that it names (Debian: `sudo apt install libpulse0`), or choose another source."
        ) from error


def sentence_of(error: str, words: str) -> str:
    """What a user reads. error: the name in QScreenCapture.Error; words: Qt's own."""
    why = f" ({textwrap.shorten(words, 120, placeholder='...').rstrip('.')})" if words.strip() else ""
    if error == "CapturingNotSupported":
        return (
            f"This desktop shows no screen to a program{why}: install PipeWire and the part of xdg-desktop-portal "
            "that belongs to it, or choose another source."
        )
    if error == "NotFound":
        return f"The screen is gone{why}: choose the source again, or choose another source."
    return f"The desktop did not show a screen{why}: choose the source again and allow it, or choose another source."


def pixels_of(frame: QVideoFrame) -> Pixels | None:
    """[H, W, 3] uint8 RGB, C-contiguous, in memory of its own; None for what holds no picture. From any thread."""
    from PySide6.QtMultimedia import QVideoFrame, QVideoFrameFormat

    kinds = QVideoFrameFormat.PixelFormat
    # In memory, lowest byte first. Alpha means nothing on a screen.
    layouts = {
        kinds.Format_BGRX8888: QImage.Format.Format_RGB32,
        kinds.Format_BGRA8888: QImage.Format.Format_RGB32,
        kinds.Format_BGRA8888_Premultiplied: QImage.Format.Format_RGB32,
        kinds.Format_RGBX8888: QImage.Format.Format_RGBX8888,
        kinds.Format_RGBA8888: QImage.Format.Format_RGBX8888,
    }
    layout = layouts.get(frame.pixelFormat())
    if layout is None:
        return _rgb_of(frame.toImage())
    if not frame.map(QVideoFrame.MapMode.ReadOnly):
        return None
    try:
        image = QImage(frame.bits(0), frame.width(), frame.height(), frame.bytesPerLine(0), layout)
        return _rgb_of(image)
    finally:
        frame.unmap()


def _rgb_of(image: QImage) -> Pixels | None:
    rgb = image.convertToFormat(QImage.Format.Format_RGB888)
    if rgb.isNull():
        return None
    rows = np.frombuffer(rgb.constBits(), np.uint8).reshape(rgb.height(), rgb.bytesPerLine())
    return rows[:, : rgb.width() * 3].reshape(rgb.height(), rgb.width(), 3).copy()


def hide_from_captures(window: QWidget, is_hidden: bool) -> None:
    """Leave a window that is shown out of captures, where the system can (Windows 10 2004 and later), or no longer.

    Else a captured screen holds its own preview, and that another, without end.
    """
    if sys.platform == "win32" and sys.getwindowsversion().build >= WINDOWS_10_2004:
        affinity = WDA_EXCLUDEFROMCAPTURE if is_hidden else WDA_NONE
        if not ctypes.windll.user32.SetWindowDisplayAffinity(ctypes.c_void_p(int(window.winId())), affinity):
            log.warning("the window cannot be hidden from captures")
