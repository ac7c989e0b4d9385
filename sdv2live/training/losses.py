"""What training minimises and what stops it. Pictures are [..., 3, H, W] in [-1, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdv2live.measures import psnr_db

LATENT_STD_RANGE = (0.2, 1.0)  # of raw latents
NORMALISED_STD_RANGE = (0.2, 1.5)  # of the transformer's, in which 1 is the usual
FLAT_STD = 1e-3  # an eighth of a grey level
LEAST_COST_DB = 1.0  # of a latent of nought, on every stroke look: less, and the transformer is decoration


class GuardError(RuntimeError):
    """A network went where training must not go on."""


def chroma(x: Tensor) -> Tensor:
    return x - x.mean(-3, keepdim=True)


def gradient_loss(ours: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the neighbour differences."""
    error = ours - target
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def picture_loss(ours: Tensor, target: Tensor) -> Tensor:
    """Distance of pictures in [-1, 1]; what lies on the target's edges counts up to four times.

    Without the edges' weight a mostly black look (neon) is learned as black.
    """
    with torch.no_grad():
        edge = F.pad(target.diff(dim=-1).abs(), (1, 0)) + F.pad(target.diff(dim=-2).abs(), (0, 0, 1, 0))
        weight = 1 + 3 * (4 * edge.mean(-3, keepdim=True)).clamp(0, 1)
    error = ours - target
    weighted = (weight * (error.abs() + error.square())).mean()
    return weighted + gradient_loss(ours, target) + 0.5 * (chroma(ours) - chroma(target)).abs().mean()


def texture_loss(ours: Tensor, target: Tensor) -> Tensor:
    """Difference of how much fine detail there is around each place, in the mean of four second differences.

    Where a line lies a pixel off, the distances above prefer none at all; this one does not. Of each of the four
    (across, down, both, and the one that a checkerboard has most of) it takes the root mean square over 8 x 8: of both
    alone a pattern of single pixels has most, and the decoder draws that along every edge.
    """
    return (_detail(ours) - _detail(target)).abs().mean()


def _detail(x: Tensor) -> Tensor:
    grey = x.flatten(0, -4).mean(1, keepdim=True)
    across = grey.new_tensor([[0, 0, 0], [1, -2, 1], [0, 0, 0]])
    kernels = torch.stack([across, across.T, across + across.T, across[1, :, None] * across[1]])[:, None]
    return (F.avg_pool2d(F.conv2d(grey, kernels).square(), 8, 4) + 1e-4).sqrt()


def steadiness_loss(ours: Tensor, target: Tensor) -> Tensor:
    """Difference of what changes from frame to frame, [B, T, 3, H, W]: a still clip must give a still one."""
    return (ours.diff(dim=1) - target.diff(dim=1)).abs().mean()


def check_latents(latent: Tensor, step: int) -> float:
    """Standard deviation of raw latents, which a start of 300 steps may have anywhere.

    Raises GuardError outside LATENT_STD_RANGE: a collapsed encoder makes the DiT decoration.
    """
    std = float(latent.detach().std())
    if step > 300 and not LATENT_STD_RANGE[0] <= std <= LATENT_STD_RANGE[1]:
        raise GuardError(f"step {step}: the latent's standard deviation is {std:.3f}, outside {LATENT_STD_RANGE}")
    return std


def least_spread(frames: Tensor) -> float:
    """Of the pictures, the least standard deviation over a picture's places, in the channel where that is largest."""
    return float(frames.detach().flatten(-2).std(-1).amax(-1).min())


def check_output(frames: Tensor, step: int) -> None:
    """Raises GuardError where any of the pictures is one flat colour, from step 51 on."""
    if step > 50 and not least_spread(frames) >= FLAT_STD:
        raise GuardError(f"step {step}: the decoder draws a picture of one flat colour")


def check_cost(look: str, cost_db: float) -> None:
    """Raises GuardError where a latent of nought costs less than LEAST_COST_DB: the decoder hardly needs the DiT."""
    if not cost_db >= LEAST_COST_DB:
        raise GuardError(f"{look}: a latent of nought costs {cost_db:.1f} dB, less than {LEAST_COST_DB}")


def psnr(ours: Tensor, target: Tensor) -> float:
    """dB, of pictures in [-1, 1]."""
    error = (ours.detach().clamp(-1, 1) - target).square().mean()
    return psnr_db(float(error), peak=2)
