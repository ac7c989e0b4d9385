"""A checkpoint of torch's, once, into safetensors, which later starts map from disk without unpickling anything.

Reads weights-only and keeps number formats and values: names lose what wrappers put before them, and what is no weight
(a second, averaged table, say) stays behind. Runs on the thread that calls it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sdv2live.engine.checkpoint import open_checkpoint
from sdv2live.errors import UserError, one_line


def to_safetensors(source: Path, target: Path) -> None:
    """Write `target` and read it again to compare. Raises UserError for a source that holds no weights, and OSError.

    Tensors are mapped from `source` and written from there, so that memory is needed for one at a time.
    """
    tensors = open_checkpoint(source)
    try:
        # Views of one memory, which no safetensors file can hold, become tensors of their own.
        save_file({name: tensor.contiguous() for name, tensor in _apart(dict(tensors)).items()}, target)
    except SafetensorError as error:
        raise OSError(None, one_line(error), str(target)) from None
    written = open_checkpoint(target)
    if different := [name for name in tensors if not _is_same(tensors[name], written[name])]:
        raise UserError(
            f"{different[0]} of {source} came out otherwise when it was written to {target}: check the drive, and try "
            "again."
        )


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen: set[int] = set()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        if memory in seen:
            tensors[name] = tensor.clone()
        seen.add(memory)
    return tensors


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit, NaN and all."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.contiguous().reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
