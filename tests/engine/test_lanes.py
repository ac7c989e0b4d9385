"""Encoding and decoding beside the transformer: on a GPU the same pictures; and results that come when they are there.

The device that lags behind is the CPU with a clock that a test turns: marks are passed when the test says so.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from sdv2live.engine import memory
from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.lane import Lane
from sdv2live.engine.model.wan_transformer import WanTransformer
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.stage_clock import Mark, StageClock
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.window import Window
from tests.engine.test_device_waits import engine_on
from tests.engine.toy import CPU, SIZE_WH, SMALL, SumCodec, drawn_, one_stage, run_toy, toy_frames, toy_prompt
from tests.engine.wan_cases import SMALL_DIT, SMALL_VAE

PATIENCE_S = 30.0
TWO_STEPS = ChunkSettings(mix=(("one", 1.0),), steps=(800, 400), steps_count=2, noise_max=0.8, noise_min=0.7)
THROUGHPUT = replace(TWO_STEPS, schedule="throughput")


class LaggingClock(StageClock):
    """A device that passes no mark before `pass_all`, and a wait lasts until then; or none before it is waited for."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self._marks, self._passed = 0.0, 0.0
        self._moved = threading.Condition()
        self.waits = 0
        self.passes_when_waited_for = False

    def mark(self) -> Mark:
        self._marks += 1.0
        return self._marks

    def pass_all(self) -> None:
        with self._moved:
            self._passed = self._marks
            self._moved.notify_all()

    def has_passed(self, mark: Mark) -> bool:
        assert isinstance(mark, float)
        return mark <= self._passed

    def wait_for(self, mark: Mark) -> None:
        with self._moved:
            if not self.has_passed(mark):
                self.waits += 1
            if self.passes_when_waited_for:
                assert isinstance(mark, float)
                self._passed = max(self._passed, mark)
            assert self._moved.wait_for(lambda: self.has_passed(mark), PATIENCE_S)


def lagging(on_landed: threading.Event | None = None) -> tuple[StreamEngine, LaggingClock]:
    clock, window = LaggingClock(), Window(capacity=4, sinks=1)
    pipe = one_stage(drawn_(WanTransformer(SMALL)), SumCodec(), window, SIZE_WH)
    pipe.first.clock = clock
    traits = replace(memory.traits_of(EngineSpec("pocket", (64, 64))), size_wh=SIZE_WH)
    engine = StreamEngine(
        traits=traits,
        pipe=pipe,
        prompts=PromptMixer(Direct(toy_prompt)),
        window=window,
        on_landed=on_landed.set if on_landed is not None else lambda: None,
    )
    return engine, clock


def submitted(engine: StreamEngine, number: int, settings: ChunkSettings) -> list[int]:
    engine.submit(Chunk(number, toy_frames(number)), settings)
    return [result.chunk_id for result in engine.poll()]


def test_one_chunk_is_left_under_way_while_the_next_one_enters_and_told_of_when_it_is_there() -> None:
    landed = threading.Event()
    engine, clock = lagging(landed)
    begun: list[int] = []
    waiter = threading.Thread(target=lambda: begun.extend(submitted(engine, 0, THROUGHPUT)))
    waiter.start()
    waiter.join(PATIENCE_S)
    assert not waiter.is_alive() and begun == [], "the opening's pictures are on their way, and nobody waits for them"
    assert not landed.is_set() and engine.poll() == []
    clock.pass_all()
    assert landed.wait(PATIENCE_S), "told from another thread"
    assert [result.chunk_id for result in engine.poll()] == [0]
    engine.close()


def test_latency_waits_for_its_own_chunk() -> None:
    engine, clock = lagging()
    finished: list[int] = []
    waiter = threading.Thread(target=lambda: finished.extend(submitted(engine, 0, TWO_STEPS)))
    waiter.start()
    while clock.waits == 0:
        waiter.join(0.01)
        assert waiter.is_alive(), "it does not return without its pictures"
    assert finished == []
    clock.pass_all()
    waiter.join(PATIENCE_S)
    assert finished == [0]
    engine.close()


def test_pictures_are_the_same_however_late_they_come_and_a_reset_forgets_them() -> None:
    settings = [replace(THROUGHPUT, seed=number) for number in range(7)]
    engine, clock = lagging()
    clock.passes_when_waited_for = True
    plain = one_stage(drawn_(WanTransformer(SMALL)), SumCodec(), Window(capacity=4, sinks=1), SIZE_WH)
    reference = StreamEngine(
        traits=engine.traits,
        pipe=plain,
        prompts=PromptMixer(Direct(toy_prompt)),
        window=Window(capacity=4, sinks=1),
    )
    expected = run_toy(reference, settings)
    found: dict[int, np.ndarray] = {}
    for number, each in enumerate(settings):
        engine.submit(Chunk(number, toy_frames(number)), each)
        found |= {result.chunk_id: result.frames for result in engine.poll()}
    assert clock.waits > 2, "it did lag behind"
    found |= {result.chunk_id: result.frames for result in engine.flush()}
    assert list(found) == list(range(7)), "in order"
    assert all(np.array_equal(found[number], expected[number]) for number in found)
    assert submitted(engine, 7, THROUGHPUT) == []
    engine.reset()
    assert engine.flush() == [], "of the epoch before, nothing comes"
    engine.close()


def test_a_lane_is_nothing_on_a_cpu() -> None:
    lane, before = Lane(CPU), torch.ones(2)
    with lane.after(before):
        made = before + 1
    lane.give(made)
    with lane.apart():
        assert torch.equal(made, torch.full((2,), 2.0))


def test_memory_that_lanes_do_not_share_is_counted_for_each() -> None:
    spec = EngineSpec("wan-1.3b", (64, 48), steps_count=1, precision="float32")
    shared = memory.count_memory(spec, SMALL_DIT, SMALL_VAE, dtype=torch.float32)
    apart = memory.count_memory(spec, SMALL_DIT, SMALL_VAE, dtype=torch.float32, overlaps=True)
    assert (apart.weights, apart.caches) == (shared.weights, shared.caches)
    assert shared.working < apart.working <= 3 * shared.working


def test_a_thread_that_waits_for_a_gpu_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's own default is to ask again and again, which costs a core for each thread that waits."""
    made: list[dict[str, bool]] = []

    class Event:
        def __init__(self, **how: bool) -> None:
            made.append(how)

        def record(self) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "Event", Event)
    StageClock(torch.device("cuda", 0)).mark()
    assert made == [{"enable_timing": True, "blocking": True}]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
@pytest.mark.parametrize("name", ["wan", "pocket"])
def test_on_a_gpu_overlapping_changes_no_picture(name: str) -> None:
    """Lanes against the same engine whose lanes are the current stream, many chunks without a pause between them."""

    def pictures(*, overlaps: bool) -> list[np.ndarray]:
        engine = engine_on(torch.device("cuda", 0), name)
        if not overlaps:
            runner = engine.pipe.first
            torch.cuda.synchronize()
            runner.encoding, runner.decoding = Lane(CPU), Lane(CPU)
        results = []
        for number in range(40):
            size = (engine.frames_wanted, *engine.traits.size_wh[::-1], 3)
            frames = np.random.default_rng(number).integers(0, 256, size, np.uint8)
            engine.submit(Chunk(number, frames), replace(THROUGHPUT, noise_mode="fresh"))
            results += engine.poll()
        results += engine.flush()
        engine.close()
        return [result.frames for result in results]

    found, expected = pictures(overlaps=True), pictures(overlaps=False)
    assert len(found) == len(expected) == 40
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
