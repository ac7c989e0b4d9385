"""Latents for training the DiT. Owns: a bank of clips encoded once, with its file; latents of clips that are new."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdv2live.engine.model.pocket_codec import PocketCodec
from sdv2live.training.batches import COLOUR_NAMES, LOOK_NAMES, Batches
from sdv2live.training.pools import Pool, PoolSpec

FORMAT = 2  # of the bank's file, and of what its tokens mean
Drawn = tuple[Tensor, Tensor, Tensor, Tensor]  # source, target [B, F, 16, h, w], tokens [B, 8, 128], noise scale [B]


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

    def draw(self, rng: np.random.Generator, rows: int, device: torch.device) -> Drawn:
        """Of random clips and variants."""
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


@dataclass(frozen=True)
class FreshLatents:
    """Clips of one size, made and encoded as they are drawn."""

    codec: PocketCodec
    batches: Batches
    spec: PoolSpec

    @torch.no_grad()
    def draw(self, rng: np.random.Generator, rows: int, device: torch.device) -> Drawn:
        batch = self.batches.styled(rng, rows, self.spec.frames, self.spec.side_px)
        source, target = (
            self.codec.normalise(self.codec.raw_latent(each)[0]).float() for each in (batch.source, batch.target)
        )
        return source, target, batch.tokens, batch.noise_scale


@torch.no_grad()
def latent_bank(
    work: Path, codec: PocketCodec, batches: Batches, pool: Pool, *, variants: int, seed: int, device: torch.device
) -> LatentBank:
    """The bank of a pool, made once and kept in the work folder."""
    spec = pool.spec
    path = work / f"bank-{spec.name}.pt"
    made_of = _digest(codec, batches, pool, variants, seed)
    if path.exists() and (kept := torch.load(path, weights_only=True)).pop("made_of", "") == made_of:
        return LatentBank(**kept)
    print(f"data: encodes the {len(pool.ready)} clips of the pool {spec.name}", file=sys.stderr, flush=True)
    bank: dict[str, list[Tensor]] = {"source": [], "target": [], "tokens": [], "noise_scale": []}
    for clip in pool.ready.tolist():
        rng = np.random.default_rng((seed, 2, spec.side_px, clip))
        rows: dict[str, list[Tensor]] = {name: [] for name in bank}
        for _ in range(variants):
            batch = batches.variant(rng, pool, clip)
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
    torch.save({**whole, "made_of": made_of}, part)
    os.replace(part, path)
    return LatentBank(**whole)


def _digest(codec: PocketCodec, batches: Batches, pool: Pool, variants: int, seed: int) -> str:
    """Of all that a bank follows from: one of other clips, weights or words must not be trained on."""
    assert batches.text is not None
    digest = hashlib.sha256(repr((FORMAT, pool.digest(), variants, seed, LOOK_NAMES, COLOUR_NAMES)).encode())
    weights = [value for name, value in codec.state_dict().items() if name.startswith(("enc_", "latent_"))]
    for value in [*weights, *batches.text.state_dict().values()]:
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
