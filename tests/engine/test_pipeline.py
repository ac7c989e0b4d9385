"""Several ranks against one: real processes over gloo give the picture that the same stages give in one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.build import build_engine
from sdv2live.engine.pipe import LocalPipe
from sdv2live.engine.pipeline import Pipeline
from sdv2live.engine.pocket import build_pocket, pocket_stage
from sdv2live.engine.rank_process import RankProcess, start_ranks, with_meeting_place
from sdv2live.engine.stages import StageMap
from sdv2live.engine.stream import StreamEngine
from sdv2live.frames import Pixels
from sdv2live.paths import assets_dir

SIZE_WH = (64, 48)
SPEC = EngineSpec("pocket", SIZE_WH, threads=1, precision="float32", device="cpu")
PLAIN = ChunkSettings(mix=(("pencil drawing", 1.0),), steps=(600, 450, 300, 200), noise_max=0.7, noise_min=0.5)
CHANGES = {
    3: {"mix": (("oil painting", 1.0),)},
    5: {"steps_count": 3},
    7: {"mix": (("neon", 1.0),), "transition_chunks": 3},
    10: {"steps_count": 1, "seed": 9},
    12: {"steps_count": 4, "noise_mode": "fresh"},
    15: {"steps_count": 2, "mix": (("neon", 1.0), ("thermal camera", 2.0)), "sink_requests": 1},
    18: {"feedback": 0.2},
}
NO_CHANGES: Mapping[int, dict[str, Any]] = {}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order, here and in the other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def over_processes(spec: EngineSpec, split: str) -> Iterator[tuple[StreamEngine, list[RankProcess]]]:
    spec = with_meeting_place(replace(spec, gpus=len(split.split(",")), split=split))
    others = start_ranks(spec)
    try:
        engine = build_engine(spec, assets_dir())
        try:
            yield engine, others
        finally:
            engine.close()
    finally:
        for process in others:
            process.close()


def in_one_process(split: str) -> StreamEngine:
    """The plain twin: the same stages, one after another in this process, with as many micro-steps under way."""
    counts = tuple(map(int, split.split(",")))
    stages = StageMap(counts)
    folder = assets_dir() / "pocket"
    others = [pocket_stage(SPEC, folder, stages, rank, torch.device("cpu")) for rank in range(1, len(counts))]
    return build_pocket(SPEC, folder, stages=stages, pipe_of=lambda first: LocalPipe([first, *others]))


def frames_of(number: int, wanted: int) -> Pixels:
    """Blobs that move, and a cut now and then, so that motion and sinks have something to do."""
    width, height = SIZE_WH
    rows, columns = np.mgrid[:height, :width]
    made = []
    for index in range(wanted):
        phase = (4 * number + index) / 9 + 3 * (number // 11)
        made.append(
            np.stack([127 + 120 * np.sin(columns / (5 + c) + rows / 7 + phase * (c + 1)) for c in range(3)], -1)
        )
    return np.stack(made).astype(np.uint8)


def run(
    engine: StreamEngine, chunks: int, settings: ChunkSettings, changes: Mapping[int, dict[str, Any]] = NO_CHANGES
) -> list[Pixels]:
    pictures = []
    for number in range(chunks):
        settings = replace(settings, **changes.get(number, {}))
        engine.submit(Chunk(number, frames_of(number, engine.frames_wanted)), settings)
        pictures += [result.frames for result in engine.poll()]
    pictures += [result.frames for result in engine.flush()]
    assert len(pictures) == chunks
    return pictures


def same(ours: list[Pixels], theirs: list[Pixels]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("split", ["3,3", "5,1", "0,6", "2,2,2"])
def test_processes_give_the_picture_of_one_process_to_the_bit(split: str) -> None:
    """One to four steps, then everything that changes while a stream runs, then a reset and all over."""
    twin = in_one_process(split)
    with over_processes(SPEC, split) as (engine, _):
        assert isinstance(engine.pipe, Pipeline) and engine.pipe.depth == len(split.split(","))
        for steps in (1, 2, 3, 4):
            settings = replace(PLAIN, steps_count=steps)
            assert same(run(engine, 9, settings), run(twin, 9, settings)), f"{steps} steps"
            engine.reset()
            twin.reset()
        assert same(run(engine, 22, PLAIN, CHANGES), run(twin, 22, PLAIN, CHANGES))
    twin.close()
