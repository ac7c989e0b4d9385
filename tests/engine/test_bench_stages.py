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
from sdv2live.bench_stages import COMPILERS, counted, stage_calls, take_turns, time_stages
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
