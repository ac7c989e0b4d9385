"""A camera made of a script: what cv2.VideoCapture and the list of cameras do, and everything that goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from sdv2live.capture.cameras import Camera
from sdv2live.capture.webcam import Webcam
from sdv2live.clock import Clock

CAMERA = Camera("usb-acme_HD_Webcam_1234-video-index0", "HD Webcam", "/dev/video0", 0)
SIZE_WH = (64, 48)


def bgr(number: int, size_wh: tuple[int, int] = SIZE_WH) -> Any:
    """A picture with its number in the blue channel, as OpenCV hands it out."""
    picture = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    picture[:] = (number % 256, 100, 200)
    return picture


def number_of(pixels: Any) -> int:
    return int(pixels[0, 0, 2])


class FakeDevice:
    """Plays a script: pictures, None (no picture), exceptions, or functions that are called; then it blocks."""

    def __init__(self, steps: Sequence[Any] = (), *, is_open: bool = True, rate_fps: float = 30.0) -> None:
        self._steps: Iterator[Any] = iter(steps)
        self._is_open = is_open
        self.values: dict[int, float] = {cv2.CAP_PROP_FPS: rate_fps, cv2.CAP_PROP_FOURCC: 0.0}
        self.asked: list[int] = []
        self.released = threading.Event()
        self.freed = threading.Event()  # what a blocked read waits for
        self.reads = 0

    def isOpened(self) -> bool:
        return self._is_open

    def read(self) -> tuple[bool, Any]:
        self.reads += 1
        step = next(self._steps, self._block)
        if callable(step):
            step = step()
        if isinstance(step, Exception):
            raise step
        return step is not None, step

    def _block(self) -> None:
        self.freed.wait(60)

    def get(self, prop: int) -> float:
        return self.values.get(prop, 0.0)

    def set(self, prop: int, value: float) -> bool:
        self.asked.append(prop)
        if prop != cv2.CAP_PROP_FPS:
            self.values[prop] = value
        return True

    def release(self) -> None:
        self.released.set()


class ForgetfulDevice(FakeDevice):
    """Goes back to raw pictures when its size is set, as DirectShow's do."""

    def set(self, prop: int, value: float) -> bool:
        super().set(prop, value)
        if prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT):
            self.values[cv2.CAP_PROP_FOURCC] = 0.0
        return True

    @property
    def codec(self) -> float:
        return self.values[cv2.CAP_PROP_FOURCC]


class Desk:
    """The cameras that are plugged in now, and the devices that opening one gives, one after another."""

    def __init__(self, *devices: FakeDevice, cameras: Sequence[Camera] = (CAMERA,)) -> None:
        self.plugged = list(cameras)
        self.trouble = 0
        self.opened: list[Camera] = []
        self.devices = list(devices)
        self._waiting = iter(devices)

    def webcam(self, words: str = "", clock: Clock | None = None) -> Webcam:
        return Webcam(
            words,
            size_wh=SIZE_WH,
            clock=clock,
            open_device=self._open,
            cameras=lambda: list(self.plugged),
            trouble=lambda _path: self.trouble,
        )

    def _open(self, camera: Camera) -> FakeDevice:
        self.opened.append(camera)
        return next(self._waiting)

    def free(self) -> None:
        """End every read that blocks, so that no thread outlives its test."""
        for device in self.devices:
            device.freed.set()


def endless(device_rate_fps: float = 200.0, pictures: Callable[[int], Any] = bgr) -> FakeDevice:
    """A camera that gives a new picture every few milliseconds until its test ends."""
    device = FakeDevice()
    numbers = iter(range(1 << 30))

    def read() -> tuple[bool, Any]:
        ended = device.freed.wait(1 / device_rate_fps)
        return not ended, None if ended else pictures(next(numbers))

    device.read = read  # type: ignore[method-assign]
    return device
