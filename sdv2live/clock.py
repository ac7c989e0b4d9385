"""Time as a dependency. Owns: the only monotonic clock of the pipeline, and its fake for tests.

Times are seconds of a monotonic clock. Wall-clock time has no place in the pipeline, so that a
clock set by the user or by NTP changes nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Protocol


class Clock(Protocol):
    """`now_s()` never goes back. `wait_until(t, stop)` returns at t, or early with True once `stop` is set."""

    def now_s(self) -> float: ...

    def wait_until(self, time_s: float, stop: threading.Event) -> bool: ...


class MonotonicClock:
    """The real one. On Windows the finer of two: its monotonic clock moves in steps of half a frame."""

    def now_s(self) -> float:
        return time.perf_counter() if sys.platform == "win32" else time.monotonic()

    def wait_until(self, time_s: float, stop: threading.Event) -> bool:
        remaining_s = time_s - self.now_s()
        if remaining_s <= 0:
            return stop.is_set()
        return stop.wait(remaining_s)


class FakeClock:
    """A clock that only moves when told to: waiting jumps to the time waited for."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds

    def wait_until(self, time_s: float, stop: threading.Event) -> bool:
        self._now_s = max(self._now_s, time_s)
        return stop.is_set()
