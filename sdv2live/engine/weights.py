"""Weights into modules: strict, by name and shape, in one number format, taken once. Or drawn ones in their place.

Owns: what is said when weights do not fit a module or a memory. Which files there are is checkpoint.py's. Runs on the
thread that calls it, and blocks it while the file is read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from sdv2live.engine.checkpoint import NotEnoughMemory, is_memory_full, open_checkpoint, shown
from sdv2live.engine.model.wan_transformer import Part, WanConfig, WanTransformer
from sdv2live.errors import UserError

__all__ = ["NotEnoughMemory", "load_into", "load_strict", "open_checkpoint", "part_of_transformer", "random_weights_"]

Turn = Callable[[], AbstractContextManager[object]]
SHOWN_DIFFERENCES = 3
FLOATS = frozenset(
    {
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
    }
)
# Up to so many parameters the CPU draws them, for every device alike: under a second or two.
DRAWN_ON_CPU = 1 << 26
# How many numbers are drawn at a time, in float32: 64 MiB, whatever the size of the tensor.
_DRAWN_AT_ONCE = 1 << 24


def load_strict(module: nn.Module, path: Path, *, dtype: torch.dtype, device: torch.device) -> None:
    """Fill `module` from the checkpoint at `path`: `open_checkpoint`, then `load_into`. Raises UserError."""
    load_into(module, open_checkpoint(path), path=path, dtype=dtype, device=device)


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    path: Path,
    dtype: torch.dtype,
    device: torch.device,
    turn: Turn = nullcontext,
) -> None:
    """Make `tensors` the weights of `module`, in eval mode and without gradients; `path` is for messages.

    The module is best built on the meta device: each tensor is then taken from the mapping, converted and put in the
    module's place for it, so that the peak is the module and one tensor. On the CPU a tensor that already has `dtype`
    is not copied: the module then runs on the mapped file. Floats of any width become `dtype`, whole numbers stay.
    turn: what each tensor is taken within, for a load that goes on beside other work.

    Raises UserError if a single name or shape differs (there is no looser try), for a value that is not finite, and
    NotEnoughMemory; the module is then as it was. Raises ValueError if the module has something on the meta device
    that no checkpoint fills, such as a non-persistent buffer: such a buffer is built on a real device.
    """
    wanted = module.state_dict()
    differences = _differences(wanted, tensors)
    if differences:
        listed = "; ".join(differences[:SHOWN_DIFFERENCES])
        more = f" and {len(differences) - SHOWN_DIFFERENCES} more" if len(differences) > SHOWN_DIFFERENCES else ""
        raise UserError(f"the weights {path} are not those of this model ({listed}{more}): fetch the matching file.")
    ready: dict[str, Tensor] = {}
    is_full = False
    try:
        for name, place in wanted.items():
            with turn():
                ready[name] = _converted(name, tensors[name], place, path=path, dtype=dtype, device=device)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_full(error):
            raise
        is_full = True
    if is_full:  # said only here: the error would keep what was taken for as long as somebody holds it
        ready.clear()
        raise _not_enough_memory(f"the weights {path}", wanted.values(), dtype, device)
    module.load_state_dict(ready, assign=True)
    _finish(module, dtype=dtype, device=device)


def part_of_transformer(
    config: WanConfig,
    part: Part,
    tensors: Mapping[str, Tensor] | None,
    *,
    path: Path,
    dtype: torch.dtype,
    device: torch.device,
    seed: int = 1,
) -> WanTransformer:
    """`part` of the DiT, filled from a checkpoint of the whole, of which only its own tensors are read; drawn weights
    where there is no checkpoint. Raises as `load_into` does: what is of another part is left to whoever has that."""
    with torch.device("meta"):
        dit = WanTransformer(config, part)
        elsewhere = WanTransformer(config).state_dict().keys() - dit.state_dict().keys()
    if tensors is None:
        random_weights_(dit, seed=seed, dtype=dtype, device=device)
    else:
        own = {name: tensors[name] for name in tensors if name not in elsewhere}
        load_into(dit, own if elsewhere else tensors, path=path, dtype=dtype, device=device)
    return dit


def random_weights_(module: nn.Module, *, seed: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Give `module` (built on the meta device or really) drawn weights, for runs without a checkpoint; -> module.

    A parameter depends on the seed and its name. Up to 67 million parameters in all the CPU draws them, the same for
    every device; a larger module is drawn by the device that it runs on, and the same only on devices of that kind.
    Spread so that values stay of the order of one through any number of layers: matrices and convolutions keep the
    variance of their input, norms are 1, biases 0, modulations and embeddings small. Buffers have to be real and stay
    what they are. Raises NotEnoughMemory, and ValueError for a buffer on the meta device.
    """
    places = {name: (owner, parameter) for name, owner, parameter in _parameters(module)}
    count = sum(parameter.numel() for _, parameter in places.values())
    drawn_on = torch.device("cpu") if count <= DRAWN_ON_CPU else device
    ready: dict[str, Tensor] = {}
    is_full = False
    try:
        for name, (owner, parameter) in places.items():
            mean, deviation = _spread(name, owner, parameter.shape)
            ready[name] = torch.full(parameter.shape, mean, dtype=dtype, device=device)
            if deviation:
                _draw_(ready[name], _generator(seed, name, drawn_on), deviation)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_full(error):
            raise
        is_full = True
    if is_full:
        ready.clear()
        what = f"random weights of {type(module).__name__}"
        raise _not_enough_memory(what, (parameter for _, parameter in places.values()), dtype, device)
    module.load_state_dict(ready, strict=False, assign=True)
    _finish(module, dtype=dtype, device=device)
    return module


