"""Fast paths beside their plain twin: the same picture, nothing compiled while live, and a way back from each."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdv2live.engine import compile as fast
from sdv2live.engine import stage_runner
from sdv2live.engine.base import EngineSpec
from sdv2live.engine.captures import Capture, Recorded, copy_all
from sdv2live.engine.codec import Codec
from sdv2live.engine.coder import Coder
from sdv2live.engine.model.taehv import TAEHV
from sdv2live.engine.model.wan_vae import CausalConv, RMSNorm
from sdv2live.engine.pocket import build_pocket
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.wan_codec import WanCodec
from sdv2live.paths import assets_dir
from tests.engine.compiled_stream import BASE, SCRIPT, difference, kept_latents
from tests.engine.toy import CPU, SumCodec, run_toy, toy_engine
from tests.engine.wan_cases import assert_close, decode_in, encode_in, small_vae

GPU = torch.device("cuda")
ROOT = Path(__file__).parents[2]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == fast.__name__]


def test_who_compiles() -> None:
    assert [fast.chooses_compile(wanted) for wanted in ("auto", "on", "off")] == [False, True, False]


@pytest.mark.parametrize(
    ("device", "tolerance"),
    [
        pytest.param(
            "cpu", 1e-5, marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"), id="cpu"
        ),
        pytest.param(
            "cuda",
            1e-3,
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
            ],
            id="cuda, captured",
        ),
    ],
)
@pytest.mark.slow
def test_compiled_steps_give_the_same_picture_and_nothing_is_compiled_while_live(device: str, tolerance: float) -> None:
    """30 chunks with changes of the prompt, the steps, the noise and a sink."""
    command = [sys.executable, "-m", "tests.engine.compiled_stream", device]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    print(f"compared with the plain twin: {found['difference']:.1e} of the largest value")
    assert found["said"] == [] and found["compiled_live"] == 0
    assert found["compiled"] >= 4, "blocks and head, in both schedules"
    assert found["difference"] <= tolerance and found["norm_difference"] <= tolerance


def test_where_nothing_can_be_compiled_the_stream_runs_plainly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(function: object, **options: object) -> Callable[..., Any]:
        def call(*arguments: object) -> Tensor:
            raise RuntimeError("no C++ compiler was found\nand more of it")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with caplog.at_level(logging.WARNING):
        made = run_toy(toy_engine(compiles=True), SCRIPT)
    assert said(caplog) == [
        "the transformer's blocks are not compiled, and slower: no C++ compiler was found and more of it",
        "the transformer's head is not compiled, and slower: no C++ compiler was found and more of it",
    ]
    expected = run_toy(toy_engine(), SCRIPT)
    assert all(np.array_equal(made[number], expected[number]) for number in expected)


class ByHand:
    """In place of a GPU's graph: the same work on the same memory, done again."""

    def __init__(self, work: Callable[[], list[Tensor]], made: list[Tensor]) -> None:
        self._work, self._made = work, made

    def replay(self) -> None:
        copy_all(self._work(), self._made)


class Recorder:
    """In place of CudaCapture."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, work: Callable[[], list[Tensor]]) -> Recorded:
        self.count += 1
        first = work()
        made = [torch.full_like(each, torch.nan) for each in first]  # nothing runs while it is recorded
        return Recorded(ByHand(work, made), made, first)


def captured_engine(monkeypatch: pytest.MonkeyPatch, capture: Capture, *, steps_count: int = 2) -> StreamEngine:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(stage_runner, "part_of", lambda dit, device, *, compiles: fast.FastPart(dit, capture=capture))
    return toy_engine(compiles=True, steps_count=steps_count)


@pytest.mark.parametrize("schedule", ["latency", "throughput"])
def test_a_captured_step_is_replayed_for_all_that_changes(monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    """The same bits as the plain part: prompts, timesteps, slots and sinks reach what is replayed."""
    script = [replace(settings, schedule=schedule) for settings in SCRIPT]
    recorder = Recorder()
    twin = toy_engine()
    engine = captured_engine(monkeypatch, recorder)
    ours, theirs = kept_latents(engine), kept_latents(twin)
    for each in (engine, twin):
        run_toy(each, script)
    assert difference(ours, theirs) == 0
    if schedule == "latency":
        assert recorder.count == 3, "once for each row"
    before = recorder.count
    for each in (engine, twin):  # another epoch: the same memory, nothing is captured anew
        each.reset()
        run_toy(each, script)
    assert difference(ours, theirs) == 0
    assert recorder.count == before


@pytest.mark.parametrize("steps", [1, 4])
def test_all_steps_of_the_start_are_captured_before_it(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Live then needs no other, in either schedule, while a stream batch fills and while it empties."""
    recorder = Recorder()
    engine = captured_engine(monkeypatch, recorder, steps_count=steps)
    engine.warm_up()
    captured = recorder.count
    assert captured >= steps
    live = replace(BASE, steps=tuple(range(900, 100, -100)), steps_count=steps)
    run_toy(engine, [replace(live, schedule="latency")] * 6 + [replace(live, schedule="throughput")] * (steps + 3))
    assert recorder.count == captured


