"""The stages that `bench` times are the work of a chunk, no more and no less, and compiled they give the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import _disable_current_modes

from sdv2live import bench
from sdv2live.bench_chart import stage_chart
from sdv2live.bench_floor import against_floor, counted, counted_by_stage, held_by
from sdv2live.bench_ranks import against_ranks, held_split, rank_entries, settle, split_of
from sdv2live.bench_stages import COMPILERS, stage_calls, take_turns, time_stages
from sdv2live.engine import stage_clock
from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.build import build_engine
from sdv2live.engine.ceilings import measure_ceilings, seconds_each
from sdv2live.engine.stream import StreamEngine
from sdv2live.paths import assets_dir

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
SETTINGS = ChunkSettings(mix=(("pencil drawing", 1.0),))


def unseen(function: Callable[..., Any], **options: object) -> Callable[..., Any]:
    """In place of torch.compile: what it runs is dispatched to nobody who counts, as compiled code is."""

    def call(*arguments: Any) -> Any:
        with _disable_current_modes():
            return function(*arguments)

    return call


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamEngine]:
    """Without its compiled parts, or with them where a test asks for "on"."""
    spec = EngineSpec("pocket", (64, 64), precision="float32", device="cpu", waits_for_text=True)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "compile", unseen)
        made = build_engine(replace(spec, compile=getattr(request, "param", "off")), assets_dir())
    for number in range(8):
        made.submit(Chunk(number, np.full((made.frames_wanted, 64, 64, 3), 128, np.uint8)), SETTINGS)
        made.poll()
    yield made
    made.close()


@pytest.mark.parametrize("engine", ["off", "on"], indirect=True)
def test_the_stages_together_are_the_work_of_a_chunk(engine: StreamEngine) -> None:
    calls = stage_calls(engine, SETTINGS)
    assert list(calls) == ["encode", "denoise", "decode"]
    with torch.inference_mode():
        parts = [counted(call)[1] for call in calls.values()]
    engine.submit(Chunk(9, np.full((4, 64, 64, 3), 128, np.uint8)), SETTINGS)
    _, whole = counted(engine.poll)
    for kind in ("conv", "matmul"):
        # Beside them a chunk has the style vector of its noise scale, a few small products.
        assert sum(part[kind] for part in parts) == pytest.approx(whole[kind], rel=0.01)
    # The blocks are there: their products of weights alone, two operations for each value of each token.
    config, tokens = engine.pipe.first.dit.config, engine.pipe.first.cache.tokens
    weights = config.num_layers * (6 * config.dim**2 + 2 * config.dim * config.ffn_dim)
    assert parts[1]["matmul"] * 1e9 > 2 * tokens * weights


@pytest.mark.parametrize("schedule", ["latency", "throughput"])
def test_the_bytes_that_a_chunk_reads_of_weights_and_of_the_past(engine: StreamEngine, schedule: str) -> None:
    """By the formula on paper: a block's 6 d^2 + 2 d f weights once a forward; a window's and a text's keys and values
    once a row. In one batch the weights are read once for both rows."""
    settings = replace(SETTINGS, steps=(700, 400), steps_count=2, schedule=schedule)
    stage = engine.pipe.first
    for number in range(9, 19):
        engine.submit(Chunk(number, np.full((4, 64, 64, 3), 128, np.uint8)), settings)
        if number < 18:
            engine.poll()
    results, works = counted_by_stage(stage, engine.poll)
    assert len(results) == 1 and "encode" not in vars(stage.codec)
    config, tokens = stage.dit.config, stage.cache.tokens
    weights = config.num_layers * (6 * config.dim**2 + 2 * config.dim * config.ffn_dim)
    past = 2 * config.num_layers * config.dim * (stage.cache.window.capacity * tokens + config.text_len)
    expected = 4 * ((2 if schedule == "latency" else 1) * weights + 2 * past)
    # Beside them: the patch, the head, biases and modulations.
    assert expected < works["denoise"]["gb"] * 1e9 < 1.03 * expected
    for name in ("encode", "decode"):
        assert 0 < works[name]["gb"] * 1e9 < sum(each.nbytes for each in held_by(stage)), "each weight once, or fewer"


def test_a_floor_is_the_longer_of_operations_and_bytes_stage_by_stage() -> None:
    ceilings = {"conv_gflop_per_s": 100.0, "matmul_gflop_per_s": 50.0, "copy_gb_per_s": 10.0}
    by_work = {"conv": 2.0, "matmul": 1.0, "fp8": 0.0, "gb": 0.1}  # 20 + 20 ms, beside 10
    by_bytes = {"conv": 0.0, "matmul": 1.0, "fp8": 1.0, "gb": 0.9}  # 40 ms, or 30 where FP8 is faster, beside 90
    assert against_floor([by_work], 80.0, ceilings) == {"floor_ms": 40.0, "fraction_of_floor": 0.5}
    assert against_floor([by_work, by_bytes], 260.0, ceilings) == {"floor_ms": 130.0, "fraction_of_floor": 0.5}
    products = by_bytes | {"gb": 0.0}
    assert against_floor([products], 80.0, ceilings)["floor_ms"] == 40.0
    assert against_floor([products], 80.0, ceilings | {"fp8_gflop_per_s": 100.0})["floor_ms"] == 30.0


def test_fp8_products_are_counted_apart() -> None:
    """torch multiplies FP8 on a processor, too, with one scale for a tensor."""
    a, b = (torch.randn(64, 32).to(torch.float8_e4m3fn) for _ in range(2))
    scale = torch.ones(())
    try:
        _, work = counted(lambda: torch._scaled_mm(a, b.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16))
    except RuntimeError as error:
        pytest.skip(f"this torch cannot: {error}")
    assert work == {"conv": 0.0, "matmul": 0.0, "fp8": 2 * 64 * 64 * 32 / 1e9, "gb": 0.0}


def rank_report(rank: int, own: tuple[int, int], **ms: float) -> dict[str, Any]:
    times = {f"{work}_ms": ms.get(work, 0.0) for work in ("encode", "blocks", "decode")}
    return {"rank": rank, "device": "cpu", "blocks": list(own), "busy": 0.5, **times}


def test_a_run_over_ranks_is_held_against_the_slowest_and_against_all() -> None:
    """40 ms a chunk of four frames at 100 fps, of which the ranks work 20 and 30."""
    reports = [rank_report(0, (0, 4), encode=4.0, blocks=16.0), rank_report(1, (4, 6), blocks=8.0, decode=22.0)]
    run = {"steps": 2, "schedule": "throughput", "fps": 100.0}
    found = against_ranks(reports, run, chunk_frames=4)
    assert found == {"split": [4, 2], "of_slowest": 0.75, "of_sum": 0.625, "elsewhere": ["decode"]}
    one_by_one = against_ranks(reports, run | {"schedule": "latency"}, chunk_frames=4)
    assert (one_by_one["of_slowest"], one_by_one["of_sum"]) == (0.95, round((36 + 38) / 80, 3))
    chart = ElementTree.fromstring(stage_chart("two ranks", rank_entries(reports)))
    bars = [each for each in chart.iter("{http://www.w3.org/2000/svg}rect") if float(each.get("height", 0)) == 18]
    assert [float(bar.get("width", 0)) for bar in bars] == pytest.approx(
        [360 * ms / 22 for ms in (4, 16, 8, 22)], abs=0.1
    )
    words = [each.text for each in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("another rank's work") == 2 and {"rank 0", "rank 1"} < set(words)


def test_no_block_moves_while_it_is_timed_and_before_that_the_split_settles(engine: StreamEngine) -> None:
    """A pipe that moves blocks once, in the first round."""
    pipe: Any = engine.pipe
    pipe.reports = [rank_report(0, (0, 3)), rank_report(1, (3, 6))]
    looks: list[bool] = []

    def better_split() -> None:
        looks.append(True)
        if len(looks) == 20:
            pipe.reports = [rank_report(0, (0, 5)), rank_report(1, (5, 6))]

    pipe.better_split = better_split
    settle(engine, SETTINGS, steps=1)
    a_round = len(looks) // 2
    assert split_of(engine.reports) == [5, 1] and a_round > 32, "one round in which they move, and one without"
    with held_split(engine):
        engine.submit(Chunk(0, np.full((4, 64, 64, 3), 128, np.uint8)), SETTINGS)
        engine.poll()
    assert len(looks) == 2 * a_round, "nobody is asked"


def test_attention_counts_as_the_products_that_it_is_made_of() -> None:
    q, k, v = torch.randn(1, 3, 20, 32), torch.randn(1, 3, 70, 32), torch.randn(1, 3, 70, 32)
    with torch.inference_mode():
        _, work = counted(lambda: scaled_dot_product_attention(q, k, v))
        with sdpa_kernel(SDPBackend.MATH):
            _, products = counted(lambda: scaled_dot_product_attention(q, k, v))
    assert work == products and work["matmul"] * 1e9 == 2 * 2 * 3 * 20 * 70 * 32


def test_a_call_gives_the_same_again_and_leaves_the_engine_as_it_was(engine: StreamEngine) -> None:
    methods = dict(vars(engine.pipe.first.codec)), engine.pipe.first.dit.run_blocks
    denoise = stage_calls(engine, SETTINGS)["denoise"]
    assert (dict(vars(engine.pipe.first.codec)), engine.pipe.first.dit.run_blocks) == methods
    with torch.inference_mode():
        first: Tensor = denoise()
        assert torch.equal(first, denoise()) and first.shape == (1, 1, 16, 8, 8)


def test_every_stage_has_a_time_or_a_reason(engine: StreamEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    entries = time_stages(engine, SETTINGS, measure_ceilings(CPU, torch.float32), compiles=True)
    reasons = {entry["mode"]: entry.get("reason", "") for entry in entries}
    assert "no C++ compiler" in reasons["compiled"] and "CUDA GPU" in reasons["graph"] and not reasons["eager"]
    chart = ElementTree.fromstring(stage_chart("a < b & c", entries))
    assert "a < b & c" in [each.text for each in chart.iter("{http://www.w3.org/2000/svg}text")]
    bars = [each for each in chart.iter("{http://www.w3.org/2000/svg}rect") if float(each.get("height", 0)) == 18]
    lengths = [float(bar.get("width", 0)) for bar in bars]
    longest = max(entry["ms"] for entry in entries if "ms" in entry)
    assert lengths == pytest.approx([360 * entry["ms"] / longest for entry in entries if "ms" in entry], abs=0.1)


def test_a_stage_that_fails_costs_the_stages_alone(
    engine: StreamEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("CUDA error: operation not permitted\nand more of it")

    monkeypatch.setattr(type(engine.pipe.first.codec), "decode", broken)
    assert bench._stages(engine, SETTINGS, {}, compiles=False) == []
    words = "the stages alone were not measured: CUDA error: operation not permitted and more of it\n"
    assert capsys.readouterr().out == words


def test_the_time_to_a_warm_streams_first_picture_has_the_picture(engine: StreamEngine) -> None:
    """Whatever is in flight: a flush ends it."""
    epochs = engine.reset()
    assert bench.time_opening(engine, replace(SETTINGS, schedule="throughput", steps=(700, 400), steps_count=2)) > 0
    assert engine.poll() == [] and engine.frames_wanted == 4 and engine.reset() == epochs + bench.OPENINGS + 1


COMPILED = """
import torch
from sdv2live.bench_stages import _compiled
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3))
picture = torch.randn(1, 3, 16, 16)
with torch.inference_mode():
    compiled = _compiled(lambda: network(picture), torch.device("cpu"))
    assert not isinstance(compiled, str), compiled
    print(float((compiled() - network(picture)).abs().max()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler")
def test_what_is_compiled_gives_the_same() -> None:
    """In a process of its own: torch's compiler leaves a thread of a progress bar behind."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", COMPILED], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1e-4


def test_calls_in_a_row_share_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter([2.0, 8.0])
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: next(now_s))
    seen: list[int] = []
    assert seconds_each(lambda: seen.append(1), CPU, calls=3) == pytest.approx(2.0) and len(seen) == 3


def test_calls_take_turns() -> None:
    seen: list[str] = []
    times = take_turns({name: lambda name=name: seen.append(name) for name in "ab"}, CPU, tries=3)  # type: ignore[misc]
    assert seen == list("ababab") and set(times) == {"a", "b"}
