"""A lock on an open file, the system's own: it ends with the processes that hold it and is never stale.

Standard library alone, because the bootstrap uses it before anything is installed. Nothing is written into the file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

POLL_S = 0.2


@dataclass(frozen=True)
class Lock:
    """is_first: nobody else held it when it was asked for."""

    descriptor: int
    is_first: bool


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file, or say that somebody else has it. Raises OSError where there are no locks."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # how Linux and macOS, and how Windows, say "taken"
        return False
    return True


@contextlib.contextmanager
def held(path: Path, *, on_wait: Callable[[], None]) -> Iterator[Lock]:
    """Hold the lock of the file at `path`, which is made if need be. on_wait: called once if that means waiting."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        is_first = try_lock(descriptor)
        if not is_first:
            on_wait()
            while not try_lock(descriptor):
                time.sleep(POLL_S)
        yield Lock(descriptor, is_first)
    finally:
        os.close(descriptor)  # gives the lock back as well
