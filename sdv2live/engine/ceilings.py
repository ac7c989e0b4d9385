"""What a device can do: one large matrix product, convolution and copy, timed. For `bench` and for splits.

Runs in whatever process asks, for a part of a second on a GPU, and leaves nothing on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

Call = Callable[[], Any]


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, tries: int = 9) -> dict[str, float]:
    """What this device reaches in this dtype, the best of so many tries; the memory for it is given back."""
    found = _measured(device, dtype, tries)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _measured(device: torch.device, dtype: torch.dtype, tries: int) -> dict[str, float]:
    is_cpu = device.type == "cpu"
    side, images = (1024, 4) if is_cpu else (8192, 64)  # long enough that starting it does not count
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    image = torch.randn(images, 96, 128, 128, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.randn(96, 96, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    source = torch.empty(images * 16 * 2**20, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    conv_flop = 2 * images * 128 * 128 * 96 * 96 * 9

    def best_s(call: Call) -> float:
        """The shortest of several: a ceiling is what the device can do when nobody disturbs it."""
        with torch.inference_mode():
            return min(timed_s(call, device) for _ in range(tries))

    return {
        "matmul_gflop_per_s": round(2 * side**3 / best_s(lambda: a @ b) / 1e9, 1),
        "conv_gflop_per_s": round(
            conv_flop / best_s(lambda: torch.nn.functional.conv2d(image, kernel, padding=1)) / 1e9, 1
        ),
        "copy_gb_per_s": round(2 * source.numel() / best_s(lambda: target.copy_(source)) / 1e9, 2),
    }


def timed_s(call: Call, device: torch.device) -> float:
    """Seconds of one call, until the device is done with it."""
    started_s = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started_s
