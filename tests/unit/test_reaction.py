"""From a change to the first picture made with it: the real session, chunker and output clock, with the time passed in
and an engine that takes as long as it is told."""

from __future__ import annotations

import threading
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdv2live.chunker import Chunker
from sdv2live.clock import FakeClock
from sdv2live.engine.base import Chunk, ChunkResult, ChunkSettings
from sdv2live.frames import Frame
from sdv2live.parameters import TABLE, When
from sdv2live.presenter import Presenter
from sdv2live.queues import FrameRing
from sdv2live.reaction import CARRIED
from sdv2live.registry import Registry
from sdv2live.session import Session
from sdv2live.supervisor import State

RATE_FPS = 30
TICK_S = 1 / RATE_FPS
CHUNK_TICKS = 3  # how long the engine works on four frames
SIZE_WH = (16, 16)


class Engine:
    """One chunk at a time, ready after so many ticks; it notes which seed each chunk came with."""

    is_ready, epoch, frames_wanted = True, 0, 4

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.works_on: tuple[int, int] | None = None  # chunk, ticks that are left

    @property
    def is_idle(self) -> bool:
        return self.works_on is None

    def input_buffer(self) -> Any:
        return np.zeros((4, SIZE_WH[1], SIZE_WH[0], 3), np.uint8)

    def submit(self, chunk: Chunk, settings: ChunkSettings) -> None:
        self.works_on = (chunk.chunk_id, CHUNK_TICKS)
        self.seeds.append(settings.seed)

    def request_flush(self) -> None:
        """Nothing is held back here."""

    def finished(self) -> list[ChunkResult]:
        if self.works_on is None:
            return []
        chunk_id, left = self.works_on
        self.works_on = (chunk_id, left - 1) if left > 1 else None
        if left > 1:
            return []
        frames = np.full((4, SIZE_WH[1], SIZE_WH[0], 3), self.seeds[-1], np.uint8)
        stage_ms = dict.fromkeys(("encode", "denoise", "decode"), 30.0) | {"chunk": 90.0}
        return [ChunkResult(chunk_id, self.epoch, frames, True, 0.5, 0.1, 1, stage_ms)]


class Run:
    """Ticks of the output clock, each with a frame of a 30 fps source before it."""

    def __init__(self) -> None:
        self.registry, self.clock, self.engine = Registry(), FakeClock(), Engine()
        self.registry.set("seed", 5, origin="cli")  # before the first picture: no change of a picture
        self.ring = FrameRing(span_s=1000)
        self.presenter = Presenter(
            registry=self.registry, outlets=(), size_wh=SIZE_WH, rate_fps=RATE_FPS, clock=self.clock,
            newest_frame=lambda: None, words=lambda: "",
        )  # fmt: skip
        supervisor: Any = SimpleNamespace(engine=self.engine, state=State.RUNNING, poll=self.engine.finished)
        supervisor.stop = supervisor.reset = lambda: None
        playing: Any = SimpleNamespace(ring=self.ring, info=SimpleNamespace(rate_fps=Fraction(RATE_FPS)))
        self.session = Session(
            registry=self.registry, playing=lambda: playing, supervisor=supervisor, presenter=self.presenter,
            chunker=Chunker(source_rate_fps=RATE_FPS, cap_fps=RATE_FPS), clock=self.clock, wake=threading.Event(),
            has_source_ended=lambda: False,
        )  # fmt: skip
        self.ticks = 0

    def tick(self) -> int:
        """-> the grey of what is shown: the seed of its chunk."""
        self.clock.advance(TICK_S)
        self.ring.append(Frame(np.zeros((16, 16, 3), np.uint8), self.clock.now_s(), self.ticks))
        self.session.step()
        self.presenter.tick(self.clock.now_s())
        self.ticks += 1
        shown = self.presenter._shown
        return int(shown.effect[0, 0, 0]) if shown is not None else 0

    def seconds_until(self, grey: int) -> float:
        began_s = self.clock.now_s()
        for _ in range(1000):
            if self.tick() == grey:
                return self.clock.now_s() - began_s
        raise AssertionError(f"{grey} was never shown")

    @property
    def measured_ms(self) -> list[float]:
        return self.presenter.change_to_picture_ms.newest(100)


@pytest.fixture
def run() -> Run:
    run = Run()
    run.seconds_until(5)
    for _ in range(100):
        run.tick()
    assert run.measured_ms == []
    return run


def test_it_is_the_time_until_a_picture_made_with_the_change_is_shown(run: Run) -> None:
    for number in range(20):
        for _ in range(number):  # at every place in a chunk's way
            run.tick()
        run.registry.set("seed", 100 + number, origin="gui")
        seen_s = run.seconds_until(100 + number)
        assert run.measured_ms[-1] == pytest.approx(1000 * seen_s), "what the eye sees"
        assert len(run.measured_ms) == number + 1, "once for all pictures of its chunk"
    summary = run.presenter.change_to_picture_ms.summary()
    assert summary["p50"] is not None and summary["p95"] is not None and summary["p50"] <= summary["p95"]


def test_of_a_slider_s_many_values_the_oldest_counts_that_waits(run: Run) -> None:
    while not run.engine.is_idle:  # the next chunk is formed at once otherwise
        run.tick()
    run.tick()
    assert not run.engine.is_idle
    run.registry.set("seed", 200, origin="gui")
    run.clock.advance(0.001)
    run.registry.set("seed", 201, origin="gui")
    seen_s = run.seconds_until(201) + 0.001
    assert run.measured_ms == [pytest.approx(1000 * seen_s)] and 200 not in run.engine.seeds


def test_what_no_chunk_carries_is_not_measured(run: Run) -> None:
    run.registry.set_many([("output.wet", 0.5), ("prompt.next", "night"), ("osc.port", 9001)], origin="osc")
    run.registry.set("stream.paused", True, origin="gui")
    run.registry.set("seed", 210, origin="gui")
    for _ in range(30):
        run.tick()
    run.registry.set("stream.paused", False, origin="gui")
    run.seconds_until(210)
    assert run.measured_ms == [], "a pause is as long as one likes"


def test_what_is_not_seen_is_not_measured(run: Run) -> None:
    run.registry.set("output.freeze", True, origin="gui")
    run.registry.set("seed", 220, origin="gui")
    run.seconds_until(220)
    for _ in range(30):
        run.tick()
    run.registry.set("output.freeze", False, origin="gui")
    for _ in range(30):
        run.tick()
    assert run.measured_ms == []


def test_every_row_that_goes_with_a_chunk_counts() -> None:
    left_out = {name for name, row in TABLE.items() if row.when is When.CHUNK} - CARRIED
    assert left_out == {"prompt.next", "stream.paused", "stream.reset"}
    assert {"prompt.text", "noise.max", "feedback.amount", "input.filters"} <= CARRIED
