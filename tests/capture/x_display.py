"""A real X server without a screen, and a client of a few lines that paints known colours on it and resizes it."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SIZE_WH = (320, 200)
# Quadrants from the top left, RGB.
QUADRANTS = ((230, 20, 30), (20, 220, 40), (30, 50, 210), (240, 230, 10))


def missing() -> str:
    """Why there can be no display here, with what to install; empty where there can."""
    if shutil.which("Xvfb") is None:
        return "no Xvfb: apt-get install xvfb"
    if ctypes.util.find_library("X11") is None or ctypes.util.find_library("Xrandr") is None:
        return "no X11 client libraries: apt-get install libx11-6 libxrandr2"
    if ctypes.util.find_library("xcb-randr") is None:
        return "no XCB: apt-get install libxcb-randr0 libxcb-shm0 libxcb-xfixes0"
    return ""


class Display:
    """One X server. paint and resize act at once."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._process = process
        self._x = ctypes.CDLL(ctypes.util.find_library("X11"))
        self._randr = ctypes.CDLL(ctypes.util.find_library("Xrandr"))
        for function in (self._x.XOpenDisplay, self._x.XCreateGC, self._randr.XRRGetScreenResources):
            function.restype = ctypes.c_void_p
        self._x.XDefaultRootWindow.restype = ctypes.c_ulong
        self._display = ctypes.c_void_p(self._x.XOpenDisplay(name.encode()))
        assert self._display, f"{name} cannot be reached"
        self._root = ctypes.c_ulong(self._x.XDefaultRootWindow(self._display))

    def paint(self, size_wh: tuple[int, int] = SIZE_WH, colours: Any = QUADRANTS) -> None:
        """Four rectangles of one colour each."""
        width, height = size_wh[0] // 2, size_wh[1] // 2
        pen = ctypes.c_void_p(self._x.XCreateGC(self._display, self._root, 0, None))
        for number, (red, green, blue) in enumerate(colours):
            left, top = number % 2 * width, number // 2 * height
            self._x.XSetForeground(self._display, pen, ctypes.c_ulong(red << 16 | green << 8 | blue))
            self._x.XFillRectangle(self._display, self._root, pen, left, top, width, height)
        self._x.XFreeGC(self._display, pen)
        self._x.XSync(self._display, 0)

    def resize(self, size_wh: tuple[int, int]) -> None:
        """The whole desktop gets another size; its one monitor is switched off, since it cannot follow."""
        resources = ctypes.c_void_p(self._randr.XRRGetScreenResources(self._display, self._root))
        # XRRScreenResources: two times of 8 bytes, then the count and the list of the CRTCs.
        crtcs = ctypes.cast(resources.value + 24, ctypes.POINTER(ctypes.POINTER(ctypes.c_ulong)))[0]  # type: ignore[operator]
        off = (self._display, resources, ctypes.c_ulong(crtcs[0]), ctypes.c_ulong(0), 0, 0, ctypes.c_ulong(0))
        self._randr.XRRSetCrtcConfig(*off, ctypes.c_ushort(1), None, 0)
        self._randr.XRRSetScreenSize(self._display, self._root, *size_wh, size_wh[0] // 4, size_wh[1] // 4)
        self._x.XSync(self._display, 0)

    def point(self, x: int, y: int) -> None:
        """Put the mouse pointer there."""
        self._x.XWarpPointer(self._display, ctypes.c_ulong(0), self._root, 0, 0, 0, 0, x, y)
        self._x.XSync(self._display, 0)

    def close(self) -> None:
        self._x.XCloseDisplay(self._display)

    def end(self) -> None:
        """The server dies."""
        self._process.kill()
        self._process.wait()


@contextmanager
def running(size_wh: tuple[int, int] = SIZE_WH) -> Iterator[Display]:
    """A display of that size, ended with the block."""
    if reason := missing():
        pytest.skip(reason)
    read, write = os.pipe()
    # -noreset: it would start anew whenever its last client leaves. -displayfd: it chooses a free number and says it.
    command = ["Xvfb", "-displayfd", str(write), "-noreset", "-nolisten", "tcp", "-screen", "0"]
    process = subprocess.Popen(
        [*command, f"{size_wh[0]}x{size_wh[1]}x24"], pass_fds=(write,), stderr=subprocess.DEVNULL
    )
    os.close(write)
    display = None
    try:
        with os.fdopen(read, "rb") as answer:
            number = answer.readline().decode().strip()
        assert number, "Xvfb did not start"
        display = Display(f":{number}", process)
        yield display
    finally:
        if display is not None and process.poll() is None:
            display.close()
        process.kill()
        process.wait()
