"""How much memory processes have and had, as the system counts it. Knows the system's own files; starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def memory_bytes(pids: Sequence[int]) -> int | None:
    """Resident memory of these processes now, added; None where the system does not say."""
    return _added("VmRSS", pids)


def peak_memory_bytes(pids: Sequence[int]) -> int | None:
    """The largest resident size that each of these had since it became the program that it is, added.

    Not what `getrusage` gives: a child's highest mark there begins with what its parent had when it was forked.
    """
    return _added("VmHWM", pids)


def _added(name: str, pids: Sequence[int]) -> int | None:
    """A field of Linux' /proc/PID/status (proc_pid_status(5)), in kB there."""
    try:
        return sum(_field_bytes(name, pid) for pid in pids)
    except (OSError, ValueError):
        return None


def _field_bytes(name: str, pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"process {pid} has ended and has no {name} any more")
