"""LoRAs: every way of writing them gives the slow sum, live as well; nothing drifts; a wrong file gets one sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdv2live import cli
from sdv2live.clock import FakeClock
from sdv2live.engine import compile as fast
from sdv2live.engine import memory, stage_runner
from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.client import EngineClient
from sdv2live.engine.fp8 import Fp8Linear, quantise_blocks_
from sdv2live.engine.lora import Loras, open_loras
from sdv2live.engine.lora_file import MAX_RANK, layer_shapes, read_lora
from sdv2live.engine.model.wan_transformer import WanTransformer
from sdv2live.engine.pipeline import Pipeline
from sdv2live.engine.stages import StageMap
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.wan import build_wan, wan_stage
from sdv2live.engine.weights import open_checkpoint
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir
from tests.engine.lora_cases import ALPHA, STYLES, Drawn, drawn_lora, in_style, layers_of, summed
from tests.engine.test_compile import Recorder
from tests.engine.test_pipeline import over_processes
from tests.engine.test_wan_engine import SETTINGS, SPEC, frames_of, keep_cache_in, pictures
from tests.engine.toy import CPU, SMALL, drawn_, run_toy, toy_engine
from tests.engine.wan_cases import DIT_FILE, SMALL_DIT, one_thread, write_weights
from tests.faults.live import until

DIT = replace(SMALL_DIT, num_layers=3)
SHAPES = layer_shapes(DIT)
BLOCKS = DIT.num_layers
BF16 = {"precision": "bfloat16"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("wan") / "weights", DIT)


@pytest.fixture(scope="module")
def base(weights: Path) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in open_checkpoint(weights / DIT_FILE).items()}


@pytest.fixture(scope="module")
def one(base: dict[str, Tensor]) -> dict[str, Drawn]:
    """Every layer, rank 4."""
    return drawn_lora(base, layers_of(BLOCKS), rank=4, seed=1)


@pytest.fixture(scope="module")
def other(base: dict[str, Tensor]) -> dict[str, Drawn]:
    """Some layers, rank 3."""
    layers = ["blocks.0.self_attn.q", "blocks.1.self_attn.v", "blocks.1.ffn.2", "blocks.0.cross_attn.k"]
    return drawn_lora(base, layers, rank=3, seed=2)


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    keep_cache_in(monkeypatch, tmp_path_factory.getbasetemp() / "lora cache")
    monkeypatch.setattr(memory, "free_bytes", lambda _: None)
    with one_thread():
        yield


def with_loras(weights: Path, *given: tuple[Path, float], **more: Any) -> EngineSpec:
    return replace(SPEC, weights=str(weights), lora=tuple((str(path), weight) for path, weight in given), **more)


def assert_weights(dit: WanTransformer, expected: dict[str, np.ndarray], tolerance: float = 1e-6) -> None:
    """Every weight that `dit` has is the expected one."""
    state = dit.state_dict()
    assert state
    for name, weight in state.items():
        off = np.abs(weight.double().numpy() - expected[name]).max()
        assert off <= tolerance * max(1.0, np.abs(expected[name]).max()), name


# ---- the sum -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_every_way_of_writing_a_lora_gives_the_slow_sum(
    style: str, weights: Path, base: dict[str, Tensor], one: dict[str, Drawn], tmp_path: Path
) -> None:
    """From files on the disk, through the loading that every engine goes through."""
    path = in_style(one, style, tmp_path)
    runner = wan_stage(with_loras(weights, (path, 0.7)), StageMap.on_one(BLOCKS), 0, CPU)
    assert_weights(runner.dit, summed(base, [(one, 0.7)]))
    assert runner.loras is not None and runner.loras.lines[0] | {"file": ""} == {
        "file": "", "strength": 0.7, "layers": len(one), "rank": 4, "unused": 0
    }  # fmt: skip


def test_the_names_are_those_that_diffusers_makes_of_the_original_ones(one: dict[str, Drawn], tmp_path: Path) -> None:
    """Its own conversion of a file for Wan's code; what it gives has to be the same LoRA here."""
    conversion = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    plain = {layer: update for layer, update in one.items() if layer != "patch_embedding"}
    tensors = load_file(in_style(plain, "wan", tmp_path / "wan"))
    theirs = conversion._convert_non_diffusers_wan_lora_to_diffusers(
        {name: tensor for name, tensor in tensors.items() if not name.endswith("alpha")}
    )
    save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, tmp_path / "theirs.safetensors")
    found = read_lora(tmp_path / "theirs.safetensors", SHAPES, engine="wan-1.3b")
    assert not found.unused and found.layers.keys() == plain.keys()
    assert all(torch.equal(found.layers[layer].up, update.up) for layer, update in plain.items())


