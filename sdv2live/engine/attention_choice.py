"""Which attention kernel a GPU runs. Owns: the candidates, and the choice between them by timing at the real shapes.

On the CPU nothing is timed: which of its kernels runs there is torch's own choice. On CUDA that is not always the
fastest: kernels differ by card, by head size and by the cuDNN that is there. One that is wrong at these shapes is left
out, whatever its time: cuDNN before 9.15.1 had a fault with lengths that are no multiples of 128, and a video's seldom
are.
"""

from __future__ import annotations

import importlib
import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import flop_registry, register_flop_formula

from sdv2live.engine.checkpoint import is_memory_full
from sdv2live.engine.model.attention import attend
from sdv2live.errors import one_line

log = logging.getLogger(__name__)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # as model/attention.py's `attend`, without a mask
PLAIN = "torch scaled_dot_product_attention, its own choice"
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
# Optional packages by the name of their module: the second and the third version of flash-attention.
PACKAGES = {"flash-attn 2": "flash_attn", "flash-attn 3": "flash_attn_interface"}
TIMED_RUNS = 10
LARGEST_ERROR = 0.03  # of the largest value, beside float32: bfloat16 gives less than a hundredth
CHECKED_HEADS = 1


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """name: of the kernel that runs, or who chooses it. times_ms: of all that could have, by name; none where nothing
    was timed."""

    name: str = PLAIN
    attend: Attend = attend
    times_ms: Mapping[str, float] = field(default_factory=dict)


@cache
def choose_attention(
    device: torch.device, *, tokens: int, past_tokens: int, heads: int, head_dim: int, dtype: torch.dtype
) -> AttentionChoice:
    """The fastest for queries of `tokens` and a full window of `past_tokens`. On CUDA: runs each, and waits for it.

    Once a process: engines of the same shapes run the same kernel there, and give the same bits.
    """
    if device.type != "cuda":
        return AttentionChoice()
    generator = torch.Generator(device).manual_seed(1)
    q, k, v = (
        torch.randn(1, count, heads, head_dim, device=device, dtype=dtype, generator=generator)
        for count in (tokens, past_tokens, past_tokens)
    )
    choice = fastest(candidates(), q, k, v, timed_ms=cuda_ms)
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in choice.times_ms.items())
    # Which cuDNN that was: one of the system's may stand before torch's own, and be slower.
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    log.info("attention: %s (%s; cuDNN %s)", choice.name, times, cudnn)
    return choice


def candidates() -> dict[str, Attend]:
    """By name, torch's own choice first."""
    found: dict[str, Attend] = {PLAIN: attend}
    found |= {name: partial(attend_by, backend) for name, backend in BACKENDS.items()}
    for name, module in PACKAGES.items():
        try:
            found[name] = _as_operation(name, importlib.import_module(module).flash_attn_func)
        except (ImportError, OSError, AttributeError):  # not there, or not for this torch
            continue
    return found


def attend_by(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` by this kernel; shapes that it does not take, as while a window fills, go to the next one."""
    order = [backend, *(each for each in BACKENDS.values() if each is not backend), SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):  # without it a list allows, and orders nothing
        return attend(q, k, v)


def fastest(
    named: Mapping[str, Attend], q: Tensor, k: Tensor, v: Tensor, *, timed_ms: Callable[[Callable[[], object]], float]
) -> AttentionChoice:
    """The quickest of those that run and are right. timed_ms: how long a call takes."""
    few = [each[:, :, :CHECKED_HEADS] for each in (q, k, v)]
    with sdpa_kernel(SDPBackend.MATH):
        expected = attend(*(each.float() for each in few))
    times_ms: dict[str, float] = {}
    for name, candidate in named.items():
        try:
            error = (candidate(q, k, v)[:, :, :CHECKED_HEADS].float() - expected).abs().max() / expected.abs().max()
            if not error <= LARGEST_ERROR:
                log.warning("attention: %s is not used, since it is off by %.2g at these shapes", name, float(error))
                continue
            times_ms[name] = round(timed_ms(partial(candidate, q, k, v)), 4)
        except RuntimeError as error:
            if is_memory_full(error):
                raise
            log.info("attention: %s cannot be used here: %s", name, one_line(error))
    best = min(times_ms, key=times_ms.__getitem__, default=PLAIN)
    return AttentionChoice(best, named[best], times_ms)


def cuda_ms(call: Callable[[], object]) -> float:
    """The median of some runs on the current CUDA device, after as many to get going."""
    times_ms = []
    for _ in range(2 * TIMED_RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        end.synchronize()
        times_ms.append(float(start.elapsed_time(end)))
    return statistics.median(times_ms[TIMED_RUNS:])


def _as_operation(name: str, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Attend:
    """As an operation of torch's, which a compiler calls and does not look into, and whose work is counted."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made = function(q, k, v)
        return made[0] if isinstance(made, tuple) else made  # some versions give the sums as well

    name = name.replace("-", "_").replace(" ", "_")
    operation = torch.library.custom_op(f"sdv2live::{name}", call, mutates_args=())
    operation.register_fake(lambda q, k, v: torch.empty_like(q))
    if (packet := getattr(torch.ops.sdv2live, name)) not in flop_registry:  # a second engine finds it there
        register_flop_formula(packet)(_flop)
    return operation


def _flop(q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
    """Of shapes [B, N, heads, D]: two products of queries with the past, two operations for each multiplication."""
    return 4 * q.numel() * k[1]
