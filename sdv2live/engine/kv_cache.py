"""The rolling KV cache with sinks: the memory, and the attention that reads it. The rule is in `window.py`.

One row for each denoising step. Keys are stored unrotated, so positions can move with the window: the position
function is the only difference between the two profiles. Nothing here decides anything: slots and positions come as
host integers. Letters: K slots, S sinks, L tokens of a latent frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdv2live.engine.model.attention import attend
from sdv2live.engine.model.rope import RopeTable, rotate
from sdv2live.engine.window import Window


@dataclass(frozen=True, slots=True)
class RowWrite:
    """What one batch row does to the cache: its cache row, the frames it writes (`first`..`newest`)."""

    row: int
    first: int
    newest: int


class KVCache:
    """keys[layer], values[layer]: [rows, K, L, heads, D]. Rows are made when first needed and kept."""

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
    ) -> None:
        self.window = window
        self.tokens = grid_hw[0] * grid_hw[1]
        self.rows = 0
        self._shape = (window.capacity, self.tokens, heads, head_dim)
        self._device, self._dtype = device, dtype
        self.keys = [torch.empty(0, *self._shape, device=device, dtype=dtype) for _ in range(layers)]
        self.values = [torch.empty(0, *self._shape, device=device, dtype=dtype) for _ in range(layers)]
        self.table = RopeTable(head_dim=head_dim, grid_hw=grid_hw, positions=window.positions, device=device)

    def ensure_rows(self, rows: int) -> None:
        """Have at least `rows` rows; new ones are filled by `copy_row` before they are read."""
        if rows <= self.rows:
            return
        for kept in (self.keys, self.values):
            for layer, old in enumerate(kept):
                grown = torch.zeros(rows, *self._shape, device=self._device, dtype=self._dtype)
                grown[: self.rows] = old
                kept[layer] = grown
        self.rows = rows

    def copy_row(self, source: int, target: int) -> None:
        """A row that joins the stream starts as a copy of its neighbour."""
        self.ensure_rows(target + 1)
        for kept in (*self.keys, *self.values):
            kept[target].copy_(kept[source])

    def refresh_sink(self, row: int, *, sink: int, frame: int) -> None:
        """Copy the slot of `frame`, which stays where it is in the rolling window, over a sink."""
        slot = self.window.slot_of(frame)
        for kept in (*self.keys, *self.values):
            kept[row, sink].copy_(kept[row, slot])

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.keys, *self.values))


class CachedAttention:
    """The live SelfAttention: writes the new keys and values of each row, then lets its tokens see the row's past.

    Made for one forward. rows[b] says what batch row b does; its new tokens are those of frames first..newest.
    """

    def __init__(self, cache: KVCache, rows: list[RowWrite]) -> None:
        self._cache = cache
        self._rows = rows
        window, table = cache.window, cache.table
        layouts = [window.layout(row.newest) for row in rows]
        self._slots = [[window.slot_of(frame) for frame in range(row.first, row.newest + 1)] for row in rows]
        self._key_turns = [table.at(layout) for layout in layouts]
        self._query_turns = [
            table.at(tuple(layout[slot] for slot in slots)) for layout, slots in zip(layouts, self._slots, strict=True)
        ]
        self._valid = [len(layout) for layout in layouts]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        outputs = []
        for b, row in enumerate(self._rows):
            for index, slot in enumerate(self._slots[b]):
                span = slice(index * self._cache.tokens, (index + 1) * self._cache.tokens)
                keys[row.row, slot].copy_(k[b, span])
                values[row.row, slot].copy_(v[b, span])
            past_k = rotate(keys[row.row, : self._valid[b]].flatten(0, 1), self._key_turns[b])
            past_v = values[row.row, : self._valid[b]].flatten(0, 1)
            outputs.append(attend(rotate(q[b], self._query_turns[b])[None], past_k[None], past_v[None]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
