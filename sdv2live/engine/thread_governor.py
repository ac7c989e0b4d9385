"""How many threads a CPU engine uses while other programs work. Owns that decision; asked between two chunks.

The threads of one layer wait for each other by spinning. Where a browser or OBS takes a core for itself, one of
them is always late and the others burn what it needs: on two cores, one of them busy, one thread can be several times
faster than two. How much is ours cannot be known beforehand, so it is tried: fewer threads when others take cores, one
more when cores are free, and what was faster stays.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

PERIOD_S = 1.0
TRIAL_CHUNKS = 3
TAKEN_CORES = 0.15  # of those that we would use: so much in others' hands is reason to try with a thread less
FREE_CORES = 0.85  # so much more than we use: reason to try with one more
BETTER = 0.95
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 80.0  # after a trial that was none the better, doubled each time


class ThreadGovernor:
    """Call `adjust` after each chunk. set_threads is told where the number changes.

    idle_s() is the time that all cores together have been idle since some moment, None where the system does not say:
    then nothing is changed. used_s() is the processor time of this process.
    """

    def __init__(
        self,
        most: int,
        set_threads: Callable[[int], object],
        *,
        idle_s: Callable[[], float | None] | None = None,
        used_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._most, self._set_threads = most, set_threads
        self._idle_s, self._used_s = idle_s or idle_seconds, used_s
        self._last: tuple[float, float, float] | None = None
        self._chunks_s: deque[float] = deque(maxlen=TRIAL_CHUNKS)
        self._trial: tuple[int, float] | None = None  # threads before it, and their usual chunk time
        self._pause_s, self._not_before_s = FIRST_PAUSE_S, 0.0
        self.threads = most

    def adjust(self, now_s: float, chunk_s: float) -> None:
        """A chunk took `chunk_s`; it is `now_s`."""
        self._chunks_s.append(chunk_s)
        if self._most == 1 or len(self._chunks_s) < TRIAL_CHUNKS:
            return
        if self._trial is not None:
            self._judge(now_s, *self._trial)
            return
        free_cores = self._free_cores(now_s)
        if free_cores is None or now_s < self._not_before_s:
            return
        if free_cores < self.threads - TAKEN_CORES and self.threads > 1:
            self._try(max(1, min(self.threads - 1, int(free_cores + 0.25))))
        elif free_cores > self.threads + FREE_CORES and self.threads < self._most:
            self._try(self.threads + 1)

    def _try(self, threads: int) -> None:
        self._trial = self.threads, statistics.median(self._chunks_s)
        self._use(threads)

    def _judge(self, now_s: float, before: int, usual_s: float) -> None:
        self._trial = None
        if statistics.median(self._chunks_s) < BETTER * usual_s:
            self._pause_s = FIRST_PAUSE_S
        else:
            self._use(before)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._not_before_s = now_s + self._pause_s
        self._last = None  # what the trial did to the cores says nothing

    def _use(self, threads: int) -> None:
        self.threads = threads
        self._chunks_s.clear()
        self._set_threads(threads)

    def _free_cores(self, now_s: float) -> float | None:
        """Cores that nobody else used for the last second or so; None until that is known."""
        if self._last is not None and now_s - self._last[0] < PERIOD_S:
            return None
        idle_s = self._idle_s()
        if idle_s is None:
            return None
        last, self._last = self._last, (now_s, idle_s, self._used_s())
        if last is None:
            return None
        return (self._last[1] - last[1] + self._last[2] - last[2]) / (now_s - last[0])


def idle_seconds() -> float | None:
    """From /proc/stat: the fields `idle` and `iowait` of all cores, in ticks."""
    try:
        fields = Path("/proc/stat").read_text("ascii").split(maxsplit=6)
        return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
