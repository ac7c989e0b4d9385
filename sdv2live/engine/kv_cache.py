"""The rolling KV cache with sinks: the memory, and the attention that reads it. The rule is in `window.py`.

One row for each denoising step. Keys are stored unrotated, so positions can move with the window. Nothing here decides
anything: slots and positions come as host integers. The `reference` profile reads and writes the same memory by a rule
of its own (`reference_profile.py`). Letters: K slots, S sinks, L tokens of a latent frame.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sdv2live.engine.attention_choice import Attend
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

    generation: how often memory was given back or moved; addresses hold for one. positions: how many time positions its
    keys can have; the window's own count by default. attend: the kernel of its attention. judges_sinks and
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
        self.rows = self.generation = 0
        self.attend: Attend = attend
        self._shape = (window.capacity, self.tokens, heads, head_dim)
        self._device, self._dtype = device, dtype
        self.keys: list[list[Tensor]] = [[] for _ in range(layers)]
        self.values: list[list[Tensor]] = [[] for _ in range(layers)]
        positions = positions or window.capacity
        self.table = RopeTable(head_dim=head_dim, grid_hw=grid_hw, positions=positions, device=device)
        self._numbers = torch.arange(window.capacity, device=device)

    def attention(self, rows: list[RowWrite]) -> SelfAttention:
        """The self-attention of one forward whose batch rows are `rows`."""
        return CachedAttention(self, rows)

    def place_of(self, write: RowWrite) -> Place:
        """Made of what lies on the device already: nothing goes up."""
        layout = self.window.layout(write.newest)
        slots = [self.window.slot_of(frame) for frame in range(write.first, write.newest + 1)]
        numbers = [self._numbers[slot : slot + 1] for slot in slots]
        return Place(
            slots=numbers[0] if len(numbers) == 1 else torch.cat(numbers),
            key_turns=self.table.at(layout),
            query_turns=self.table.at(tuple(layout[slot] for slot in slots)),
        )

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
        self.generation += kept < self.rows
        for place in (*self.keys, *self.values):
            del place[kept:]
        self.rows = min(self.rows, kept)

    @torch.inference_mode()
    def reset(self) -> None:
        """Nothing is kept of an epoch, in the memory that there is. All is wiped: NaN would outlive a weight of 0."""
        for place in (*self.keys, *self.values):
            for row in place:
                row.zero_()

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
        self.generation += 1

    def drop_layer(self, index: int) -> None:
        """A layer that another rank has from now on."""
        del self.keys[index], self.values[index]
        self.generation += 1

    @property
    def bytes(self) -> int:
        return sum(row.numel() * row.element_size() for rows in (*self.keys, *self.values) for row in rows)


class Place(NamedTuple):
    """Where one batch row of a forward writes, and how its keys lie: on the device, made of host integers, never read.

    slots [F] int64: of its new frames. key_turns [M * L, 1, D/2, 2] of the M slots that are valid once they are
    written, query_turns [F * L, 1, D/2, 2] (rope.py). Once the window is full, these are all that changes between two
    forwards of the same rows.
    """

    slots: Tensor
    key_turns: Tensor
    query_turns: Tensor


class CachedAttention:
    """The live SelfAttention: writes the new keys and values of each row, then lets its tokens see the row's past.

    Made for one forward. rows[b] says what batch row b does; its new tokens are those of frames first..newest.
    is_steady: every row writes one frame into a full window, so shapes are those of any later forward.
    """

    def __init__(self, cache: KVCache, rows: list[RowWrite]) -> None:
        self._cache = cache
        self.rows = tuple(row.row for row in rows)
        self.places = tuple(cache.place_of(row) for row in rows)
        self.is_steady = all(row.first == row.newest >= cache.window.capacity - 1 for row in rows)

    @property
    def generation(self) -> int:
        return self._cache.generation

    @property
    def most_rows(self) -> int:
        """As many as a forward can have now."""
        return self._cache.rows

    @property
    def attend(self) -> Attend:
        return self._cache.attend

    def at(self, places: tuple[Place, ...]) -> CachedAttention:
        """The same with its places in other memory."""
        other = copy.copy(self)
        other.places = places
        return other

    def memory(self, layer: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of a layer, one [K, L, heads, D] a batch row."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        return [keys[row] for row in self.rows], [values[row] for row in self.rows]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return write_and_attend(q, k, v, *self.memory(layer), self.places, self.attend)


def write_and_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    places: Sequence[Place],
    attend: Attend = attend,
) -> Tensor:
    """The attention of one layer: tensors alone, so that it can be compiled, or captured and replayed.

    q, k, v [B, N, heads, D]; keys[b], values[b] [K, L, heads, D] are written to. -> [B, N, heads, D].
    """
    outputs = []
    for b, place in enumerate(places):
        frames, valid = place.slots.shape[0], place.key_turns.shape[0]
        keys[b].index_copy_(0, place.slots, torch.unflatten(k[b], 0, (frames, -1)))
        values[b].index_copy_(0, place.slots, torch.unflatten(v[b], 0, (frames, -1)))
        past_k = rotate(keys[b].flatten(0, 1)[:valid], place.key_turns)
        past_v = values[b].flatten(0, 1)[:valid]
        outputs.append(attend(rotate(q[b], place.query_turns)[None], past_k[None], past_v[None]))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