def test_memory_that_was_given_back_is_captured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    engine = captured_engine(monkeypatch, recorder)
    run_toy(engine, [BASE] * 8)
    assert recorder.count == 2
    engine.pipe.give_back_rows(1)
    engine.reset()
    run_toy(engine, [BASE] * 8)
    assert recorder.count == 4


def test_a_step_that_cannot_be_captured_runs_plainly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(work: Callable[[], list[Tensor]]) -> Recorded:
        raise RuntimeError("operation not permitted when stream is capturing")

    expected = run_toy(toy_engine(), SCRIPT)
    engine = captured_engine(monkeypatch, refused)
    with caplog.at_level(logging.WARNING):
        made = run_toy(engine, SCRIPT)
    assert said(caplog) == [
        "the steps are not replayed as a CUDA graph, and take longer: operation not permitted when stream is capturing"
    ]
    assert all(np.array_equal(made[number], expected[number]) for number in expected)


def drawn_taehv() -> TAEHV:
    torch.manual_seed(4)
    return TAEHV().eval().requires_grad_(False)


def codec_of(name: str) -> tuple[Codec, tuple[int, int]]:
    """One of each kind at a small size, and its pictures' size."""
    if name == "pocket":
        spec = EngineSpec("pocket", (64, 32), precision="float32", device="cpu")
        return build_pocket(spec, assets_dir() / "pocket").pipe.first.codec, (64, 32)
    wan, small = small_vae(), drawn_taehv()
    encoder, decoder = {"wan": (wan, wan), "wan-taehv": (wan, small), "taehv": (small, small)}[name]
    return WanCodec(encoder, decoder), (32, 32)


@pytest.mark.parametrize("name", ["pocket", "wan", "wan-taehv", "taehv"])
@torch.inference_mode()
def test_captured_calls_of_a_codec_give_the_same_pictures(name: str) -> None:
    """To the bit, from a stream's opening on and again after a reset; each kind of call is recorded once."""
    codec, size_wh = codec_of(name)
    recorders = Recorder(), Recorder()
    plain, captured = (
        Coder(codec, size_wh),
        fast.CapturedCoder(codec, size_wh, encoding=recorders[0], decoding=recorders[1]),
    )
    generator = torch.Generator().manual_seed(5)
    for epoch in range(2):
        for each in (plain, captured):
            each.reset()
        for chunk in range(5):
            count = getattr(codec, "first_chunk_frames", 4) if chunk == 0 else 4
            video = torch.rand(1, count, 3, size_wh[1], size_wh[0], generator=generator) * 2 - 1
            told = codec.prepare(torch.randn(1, 8, 128, generator=generator), 0.1 * chunk + 0.1)
            latents, side = plain.encode(video)
            ours, our_side = captured.encode(video)
            assert torch.equal(ours, latents) and all(map(torch.equal, our_side, side))
            assert torch.equal(captured.decode(ours, our_side, told), plain.decode(latents, side, told)), (epoch, chunk)
    assert [recorder.count for recorder in recorders] == [1, 1]


def test_a_codec_that_cannot_be_captured_runs_plainly(caplog: pytest.LogCaptureFixture) -> None:
    def refused(work: Callable[[], list[Tensor]]) -> Recorded:
        raise RuntimeError("operation not permitted when stream is capturing")

    vae = small_vae()
    codec = WanCodec(vae, vae)
    plain, captured = Coder(codec, (32, 32)), fast.CapturedCoder(codec, (32, 32), encoding=refused, decoding=Recorder())
    video = torch.rand(1, 13, 3, 32, 32, generator=torch.Generator().manual_seed(6)) * 2 - 1
    made = []
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        for each in (plain, captured):
            each.reset()
            made.append(torch.cat([each.encode(part)[0] for part in video.split([5, 4, 4], 1)], 1))
    assert torch.equal(*made)
    assert said(caplog) == [
        "the encoder's calls are not replayed as a CUDA graph, and take longer: "
        "operation not permitted when stream is capturing"
    ]


