"""The commands whole, on a GPU where there is one: each decoder, plainly and compiled, and a rank started by hand.

In processes of their own: what torch compiles with outlives a test. test_wan_engine.py has `bench` on a CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.build import build_engine
from sdv2live.engine.rank_process import with_meeting_place
from sdv2live.paths import assets_dir
from tests.engine.wan_cases import write_weights

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]
ON_SECOND_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs that torch can use"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("wan") / "weights")


@pytest.mark.parametrize(
    ("device", "vae", "compiled"),
    [
        *(
            pytest.param("cuda", vae, compiled, marks=ON_GPU)
            for vae in ("wan", "wan-taehv", "taehv")
            for compiled in ("off", "on")
        ),
        pytest.param("cuda:1", "wan", "on", marks=ON_SECOND_GPU),
    ],
)
def test_bench_with_each_decoder(weights: Path, tmp_path: Path, device: str, vae: str, compiled: str) -> None:
    engine = ["--engine", "wan-1.3b", "--weights", str(weights), "--random-weights", "--vae", vae, "--size", "64x64"]
    how = ["--device", device, "--compile", compiled, "--steps", "2", "--precision", "float32"]
    command = [sys.executable, "-m", "sdv2live", "bench", *engine, *how, "--no-compile", "--chunks", "4"]
    path = tmp_path / "b.json"
    ran = subprocess.run([*command, "--json", path], env=ENV, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert not [word for word in ("not compiled", "not replayed", "not measured") if word in ran.stdout + ran.stderr]
    figures = json.loads(path.read_text())
    assert figures["compiled"] is (compiled == "on") and figures["opening_ms"] > 0
    assert [run["schedule"] for run in figures["runs"]] == ["latency", "throughput"]
    assert all(run["fps"] > 0 and run["work"]["denoise"]["matmul"] > 0 for run in figures["runs"])
    assert all(run["work"]["decode"]["conv"] > 0 and run["work"]["denoise"]["gb"] > 0 for run in figures["runs"])
    stages = {(entry["stage"], entry["mode"]): entry for entry in figures["stages"]}
    for stage in ("encode", "denoise", "decode"):
        assert stages[stage, "eager"]["ms"] > 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU), pytest.param("auto", marks=ON_GPU)])
def test_a_rank_started_by_hand(device: str) -> None:
    """Rank 0 stays on the CPU, so that one GPU is enough; the picture is that of one process, but for rounding."""
    alone = EngineSpec("pocket", (64, 48), threads=1, precision="float32", device="cpu", waits_for_text=True)
    spec = with_meeting_place(replace(alone, world=2, split="3,3"))
    command = [sys.executable, "-m", "sdv2live", "stage", "--rank", "1", "--master", spec.master, "--device", device]
    with subprocess.Popen([*command, "--threads", "1"], env=ENV, cwd=ROOT, stderr=subprocess.PIPE, text=True) as other:
        try:
            found = pictures_of(spec)
            _, words = other.communicate(timeout=60)
        finally:
            other.kill()
    assert other.returncode == 0 and "rank 1: ready" in words, words
    expected = pictures_of(alone)
    assert len(found) == len(expected) == 10
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= (0 if device == "cpu" else 2)


def pictures_of(spec: EngineSpec) -> list[np.ndarray]:
    settings = ChunkSettings(mix=(("pencil drawing", 1.0),), steps=(700, 400), steps_count=2, schedule="throughput")
    engine = build_engine(spec, assets_dir())
    try:
        results = []
        for number in range(10):
            frames = np.random.default_rng(number).integers(0, 256, (engine.frames_wanted, 48, 64, 3), np.uint8)
            engine.submit(Chunk(number, frames), settings)
            results += engine.poll()
        return [result.frames for result in results + engine.flush()]
    finally:
        engine.close()
