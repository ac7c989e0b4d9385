"""Self-attention as a strategy. Owns: what a transformer block may ask of its past.

A block computes q, k and v of the new tokens, unrotated, and hands them to a `SelfAttention`. Live, that is the
KV cache (`sdv2live.engine.kv_cache.CachedAttention`); in training it is `BlockCausalAttention`, which sees whole
clips at once and the same past that the cache would hold.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sdv2live.engine.model.rope import RopeTable, rotate


class SelfAttention(Protocol):
    """(layer, q, k, v) -> output. All [B, N, heads, D]: N new tokens, q and k normalised and not rotated."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention at scale 1/sqrt(D). q [B, N, heads, D], k and v [B, M, heads, D] -> [B, N, heads, D].

    mask: bool [N, M], True where a query may look.
    """
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return out.transpose(1, 2)


class BlockCausalAttention:
    """Whole clips: the tokens of latent frame f see all tokens of frames 0 to f. For training.

    frames: at most the window of the live cache, so that position f is what the cache gives frame f when its
    window-relative positions are full: training and streaming see the same numbers.
    """

    def __init__(self, *, head_dim: int, grid_hw: tuple[int, int], frames: int, device: torch.device) -> None:
        table = RopeTable(head_dim=head_dim, grid_hw=grid_hw, positions=frames, device=device)
        self._turns = table.at(tuple(range(frames)))
        frame_of_token = torch.arange(frames, device=device).repeat_interleave(grid_hw[0] * grid_hw[1])
        self._mask = frame_of_token[:, None] >= frame_of_token[None, :]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(rotate(q, self._turns), rotate(k, self._turns), v, self._mask)
