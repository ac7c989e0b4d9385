"""How many threads where other programs work: the decision, and what it is decided from."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sdv2live.engine.thread_governor import ThreadGovernor, idle_seconds


class Machine:
    """Four cores and an engine on them: its time is passed in, and what others take is set."""

    def __init__(self) -> None:
        self.now_s = self.idle_s = self.used_s = self.others = 0.0
        self.told: list[int] = []
        self.governor = ThreadGovernor(4, self.told.append, idle_s=lambda: self.idle_s, used_s=lambda: self.used_s)

    def chunk_s(self, threads: int) -> float:
        """A share that threads divide, and waiting for the one that has no core of its own."""
        is_crowded = threads > 4 - self.others
        return 0.05 + (0.4 / threads) * (6.0 if is_crowded else 1.0)

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            threads = self.governor.threads
            span_s = self.chunk_s(threads)
            used = min(threads, 4 - self.others)
            self.now_s += span_s
            self.used_s += used * span_s
            self.idle_s += (4 - self.others - used) * span_s
            self.governor.adjust(self.now_s, span_s)


def test_it_gives_cores_up_while_others_take_them_and_takes_them_back() -> None:
    machine = Machine()
    machine.run(20)
    assert machine.told == [], "alone, nothing is tried"
    machine.others = 1.5
    machine.run(60)
    assert machine.governor.threads == 2
    machine.others = 0.0
    machine.run(200)
    assert machine.governor.threads == 4
    machine.told.clear()
    machine.run(60)
    assert machine.told == []


def test_what_is_no_better_is_taken_back_and_tried_ever_less() -> None:
    machine = Machine()
    machine.chunk_s = lambda threads: 0.4 / threads  # type: ignore[method-assign]  # others do not hurt it
    machine.others = 1.0
    machine.run(600)
    assert machine.governor.threads == 4
    assert 2 <= len(machine.told) <= 26 and set(machine.told) == {3, 4}


def test_where_the_system_does_not_say_nothing_is_changed() -> None:
    governor = ThreadGovernor(4, lambda _: pytest.fail("changed"), idle_s=lambda: None)
    for second in range(30):
        governor.adjust(float(second), 0.5)
    assert governor.threads == 4


@pytest.fixture
def busy_program() -> Iterator[subprocess.Popen[bytes]]:
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield program
    program.kill()
    program.wait()


@pytest.mark.skipif(idle_seconds() is None, reason="this system does not say how long its cores were idle")
def test_idle_time_is_the_system_s(busy_program: subprocess.Popen[bytes]) -> None:
    first, start_s = idle_seconds(), time.monotonic()
    time.sleep(0.5)  # the thing measured is time
    second, span_s = idle_seconds(), time.monotonic() - start_s
    import os

    assert first is not None and second is not None
    assert 0 <= second - first <= span_s * (os.cpu_count() or 1) - 0.25 * span_s, "one core is busy"
