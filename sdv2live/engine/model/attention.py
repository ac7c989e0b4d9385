"""Self-attention as a strategy. Owns: what a transformer block may ask of its past.

A block computes q, k and v of the new tokens, unrotated, and hands them to a `SelfAttention`. Live, that is the
KV cache (`sdv2live.engine.kv_cache.CachedAttention`); in training it is `BlockCausalAttention`, which sees whole
clips at once and the same past that the cache would hold.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Whole clips: the tokens of each latent frame see all tokens of itself and of some frames before. For training."""

    def __init__(
        self, *, head_dim: int, grid_hw: tuple[int, int], held: Sequence[tuple[int, ...]], device: torch.device
    ) -> None:
        """held: for each frame of the clip the frames that it sees, the oldest first and itself last, each at the
        position of its place there; as a live window holds them (`Window.held_at`), training and streaming see the
        same numbers."""
        positions = max(map(len, held))
        table = RopeTable(head_dim=head_dim, grid_hw=grid_hw, positions=positions, device=device)
        self._held = [(list(frames), table.at(tuple(range(len(frames))))) for frames in held]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(1, (len(self._held), -1)) for x in (q, k, v))
        seen = []
        for frame, (frames, turns) in enumerate(self._held):
            keys, values = (x[:, frames].flatten(1, 2) for x in (k, v))
            queries = rotate(q[:, frame], turns[-q.shape[2] :])
            seen.append(attend(queries, rotate(keys, turns), values))
        return torch.cat(seen, 1)
