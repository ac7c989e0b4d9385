"""The stages that `bench` times are the work of a chunk, no more and no less, and compiled they give the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor

from sdv2live.bench_chart import stage_chart
from sdv2live.bench_stages import COMPILERS, counted, stage_calls, take_turns, time_stages
from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.build import build_engine
from sdv2live.engine.ceilings import measure_ceilings
from sdv2live.engine.stream import StreamEngine
from sdv2live.paths import assets_dir

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
SETTINGS = ChunkSettings(mix=(("pencil drawing", 1.0),))


@pytest.fixture
def engine() -> Iterator[StreamEngine]:
    spec = EngineSpec("pocket", (64, 64), precision="float32", device="cpu", waits_for_text=True)
    made = build_engine(spec, assets_dir())
    for number in range(8):
        made.submit(Chunk(number, np.full((made.frames_wanted, 64, 64, 3), 128, np.uint8)), SETTINGS)
        made.poll()
    yield made
    made.close()


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


def test_calls_take_turns() -> None:
    seen: list[str] = []
    times = take_turns({name: lambda name=name: seen.append(name) for name in "ab"}, CPU, tries=3)  # type: ignore[misc]
    assert seen == list("ababab") and set(times) == {"a", "b"}