# ---- loading -----------------------------------------------------------------------------------------------------


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    found = []
    for name in sorted(wanted.keys() | given.keys()):
        if name not in given:
            found.append(f"{name} is missing")
        elif name not in wanted:
            found.append(f"{shown(name)} does not belong")
        elif (shape := given[name].shape) != wanted[name].shape:
            found.append(f"{name} is {tuple(shape)}, not {tuple(wanted[name].shape)}")
    return found


def _converted(
    name: str, tensor: Tensor, place: Tensor, *, path: Path, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The tensor as the module's `place` takes it; on the device, and checked there, where checking is fast."""
    if not place.is_floating_point():
        if tensor.dtype != place.dtype:
            raise UserError(
                f"the weights {path} do not fit: {name} is of {_word(tensor.dtype)}, not of {_word(place.dtype)}; "
                "fetch the matching file."
            )
        return tensor.to(device=device).contiguous()
    if tensor.dtype not in FLOATS:
        raise UserError(
            f"the weights {path} do not fit: {name} is of {_word(tensor.dtype)}, not of floating-point numbers; "
            "fetch a file that is not quantised."
        )
    ready = tensor.to(device=device, dtype=dtype).contiguous()
    if not is_finite(ready):
        if is_finite(tensor.to(device=device, dtype=torch.float32)):
            raise UserError(
                f"the weights {path} do not fit {_word(dtype)}: {name} has larger values; leave --precision away."
            )
        raise UserError(f"the weights {path} are damaged: {name} holds values that are no numbers; fetch them again.")
    return ready


def is_finite(tensor: Tensor) -> bool:
    """No NaN and no Inf. The extremes show both, are exact in every format, and need no memory of their own."""
    if tensor.numel() == 0:
        return True
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(tensor))


def _finish(module: nn.Module, *, dtype: torch.dtype, device: torch.device) -> None:
    """What no checkpoint holds goes to device and dtype too; then the module is ready to run."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    if empty := sorted(name for name, tensor in tensors.items() if tensor.is_meta):
        raise ValueError(
            f"{', '.join(empty[:SHOWN_DIFFERENCES])} of {type(module).__name__} are still on the meta device: "
            "no checkpoint holds them, so build them on a real one"
        )
    module.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _not_enough_memory(
    what: str, places: Iterable[Tensor], dtype: torch.dtype, device: torch.device
) -> NotEnoughMemory:
    widths = ((place.numel(), dtype if place.is_floating_point() else place.dtype) for place in places)
    count = sum(numel * width.itemsize for numel, width in widths)
    size = f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
    where = "this machine's memory" if device.type == "cpu" else f"the memory of {device}"
    precision = "--precision bfloat16 or " if dtype.itemsize > 2 else ""
    return NotEnoughMemory(
        f"{what} do not fit into {where}: they take {size} in {_word(dtype)}; close other programs, or take "
        f"{precision}a smaller engine."
    )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- drawing -----------------------------------------------------------------------------------------------------


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Full name, the module that owns it, the parameter: each once."""
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(prefix=prefix, recurse=False):
            yield name, owner, parameter


def _spread(name: str, owner: nn.Module, shape: torch.Size) -> tuple[float, float]:
    """Mean and standard deviation of a parameter."""
    leaf = name.rpartition(".")[2]
    if leaf == "bias":
        return 0.0, 0.0
    if leaf == "modulation" or isinstance(owner, nn.Embedding):
        return 0.0, 0.02
    if leaf == "gamma" or len(shape) < 2:
        return 1.0, 0.0
    return 0.0, 1 / math.sqrt(math.prod(shape[1:]))


def _generator(seed: int, name: str, device: torch.device) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def _draw_(tensor: Tensor, generator: torch.Generator, deviation: float) -> None:
    """Fill with normal numbers. They are drawn in float32, so that every number format gets the same ones, rounded."""
    for part in torch.split(tensor.view(-1), _DRAWN_AT_ONCE):
        part.copy_(torch.randn(part.shape, generator=generator, device=generator.device).mul_(deviation))
