"""What every test is held to: nothing that it starts is left behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

LEFTOVER_LIMIT_S = 5.0


def _segments() -> set[str]:
    """Shared memory of this process: named segments, and the engine's, which have no name but a descriptor or a map."""
    folder = Path("/dev/shm")
    named = set(os.listdir(folder)) if folder.is_dir() else set()
    maps = Path("/proc/self/maps")
    nameless = {line for line in maps.read_text().splitlines() if "memfd:sdv2live" in line} if maps.is_file() else set()
    return named | {line.split()[0] for line in nameless}


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.is_alive()}


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Threads, child processes and shared-memory segments are the same after a test as before it."""
    threads, segments = _threads(), _segments()
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    deadline_s = time.monotonic() + LEFTOVER_LIMIT_S
    while True:
        left_threads = {thread.name for thread in _threads() - threads}
        left_children = {c.pid for c in psutil.Process().children(recursive=True)} - children
        left_segments = _segments() - segments
        if not (left_threads or left_children or left_segments) or time.monotonic() > deadline_s:
            break
        time.sleep(0.02)
    assert not left_threads, f"threads left behind: {left_threads}"
    assert not left_children, f"processes left behind: {left_children}"
    assert not left_segments, f"shared memory left behind: {left_segments}"
