"""Captures a webcam with OpenCV: the source `camera`. Owns: the device, its reader thread, repeats and silence.

A driver may block for ten seconds in `read` and in its constructor, so each opened device has a thread of its own,
and nothing waits for that thread for long: one that hangs is left behind, and lets go of its device when the driver
lets go of it. `open`, `read` and `close` run on the capture thread, which also opens a failed camera again.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import cv2
import numpy as np

from sdv2live.capture.base import Source, SourceFrame, SourceInfo
from sdv2live.capture.cameras import Camera, find_camera, list_cameras, node_trouble, same_camera
from sdv2live.clock import Clock, MonotonicClock
from sdv2live.errors import UserError, one_line
from sdv2live.frames import Pixels
from sdv2live.queues import LatestSlot

log = logging.getLogger(__name__)

WANTED_SIZE_WH = (1280, 720)
WANTED_RATE_FPS = 30
MOTION_JPEG = float(cv2.VideoWriter.fourcc(*"MJPG"))
LARGEST_SIDE = 8192
# Some of Windows' drivers take this long to open; the capture thread gives up after 30 s by itself.
FIRST_PICTURE_LIMIT_S = 20.0 if sys.platform == "win32" else 8.0
# Without a picture for this long a camera is closed and opened again, which wakes most of those that fell asleep.
SILENCE_LIMIT_S = 5.0
# A driver that has no new picture hands the last one again. One that has shown nothing else for this long may show a
# still (a slide, a covered lens): it is passed on at this pace, so that the effect stays alive on it.
STILL_PERIOD_S = 0.2
STILL_IS_SUSPECT_S = 10.0
NO_PICTURE_PAUSE_S = 0.01
CLOSE_LIMIT_S = 0.3


class Device(Protocol):
    """What is used of cv2.VideoCapture. read: (whether there was a picture, the picture as the driver gives it)."""

    def isOpened(self) -> bool: ...
    def read(self) -> tuple[bool, Any]: ...
    def get(self, prop: int) -> float: ...
    def set(self, prop: int, value: float) -> bool: ...
    def release(self) -> None: ...


class Webcam(Source):
    """The camera that `words` mean (cameras.py says how), at most `size_wh` and `rate_fps` or what it has instead.

    Newest frame wins. repeats counts pictures that were handed out a second time, replaced those that came too fast
    for the reader. Once found, it is the same camera that is waited for, whatever index it comes back with.
    """

    is_live = True
    ends = False

    def __init__(
        self,
        words: str = "",
        *,
        size_wh: tuple[int, int] = WANTED_SIZE_WH,
        rate_fps: int = WANTED_RATE_FPS,
        clock: Clock | None = None,
        open_device: Callable[[Camera], Device] | None = None,
        cameras: Callable[[], Sequence[Camera]] = list_cameras,
        trouble: Callable[[str], int] | None = None,
    ) -> None:
        self._words = words
        self._size_wh, self._rate_fps = size_wh, rate_fps
        self._clock = clock or MonotonicClock()
        self._open_device = open_device or opened_with_cv2
        self._cameras = cameras
        self._trouble = trouble or (node_trouble if sys.platform == "linux" else lambda _path: 0)
        self._camera: Camera | None = None
        self._reader: _Reader | None = None
        self._first_s: float | None = None
        self._heard_s = 0.0
        self.repeats = self.replaced = 0

    def open(self) -> SourceInfo:
        self.close()
        camera = self._camera = self._found()
        self._check_usable(camera)
        reader = self._reader = _Reader(camera, self._open_device, self._wish, self._clock)
        reader.start()
        first = reader.slot.take(FIRST_PICTURE_LIMIT_S)
        if first is None:
            reason = reader.failure or "it gives no picture"
            self.close()
            raise UserError(f"The camera {camera.name} ({camera.path}) could not be opened ({reason}): {_advice()}.")
        pixels = to_rgb(first.picture, camera.name)
        got = reader.got
        size_wh = (pixels.shape[1], pixels.shape[0])
        log.info("camera %s: %dx%d at %.5g fps, %s", camera.name, *size_wh, float(got.rate_fps), got.codec)
        if size_wh != self._size_wh:
            log.info("camera %s was asked for %dx%d and has no such size", camera.name, *self._size_wh)
        self._first_s, self._heard_s = None, self._clock.now_s()
        reader.slot.put(first)  # it is the first frame, and not only a look
        return SourceInfo(f"camera:{camera.name}", size_wh, got.rate_fps, details=got.codec)

    def read(self, timeout_s: float = 1.0) -> SourceFrame | None:
        reader, camera = self._reader, self._camera
        if reader is None or camera is None:
            raise UserError("The camera is closed: choose it again.")
        taken = reader.slot.take(timeout_s)
        self._count(reader)
        if taken is None:
            if reader.failure is not None:
                raise UserError(f"The camera {camera.name} failed ({reader.failure}): it is opened again.")
            if same_camera(camera, self._cameras()) is None:
                raise UserError(unplugged_sentence(camera))
            if self._clock.now_s() - self._heard_s > SILENCE_LIMIT_S:
                raise UserError(
                    f"The camera {camera.name} gives no picture for {SILENCE_LIMIT_S:g} s: it is opened again; if that "
                    "does not help, unplug it and plug it in."
                )
            return None
        self._heard_s = self._clock.now_s()
        self._first_s = taken.taken_s if self._first_s is None else self._first_s
        return SourceFrame(to_rgb(taken.picture, camera.name), max(taken.taken_s - self._first_s, 0.0))

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
            self._count(reader)

    def _found(self) -> Camera:
        cameras = self._cameras()
        if self._camera is None:
            return find_camera(self._words, cameras)
        again = same_camera(self._camera, cameras)
        if again is None:
            raise UserError(unplugged_sentence(self._camera))
        if again.index != self._camera.index:
            log.info("camera %s is now at %s", again.name, again.path)
        return again

    def _wish(self, device: Device) -> Got:
        return configure(device, self._size_wh, self._rate_fps)

    def _check_usable(self, camera: Camera) -> None:
        """Raise what the system knows about the node. Asked before it is opened, since OpenCV only says no."""
        number = self._trouble(camera.path)
        what = f"The camera {camera.name} ({camera.path})"
        if number == errno.EBUSY:
            raise UserError(f"{what} is in use by another program: close that program, or choose another camera.")
        if number in (errno.EACCES, errno.EPERM):
            raise UserError(f"{what} may not be used: run `sudo usermod -aG video $USER` and log in again.")
        if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise UserError(unplugged_sentence(camera))

    def _count(self, reader: _Reader) -> None:
        """Move the reader's counts over; a reader that is left behind is not counted any more."""
        repeats, reader.repeats = reader.repeats, 0
        self.repeats += repeats
        self.replaced += reader.slot.replaced
        reader.slot.replaced = 0


