"""The least time that work takes on a device. Owns: the count of operations and of bytes, and the floor made of both.

A stage's floor is the longer of its operations at the measured rates and of its bytes at the measured copy rate; a
chunk's is the sum of its stages' floors, also where they overlap: they share one device. Bytes are those of weights
and of what the KV cache keeps, each time that an operation reads them; what a network makes on its way is left out, as
if it never left the chip. So a program that is as good as can be may still miss it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sdv2live.engine.base import STAGES
from sdv2live.engine.ceilings import Call
from sdv2live.engine.compile import plainly
from sdv2live.engine.stage_runner import StageRunner

Work = dict[str, float]  # conv, matmul, fp8: 10^9 operations; gb: 10^9 bytes


def counted(call: Call, held: Iterable[Tensor] = ()) -> tuple[Any, Work]:
    """Call it, plainly, and count its work; attention counts as matrix products. held: tensors whose bytes count."""
    # torch has a formula for the attention of every device but the CPU's.
    cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop}
    with plainly(), _Reads(held) as reads, FlopCounterMode(display=False, custom_mapping=cpu) as counter:
        result = call()
    work = {"conv": 0.0, "matmul": 0.0, "fp8": 0.0, "gb": reads.bytes / 1e9}
    for operation, flops in counter.get_flop_counts().get("Global", {}).items():
        name = str(operation)
        work["conv" if "conv" in name else "fp8" if "_scaled_mm" in name else "matmul"] += flops / 1e9
    return result, work


def counted_by_stage(stage: StageRunner, call: Call) -> tuple[Any, dict[str, Work]]:
    """As `counted`, of what is called on `stage`: what its codec does, and the rest, which is denoising."""
    held, codec, works = held_by(stage), stage.codec, dict[str, Work]()

    def count(name: str, method: Callable[..., Any], *args: Any) -> Any:
        result, works[name] = counted(partial(method, *args), held)
        return result

    names = ("encode", "decode")
    for name in names:
        setattr(codec, name, partial(count, name, getattr(codec, name)))
    try:
        result, whole = counted(call, held)
    finally:
        for name in names:
            delattr(codec, name)
    works = {name: works.get(name, dict.fromkeys(whole, 0.0)) for name in names}
    rest = {kind: whole[kind] - sum(work[kind] for work in works.values()) for kind in whole}
    works["denoise"] = rest
    return result, {name: works[name] for name in STAGES}


def held_by(stage: StageRunner) -> list[Tensor]:
    """What stays in the device's memory from chunk to chunk: weights, the KV cache, keys and values of texts."""
    modules = [stage.dit, *(each for each in vars(stage.codec).values() if isinstance(each, nn.Module))]
    texts = [prompt.context for prompt in stage.prompts.values() if prompt.context is not None]
    return [
        *(tensor for module in modules for tensor in (*module.parameters(), *module.buffers())),
        *(row for rows in (*stage.cache.keys, *stage.cache.values) for row in rows),
        *(tensor for text in texts for tensor in (*text.keys, *text.values)),
    ]


def against_floor(works: Iterable[Work], ms: float, ceilings: Mapping[str, float]) -> dict[str, float]:
    """floor_ms, the work of these stages at the ceilings of this device, and what fraction of it `ms` reached."""
    floor_ms = 1000 * sum(_floor_s(work, ceilings) for work in works)
    return {"floor_ms": round(floor_ms, 2), "fraction_of_floor": round(floor_ms / ms, 3)}


def _floor_s(work: Work, ceilings: Mapping[str, float]) -> float:
    """FP8 products count at the rate of FP8 where that was measured: it is wherever they run."""
    products_s = work["matmul"] / ceilings["matmul_gflop_per_s"]
    products_s += work["fp8"] / ceilings.get("fp8_gflop_per_s", ceilings["matmul_gflop_per_s"])
    return max(work["conv"] / ceilings["conv_gflop_per_s"] + products_s, work["gb"] / ceilings["copy_gb_per_s"])


class _Reads(TorchDispatchMode):
    """Adds up the bytes of the held tensors, or of the parts of them, that operations read."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = {_place(each) for each in held}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        views = {_place(each) for each in tree_leaves(made) if isinstance(each, Tensor)}
        for argument, given in zip(func._schema.arguments, args, strict=False):
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            for each in tree_leaves(given) if not is_written else ():
                # What gives the same memory back has only looked at it in another way.
                if isinstance(each, Tensor) and (place := _place(each)) in self._places and place not in views:
                    self.bytes += each.numel() * each.element_size()
        return made


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _attention_flop(q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
    """Of shapes [B, heads, N, D]: two products of queries with the past, two operations for each multiplication."""
    return 4 * q.numel() * k[2]
