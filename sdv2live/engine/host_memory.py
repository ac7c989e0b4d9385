"""What is free on a device, and how the C library gives memory back to the host's."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

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


def free_bytes(device: torch.device) -> int | None:
    """What is free on the device now; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None
