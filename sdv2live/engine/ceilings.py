"""What a device can do: one large matrix product, convolution and copy, timed. For `bench` and for splits.

Runs in whatever process asks, for a part of a second on a GPU, and leaves nothing on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from sdv2live.engine.fp8 import FORMAT, why_not
from sdv2live.engine.stage_clock import StageClock

Call = Callable[[], Any]
CEILING_TRIES = 9
GPU_CALLS = 8  # in a row, so that starting one does not count


@torch.inference_mode()
def measure_ceilings(device: torch.device, dtype: torch.dtype, *, tries: int = CEILING_TRIES) -> dict[str, float]:
    """What this device reaches in this dtype, the best of so many tries; the memory for it is given back.

    Large is what keeps it busy: a GPU gets more of it than a processor. fp8_gflop_per_s: where FP8 can be used.
    """
    is_gpu = device.type == "cuda"
    side, batch, channels, mebibytes = (8192, 8, 384, 256) if is_gpu else (1024, 4, 96, 64)

    def best_s(call: Call) -> float:
        """The shortest of several: a ceiling is what the device can do when nobody disturbs it."""
        return min(seconds_each(call, device, calls=GPU_CALLS if is_gpu else 1) for _ in range(tries))

    # One after the other: each gives its memory back before the next one takes some.
    def matmul_flop_per_s() -> float:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        return 2 * side**3 / best_s(lambda: a @ b)

    def fp8_flop_per_s() -> float:
        """In the form in which the engine multiplies: a scale for each row of both."""
        a, b = (torch.randn(side, side, device=device).to(FORMAT) for _ in range(2))
        scale = torch.ones(side, 1, device=device)
        call = partial(torch._scaled_mm, a, b.t(), scale_a=scale, scale_b=scale.t(), out_dtype=dtype)
        return 2 * side**3 / best_s(call)

    def conv_flop_per_s() -> float:
        image = torch.randn(batch, channels, 128, 128, device=device, dtype=dtype)
        kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        image, kernel = (each.to(memory_format=torch.channels_last) for each in (image, kernel))
        call = partial(torch.nn.functional.conv2d, image, kernel, padding=1)
        return 2 * batch * 128 * 128 * channels * channels * 9 / best_s(call)

    def copy_bytes_per_s() -> float:
        source = torch.empty(mebibytes * 2**20, device=device, dtype=torch.uint8)
        target = torch.empty_like(source)
        return 2 * source.numel() / best_s(lambda: target.copy_(source))

    found = {
        "matmul_gflop_per_s": round(matmul_flop_per_s() / 1e9, 1),
        "conv_gflop_per_s": round(conv_flop_per_s() / 1e9, 1),
        "copy_gb_per_s": round(copy_bytes_per_s() / 1e9, 2),
    }
    if is_gpu:
        if not why_not(device, dtype):
            found["fp8_gflop_per_s"] = round(fp8_flop_per_s() / 1e9, 1)
        torch.cuda.empty_cache()
    return found


def seconds_each(call: Call, device: torch.device, *, calls: int) -> float:
    """Seconds of one of so many calls in a row, by the device's own clock."""
    clock = StageClock(device)
    started = clock.mark()
    for _ in range(calls):
        call()
    ended = clock.mark()
    clock.wait_for(ended)
    return clock.ms_between(started, ended) / 1000 / calls


def timed_s(call: Call, device: torch.device) -> float:
    """Seconds of one call, from when the device has nothing else to do until it is done with it."""
    finish(device)
    started_s = time.perf_counter()
    call()
    finish(device)
    return time.perf_counter() - started_s


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given; a processor has, always."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
