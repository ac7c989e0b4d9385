"""The ring's slots and positions against a slow plain queue that moves frames about."""

from __future__ import annotations

import pytest
import torch

from sdv2live.engine.kv_cache import KVCache, RowWrite
from sdv2live.engine.model.attention import BlockCausalAttention
from sdv2live.engine.model.wan_transformer import GeluTanh
from sdv2live.engine.window import Window

CASES = [(4, 1), (6, 3), (5, 2), (4, 0), (7, 1), (2, 1), (21, 3)]


@pytest.mark.parametrize(("capacity", "sinks"), CASES)
def test_slots_and_positions_equal_a_plain_queue(capacity: int, sinks: int) -> None:
    window = Window(capacity, sinks)
    content: dict[int, int] = {}
    for frame in range(capacity * 5 + 3):
        content[window.slot_of(frame)] = frame
        # The plain rule: the first S frames for ever, then the newest ones that still fit.
        kept = list(range(min(frame + 1, sinks)))
        kept += [f for f in range(frame + 1) if f >= sinks][-(capacity - sinks) :]
        assert sorted(content.values()) == sorted(set(kept))
        layout = window.layout(frame)
        order = sorted(range(len(layout)), key=layout.__getitem__)
        assert [content[slot] for slot in order] == sorted(content.values()), "positions follow age"
        assert sorted(layout) == list(range(len(layout))) and max(layout) < capacity
        assert all(window.frame_in(slot, frame) == held for slot, held in content.items())
        assert list(window.held_at(frame)) == sorted(set(kept))


@pytest.mark.parametrize(("capacity", "sinks"), [(3, 3), (2, 5), (3, -1)])
def test_a_window_without_a_rolling_slot_is_refused(capacity: int, sinks: int) -> None:
    with pytest.raises(ValueError, match="rolling slot"):
        Window(capacity, sinks)


def make_cache(rows: int = 1, window: Window | None = None) -> KVCache:
    cache = KVCache(
        window or Window(4, 1),
        layers=1,
        heads=2,
        head_dim=24,
        grid_hw=(2, 3),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    cache.ensure_rows(rows)
    return cache


@pytest.mark.parametrize(("capacity", "sinks"), [(4, 1), (2, 1), (3, 1), (4, 2)])
def test_streaming_equals_training(capacity: int, sinks: int) -> None:
    """Frame by frame through the cache, beyond a full window, is what whole clips see in training."""
    window = Window(capacity, sinks)
    q, k, v = torch.randn(3, 1, 6 * 6, 2, 24, generator=torch.Generator().manual_seed(1)).unbind(0)
    held = [window.held_at(frame) for frame in range(6)]
    whole = BlockCausalAttention(head_dim=24, grid_hw=(2, 3), held=held, device=torch.device("cpu"))(0, q, k, v)
    cache = make_cache(window=window)
    for frame in range(6):
        span = slice(frame * 6, frame * 6 + 6)
        past = cache.attention([RowWrite(0, frame, frame)])
        torch.testing.assert_close(past(0, q[:, span], k[:, span], v[:, span]), whole[:, span])


def test_once_full_the_window_looks_the_same_for_ever() -> None:
    """Window-relative positions: the same keys in the window give the same attention at frame 5 and at frame 500."""
    generator = torch.Generator().manual_seed(2)
    sink, *rolling = torch.randn(4, 3, 1, 6, 2, 24, generator=generator)

    def through(frames_before: int) -> torch.Tensor:
        cache, frame = make_cache(), 0
        feed = [sink] + [torch.randn(3, 1, 6, 2, 24) for _ in range(frames_before)] + rolling
        for frame, (q, k, v) in enumerate(feed):
            out = cache.attention([RowWrite(0, frame, frame)])(0, q, k, v)
        return out

    torch.testing.assert_close(through(3), through(500))


def test_rows_do_not_see_each_other_and_a_refresh_touches_one_sink() -> None:
    cache = make_cache(2)
    data = torch.randn(3, 2, 6, 2, 24)
    cache.attention([RowWrite(0, 0, 0)])(0, *data[:, :1])
    assert not cache.keys[0][1].any()
    cache.copy_row(0, 1)
    assert torch.equal(cache.keys[0][0], cache.keys[0][1])
    for frame in range(1, 5):
        cache.attention([RowWrite(0, frame, frame)])(0, *data[:, 1:])
    before = [row.clone() for row in cache.keys[0]]
    cache.refresh_sink(0, sink=0, frame=4)
    assert torch.equal(cache.keys[0][0][0], before[0][cache.window.slot_of(4)])
    assert torch.equal(cache.keys[0][0][1:], before[0][1:]) and torch.equal(cache.keys[0][1], before[1])


def test_the_fast_gelu_is_the_plain_one() -> None:
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([0.0, -0.0, 1e-8, -1e-8, 1e4, -1e4])])
    with torch.no_grad():
        fast = GeluTanh()(x)
    torch.testing.assert_close(fast, torch.nn.functional.gelu(x, approximate="tanh"), atol=1e-6, rtol=1e-6)
