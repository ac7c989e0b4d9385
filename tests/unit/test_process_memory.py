from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from sdv2live.process_memory import memory_bytes, peak_memory_bytes

SAYS_READY = "print('ready', flush=True); input()"
TAKES_AND_GIVES_BACK = f"held = bytearray(b'x') * (200 << 20); del held; {SAYS_READY}"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say it in /proc")


@pytest.fixture
def start() -> Iterator[Callable[[str], int]]:
    children: list[subprocess.Popen[str]] = []

    def start(code: str) -> int:
        pipe = subprocess.PIPE
        child = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
        children.append(child)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        return child.pid

    yield start
    for child in children:
        child.communicate("\n")


def test_a_peak_outlasts_what_it_was_made_of(start: Callable[[str], int]) -> None:
    pid = start(TAKES_AND_GIVES_BACK)
    now, peak = memory_bytes([pid]), peak_memory_bytes([pid])
    assert now is not None and peak is not None
    assert peak - now > 150 << 20 and 200 << 20 < peak < 300 << 20


def test_a_childs_peak_is_its_own(start: Callable[[str], int]) -> None:
    held = np.ones(300 << 20, np.uint8)
    peak = peak_memory_bytes([start(SAYS_READY)])
    assert held[-1] and peak is not None and peak < 100 << 20


def test_several_are_added(start: Callable[[str], int]) -> None:
    pids = [start(SAYS_READY), start(SAYS_READY)]
    one, two = (memory_bytes([pid]) for pid in pids)
    assert one and two and memory_bytes(pids) == one + two
    assert memory_bytes([]) == 0


def test_a_process_that_has_ended_and_is_not_waited_for_is_unknown() -> None:
    """As an engine is for a moment while it is started anew."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert memory_bytes([os.getpid(), child.pid]) is None and peak_memory_bytes([child.pid]) is None
    child.wait()


def test_a_process_that_is_gone_is_unknown() -> None:
    assert memory_bytes([2**22 + 1]) is None and peak_memory_bytes([2**22 + 1]) is None
