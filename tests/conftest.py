"""What every test is held to: nothing that it starts is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

LEFTOVER_LIMIT_S = 5.0
# No test opens a window on the screen of whoever runs it: those that need one start a display of their own.
for _name in ("DISPLAY", "WAYLAND_DISPLAY"):
    os.environ.pop(_name, None)
# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _segments() -> Counter[str]:
    """Shared memory of this process: named segments, and the engine's, which have no name but a descriptor or a map."""
    folder = Path("/dev/shm")
    named = os.listdir(folder) if folder.is_dir() else []
    maps = Path("/proc/self/maps")
    nameless = [line for line in maps.read_text().splitlines() if "memfd:sdv2live" in line] if maps.is_file() else []
    return Counter(named) + Counter("nameless" for _ in nameless)


def _threads() -> Counter[str]:
    # By name: in an app that several tests share, one capture thread takes over from another.
    return Counter(thread.name for thread in threading.enumerate() if thread.is_alive())


def _children() -> Counter[str]:
    found: Counter[str] = Counter()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found[child.name()] += 1
    return found


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Threads, child processes and shared-memory segments are as many after a test as before it."""
    threads, children, segments = _threads(), _children(), _segments()
    yield
    deadline_s = time.monotonic() + LEFTOVER_LIMIT_S
    while True:
        left = (_threads() - threads, _children() - children, _segments() - segments)
        if not any(left) or time.monotonic() > deadline_s:
            break
        time.sleep(0.02)
    for what, which in zip(("threads", "processes", "shared memory"), left, strict=True):
        assert not which, f"{what} left behind: {dict(which)}"
