"""Numbers of a run. Owns: percentiles over bounded windows, rates, and the summary's names and units."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable

KEPT = 8192


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that `share` (0..1) of all values do not exceed; None without values."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None


class Series:
    """The newest values of one measure, bounded; any thread may add and read."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        with self._lock:
            self._values.append(value)

    def newest(self, count: int) -> list[float]:
        with self._lock:
            return list(self._values)[-count:]

    def summary(self, digits: int = 2) -> dict[str, float | None]:
        """p50, p95 and p99 of what is kept."""
        values = self.newest(KEPT)
        found = {name: percentile(values, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
        return {name: None if value is None else round(value, digits) for name, value in found.items()}


class Rate:
    """Events a second over the last `span_s` seconds; the time is passed in."""

    def __init__(self, span_s: float = 2.0) -> None:
        self._span_s = span_s
        self._times_s: deque[float] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def note(self, now_s: float, count: int = 1) -> None:
        with self._lock:
            self._times_s.extend([now_s] * count)

    def per_second(self, now_s: float) -> float:
        with self._lock:
            while self._times_s and self._times_s[0] < now_s - self._span_s:
                self._times_s.popleft()
            return len(self._times_s) / self._span_s
