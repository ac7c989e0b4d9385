"""Picking, pacing and counting, with times passed in: nothing here waits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sdv2live.chunker import Chunker
from sdv2live.frames import Frame
from sdv2live.pacing import Pacer, Picture
from sdv2live.queues import FrameRing, LatestSlot

PIXELS = np.zeros((2, 2, 3), np.uint8)
TICK_S = 1 / 30


class Chain:
    """Source -> ring -> chunker -> an engine that takes `chunk_s` -> pacer -> ticks, on one simulated clock."""

    def __init__(self, *, source_fps: float, chunk_s: float, cap_fps: float | None = None) -> None:
        self.ring = FrameRing()
        self.chunker = Chunker(source_rate_fps=source_fps, cap_fps=cap_fps)
        self.pacer = Pacer()
        self.chunk_s = chunk_s
        self.stalled: tuple[float, float] = (0.0, 0.0)
        self._source_times: list[float] = []
        self._source_fps = source_fps
        self._busy: tuple[float, list[float]] | None = None
        self.shown: list[tuple[float, float]] = []  # (tick, capture time)
        self.generated = self.captured = 0

    def run(self, seconds: float, times_s: list[float] | None = None) -> None:
        source = times_s or [n / self._source_fps for n in range(int(seconds * self._source_fps))]
        step_s, ticks = 0.001, 0
        for millisecond in range(int(seconds * 1000)):
            now_s = millisecond * step_s
            while self.captured < len(source) and source[self.captured] <= now_s:
                captured_s = source[self.captured]
                if not self.stalled[0] <= captured_s < self.stalled[1]:
                    self.ring.append(Frame(PIXELS, captured_s, self.captured))
                self.captured += 1
            if self._busy is not None and self._busy[0] <= now_s:
                times = self._busy[1]
                self.pacer.add([Picture(PIXELS, PIXELS, time_s) for time_s in times], now_s)
                self.chunker.engine_took(self.chunk_s, 4)
                self.generated += 4
                self._busy = None
            if self._busy is None:
                frames = self.ring.peek()
                picked = self.chunker.pick([frame.captured_s for frame in frames], 4)
                if picked is not None:
                    chosen = [frames[index] for index in picked]
                    self.ring.release_through(chosen[-1].index, used=4)
                    self._busy = (now_s + self.chunk_s, [frame.captured_s for frame in chosen])
            if self.pacer.is_started and now_s >= ticks * TICK_S:
                ticks = max(ticks, int(now_s / TICK_S)) + 1
                picture = self.pacer.tick(now_s)
                if picture is not None:
                    self.shown.append((now_s, picture.captured_s))

    @property
    def intervals_s(self) -> list[float]:
        ticks = [tick for tick, _ in self.shown]
        return [b - a for a, b in itertools.pairwise(ticks)]

    @property
    def ages_s(self) -> list[float]:
        return [tick - captured for tick, captured in self.shown]


def test_16_fps_shown_at_30_is_even_and_complete() -> None:
    chain = Chain(source_fps=16, chunk_s=0.08)
    chain.run(20)
    assert chain.ring.dropped == 0 and chain.pacer.lagged == 0
    assert len(chain.shown) >= 0.98 * chain.captured - 8
    assert all(abs(interval - 1 / 16) <= TICK_S + 0.002 for interval in chain.intervals_s)
    assert max(chain.ages_s) < 0.4


def test_capture_order_is_kept_and_nothing_is_shown_twice() -> None:
    chain = Chain(source_fps=30, chunk_s=0.2)
    chain.run(10)
    captured = [time_s for _, time_s in chain.shown]
    assert captured == sorted(set(captured))


def test_a_camera_faster_than_the_engine_is_thinned_evenly() -> None:
    chain = Chain(source_fps=30, chunk_s=4 / 16.8)  # an engine that sustains 16
    chain.run(20)
    late = chain.shown[40:]
    spacing = np.diff([captured for _, captured in late])
    assert 0.055 < spacing.mean() < 0.07 and spacing.max() <= 3 / 30 + 1e-6
    # Disjoint counters: every frame is used, dropped, or still waits.
    in_use = len(chain._busy[1]) if chain._busy else 0
    assert chain.captured == chain.generated + in_use + chain.ring.dropped + len(chain.ring.peek())
    assert max(chain.ages_s) < 0.75


def test_a_slow_engine_keeps_the_age_bounded() -> None:
    chain = Chain(source_fps=30, chunk_s=1.0)
    chain.run(40)
    assert len(chain.shown) > 100
    assert max(chain.ages_s[10:]) < 1.7  # half a second to gather, one to compute, none in a queue
    assert chain.ring.dropped > 0.8 * chain.captured


def test_after_a_stall_the_picture_is_anchored_anew_and_never_plays_fast() -> None:
    chain = Chain(source_fps=16, chunk_s=0.08)
    chain.stalled = (5.0, 8.0)
    chain.run(14)
    assert max(chain.intervals_s) == pytest.approx(3.0, abs=0.4)
    after = [interval for (tick, _), interval in zip(chain.shown, chain.intervals_s, strict=False) if tick > 8.5]
    assert min(after) >= TICK_S - 0.002
    assert sum(interval < 1.5 * TICK_S for interval in after) < 0.3 * len(after)  # one in eight ticks at 16 in 30


def test_a_chunk_that_comes_much_too_late_moves_the_delay_at_once() -> None:
    pacer = Pacer()
    pacer.add([Picture(PIXELS, PIXELS, t) for t in (0.0, 0.1, 0.2, 0.3)], 0.4)
    before = pacer.delay_s
    pacer.add([Picture(PIXELS, PIXELS, t) for t in (0.4, 0.5, 0.6, 0.7)], 1.2)
    assert before is not None and pacer.delay_s is not None and pacer.delay_s > before + 0.3


def test_a_variable_rate_file_is_shown_at_its_own_times() -> None:
    rng = np.random.default_rng(3)
    times = list(np.cumsum(rng.uniform(0.03, 0.12, 200)))
    chain = Chain(source_fps=16, chunk_s=0.05)
    chain.run(times[-1] + 1, times)
    spacing = np.diff([captured for _, captured in chain.shown])
    assert all(abs(interval - gap) <= 2 * TICK_S for interval, gap in zip(chain.intervals_s, spacing, strict=True))


def test_the_delay_moves_by_two_percent_at_most() -> None:
    pacer = Pacer()
    for number in range(40):
        start_s = number * 0.25
        need_s = 0.30 if number < 5 else 0.22
        pacer.add([Picture(PIXELS, PIXELS, start_s + k / 16) for k in range(4)], start_s + need_s)
        for tick in range(8):
            before = pacer.delay_s
            pacer.tick(start_s + 0.25 + tick * 0.03)
            assert before is not None and pacer.delay_s is not None
            assert abs(pacer.delay_s - before) <= 0.02 * 0.041
    assert pacer.delay_s is not None and pacer.delay_s < 0.30


def test_repeats_and_late_pictures_are_counted_apart() -> None:
    pacer = Pacer()
    pacer.add([Picture(PIXELS, PIXELS, t) for t in (0.0, 0.1, 0.2, 0.3)], 0.4)
    assert pacer.tick(0.41) is not None
    assert pacer.tick(0.42) is None and pacer.repeated == 1
    shown = pacer.tick(0.72)
    assert shown is not None and shown.captured_s == pytest.approx(0.3)
    assert (pacer.passed_over, pacer.lagged) == (2, 0), "they were punctual, and two of them overtaken"
    pacer.add([Picture(PIXELS, PIXELS, t) for t in (0.4, 0.5, 0.6, 0.7)], 0.87)
    assert pacer.lagged == 1 and pacer.delay_s is not None, "the first came after its time"
    pacer.add([Picture(PIXELS, PIXELS, t) for t in (0.8, 0.9, 1.0, 1.1)], 3.0)
    assert pacer.lagged == 5


def test_an_unread_value_is_replaced_and_counted() -> None:
    slot: LatestSlot[int] = LatestSlot()
    assert slot.put(1) is False and slot.put(2) is True
    assert slot.take(0) == 2 and slot.replaced == 1 and slot.take(0) is None


def test_the_ring_keeps_the_newest_and_counts_what_falls_out() -> None:
    ring = FrameRing(span_s=0.5)
    for number in range(100):
        ring.append(Frame(PIXELS, number / 60, number))
    kept = ring.peek()
    assert kept[-1].index == 99 and len(kept) + ring.dropped == 100 and len(kept) <= 31
