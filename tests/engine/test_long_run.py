"""What a stream must keep for hours: no growth, no drift, no wait for the device, and a failure that costs nothing."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdv2live.engine import kv_cache
from sdv2live.engine.base import Chunk, ChunkSettings, EngineTraits
from sdv2live.engine.kv_cache import KVCache
from sdv2live.engine.model.wan_transformer import WanConfig, WanTransformer
from sdv2live.engine.model.wan_vae import WanVAE, WanVaeConfig
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.reference_profile import ReferenceKVCache
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.wan_codec import WanCodec
from sdv2live.engine.window import Window
from sdv2live.engine.worker import plain_reason
from sdv2live.errors import ChunkError
from tests.engine.toy import SumCodec, drawn_, one_stage, run_toy, toy_engine, toy_frames
from tests.engine.wan_cases import NoWaiting

TINY = WanConfig(dim=24, ffn_dim=24, num_heads=1, num_layers=1, freq_dim=8, text_dim=8, text_len=2)
SIZE_WH = (32, 16)
SETTINGS = ChunkSettings(
    mix=(("one", 1.0),), steps=(800, 400), steps_count=1, noise_max=0.8, noise_min=0.7, noise_mode="fresh"
)


class KeptLatents(SumCodec):
    """Keeps two numbers of every clean latent."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics: list[tuple[float, float]] = []

    def decode(self, latents: Tensor, side: object, prepared: Tensor, state: dict[str, Tensor]) -> Tensor:
        self.statistics.append((float(latents.mean()), float(latents.std())))
        return super().decode(latents, side, prepared, state)


def tiny_engine(codec: SumCodec) -> StreamEngine:
    return StreamEngine(
        traits=EngineTraits("tiny", SIZE_WH, first_chunk_frames=4, chunk_frames=4, defaults={}),
        pipe=one_stage(drawn_(WanTransformer(TINY)), codec, Window(6, 3), SIZE_WH),
        prompts=PromptMixer(Direct(lambda _: torch.ones(1, 2, 8))),
        window=Window(6, 3),
    )


@pytest.mark.slow
def test_thousands_of_latent_frames() -> None:
    """4,000; all 20,000, a minute and more, where SDV2LIVE_LONG_TESTS is set."""
    frames = 20_000 if os.environ.get("SDV2LIVE_LONG_TESTS") else 4_000
    codec = KeptLatents()
    engine = tiny_engine(codec)
    clips = np.random.default_rng(5).integers(0, 256, (16, 4, SIZE_WH[1], SIZE_WH[0], 3), np.uint8)
    sizes = set()
    for number in range(frames):
        engine.submit(Chunk(number, clips[number % 16]), SETTINGS)
        (result,) = engine.poll()
        assert result.is_finite
        sizes.add((engine.cache_bytes, len(engine._micro_steps.clean), len(engine.pipe.first.times), engine._epoch))
    assert len({size[0] for size in sizes}) == 1
    assert {size[3] for size in sizes} == {0}, "no reset"
    assert max(size[1] for size in sizes) <= 16 and max(size[2] for size in sizes) <= 32
    # Windows of the same clips: their means and spreads differ by noise alone, early and late.
    means, spreads = (np.array(column).reshape(50, -1) for column in zip(*codec.statistics, strict=True))
    for column in (means, spreads):
        windows = column.mean(1)
        noise = column.std(1).mean() / np.sqrt(column.shape[1])
        assert np.abs(windows[1:] - windows[1:].mean()).max() < 6 * noise
        assert abs(windows[-10:].mean() - windows[1:11].mean()) < 4 * noise


