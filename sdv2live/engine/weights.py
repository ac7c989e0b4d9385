"""Weights from files into modules: strict, by name and shape. Owns: what is said when a file does not fit."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sdv2live.errors import UserError

SHOWN_DIFFERENCES = 3


def load_strict(module: nn.Module, path: Path, *, dtype: torch.dtype, device: torch.device) -> None:
    """Fill `module` from the .safetensors file at `path`, in eval mode and without gradients.

    Raises UserError if the file is missing, damaged, or differs in a single name or shape: there is no looser try.
    """
    if not path.is_file():
        raise UserError(f"the weights {path} are missing: reinstall sdv2live, or fetch the file again.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"the weights {path} cannot be read ({error}): fetch the file again.") from error
    differences = _differences(module.state_dict(), tensors)
    if differences:
        shown = "; ".join(differences[:SHOWN_DIFFERENCES])
        more = f" and {len(differences) - SHOWN_DIFFERENCES} more" if len(differences) > SHOWN_DIFFERENCES else ""
        raise UserError(f"the weights {path} are not those of this model: {shown}{more}. Fetch the matching file.")
    module.load_state_dict(tensors)
    module.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _differences(wanted: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> list[str]:
    found = [f"{name} is missing" for name in wanted.keys() - given.keys()]
    found += [f"{name} does not belong" for name in given.keys() - wanted.keys()]
    for name in wanted.keys() & given.keys():
        if wanted[name].shape != given[name].shape:
            found.append(f"{name} is {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}")
    return sorted(found)
