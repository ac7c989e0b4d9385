"""Shared by the tests of LoRAs: updates that are drawn, the files that different programs would write of them, and the
slow sum W + strength * alpha/rank * up @ down in numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.engine.test_dit_against_diffusers import their_names

ALPHA = 6.0
BLOCK_LAYERS = (
    *(f"{attention}.{each}" for attention in ("self_attn", "cross_attn") for each in "qkvo"),
    "ffn.0",
    "ffn.2",
)
OTHER_LAYERS = ("text_embedding.0", "time_embedding.2", "time_projection.1", "head.head", "patch_embedding")


@dataclass(frozen=True)
class Drawn:
    """One layer's update: down [rank, in], up [out, rank], and the alpha that belongs to it."""

    down: Tensor
    up: Tensor
    alpha: float = ALPHA

    def scaled(self, *, by_root: bool = False) -> np.ndarray:
        """alpha/rank * up @ down, in float64."""
        down, up = (each.double().numpy() for each in (self.down, self.up))
        return self.alpha / (math.sqrt(len(down)) if by_root else len(down)) * (up @ down)


def drawn_lora(weights: Mapping[str, Tensor], layers: Sequence[str], *, rank: int, seed: int) -> dict[str, Drawn]:
    """Large enough to show in a picture."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for layer in layers:
        rows, columns = weights[f"{layer}.weight"].flatten(1).shape
        down = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
        up = torch.randn(rows, rank, generator=generator) * 0.3
        made[layer] = Drawn(down, up)
    return made


def layers_of(blocks: int) -> list[str]:
    """Every layer that a LoRA may change."""
    return [*(f"blocks.{block}.{layer}" for block in range(blocks) for layer in BLOCK_LAYERS), *OTHER_LAYERS]


def summed(weights: Mapping[str, Tensor], loras: Sequence[tuple[Mapping[str, Drawn], float]]) -> dict[str, np.ndarray]:
    """All weights with the LoRAs in them, layer by layer, in float64."""
    made = {name: weight.double().numpy().copy() for name, weight in weights.items()}
    for lora, strength in loras:
        for layer, update in lora.items():
            weight = made[f"{layer}.weight"]
            weight += strength * update.scaled().reshape(weight.shape)
    return made


def in_style(lora: Mapping[str, Drawn], style: str, folder: Path) -> Path:
    """The LoRA as a file of that kind; -> what is given to --lora."""
    folder.mkdir(parents=True, exist_ok=True)
    path, metadata, tensors = folder / "lora.safetensors", None, {}
    for layer, update in lora.items():
        theirs = next(iter(their_names({f"{layer}.weight": update.up}))).removesuffix(".weight")
        flat, their_flat = layer.replace(".", "_"), theirs.replace(".", "_")
        names = {
            "wan": (f"diffusion_model.{layer}.lora_A.weight", f"diffusion_model.{layer}.lora_B.weight"),
            "wan, down and up": (f"{layer}.lora_down.weight", f"{layer}.lora_up.weight"),
            "peft": (f"base_model.model.{layer}.lora_A.weight", f"base_model.model.{layer}.lora_B.weight"),
            "peft, adapter": (
                f"base_model.model.model.{layer}.lora_A.default.weight",
                f"base_model.model.model.{layer}.lora_B.default.weight",
            ),
            "diffusers": (f"transformer.{theirs}.lora_A.weight", f"transformer.{theirs}.lora_B.weight"),
            "diffusers, older": (f"transformer.{theirs}.lora.down.weight", f"transformer.{theirs}.lora.up.weight"),
            "kohya": (f"lora_unet_{flat}.lora_down.weight", f"lora_unet_{flat}.lora_up.weight"),
            "kohya of diffusers": (
                f"lora_transformer_{their_flat}.lora_down.weight",
                f"lora_transformer_{their_flat}.lora_up.weight",
            ),
        }[style]
        tensors[names[0]], tensors[names[1]] = update.down, update.up
        if not style.startswith(("peft", "diffusers")) or style == "diffusers, older":
            stem = names[0].removesuffix(".weight").removesuffix(".down").rpartition(".")[0]
            tensors[f"{stem}.alpha"] = torch.tensor(update.alpha)
    if style == "diffusers":
        config = {"transformer.r": 4, "transformer.lora_alpha": ALPHA, "transformer.alpha_pattern": {}}
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
    if style.startswith("peft"):
        path = folder / "adapter_model.safetensors"
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": ALPHA}))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return folder if style == "peft" else path


STYLES = (
    "wan", "wan, down and up", "peft", "peft, adapter", "diffusers", "diffusers, older", "kohya", "kohya of diffusers",
)  # fmt: skip