class NoWaitingBesideFrames(NoWaiting):
    """Frames come as arrays, which torch lifts; everything else is refused as ever."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.lift_fresh.default and args[0].dtype is torch.uint8:
            return func(*args)
        return super().__torch_dispatch__(func, types, args, kwargs)


class WaitsAtTheEnd(StreamEngine):
    """A stream that may read from the device where a chunk has arrived, and nowhere else."""

    guard: NoWaiting

    def _arrive(self, *, most_left: int = 0) -> None:
        with self.guard.lifted():
            super()._arrive(most_left=most_left)


@pytest.mark.parametrize("schedule", ["latency", "throughput"])
def test_the_host_waits_for_the_device_at_the_end_of_a_chunk_alone(schedule: str) -> None:
    """Two steps of a Wan stream at a small size, a prompt change, a sink and feedback included."""
    dit = WanConfig(dim=24, ffn_dim=24, num_heads=1, num_layers=2, freq_dim=8, text_dim=8, text_len=2)
    vae = drawn_(WanVAE(WanVaeConfig(base_dim=4)))
    engine = WaitsAtTheEnd(
        traits=EngineTraits("tiny", SIZE_WH, first_chunk_frames=5, chunk_frames=4, defaults={}),
        pipe=one_stage(drawn_(WanTransformer(dit)), WanCodec(vae, vae), Window(6, 3), SIZE_WH),
        prompts=PromptMixer(Direct(lambda text: torch.full((1, 2, 8), float(len(text))))),
        window=Window(6, 3),
    )
    steady = replace(SETTINGS, steps_count=2, schedule=schedule, feedback=0.2)
    engine.guard = NoWaitingBesideFrames()
    delivered = 0
    with engine.guard:
        for number in range(12):
            settings = replace(steady, mix=((("one", "other")[number >= 7], 1.0),), sink_requests=int(number > 9))
            frames = np.full((engine.frames_wanted, SIZE_WH[1], SIZE_WH[0], 3), 20 * number, np.uint8)
            engine.submit(Chunk(number, frames), settings)
            delivered += len(engine.poll())
    assert delivered >= 11


def test_steps_that_do_not_fit_into_the_memory_leave_the_stream_running(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    two = replace(SETTINGS, steps=(900, 700, 500, 300), steps_count=2)
    engine = toy_engine(window=Window(6, 3))
    expected = run_toy(toy_engine(window=Window(6, 3)), [two] * 10)
    real, made = torch.zeros, 0

    def full_after_two_rows(*shape: object, **options: object) -> Tensor:
        nonlocal made
        made += 1
        if made > 2 * 4:  # keys and values of two layers for each row
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*shape, **options)

    monkeypatch.setattr(kv_cache.torch, "zeros", full_after_two_rows)
    with caplog.at_level(logging.ERROR):
        pictures = run_toy(engine, [two] * 5 + [replace(two, steps_count=4)] * 5)
    assert all((pictures[n] == expected[n]).all() for n in expected), "it goes on with the steps that it had"
    assert [record.getMessage() for record in caplog.records] == [
        "4 denoising steps do not fit into the memory: 2 are taken; close other programs, set it anew"
    ]


def out_of_memory_beyond(engine: StreamEngine, most_rows: int) -> None:
    """Rows can be had, and then a forward has no room left beside more than `most_rows` of them."""
    run_blocks = engine.pipe.first.dit.run_blocks

    def run(*arguments: Any, **options: Any) -> Tensor:
        if engine.pipe.first.cache.rows > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return run_blocks(*arguments, **options)

    engine.pipe.first.dit.run_blocks = run  # type: ignore[method-assign]


def live_chunk(engine: StreamEngine, number: int, settings: ChunkSettings) -> tuple[int, ...]:
    """As the supervisor has it: a failed chunk is followed by a reset. -> the steps of each picture, or (0,)."""
    try:
        engine.submit(Chunk(number, toy_frames(number)), settings)
        return tuple(result.steps for result in engine.poll())
    except ChunkError:
        engine.reset()
        return (0,)


FOUR = replace(SETTINGS, steps=(900, 700, 500, 300), steps_count=4)


@pytest.mark.parametrize("schedule", ["latency", "throughput"])
@pytest.mark.parametrize("new_cache", [KVCache, ReferenceKVCache])
def test_steps_whose_forward_does_not_fit_cost_one_chunk(
    schedule: str, new_cache: type[KVCache], caplog: pytest.LogCaptureFixture
) -> None:
    engine = toy_engine(window=Window(4, 1), new_cache=new_cache)
    out_of_memory_beyond(engine, 2)
    two, four = (replace(FOUR, steps_count=count, schedule=schedule) for count in (2, 4))
    for number in range(10):
        assert 0 not in live_chunk(engine, number, two)
    with caplog.at_level(logging.ERROR):
        made = [live_chunk(engine, number, four) for number in range(10, 30)]
        assert made.count((0,)) == 1, "one chunk is lost"
        assert engine.cache_bytes == toy_rows_bytes(engine, 2), "the new rows are given back"
        assert {steps for steps in made[1:] if steps} == {(2,)}, "the count that worked goes on"
        assert live_chunk(engine, 30, replace(four, seed=5)) == (2,), "held to whatever else changes"
        assert len(caplog.records) == 1 and "4 denoising steps do not fit" in caplog.records[0].getMessage()
        assert live_chunk(engine, 31, two) == (2,)
        assert live_chunk(engine, 32, four) == (0,), "asked for anew, it is tried anew"
        assert [live_chunk(engine, number, four) for number in range(33, 40)].count((0,)) == 0
    assert len(caplog.records) == 2


def toy_rows_bytes(engine: StreamEngine, rows: int) -> int:
    cache = engine.pipe.first.cache
    return rows * cache.bytes // cache.rows


def test_after_a_new_start_the_limit_is_found_again_by_one_chunk() -> None:
    engine = toy_engine(window=Window(4, 1))
    out_of_memory_beyond(engine, 2)
    engine.warm_up()
    made = [live_chunk(engine, number, FOUR) for number in range(6)]
    assert made == [(0,)] + [(2,)] * 5
    crowded = toy_engine(window=Window(4, 1))
    out_of_memory_beyond(crowded, 1)
    crowded.warm_up()
    made = [live_chunk(crowded, number, FOUR) for number in range(6)]
    assert made == [(0,)] + [(1,)] * 5


def test_memory_that_someone_else_takes_costs_no_steps(caplog: pytest.LogCaptureFixture) -> None:
    engine = toy_engine(window=Window(4, 1))
    for number in range(12):
        assert live_chunk(engine, number, FOUR) == (4,)
    with caplog.at_level(logging.ERROR):
        real = engine.pipe.first.dit.run_blocks
        out_of_memory_beyond(engine, 0)
        engine.submit(Chunk(12, toy_frames(12)), FOUR)
        with pytest.raises(ChunkError, match="its memory is full: close other programs") as failed:
            engine.poll()
        assert failed.value.__context__ is None, "nothing is held on the device by who holds the error"
        engine.submit(Chunk(13, toy_frames(13)), FOUR)
        assert engine.poll() == engine.flush() == [], "what comes before the reset is dropped, not another failure"
        engine.reset()
        engine.pipe.first.dit.run_blocks = real  # type: ignore[method-assign]
        assert live_chunk(engine, 14, FOUR) == (4,)
    assert not caplog.records


def test_a_failed_chunk_is_told_in_its_own_words() -> None:
    assert plain_reason(ChunkError("its memory was full")) == "its memory was full"
    assert plain_reason(torch.OutOfMemoryError("CUDA out of memory.\nTried")).startswith("its memory is full: close")
    assert plain_reason(IndexError("list index")) == "IndexError: list index"
