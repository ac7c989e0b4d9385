"""Rotary positions in three axes (time, height, width), as Wan 2.1 has them. Pure functions of integers.

A head of D channels holds D/2 pairs (2i, 2i+1). Height and width take D // 6 pairs each, time the rest
(128 channels: 22, 21, 21 pairs). Each axis has its own exponent range: pair i of an axis with n pairs turns
by position * 10000^(-i/n). Source of the formula: engine.md, section 1 (Wan 2.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

THETA = 10_000.0
MOST_GATHERED_BYTES = 128 * 2**20


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Pairs for (time, height, width); their sum is head_dim / 2."""
    spatial = head_dim // 6
    return head_dim // 2 - 2 * spatial, spatial, spatial


def axis_angles(positions: int, pairs: int) -> Tensor:
    """[positions, pairs] float64: the angle by which pair i turns at each integer position."""
    exponent = torch.arange(pairs, dtype=torch.float64) / pairs
    return torch.outer(torch.arange(positions, dtype=torch.float64), THETA**-exponent)


class RopeTable:
    """The turn of every pair for every (time position, token of a latent frame): cosine and sine of its angle.

    turns: float32 [positions, L, D/2, 2] on `device`, L = grid height * grid width, row-major.
    """

    def __init__(self, *, head_dim: int, grid_hw: tuple[int, int], positions: int, device: torch.device) -> None:
        height, width = grid_hw
        time_pairs, height_pairs, width_pairs = axis_pairs(head_dim)
        angles = torch.cat(
            [
                axis_angles(positions, time_pairs)[:, None, None].expand(-1, height, width, -1),
                axis_angles(height, height_pairs)[None, :, None].expand(positions, -1, width, -1),
                axis_angles(width, width_pairs)[None, None, :].expand(positions, height, -1, -1),
            ],
            dim=-1,
        ).reshape(positions, height * width, head_dim // 2)
        self.turns = torch.stack([angles.cos(), angles.sin()], -1).float().to(device)
        self._gathered: dict[tuple[int, ...], Tensor] = {}
        self._gathered_bytes = 0

    def at(self, positions: tuple[int, ...]) -> Tensor:
        """Turns [len(positions) * L, 1, D/2, 2] for latent frames at these time positions, one after another.

        Kept: a full window has only as many orders as it has rolling slots. Host integers, so no index goes up.
        """
        if positions not in self._gathered:
            gathered = torch.cat([self.turns[position] for position in positions])[:, None]
            self._gathered_bytes += gathered.numel() * gathered.element_size()
            if self._gathered_bytes > MOST_GATHERED_BYTES:
                self._gathered.clear()
                self._gathered_bytes = gathered.numel() * gathered.element_size()
            self._gathered[positions] = gathered
        return self._gathered[positions]


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the pairs of x [..., tokens, heads, D] by `turns`, broadcast to [..., tokens, 1, D/2, 2]; x's dtype."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # a compiler makes one kernel of sums and products, and none of complex numbers
        (a, b), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.flatten(-2).to(x.dtype)