@dataclass(frozen=True, slots=True)
class Got:
    """What a device says that it does."""

    rate_fps: Fraction
    codec: str


@dataclass(frozen=True, slots=True)
class _Taken:
    """picture: as the driver gave it. taken_s: when."""

    picture: Any
    taken_s: float


class _Reader:
    """One opened device and the thread that waits for it. slot: the newest picture; closed after a failure."""

    def __init__(
        self,
        camera: Camera,
        open_device: Callable[[Camera], Device],
        configured: Callable[[Device], Got],
        clock: Clock,
    ) -> None:
        self._camera, self._open_device, self._configured, self._clock = camera, open_device, configured, clock
        self.slot: LatestSlot[_Taken] = LatestSlot()
        self.failure: str | None = None
        self.repeats = 0
        self.got = Got(Fraction(WANTED_RATE_FPS), "")
        self._last: Any = None
        self._last_s = self._changed_s = -math.inf
        self._is_suspect = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webcam", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(CLOSE_LIMIT_S)
        if self._thread.is_alive():
            log.warning("camera %s does not answer: its thread is left behind", self._camera.name)

    def _run(self) -> None:
        device: Device | None = None
        try:
            device = self._open_device(self._camera)
            if not device.isOpened():
                self.failure = "its driver refused"
                return
            self.got = self._configured(device)
            while not self._stop.is_set():
                has_picture, picture = device.read()
                if not has_picture or picture is None or np.size(picture) == 0:
                    # An unplugged camera answers at once: no thread may spin on that.
                    self._stop.wait(NO_PICTURE_PAUSE_S)
                elif self._is_news(picture):
                    self.slot.put(_Taken(picture, self._last_s))
        # The top of a thread: whatever a driver throws ends this device and not the capture.
        except Exception as error:
            log.debug("camera %s", self._camera.name, exc_info=True)
            self.failure = one_line(error)
        finally:
            self._last = None
            if device is not None:
                device.release()
            self.slot.close()

    def _is_news(self, picture: Any) -> bool:
        """Whether to hand it on: what was not handed on already, or a still that waits too long."""
        now_s = self._clock.now_s()
        if not is_same(picture, self._last):
            self._last, self._last_s, self._changed_s = picture, now_s, now_s
            self._is_suspect = False
            return True
        self.repeats += 1
        if now_s - self._changed_s > STILL_IS_SUSPECT_S and not self._is_suspect:
            self._is_suspect = True
            log.warning("camera %s gives the same picture again and again: is it covered, or stuck?", self._camera.name)
        if now_s - self._last_s < STILL_PERIOD_S:
            return False
        self._last_s = now_s
        return True


