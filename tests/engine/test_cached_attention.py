"""The attention that writes by index against its plain twin, which cuts the cache with host integers: the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sdv2live.engine.base import ChunkSettings
from sdv2live.engine.kv_cache import KVCache, RowWrite
from sdv2live.engine.model.attention import SelfAttention, attend
from sdv2live.engine.model.rope import RopeTable, rotate
from sdv2live.engine.window import Window
from tests.engine.toy import CPU, run_toy, toy_engine


class PlainAttention:
    """Slots and positions as Python has them."""

    def __init__(self, cache: KVCache, rows: list[RowWrite]) -> None:
        self._cache, self._rows = cache, rows

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cache, outputs = self._cache, []
        for b, row in enumerate(self._rows):
            keys, values = cache.keys[layer][row.row], cache.values[layer][row.row]
            layout, frames = cache.window.layout(row.newest), range(row.first, row.newest + 1)
            slots = [cache.window.slot_of(frame) for frame in frames]
            for index, slot in enumerate(slots):
                span = slice(index * cache.tokens, (index + 1) * cache.tokens)
                keys[slot] = k[b, span]
                values[slot] = v[b, span]
            past_k = rotate(keys[: len(layout)].flatten(0, 1), cache.table.at(layout))
            past_v = values[: len(layout)].flatten(0, 1)
            turned = rotate(q[b], cache.table.at(tuple(layout[slot] for slot in slots)))
            outputs.append(attend(turned[None], past_k[None], past_v[None]))
        return torch.cat(outputs)


class PlainCache(KVCache):
    def attention(self, rows: list[RowWrite]) -> SelfAttention:
        return PlainAttention(self, rows)


def make(kind: type[KVCache], window: Window) -> KVCache:
    cache = kind(window, layers=2, heads=2, head_dim=24, grid_hw=(2, 3), device=CPU, dtype=torch.float32)
    cache.ensure_rows(2)
    return cache


@pytest.mark.parametrize("window", [Window(4, 1), Window(6, 3), Window(3, 0)])
@pytest.mark.parametrize("opening", [1, 2])
def test_writing_by_index_gives_the_same_bits(window: Window, opening: int) -> None:
    """The opening, the filling and many times round; two rows, of which one is behind; a sink that is replaced."""
    ours, plain = make(KVCache, window), make(PlainCache, window)
    generator = torch.Generator().manual_seed(3)
    steady = 0
    for newest in range(opening - 1, 4 * window.capacity):
        first = 0 if newest == opening - 1 else newest
        writes = [RowWrite(0, first, newest)]
        if newest >= opening:
            writes.append(RowWrite(1, newest - 1, newest - 1))
        drawn = torch.randn(3, 2, len(writes), (newest - first + 1) * 6, 2, 24, generator=generator)
        for layer in range(2):
            q, k, v = drawn[:, layer]
            attention = ours.attention(writes)
            made, expected = attention(layer, q, k, v), plain.attention(writes)(layer, q, k, v)
            assert torch.equal(made, expected)
        steady += attention.is_steady
        if window.sinks and newest == 2 * window.capacity:
            for cache in (ours, plain):
                cache.refresh_sink(0, sink=0, frame=newest)
    for one, other in zip((*ours.keys, *ours.values), (*plain.keys, *plain.values), strict=True):
        assert all(map(torch.equal, one, other))
    assert steady == 3 * window.capacity, "from the first chunk that finds every row full"


@pytest.mark.parametrize("schedule", ["latency", "throughput"])
def test_a_stream_has_the_same_bits(schedule: str) -> None:
    settings = ChunkSettings(
        mix=(("one", 1.0),), steps=(800, 600, 400), steps_count=2, noise_mode="fresh", schedule=schedule
    )
    script = [settings] * 7 + [replace(settings, mix=(("two", 1.0),), steps_count=3)] * 7
    ours, plain = (run_toy(toy_engine(new_cache=kind), script) for kind in (KVCache, PlainCache))
    assert all(np.array_equal(ours[number], plain[number]) for number in plain)


def test_a_compiler_is_given_the_same_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = RopeTable(head_dim=24, grid_hw=(2, 3), positions=4, device=CPU).at((0, 2, 3))
    x = torch.randn(2, 18, 2, 24, generator=torch.Generator().manual_seed(1))
    expected = rotate(x, turns)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, turns), expected, atol=1e-6, rtol=1e-6)
