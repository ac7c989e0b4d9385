"""The `reference` profile: slots, positions and adaptive sinks as the StreamDiffusionV2 reference has them.

For parity, with its quirks (engine.md, 4.3 to 4.5 and 5): absolute positions that restart, slots under 3 that never
roll, sinks that each layer of each row judges by its own keys, and rows that write before they carry a chunk. It reads
from the device to judge a sink, which the default profile never does. The memory is the one KVCache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sdv2live.engine.kv_cache import KVCache, RowWrite
from sdv2live.engine.model.attention import SelfAttention
from sdv2live.engine.model.rope import rotate
from sdv2live.engine.sinks import NEVER
from sdv2live.engine.window import Window

RESET_FRAME = 50
FIRST_ROLLING_AT_LEAST = 3


def absolute_position(frame: int, capacity: int, reset_frame: int = RESET_FRAME) -> int:
    """The time position of latent frame `frame`: its number, restarting at K-1 whenever it reaches `reset_frame`."""
    if frame < reset_frame:
        return frame
    first = capacity - 1
    return first + (frame - reset_frame) % (reset_frame - first)


@dataclass(slots=True)
class Ring:
    """One layer of one row: the position that each slot holds, whose turn it is, and the sinks that wait."""

    positions: list[int]
    next_rolling: int
    queued: list[int] = field(default_factory=list)  # last in, first out; a sink may be in it twice


class ReferenceKVCache(KVCache):
    """The KV cache with a ring for each layer of each row. Raises ValueError for a window that the rule cannot roll."""

    judges_sinks = True
    writes_empty_rows = True

    def __init__(
        self,
        window: Window,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        grid_hw: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        reset_frame: int = RESET_FRAME,
    ) -> None:
        if not window.capacity <= reset_frame:
            raise ValueError(f"a window of {window.capacity} does not fit under the restart at {reset_frame}")
        if self.first_rolling_of(window) >= window.capacity:
            raise ValueError(f"the reference has no rolling slot in a window of {window.capacity}")
        super().__init__(
            window,
            layers=layers,
            heads=heads,
            head_dim=head_dim,
            grid_hw=grid_hw,
            device=device,
            dtype=dtype,
            positions=reset_frame,
        )
        self.reset_frame = reset_frame
        self.first_rolling = self.first_rolling_of(window)
        self._layers = layers
        self.rings: list[list[Ring]] = []  # [row][layer]

    @staticmethod
    def first_rolling_of(window: Window) -> int:
        return max(window.sinks, FIRST_ROLLING_AT_LEAST)

    def ensure_rows(self, rows: int) -> None:
        super().ensure_rows(rows)
        for _ in range(len(self.rings), rows):
            self.rings.append(self._empty_rings())

    def _empty_rings(self) -> list[Ring]:
        return [Ring([0] * self.window.capacity, self.first_rolling) for _ in range(self._layers)]

    def reset(self) -> None:
        super().reset()
        self.rings = [self._empty_rings() for _ in self.rings]

    def give_back_rows(self, kept: int) -> None:
        super().give_back_rows(kept)
        del self.rings[kept:]

    def copy_row(self, source: int, target: int) -> None:
        super().copy_row(source, target)
        self.rings[target] = copy.deepcopy(self.rings[source])

    def attention(self, rows: list[RowWrite]) -> SelfAttention:
        return ReferenceAttention(self, rows)


class ReferenceAttention:
    """The SelfAttention of one forward: chooses a slot, writes, then lets the new tokens see what is there."""

    def __init__(self, cache: ReferenceKVCache, rows: list[RowWrite]) -> None:
        self._cache, self._rows = cache, rows

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat(
            [self._attend_row(layer, row, q[b], k[b], v[b]) for b, row in enumerate(self._rows)],
        )

    def _attend_row(self, layer: int, row: RowWrite, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cache = self._cache
        ring = cache.rings[row.row][layer]
        keys, values = cache.keys[layer][row.row], cache.values[layer][row.row]
        frames = range(row.first, row.newest + 1)
        positions = [absolute_position(frame, cache.window.capacity, cache.reset_frame) for frame in frames]
        turns = cache.table.at(tuple(positions))
        if len(frames) == 1 and row.sink_threshold > NEVER and cache.window.sinks:
            self._judge_sinks(ring, keys, values, rotate(k, turns), v, row.sink_threshold)
        for frame, position, new_k, new_v in zip(
            frames, positions, torch.split(k, cache.tokens), torch.split(v, cache.tokens), strict=True
        ):
            slot = self._take_slot(ring, frame)
            keys[slot].copy_(new_k)
            values[slot].copy_(new_v)
            ring.positions[slot] = position
        valid = min(row.newest + 1, cache.window.capacity)
        past_k = rotate(keys[:valid].flatten(0, 1), cache.table.at(tuple(ring.positions[:valid])))
        return cache.attend(rotate(q, turns)[None], past_k[None], values[:valid].flatten(0, 1)[None])

    def _judge_sinks(self, ring: Ring, keys: Tensor, values: Tensor, k: Tensor, v: Tensor, threshold: float) -> None:
        """Queue the sink that is least like the new frame, if it is less alike than the threshold.

        Likeness: cosine of the means over tokens, of rotated keys and of values, the two averaged (engine.md, 4.4).
        While the ring fills, an empty sink is zeros and is judged like the others.
        """
        sinks = self._cache.window.sinks
        turns = torch.unflatten(self._cache.table.at(tuple(ring.positions[:sinks])), 0, (sinks, -1))
        mean_k = rotate(keys[:sinks], turns).mean(1).flatten(1)
        mean_v = values[:sinks].mean(1).flatten(1)
        alike_k = F.cosine_similarity(mean_k, k.mean(0).flatten()[None], dim=1)
        alike_v = F.cosine_similarity(mean_v, v.mean(0).flatten()[None], dim=1)
        alike = ((alike_k + alike_v) / 2).tolist()
        least = min(range(sinks), key=alike.__getitem__)
        if alike[least] < threshold:
            ring.queued.append(least)

    def _take_slot(self, ring: Ring, frame: int) -> int:
        capacity = self._cache.window.capacity
        if frame < capacity:
            return frame
        if ring.queued:
            return ring.queued.pop()
        slot = ring.next_rolling
        ring.next_rolling = slot + 1 if slot + 1 < capacity else self._cache.first_rolling
        return slot


def cache_of(profile: str) -> Callable[..., KVCache]:
    """The KV cache of a profile: `default` or `reference`."""
    return ReferenceKVCache if profile == "reference" else KVCache
