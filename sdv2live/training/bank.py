"""Clips encoded once for training the DiT. Owns: the bank's contents and its file in the work folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdv2live.engine.model.pocket_codec import PocketCodec
from sdv2live.training.batches import Batches
from sdv2live.training.data import PoolSpec


@dataclass(frozen=True)
class LatentBank:
    """Clips encoded once, so that the DiT's training is not mostly encoding.

    source [clips, F, 16, h, w], target [clips, variants, F, 16, h, w] (half floats), tokens [clips, variants, 8, 128],
    noise_scale [clips, variants].
    """

    source: Tensor
    target: Tensor
    tokens: Tensor
    noise_scale: Tensor

    def draw(self, rng: np.random.Generator, rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """source, target, tokens, noise_scale of random clips and variants."""
        clips = torch.from_numpy(rng.integers(len(self.source), size=rows))
        variants = torch.from_numpy(rng.integers(self.target.shape[1], size=rows))
        drawn = (
            self.source[clips],
            self.target[clips, variants],
            self.tokens[clips, variants],
            self.noise_scale[clips, variants],
        )
        source, target, tokens, noise_scale = (tensor.to(device, torch.float32) for tensor in drawn)
        return source, target, tokens, noise_scale


@torch.no_grad()
def latent_bank(
    work: Path, codec: PocketCodec, batches: Batches, spec: PoolSpec, *, variants: int, seed: int, device: torch.device
) -> LatentBank:
    """The bank of a pool, made once and kept in the work folder."""
    path = work / f"bank-{spec.name}.pt"
    if path.exists():
        return LatentBank(**torch.load(path, weights_only=True))
    bank: dict[str, list[Tensor]] = {"source": [], "target": [], "tokens": [], "noise_scale": []}
    for clip in batches.pools[spec.name].ready.tolist():
        rng = np.random.default_rng((seed, 2, spec.side_px, clip))
        rows: dict[str, list[Tensor]] = {name: [] for name in bank}
        for _ in range(variants):
            batch = batches.variant(rng, spec.name, clip)
            if not rows["source"]:
                rows["source"].append(codec.normalise(codec.raw_latent(batch.source)[0])[0].half().cpu())
            rows["target"].append(codec.normalise(codec.raw_latent(batch.target)[0])[0].half().cpu())
            rows["tokens"].append(batch.tokens[0].cpu())
            rows["noise_scale"].append(batch.noise_scale[0].cpu())
        for name, tensors in rows.items():
            bank[name].append(torch.stack(tensors))
    whole = {name: torch.stack(tensors) for name, tensors in bank.items()}
    whole["source"] = whole["source"][:, 0]
    part = path.with_suffix(".part")
    torch.save(whole, part)
    os.replace(part, path)
    return LatentBank(**whole)