def test_who_captures_a_codec() -> None:
    codec = SumCodec()
    kinds = [type(fast.coder_of(codec, (48, 32), device, compiles=on)) for device in (CPU, GPU) for on in (False, True)]
    assert kinds == [Coder, Coder, Coder, fast.CapturedCoder]


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), 1), ((3, 1, 1), 1), ((3, 1, 1), 2)])
def test_a_convolution_by_taps_is_the_whole_one(kernel: tuple[int, int, int], stride: int, frames: int) -> None:
    conv = CausalConv(8, 12, kernel, memory=[], cell=1, time_stride=stride).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    joined = torch.randn(conv.past_frames + stride * frames, 6, 10, 8, generator=generator)
    expected = conv.whole(joined)
    assert expected.shape[0] == frames
    assert (conv.by_taps(joined) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_quicker_way_is_timed_once_for_each_shape() -> None:
    timed: list[str] = []
    times = {"whole": 2.0, "by_taps": 1.0}

    def timed_ms(call: Callable[[], object]) -> float:
        name: str = call.func.__name__  # type: ignore[attr-defined]
        timed.append(name)
        return times[name]

    way = fast.QuickerWay(timed_ms)
    conv = CausalConv(4, 4, (3, 3, 3), memory=[], cell=1).requires_grad_(False)
    conv.way = way
    small, large = torch.ones(3, 4, 4, 4), torch.ones(6, 4, 4, 4)
    assert torch.equal(conv.convolved(small), conv.by_taps(small))
    times["by_taps"] = 3.0
    assert torch.equal(conv.convolved(large), conv.whole(large))
    assert torch.equal(conv.convolved(small), conv.by_taps(small)), "as it was chosen"
    assert timed == ["whole", "by_taps"] * 2


@pytest.mark.parametrize(
    ("device", "compiles", "chooses", "fuses"),
    [(GPU, False, True, False), (GPU, True, True, True), (CPU, False, False, False), (CPU, True, False, True)],
)
def test_a_gpu_chooses_its_convolutions_without_a_compiler(
    device: torch.device, compiles: bool, chooses: bool, fuses: bool
) -> None:
    vae = small_vae()
    fast.speed_up_vae(vae, device, compiles=compiles)
    assert {module.way is not None for module in vae.modules() if isinstance(module, CausalConv)} == {chooses}
    assert {module.fused is not None for module in vae.modules() if isinstance(module, RMSNorm)} == {fuses}


def test_a_fused_norm_writes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled, run as it stands: the whole autoencoder with it and without."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    plain, fused = small_vae(), small_vae()
    fast.speed_up_vae(fused, CPU, compiles=True)
    video = torch.randn(1, 3, 9, 32, 48, generator=torch.Generator().manual_seed(3))
    latents = [encode_in(vae, video, [5, 4]) for vae in (plain, fused)]
    assert_close(latents[1], latents[0], 1e-6)
    pictures = [decode_in(vae, latents[0], [2, 1]) for vae in (plain, fused)]
    assert_close(pictures[1], pictures[0], 1e-6)


def test_a_start_that_compiles_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each word gives the start its full time again: each chunk, and each code before it is made. One that compiles
    nothing has nothing to tell."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: partial(function))
    words: list[str] = []
    engine = toy_engine(compiles=True)
    engine.warm_up(words.append)
    blocks, head = "compiling the transformer's blocks", "compiling the transformer's head"
    chunks = [f"compiling ({number} of 9)" for number in range(1, 10)]
    # The window is full with the fourth; in the eighth the other schedule has both steps in one batch.
    assert words == [
        *chunks[:4],
        f"{blocks} (1)",
        f"{head} (1)",
        *chunks[4:8],
        f"{blocks} (2)",
        f"{head} (2)",
        chunks[8],
    ]
    run_toy(engine, SCRIPT)
    toy_engine().warm_up(words.append)
    assert len(words) == 13
