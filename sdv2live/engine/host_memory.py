"""How the C library gives memory back. Owns: one setting of the process, for engines that run on the CPU."""

from __future__ import annotations

import ctypes
import sys

# Numbers of glibc's mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory(*, top_pad_bytes: int = 64 * 2**20) -> None:
    """Have glibc keep big blocks instead of returning them: fresh pages cost more than the arithmetic on them.

    An activation of a chunk is a few megabytes, which glibc maps and unmaps anew each time. Elsewhere than glibc:
    nothing. Holds for the whole process, so it is for a process that does little else.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, top_pad_bytes)