def test_several_loras_add_up_and_each_rank_has_its_own_layers(
    weights: Path, base: dict[str, Tensor], one: dict[str, Drawn], other: dict[str, Drawn], tmp_path: Path
) -> None:
    files = (in_style(one, "kohya", tmp_path / "one"), 0.5), (in_style(other, "wan", tmp_path / "other"), -1.5)
    expected = summed(base, [(one, 0.5), (other, -1.5)])
    runners = [wan_stage(with_loras(weights, *files), StageMap((1, 2)), rank, CPU) for rank in (0, 1)]
    for runner in runners:
        assert_weights(runner.dit, expected)
    assert {name for runner in runners for name in runner.dit.state_dict()} == set(expected)


def test_alpha_is_the_rank_where_nothing_says_it_and_may_go_by_the_root_of_it(
    base: dict[str, Tensor], tmp_path: Path
) -> None:
    lora = drawn_lora(base, ["blocks.0.ffn.0"], rank=4, seed=3)
    path = in_style(lora, "wan", tmp_path)
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if not name.endswith("alpha")}, path)
    assert read_lora(path, SHAPES, engine="wan-1.3b").layers["blocks.0.ffn.0"].scale == 1.0
    folder = in_style(lora, "peft", tmp_path / "peft")
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA, "use_rslora": True}))
    update = read_lora(folder, SHAPES, engine="wan-1.3b").layers["blocks.0.ffn.0"]
    np.testing.assert_allclose(
        update.scale * (update.up.double() @ update.down.double()),
        lora["blocks.0.ffn.0"].scaled(by_root=True),
        rtol=1e-6,
        atol=1e-7,
    )


def test_changes_do_not_drift_and_nought_is_the_checkpoint_to_the_bit(
    weights: Path, base: dict[str, Tensor], one: dict[str, Drawn], tmp_path: Path
) -> None:
    """In bfloat16, where taking an update out again would leave its rounding behind."""
    path = in_style(one, "wan", tmp_path)
    runner = wan_stage(with_loras(weights, (path, 1.0), **BF16), StageMap.on_one(BLOCKS), 0, CPU)
    first = {name: weight.clone() for name, weight in runner.dit.state_dict().items()}
    for number in range(20):
        runner.set_strengths((0.1 * number - 0.7,))
    runner.set_strengths((0.0,))
    state = runner.dit.state_dict()
    assert all(torch.equal(state[name], weight.to(torch.bfloat16)) for name, weight in base.items())
    runner.set_strengths((1.0,))
    assert all(torch.equal(weight, first[name]) for name, weight in runner.dit.state_dict().items())
    assert_weights(runner.dit, summed(base, [(one, 1.0)]), 2**-8)


def test_drawn_weights_take_a_lora_as_well(one: dict[str, Drawn], tmp_path: Path) -> None:
    """No checkpoint to read again: the layers in question are kept."""
    small = replace(SPEC, weights=str(write_sizes(tmp_path / "sizes")), random_weights=True)
    stages = StageMap.on_one(BLOCKS)
    base = {name: weight.clone() for name, weight in wan_stage(small, stages, 0, CPU).dit.state_dict().items()}
    lora = replace(small, lora=((str(in_style(one, "wan", tmp_path)), 2.0),))
    runner = wan_stage(lora, stages, 0, CPU)
    assert_weights(runner.dit, summed(base, [(one, 2.0)]))
    runner.set_strengths((0.0,))
    assert all(torch.equal(weight, base[name]) for name, weight in runner.dit.state_dict().items())


def write_sizes(folder: Path) -> Path:
    """A folder that says how large the networks are, and holds none of them."""
    whole = write_weights(folder.parent / "whole", DIT)
    folder.mkdir()
    (folder / "sdv2live.json").write_bytes((whole / "sdv2live.json").read_bytes())
    return folder


