"""How long each stage of a chunk takes. Owns: marks in time, on the host or in a GPU's stream.

A GPU runs behind the host, so its marks are events; they are read once the chunk is done, and never waited for.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable

import torch

KEPT_TIMES = 32

Mark = float | torch.cuda.Event


class StageClock:
    """Marks of one device."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"

    def mark(self) -> Mark:
        """This moment of the device's work."""
        if not self._is_cuda:
            return time.perf_counter()
        # Blocking: whoever waits for it sleeps meanwhile, instead of keeping a core of the processor busy.
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def ms_between(self, start: Mark, end: Mark) -> float:
        """Milliseconds between two marks of this clock, both of which the device has passed."""
        if isinstance(start, float) and isinstance(end, float):
            return (end - start) * 1000
        assert isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
        return float(start.elapsed_time(end))

    def has_passed(self, mark: Mark) -> bool:
        """Whether the device has come so far; never waits."""
        return isinstance(mark, float) or bool(mark.query())  # type: ignore[no-untyped-call]

    def wait_for(self, mark: Mark) -> None:
        """Return once the device has come so far."""
        if not isinstance(mark, float):
            mark.synchronize()


class Arrivals:
    """Waits for marks on a thread of its own, so that the engine's does not, and tells when one is passed."""

    def __init__(self, clock: StageClock, on_passed: Callable[[], None]) -> None:
        """on_passed: called on that thread. It is started with the first mark, and ended by `close`."""
        self._clock, self._on_passed = clock, on_passed
        self._marks: queue.SimpleQueue[Mark | None] = queue.SimpleQueue()
        self._newest: Mark | None = None
        self._thread: threading.Thread | None = None

    def watch(self, mark: Mark) -> None:
        """Tell when `mark` is passed; once, however often it is asked for in a row."""
        if mark is self._newest:
            return
        self._newest = mark
        if self._thread is None:
            self._thread = threading.Thread(target=self._wait, name="arrivals", daemon=True)
            self._thread.start()
        self._marks.put(mark)

    def close(self) -> None:
        """Nothing is told from now on."""
        self._marks.put(None)
        if self._thread is not None:
            self._thread.join()

    def _wait(self) -> None:
        while (mark := self._marks.get()) is not None:
            self._clock.wait_for(mark)
            self._on_passed()


class StageMeter:
    """How long the works of one rank take, and how much of the time it works. Read by another thread as well."""

    def __init__(self, clock: StageClock) -> None:
        self._clock = clock
        self._open: deque[tuple[str, Mark, Mark]] = deque()
        self._taken_ms: dict[str, deque[float]] = {}
        self._busy_ms, self._asked_s, self._share = 0.0, time.perf_counter(), 0.0

    def begin(self) -> Mark:
        return self._clock.mark()

    def end(self, work: str, started: Mark) -> None:
        """`work` began at `started` and is now on its way; its time is read when the device is through."""
        self._open.append((work, started, self._clock.mark()))
        while self._open and self._clock.has_passed(self._open[0][2]):
            name, start, end = self._open.popleft()
            taken_ms = self._clock.ms_between(start, end)
            self._taken_ms.setdefault(name, deque(maxlen=KEPT_TIMES)).append(taken_ms)
            self._busy_ms += taken_ms

    def count(self, work: str) -> int:
        """How many times of `work` are known, at most KEPT_TIMES."""
        return len(self._taken_ms.get(work, ()))

    def median_ms(self, work: str) -> float:
        """Of the newest ones; 0 of a work that this rank does not do."""
        taken = tuple(self._taken_ms.get(work, ()))
        return round(statistics.median(taken), 3) if taken else 0.0

    def forget(self) -> None:
        """The work is another one from now on."""
        self._taken_ms.clear()

    def busy_share(self) -> float:
        """0..1: how much of the time since the last call was work."""
        now_s = time.perf_counter()
        elapsed_s, busy_ms = now_s - self._asked_s, self._busy_ms
        if elapsed_s > 0.2:
            self._asked_s, self._busy_ms = now_s, 0.0
            self._share = min(1.0, busy_ms / 1000 / elapsed_s)
        return self._share
