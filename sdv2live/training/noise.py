"""The noise that training puts on latents. Owns: how much of it stands still, and what is given which noise."""

from __future__ import annotations

import importlib

import numpy as np
import torch
from torch import Tensor

# Each latent takes the noise of the batch that is nearest to it (Immiscible Diffusion, Li et al. 2024). A study before
# this training measured no gain (model card), so it is off.
IS_IMMISCIBLE = False


def draw_noise(rng: np.random.Generator, latents: Tensor, *, fixed_share: float) -> Tensor:
    """Noise for latents [B, F, C, h, w]; in fixed_share of the rows every frame has the same, as it has live."""
    noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32)).to(latents.device)
    is_fixed = torch.from_numpy(rng.random((len(latents), 1, 1, 1, 1)) < fixed_share).to(latents.device)
    noise = torch.where(is_fixed, noise[:, :1], noise)
    return nearest(noise, latents) if IS_IMMISCIBLE else noise


def later_scale(rng: np.random.Generator, noise_scale: Tensor) -> Tensor:
    """Of the noise before a second denoising step, [B], after a first one at noise_scale [B]. Little, since the second
    step sees of the source what the first one made of it, and what noise hides of that is lost."""
    return torch.clamp(noise_scale - 0.05, min=0.02, max=float(rng.uniform(0.05, 0.25)))


def nearest(noise: Tensor, latents: Tensor) -> Tensor:
    """The rows of noise dealt out anew, so that the distances to the latents sum to the least."""
    # By name: it comes with scikit-image, where the training pictures are from, and type checkers need not have it.
    assign = importlib.import_module("scipy.optimize").linear_sum_assignment
    distances = torch.cdist(latents.flatten(1), noise.flatten(1))
    return noise[torch.from_numpy(assign(distances.cpu().numpy())[1]).to(noise.device)]
