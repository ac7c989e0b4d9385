"""LoRAs in the DiT's weights: W = base + sum of strength * alpha/rank * up @ down. Owns: the sum, made in place.

Each sum is made anew from the base weights, in float32, so that no number of changes drifts; the base stays mapped from
the checkpoint and takes no memory of its own. In place: joined products, FP8 layers, compiled code and captured graphs
go on with the new values. A rank sums up the layers that it has. Runs on the thread of its rank.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdv2live.engine.fp8 import Fp8Linear
from sdv2live.engine.lora_file import LoraFile, LowRank, layer_shapes, read_lora
from sdv2live.engine.model.wan_transformer import SelfAttentionLayer, WanConfig, WanTransformer
from sdv2live.engine.weights import is_finite
from sdv2live.errors import UserError

log = logging.getLogger(__name__)

_SUMMED_AT_ONCE = 1 << 24  # numbers, in float32: 64 MiB beside the weights, whatever the size of a layer


@dataclass(frozen=True, slots=True)
class Lora:
    """A file and the strength that it was given with."""

    file: LoraFile
    weight: float


def open_loras(given: Sequence[tuple[str, float]], config: WanConfig, *, engine: str) -> tuple[Lora, ...]:
    """Read (path, weight) pairs for the DiT of `engine`. Raises UserError as `read_lora`, and for one given twice."""
    paths = [path for path, _ in given]
    if twice := sorted(path for path in set(paths) if paths.count(path) > 1):
        raise UserError(f"the LoRA {twice[0]} is given twice: name it once, with the sum of its weights.")
    shapes = layer_shapes(config)
    return tuple(Lora(read_lora(_expanded(path), shapes, engine=engine), weight) for path, weight in given)


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"--lora {path} names the folder of a user who is not known here.") from None


class Loras:
    """All LoRAs of one DiT, or of the part of it that this rank has."""

    def __init__(self, loras: Sequence[Lora], dit: WanTransformer, base: Mapping[str, Tensor] | None) -> None:
        """dit: with the base weights, and not joined yet. base: the checkpoint that it was filled from, by name; None
        for drawn weights, of which the layers in question are copied to the host."""
        self.loras = tuple(loras)
        self.strengths: tuple[float, ...] = ()  # that the weights have; () while nobody can say
        self._layers = sorted({name for each in self.loras for name in each.file.layers})
        # A block that comes from another rank brings no base of drawn weights.
        self.may_move = base is not None
        self._base: dict[str, Tensor] = {}  # by the layer's name
        for name in self._layers:
            if base is not None:
                self._base[name] = base[f"{name}.weight"]
            if not _has(dit, name):
                continue
            layer, weight = dit.get_submodule(name), dit.get_parameter(f"{name}.weight").detach()
            if base is None:
                self._base[name] = weight.to("cpu", copy=True)
            if weight.device.type == "cpu":  # it may be the mapped file itself, which is the base
                layer.weight = nn.Parameter(weight.clone(), requires_grad=False)

    def resolved(self, strengths: Sequence[float]) -> tuple[float, ...]:
        """One strength for each LoRA: those beyond the end of `strengths` are as they were given with the files."""
        given = tuple(strengths[: len(self.loras)])
        return given + tuple(each.weight for each in self.loras[len(given) :])

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What a window and other programs may know: file, strength, how many layers and of which rank, and how many
        tensors of the file belong to no layer."""
        return [
            {
                "file": str(each.file.path),
                "strength": strength,
                "layers": len(each.file.layers),
                "rank": each.file.rank,
                "unused": len(each.file.unused),
            }
            for each, strength in zip(self.loras, self.strengths, strict=False)
        ]

    @torch.no_grad()
    def merge_(self, dit: WanTransformer, strengths: tuple[float, ...], *, checks: bool = False) -> None:
        """Give the layers of `dit` these strengths, one for each LoRA. Waits for the device.

        checks: raise UserError for a sum that the weights' number format cannot hold.
        """
        started_s = time.perf_counter()
        self.strengths = ()
        for name in self._layers:
            if _has(dit, name):
                self._merge_layer(dit, name, strengths, checks=checks)
        self.strengths = strengths
        shown = ", ".join(
            f"{each.file.path.name} {strength:g}" for each, strength in zip(self.loras, strengths, strict=True)
        )
        log.info("LoRAs merged: %s (%.2f s)", shown, time.perf_counter() - started_s)

    def _merge_layer(self, dit: WanTransformer, name: str, strengths: Sequence[float], *, checks: bool) -> None:
        place = _Place(dit, name)
        updates = [
            _on(place.device, each.file.layers[name], strength)
            for each, strength in zip(self.loras, strengths, strict=True)
            if strength and name in each.file.layers
        ]
        base = self._base[name].flatten(1)
        for rows in _row_blocks(*base.shape):
            # Two steps: the host's memory is read once, and widened on the device.
            total = base[rows].to(place.device).to(torch.float32, copy=True)
            for update in updates:
                total.addmm_(update.up[rows], update.down, alpha=update.scale)
            if checks and not is_finite(total.to(place.dtype)):
                raise UserError(
                    f"with the LoRAs in it, {name} has values that {str(place.dtype).removeprefix('torch.')} cannot "
                    "hold: give them less weight."
                )
            place.write_(rows, total)


def _on(device: torch.device, update: LowRank, strength: float) -> LowRank:
    """As it is summed up: in float32, on the device, with the strength in its scale."""
    down, up = (each.to(device).float() for each in (update.down, update.up))
    return LowRank(down, up, strength * update.scale)


def _row_blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _SUMMED_AT_ONCE // columns)
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


class _Place:
    """Where the weight of a layer lies now: in its own layer, or in FP8 in the one product of q, k and v."""

    def __init__(self, dit: WanTransformer, name: str) -> None:
        parent_name, _, leaf = name.rpartition(".")
        parent = dit.get_submodule(parent_name)
        self._first_row = 0
        joined = parent.qkv if isinstance(parent, SelfAttentionLayer) and leaf in ("q", "k", "v") else None
        if joined is None:
            self._layer = parent.get_submodule(leaf)
        else:
            self._layer, self._first_row = joined, "qkv".index(leaf) * dit.config.dim
        self.device: torch.device = self._layer.weight.device  # type: ignore[assignment]
        is_fp8 = isinstance(self._layer, Fp8Linear)
        self.dtype: torch.dtype = (self._layer.bias if is_fp8 else self._layer.weight).dtype  # type: ignore[assignment]

    def write_(self, rows: slice, total: Tensor) -> None:
        """total [rows, in] float32."""
        place = slice(rows.start + self._first_row, rows.stop + self._first_row)
        if isinstance(self._layer, Fp8Linear):
            self._layer.write_(place, total.to(self.dtype))
        else:
            weight = self._layer.weight
            assert isinstance(weight, Tensor)
            weight[place].copy_(total.view(-1, *weight.shape[1:]))


def _has(dit: WanTransformer, name: str) -> bool:
    """Whether the layer is of this part of the DiT. q, k and v may have become one; their parent tells."""
    parent, _, leaf = name.rpartition(".")
    try:
        module = dit.get_submodule(parent) if parent else dit
    except AttributeError:
        return False
    return isinstance(module, SelfAttentionLayer) or hasattr(module, leaf)
