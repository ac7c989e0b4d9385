"""Runs checks one after another in a process of their own. Owns that process, and what is said of one that hangs.

A driver that hangs holds its whole process, a library that crashes ends it: it is then replaced, and the next check
goes on. Standard library alone on this side. `main` is the other side: a name a line comes in on standard input, a
finding a line goes out; when the input ends, so does the process.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable

from sdv2live.clock import Clock, MonotonicClock
from sdv2live.doctor.checks import CHECKS, Check
from sdv2live.doctor.finding import Finding, State
from sdv2live.engine.child import start_child

END_LIMIT_S = 3.0
WAIT_S = 0.2  # how long Ctrl-C may go unheard where a wait is not interrupted by it


def examine(
    checks: Iterable[Check] = CHECKS,
    *,
    say: Callable[[Check], None] = lambda _: None,
    start: Callable[[], subprocess.Popen[bytes]] = lambda: start_child("sdv2live.doctor.examination"),
    clock: Clock | None = None,
) -> Generator[Finding]:
    """A finding for each check, as it comes; blocks in between. say: told what is looked at next."""
    room = _Room(start, clock or MonotonicClock())
    try:
        for check in checks:
            say(check)
            yield room.look(check)
    finally:
        room.end()


class _Room:
    """The process, started when it is needed."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]], clock: Clock) -> None:
        self._start, self._clock = start, clock
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def look(self, check: Check) -> Finding:
        try:
            process = self._process or self._begin()
            assert process.stdin is not None
            process.stdin.write(check.name.encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            self.end()
            return Finding(check.name, State.FAIL, f"no process for it can be started ({error.strerror})", "restart")
        deadline_s = self._clock.now_s() + check.limit_s
        while (left_s := deadline_s - self._clock.now_s()) > 0:
            try:
                line = self._lines.get(timeout=min(left_s, WAIT_S))
            except queue.Empty:
                continue
            if line is None:
                code = process.wait()  # its output has ended, and it at the same time
                self.end()
                how = f"signal {-code}" if code < 0 else f"code {code}"
                return Finding(
                    check.name, State.FAIL, f"its process ended with {how} while it was looked at", check.if_it_hangs
                )
            try:
                return Finding.from_json(line)
            except ValueError:
                continue  # what a library printed
        self.end()
        return Finding(check.name, State.FAIL, f"no answer within {check.limit_s:g} s: it hangs", check.if_it_hangs)

    def _begin(self) -> subprocess.Popen[bytes]:
        process = self._process = self._start()
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=_read, args=(process, self._lines), name="findings", daemon=True)
        self._reader.start()
        return process

    def end(self) -> None:
        """At once, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        assert process.stdin is not None and process.stdout is not None and self._reader is not None
        with contextlib.suppress(BrokenPipeError):  # what was not read any more
            process.stdin.close()
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            return  # it hangs inside the system, where nothing reaches it: it is left behind
        self._reader.join()
        process.stdout.close()


def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def main() -> None:
    """The other side: findings on the real standard output; what libraries print goes to standard error."""
    target = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    named = {check.name: check for check in CHECKS}
    asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_hear, args=(asked,), name="checks", daemon=True).start()
    while (name := asked.get()) is not None:
        target.write(named[name].look().to_json() + "\n")
        target.flush()


def _hear(asked: queue.SimpleQueue[str | None]) -> None:
    """The end of the input ends the process, also where it hangs: the doctor is gone, or waits no longer."""
    for line in sys.stdin.buffer:
        asked.put(line.decode().strip())
    os._exit(0)
