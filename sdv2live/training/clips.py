"""Moving clips of scenes, on any device. Owns: the camera, what moves in front of it, light and noise; knows no look.

A scene is [3, H, W] uint8, a clip [T, 3, S, S] float in [0, 1] on the scene's device. What is drawn by chance follows
from the generator that is given, so the same one gives the same clip on the same device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DrawScene = Callable[[np.random.Generator], Tensor]
MOST_SHRINKING = 1.5  # source pixels for one of the clip's, beyond which a scene is halved first


def make_clip(draw_scene: DrawScene, rng: np.random.Generator, frames: int, side_px: int) -> Tensor:
    """A camera over one scene; in a third of the clips a piece of another one moves in front."""
    speed = float(rng.choice([0.0, 0.5, 1.0, 2.0], p=[0.15, 0.25, 0.4, 0.2]))
    clip = moving_view(draw_scene(rng), rng, frames, side_px, speed)
    if rng.random() < 0.35:
        front = moving_view(draw_scene(rng), rng, frames, side_px, 0.3)
        clip = torch.lerp(clip, front, cut_out(rng, frames, side_px, clip.device))
    clip = clip ** math.exp(rng.normal(0, 0.25))
    clip = (clip - 0.5) * rng.uniform(0.75, 1.25) + 0.5 + rng.normal(0, 0.04)
    tint = torch.from_numpy((1 + rng.normal(0, 0.05, (3, 1, 1))).astype(np.float32))
    clip = clip * tint.to(clip.device, non_blocking=True)
    if rng.random() < 0.6:
        draws = torch.Generator(clip.device).manual_seed(int(rng.integers(2**31)))
        grain = torch.randn(clip.shape, generator=draws, device=clip.device)
        clip = clip + rng.uniform(0.002, 0.02) * grain
    return clip.clamp(0, 1)


def moving_view(scene: Tensor, rng: np.random.Generator, frames: int, side_px: int, speed: float) -> Tensor:
    """A camera that pans, turns, zooms and shakes over a scene, with the scene mirrored beyond its border."""
    picture = scene[None].float() / 255
    # Source pixels for one of ours: from a close-up to as much as fits a 256-pixel picture.
    scale = float(rng.uniform(0.55, max(0.8, min(scene.shape[1:]) / 256)))
    while scale > MOST_SHRINKING:
        picture, scale = F.avg_pool2d(picture, 2), scale / 2
    height, width = picture.shape[-2:]
    size = np.array([width, height])
    room = np.maximum((size - scale * side_px) / 2, 1)
    centre = size / 2 + rng.uniform(-1, 1, 2) * room
    drift = rng.normal(0, 1.5, 2) * scale * speed
    turn, spin = rng.normal(0, 0.15), rng.normal(0, 0.008) * speed
    zoom = 1 + rng.normal(0, 0.006) * speed
    shake = rng.normal(0, 0.3, (frames, 2)) * scale * speed
    times = np.arange(frames)
    angles, scales = turn + spin * times, scale * zoom**times
    cosine, sine = np.cos(angles) * scales, np.sin(angles) * scales
    middles = centre + drift * times[:, None] + shake
    # For affine_grid: both pictures reach from -1 to 1, so lengths of ours are halved sides, the scene's its own.
    across = np.stack([cosine * side_px / width, -sine * side_px / width, 2 * middles[:, 0] / width - 1], 1)
    down = np.stack([sine * side_px / height, cosine * side_px / height, 2 * middles[:, 1] / height - 1], 1)
    theta = torch.from_numpy(np.stack([across, down], 1).astype(np.float32)).to(scene.device, non_blocking=True)
    grid = F.affine_grid(theta, [frames, 3, side_px, side_px], align_corners=False)
    return F.grid_sample(picture.expand(frames, -1, -1, -1), grid, padding_mode="reflection", align_corners=False)


def cut_out(rng: np.random.Generator, frames: int, side_px: int, device: torch.device) -> Tensor:
    """A soft-edged ellipse that moves in a straight line, [T, 1, S, S] in 0..1."""
    place, pace = rng.uniform(0.2, 0.8, 2) * side_px, rng.normal(0, 3, 2)
    axes, tilt = rng.uniform(0.12, 0.4, 2) * side_px, rng.uniform(0, math.pi)
    places = torch.from_numpy((place + pace * np.arange(frames)[:, None]).astype(np.float32))
    places = places.to(device, non_blocking=True).view(-1, 2, 1, 1)
    line = torch.arange(side_px, device=device) + 0.5
    x, y = line[None, None, :] - places[:, 0], line[None, :, None] - places[:, 1]
    along, beside = x * math.cos(tilt) + y * math.sin(tilt), y * math.cos(tilt) - x * math.sin(tilt)
    inside_px = (1 - ((along / axes[0]).square() + (beside / axes[1]).square()).sqrt()) * float(axes.min())
    return torch.sigmoid(2.5 * inside_px)[:, None]