def test_fp8_layers_are_those_of_the_merged_weights(tmp_path: Path) -> None:
    """q, k and v of an FP8 block are one product by then, and its rows have scales of their own."""
    config = replace(SMALL, num_layers=3)
    plain = drawn_(WanTransformer(config)).to(torch.bfloat16)
    base = {name: weight.clone() for name, weight in plain.state_dict().items()}
    lora = drawn_lora(base, layers_of(3), rank=4, seed=4)
    path = in_style(lora, "wan", tmp_path)
    ours, expected = drawn_(WanTransformer(config)).to(torch.bfloat16), WanTransformer(config).to(torch.bfloat16)
    loras = Loras(open_loras([(str(path), 1.0)], config, engine="toy"), ours, base)
    sums = {name: torch.from_numpy(weight).to(torch.bfloat16) for name, weight in summed(base, [(lora, 0.5)]).items()}
    expected.load_state_dict(sums)
    for dit in (ours, expected):
        dit.join_products_()
        quantise_blocks_(dit)
    assert isinstance(ours.own_blocks()[1].self_attn.qkv, Fp8Linear)
    for strength in (1.0, 0.5):
        loras.merge_(ours, (strength,))
    state = ours.state_dict()
    for name, weight in expected.state_dict().items():
        # A sum that lies between two numbers may be rounded to either.
        mine, theirs = (each.float() for each in (state[name], weight))
        assert (mine - theirs).abs().max() <= 0.13 * theirs.abs().max(), name
        assert (mine != theirs).float().mean() < 0.02, name


# ---- streams -----------------------------------------------------------------------------------------------------


def scripted(settings: ChunkSettings, script: dict[int, tuple[float, ...]], chunks: int) -> list[ChunkSettings]:
    """The settings of each chunk, with other strengths from the numbers of `script` on."""
    made = [settings] * chunks
    for start, strengths in script.items():
        made[start:] = [replace(settings, lora_strengths=strengths)] * (chunks - start)
    return made


def by_hand(engine: StreamEngine, state: dict[str, np.ndarray]) -> None:
    """Other weights for a stream in which nothing is in flight."""
    runner = engine.pipe.first
    runner.dit.load_state_dict({name: torch.from_numpy(weight).float() for name, weight in state.items()})
    runner.dit.join_products_()
    runner.times.clear()
    for prompt in runner.prompts.values():
        prompt.context = None


def test_a_live_change_is_a_stream_whose_weights_are_exchanged(
    weights: Path, base: dict[str, Tensor], one: dict[str, Drawn], other: dict[str, Drawn], tmp_path: Path
) -> None:
    """The twin has no LoRA at all; between two chunks, with nothing in flight, it is given the slow sum."""
    files = (in_style(one, "diffusers", tmp_path / "one"), 0.5), (in_style(other, "wan", tmp_path / "other"), 1.0)
    script = {0: (), 2: (0.0, 1.0), 4: (0.5,), 5: (-1.0, 2.0)}  # what is left out is as it was given
    resolved = {0: (0.5, 1.0), 2: (0.0, 1.0), 4: (0.5, 1.0), 5: (-1.0, 2.0)}
    engine, twin = build_wan(with_loras(weights, *files)), build_wan(replace(SPEC, weights=str(weights)))
    for schedule in ("latency", "throughput"):
        made = pictures(engine, scripted(replace(SETTINGS, schedule=schedule), script, 7))
        assert [line["strength"] for line in engine.loras] == [-1.0, 2.0]
        expected = []
        for number in range(7):
            if number in resolved:
                expected += twin.flush()
                by_hand(twin, summed(base, [(one, resolved[number][0]), (other, resolved[number][1])]))
            frames = frames_of(number, twin.frames_wanted)
            twin.submit(Chunk(number, frames), replace(SETTINGS, schedule=schedule))
            expected += twin.poll()
        expected += twin.flush()
        theirs = np.concatenate([result.frames for result in expected])
        assert np.abs(made.astype(int) - theirs).max() <= 1
        engine.reset(), twin.reset()
    engine.close(), twin.close()


def test_the_stages_apart_use_the_strengths_of_their_own_chunk(
    weights: Path, one: dict[str, Drawn], tmp_path: Path
) -> None:
    """Two chunks are encoded before the first is denoised."""
    spec = with_loras(weights, (in_style(one, "wan", tmp_path), 1.0))
    settings = [replace(SETTINGS, lora_strengths=(strength,)) for strength in (1.0, 1.0, -1.0)]
    whole, apart = build_wan(spec), build_wan(spec)
    expected = pictures(whole, settings)
    items = [
        apart.encode(Chunk(number, frames_of(number, apart.frames_wanted)), each)
        for number, each in enumerate(settings)
    ]
    for item in items:
        apart.denoise(item)
    made = np.concatenate([apart.decode(item).frames for item in items])
    assert np.array_equal(made, expected)
    whole.close(), apart.close()