def opened_with_cv2(camera: Camera) -> Device:
    """cv2.VideoCapture through the platform's own way to a camera."""
    # Read by OpenCV as it opens: seconds that V4L2 waits for a picture (10), a slow start that nothing here needs,
    # and a question that can only be asked on the main thread.
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")
    os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")
    os.environ.setdefault("OPENCV_AVFOUNDATION_SKIP_AUTH", "1")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # what a camera lacks is said by us, once
    if sys.platform == "linux":
        device = cv2.VideoCapture(camera.path, cv2.CAP_V4L2)
    else:
        device = cv2.VideoCapture(camera.index, cv2.CAP_DSHOW if sys.platform == "win32" else cv2.CAP_AVFOUNDATION)
    return device


def configure(device: Device, size_wh: tuple[int, int], rate_fps: int, platform: str = sys.platform) -> Got:
    """Ask for Motion JPEG, then size, then rate, and say what was got.

    The codec first: raw pictures of 1280x720 do not fit through USB 2 at more than 10 a second, so a driver that is
    asked for the size first takes a slow rate. Asked again at the end where the size undid it, as DirectShow does.
    """
    has_codecs = platform != "darwin"
    if has_codecs:
        device.set(cv2.CAP_PROP_FOURCC, MOTION_JPEG)
    device.set(cv2.CAP_PROP_FRAME_WIDTH, float(size_wh[0]))
    device.set(cv2.CAP_PROP_FRAME_HEIGHT, float(size_wh[1]))
    device.set(cv2.CAP_PROP_FPS, float(rate_fps))
    if has_codecs and device.get(cv2.CAP_PROP_FOURCC) != MOTION_JPEG:
        device.set(cv2.CAP_PROP_FOURCC, MOTION_JPEG)
    device.set(cv2.CAP_PROP_BUFFERSIZE, 1.0)  # where it is heeded, the newest picture is the next
    said_fps = device.get(cv2.CAP_PROP_FPS)
    is_believable = math.isfinite(said_fps) and 1 <= said_fps <= 480
    rate = Fraction(said_fps).limit_denominator(1001) if is_believable else Fraction(rate_fps)
    return Got(rate, codec_name(device.get(cv2.CAP_PROP_FOURCC)))


def codec_name(fourcc: float) -> str:
    """`MJPG` from the number; a word where the driver gives none."""
    number = int(fourcc) if math.isfinite(fourcc) and fourcc > 0 else 0
    letters = (number & 0xFFFFFFFF).to_bytes(4, "little").decode("ascii", "replace")
    return letters.strip() if letters.isprintable() and letters.strip() else "codec not said"


def is_same(picture: Any, last: Any) -> bool:
    """Whether two pictures are the same to the last bit, as a sensor never gives them twice."""
    if last is None or np.shape(picture) != np.shape(last):
        return False
    # A few rows tell two different pictures apart, which is nearly always the case.
    return np.array_equal(picture[::32], last[::32]) and np.array_equal(picture, last)


def to_rgb(picture: Any, name: str) -> Pixels:
    """[H, W, 3] uint8 RGB, of its own, from what OpenCV hands out: BGR, BGRA or grey, of 8 or 16 bits.

    Raises UserError for anything else.
    """
    picture = np.asarray(picture)
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    channels = picture.shape[2] if picture.ndim == 3 else 1
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    is_usable = picture.dtype == np.uint8 and picture.ndim in (2, 3) and channels in codes
    if not is_usable or max(picture.shape[:2]) > LARGEST_SIDE:
        shape = "x".join(str(side) for side in picture.shape)
        raise UserError(
            f"The camera {name} gives pictures of a kind that cannot be used ({shape} {picture.dtype}): choose another "
            "format in its own settings, or another camera."
        )
    return np.asarray(cv2.cvtColor(picture, codes[channels]), np.uint8)


def unplugged_sentence(camera: Camera) -> str:
    return f"The camera {camera.name} was unplugged: plug it in again and it goes on, or choose another source."


def _advice() -> str:
    advice = "close other programs that use it, or unplug it and plug it in"
    if sys.platform == "darwin":
        advice += ", and allow it under System Settings > Privacy & Security > Camera"
    return advice
