"""The rolling KV cache with sinks: the memory, and the attention that reads it. The rule is in `window.py`.

One row for each denoising step. Keys are stored unrotated, so positions can move with the window. Nothing here decides
anything: slots and positions come as host integers. The `reference` profile reads and writes the same memory by a rule
of its own (`reference_profile.py`). Letters: K slots, S sinks, L tokens of a latent frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdv2live.engine.model.attention import SelfAttention, attend
from sdv2live.engine.model.rope import RopeTable, rotate
from sdv2live.engine.sinks import NEVER
from sdv2live.engine.window import Window


@dataclass(frozen=True, slots=True)
class RowWrite:
    """What one batch row does to the cache: its cache row, the frames it writes (`first`..`newest`).

    sink_threshold: read by the `reference` profile alone, whose sinks are chosen while writing.
    """

    row: int
    first: int
    newest: int
    sink_threshold: float = NEVER


class KVCache:
    """keys[layer][row], values[layer][row]: [K, L, heads, D]. Rows are made when first needed, kept, and never moved.

    positions: how many time positions its keys can have; the window's own count by default. judges_sinks and
    writes_empty_rows: what the `reference` profile does by itself; the default profile decides on the host.
    """

    judges_sinks = False
    writes_empty_rows = False

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
        positions: int | None = None,
    ) -> None:
        self.window = window
        self.tokens = grid_hw[0] * grid_hw[1]
        self.rows = 0
        self._shape = (window.capacity, self.tokens, heads, head_dim)
        self._device, self._dtype = device, dtype
        self.keys: list[list[Tensor]] = [[] for _ in range(layers)]
        self.values: list[list[Tensor]] = [[] for _ in range(layers)]
        positions = positions or window.capacity
        self.table = RopeTable(head_dim=head_dim, grid_hw=grid_hw, positions=positions, device=device)

    def attention(self, rows: list[RowWrite]) -> SelfAttention:
        """The self-attention of one forward whose batch rows are `rows`."""
        return CachedAttention(self, rows)

    def ensure_rows(self, rows: int) -> None:
        """Have at least `rows` rows; new ones are zeros until `copy_row` fills them.

        A row that does not fit into the memory is not made in part: what was there stays as it was.
        """
        while self.rows < rows:
            places = (*self.keys, *self.values)
            made = [torch.zeros(self._shape, device=self._device, dtype=self._dtype) for _ in places]
            for place, tensor in zip(places, made, strict=True):
                place.append(tensor)
            self.rows += 1

    def give_back_rows(self, kept: int) -> None:
        """Let go of all rows but the first `kept`."""
        for place in (*self.keys, *self.values):
            del place[kept:]
        self.rows = min(self.rows, kept)

    def copy_row(self, source: int, target: int) -> None:
        """A row that joins the stream starts as a copy of its neighbour."""
        self.ensure_rows(target + 1)
        for kept in (*self.keys, *self.values):
            kept[target].copy_(kept[source])

    def refresh_sink(self, row: int, *, sink: int, frame: int) -> None:
        """Copy the slot of `frame`, which stays where it is in the rolling window, over a sink."""
        slot = self.window.slot_of(frame)
        for kept in (*self.keys, *self.values):
            kept[row][sink].copy_(kept[row][slot])

    def add_layer(self, index: int) -> None:
        """Room for a layer that comes from another rank, with as many rows as the others, of zeros."""
        for place in (self.keys, self.values):
            rows = [torch.zeros(self._shape, device=self._device, dtype=self._dtype) for _ in range(self.rows)]
            place.insert(index, rows)

    def drop_layer(self, index: int) -> None:
        """A layer that another rank has from now on."""
        del self.keys[index], self.values[index]

    @property
    def bytes(self) -> int:
        return sum(row.numel() * row.element_size() for rows in (*self.keys, *self.values) for row in rows)


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
        outputs = []
        for b, row in enumerate(self._rows):
            keys, values = self._cache.keys[layer][row.row], self._cache.values[layer][row.row]
            for index, slot in enumerate(self._slots[b]):
                span = slice(index * self._cache.tokens, (index + 1) * self._cache.tokens)
                keys[slot].copy_(k[b, span])
                values[slot].copy_(v[b, span])
            past_k = rotate(keys[: self._valid[b]].flatten(0, 1), self._key_turns[b])
            past_v = values[: self._valid[b]].flatten(0, 1)
            outputs.append(attend(rotate(q[b], self._query_turns[b])[None], past_k[None], past_v[None]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