@pytest.mark.parametrize("schedule", ["latency", "throughput"])
def test_a_captured_step_goes_on_with_the_new_weights(
    schedule: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same prompt, whose keys and values are others: they have to reach what is replayed, without a new capture."""
    state = drawn_(WanTransformer(SMALL)).state_dict()
    path = in_style(drawn_lora(state, layers_of(2), rank=4, seed=5), "wan", tmp_path)

    def loras_of(dit: WanTransformer) -> Loras:
        return Loras(open_loras([(str(path), 1.0)], SMALL, engine="toy"), dit, None)

    steady = ChunkSettings(mix=(("one", 1.0),), steps=(800, 400), steps_count=2, schedule=schedule)
    script = [replace(steady, lora_strengths=(0.2 * (number // 7),)) for number in range(21)]
    plain = toy_engine(loras_of=loras_of)
    unchanged = run_toy(plain, [replace(steady, lora_strengths=(0.0,))] * len(script))
    plain.reset()
    expected = run_toy(plain, script)
    assert np.abs(expected[20].astype(int) - unchanged[20]).max() > 3, "the strengths show"
    recorder = Recorder()
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(stage_runner, "part_of", lambda dit, device, *, compiles: fast.FastPart(dit, capture=recorder))
    engine = toy_engine(compiles=True, loras_of=loras_of)
    run_toy(engine, script[:7])
    before = recorder.count
    engine.reset()
    made = run_toy(engine, script)
    assert all(np.array_equal(made[number], expected[number]) for number in expected)
    if schedule == "latency":
        assert before == recorder.count == 2, "once for each row"


def test_two_processes_merge_what_they_hold_and_blocks_move_with_it(
    weights: Path, one: dict[str, Drawn], tmp_path: Path
) -> None:
    """Live changes, one of them after a block has moved; beside one process, within a grey level."""
    spec = with_loras(weights, (in_style(one, "kohya", tmp_path), 1.0), threads=1)
    settings = scripted(replace(SETTINGS, schedule="throughput"), {2: (0.3,), 4: (-0.5,), 6: ()}, 7)
    twin = build_wan(spec)
    expected = pictures(twin, settings).astype(int)
    twin.close()
    with over_processes(spec, "1,2") as (engine, _):
        pipe = engine.pipe
        assert isinstance(pipe, Pipeline)
        assert {name.split(".")[1] for name in pipe.first.dit.state_dict() if name.startswith("blocks")} == {"0"}
        asked = iter(range(100))
        pipe.better_split = lambda: (2, 1) if next(asked) == 3 else None  # type: ignore[method-assign]
        made = pictures(engine, settings).astype(int)
        assert pipe.stages.counts == (2, 1) and engine.loras[0]["strength"] == 1.0
    differences = np.abs(made - expected)
    assert differences.max() <= 1 and (differences > 0).mean() < 0.001


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX are needed")
def test_a_live_engine_tells_what_is_merged_and_may_take_its_time_over_a_change(
    weights: Path, one: dict[str, Drawn], tmp_path: Path
) -> None:
    """The real process, and a clock that says how long it was silent."""
    path = in_style(one, "wan", tmp_path)
    spec = with_loras(weights, (path, 0.5), threads=1, lora_strengths=(0.25,))
    clock = FakeClock()
    client = EngineClient(spec, assets_dir(), clock, texts=["a red fox"])
    line = {"file": str(path), "layers": len(one), "rank": 4, "unused": 0}
    settings = replace(SETTINGS, lora_strengths=(0.25,))

    def result_of(number: int) -> None:
        results: list[Any] = []
        until(lambda: bool(results.extend(client.poll()) or results), "a result")
        assert results[0].chunk_id == number and results[0].is_finite

    def silent(seconds: float) -> None:
        os.kill(client.pid, signal.SIGSTOP)
        try:
            for _ in range(int(2 * seconds)):
                clock.advance(0.5)
                client.poll()
        finally:
            os.kill(client.pid, signal.SIGCONT)

    try:
        until(lambda: not client.poll() and client.is_ready, "the engine is ready")
        assert client.loras == [line | {"strength": 0.25}]
        for number in range(5):
            client.submit(Chunk(number, frames_of(number, client.frames_wanted)), settings)
            result_of(number)
        client.submit(Chunk(5, frames_of(5, 4)), replace(settings, lora_strengths=(-1.0,)))
        silent(4.0)  # a chunk as any other would be given up after 2 s
        result_of(5)
        until(lambda: not client.poll() and client.loras == [line | {"strength": -1.0}], "the change is told")
    finally:
        client.close()


# ---- the command -------------------------------------------------------------------------------------------------


def test_render_takes_loras_and_strengths(
    weights: Path, one: dict[str, Drawn], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = in_style(one, "kohya", tmp_path / "lora")
    tensors = load_file(path)
    strangers = {f"lora_unet_blocks_0_cross_attn_k_img.lora_{half}.weight": torch.ones(2, 2) for half in ("up", "down")}
    save_file(tensors | strangers, path)
    source = assets_dir() / "clip.mp4"
    command = ["--engine", "wan-1.3b", "--weights", str(weights), "--size", "64x64", "--steps", "1",
               "--precision", "float32", "--device", "cpu", "--prompt", "a red fox"]  # fmt: skip
    short = tmp_path / "short.mp4"
    cut(source, short)
    made = {}
    for name, more in {
        "plain": [],
        "as given": ["--lora", f"{path}:0.5"],
        "by strength": ["--lora", str(path), "--lora-strengths", "0.5"],
        "nought": ["--lora", str(path), "--lora-strengths=0"],
    }.items():
        out = tmp_path / f"{name}.mp4"
        assert cli.main(["render", str(short), str(out), *command, *more]) == 0
        made[name] = out.read_bytes()
    assert made["plain"] == made["nought"] != made["as given"] == made["by strength"]
    said = [line for line in capfd.readouterr().err.splitlines() if "are left out" in line]
    names = [rf"lora_unet_blocks_0_cross_attn_k_img\.lora_{half}\.weight" for half in ("down", "up")]
    assert len(said) == 3 and re.search(
        r"of the LoRA \S+ 35 layers are used, and 2 of its tensors belong to no layer of this engine and are left out: "
        rf"{names[0]}, {names[1]}\.$",
        said[0],
    )


def cut(source: Path, target: Path) -> None:
    from tests.engine.test_wan_engine import cut as cut_frames

    cut_frames(source, target, 8)


def test_the_pocket_engine_says_that_it_takes_none(caplog: pytest.LogCaptureFixture) -> None:
    from sdv2live.engine.build import build_engine

    build_engine(EngineSpec("pocket", (64, 64), device="cpu", lora=(("a.safetensors", 1.0),)), assets_dir()).close()
    assert any("LoRAs are not used, since they are for the Wan engines" in each.getMessage() for each in caplog.records)


# ---- files that cannot be used -----------------------------------------------------------------------------------

Tensors = dict[str, Tensor]
Q = "diffusion_model.blocks.0.self_attn.q"
DOWN, UP = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
A, B = torch.ones(2, 48), torch.ones(48, 2)


def _saved(tensors: Tensors, **config: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / ("adapter_model.safetensors" if config else "lora.safetensors")
        save_file(tensors, path)
        if config:
            (folder / "adapter_config.json").write_text(json.dumps(config))
        return path

    return write


def _bytes(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _truncated(folder: Path) -> Path:
    path = _saved({DOWN: A, UP: B})(folder)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def _pickled(folder: Path) -> Path:
    torch.save({DOWN: A, UP: B}, folder / "lora.pt")
    return folder / "lora.pt"


def _two_files(folder: Path) -> Path:
    for name in "ab":
        save_file({DOWN: A, UP: B}, folder / f"{name}.safetensors")
    return folder


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "no.safetensors", "is missing: check the path"),
    "pickled": (_pickled, r"it is no \.safetensors file\): give it in that form, from which nothing is executed"),
    "several in a folder": (_two_files, r"holds 2 \.safetensors files\): give the file itself"),
    "empty": (_bytes("a.safetensors", b""), "the file is empty"),
    "a web page": (_bytes("a.safetensors", b"<!DOCTYPE html><html>"), "it is a web page"),
    "a head without end": (_bytes("a.safetensors", b"\xff" * 6 + b"\x7f\0" + b"{" * 90), "it is damaged"),
    "truncated": (_truncated, "it is damaged, or not all of it is there"),
    "for another network": (
        _saved({"unet.down_blocks.0.to_q.lora_A.weight": A, "unet.down_blocks.0.to_q.lora_B.weight": B}),
        r"none of its 2 tensors belongs to a layer of wan-1\.3b: unet\.down_blocks\.0\.to_q\.lora_A\.weight, .*\): "
        "give one that was trained for this engine",
    ),
    "another size": (
        _saved({DOWN: torch.ones(2, 64), UP: torch.ones(64, 2)}),
        r"does not fit wan-1\.3b: its blocks\.0\.self_attn\.q turns 64 values into 64, and this engine's 48 into 48",
    ),
    "no numbers": (_saved({DOWN: A, UP: B * torch.nan}), "lora_B.weight holds values that are no numbers"),
    "infinite": (_saved({DOWN: A * torch.inf, UP: B}), "lora_A.weight holds values that are no numbers"),
    "an alpha that is none": (_saved({DOWN: A, UP: B, f"{Q}.alpha": torch.tensor(torch.nan)}), "alpha holds values"),
    "alphas": (_saved({DOWN: A, UP: B, f"{Q}.alpha": torch.ones(2)}), r"alpha is \(2,\), and an alpha is one number"),
    "whole numbers": (_saved({DOWN: A.int(), UP: B}), "holds no floating-point numbers"),
    "a rank too large": (
        _saved({DOWN: torch.ones(MAX_RANK + 1, 48), UP: torch.ones(48, MAX_RANK + 1)}),
        r"the rank of blocks\.0\.self_attn\.q is 1025\): give one of rank 1 to 1024",
    ),
    "two ranks": (_saved({DOWN: A, UP: torch.ones(48, 3)}), "have ranks 2 and 3"),
    "half of one": (_saved({DOWN: A}), r"of blocks\.0\.self_attn\.q it has one half, .*, and not the other"),
    "no matrix": (_saved({DOWN: A[0].clone(), UP: B}), "are no matrices"),
    "one layer twice": (
        _saved({DOWN: A, UP: B, "lora_unet_blocks_0_self_attn_q.lora_down.weight": A.clone()}),
        r"it has blocks\.0\.self_attn\.q twice",
    ),
    "DoRA": (_saved({DOWN: A, UP: B, f"{Q}.dora_scale": torch.ones(48, 1)}), "it is a DoRA, which is merged otherwise"),
    "LoKr": (_saved({f"{Q}.lokr_w1": A}), "it is a LoKr"),
    "DoRA, by its configuration": (_saved({DOWN: A, UP: B}, lora_alpha=4, use_dora=True), "asks for DoRA"),
    "alphas by pattern": (
        _saved({DOWN: A, UP: B}, lora_alpha=4, alpha_pattern={"q": 2}),
        "asks for an alpha of its own for some layers",
    ),
    "an alpha in words": (_saved({DOWN: A, UP: B}, lora_alpha="four"), "says that lora_alpha is 'four'"),
    "a configuration that is no JSON": (
        lambda folder: _bytes("adapter_config.json", b"{")(folder) and _saved({DOWN: A, UP: B}, lora_alpha=1) and
        (save_file({DOWN: A, UP: B}, folder / "adapter_model.safetensors") or folder / "adapter_model.safetensors"),
        "the configuration with it cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_used_gets_one_sentence(case: str, tmp_path: Path) -> None:
    write, expected = BROKEN[case]
    path = write(tmp_path)
    with pytest.raises(UserError) as caught:
        read_lora(path, SHAPES, engine="wan-1.3b")
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and ". " not in message, "one sentence"
    assert str(path) in message, "which file"
    assert re.search(expected, message), message


def test_what_is_given_twice_or_leads_nowhere_or_is_too_strong(
    weights: Path, one: dict[str, Drawn], tmp_path: Path
) -> None:
    path = str(in_style(one, "wan", tmp_path))
    with pytest.raises(UserError, match="is given twice: name it once, with the sum of its weights"):
        open_loras([(path, 1.0), (path, 0.5)], DIT, engine="wan-1.3b")
    with pytest.raises(UserError, match="a user who is not known here"):
        open_loras([("~nobody-of-this-name/a.safetensors", 1.0)], DIT, engine="wan-1.3b")
    large = {layer: Drawn(update.down * 1e20, update.up * 1e20) for layer, update in one.items()}
    spec = with_loras(weights, (in_style(large, "wan", tmp_path / "large"), 4.0))
    with pytest.raises(UserError, match=r"has values that float32 cannot hold: give them less weight\.$"):
        wan_stage(spec, StageMap.on_one(BLOCKS), 0, CPU)
