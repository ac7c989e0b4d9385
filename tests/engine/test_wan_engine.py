"""The Wan engines as a user has them, from small files in the released layout: renders, a live process, mistakes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from sdv2live import cli
from sdv2live.capture.test_pattern import render_pattern
from sdv2live.clock import MonotonicClock
from sdv2live.engine import build, memory, wan
from sdv2live.engine import worker as worker_module
from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.build import build_engine
from sdv2live.engine.client import EngineClient
from sdv2live.engine.ipc import Message
from sdv2live.engine.memory import Footprint
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import TextAhead
from sdv2live.engine.umt5 import UMT5Encoder
from sdv2live.engine.wan import build_wan
from sdv2live.engine.worker import Worker
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir
from tests.engine.wan_cases import (
    DIT_FILE,
    SIZES_FILE,
    SMALL_DIT,
    SMALL_VAE,
    TAEHV_FILE,
    TEXT_FILE,
    TOKENIZER,
    VAE_FILE,
    one_thread,
    write_weights,
)
from tests.faults.live import PATIENCE_S, until

FRAMES = 13
SIZE = ["--size", "64x64", "--steps", "2", "--precision", "float32", "--device", "cpu"]
SPEC = EngineSpec("wan-1.3b", (32, 32), precision="float32", device="cpu", steps_count=2, waits_for_text=True)
SETTINGS = ChunkSettings(
    mix=(("a red fox", 1.0),),
    steps=(700, 500),
    steps_count=2,
    noise_max=0.8,
    noise_min=0.7,
    noise_mode="fresh",
    timestep_offset=-100,
    sink_similarity=0.2,
)
OTHER = (("night", 1.0),)
VAES = ("wan", "wan-taehv", "taehv")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("wan") / "weights")


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> Iterator[None]:
    """Embeddings are kept in a folder of this module's own, and no memory is counted: test_memory.py does that."""
    keep_cache_in(monkeypatch, cache_folder)
    monkeypatch.setattr(memory, "free_bytes", lambda _: None)
    with one_thread():
        yield


def keep_cache_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """For this process and for those that it starts, on every system."""
    names = {"win32": "LOCALAPPDATA", "darwin": "HOME"}
    monkeypatch.setenv(names.get(sys.platform, "XDG_CACHE_HOME"), str(folder))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test pattern, 96x64, at 16 fps."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(render_pattern(number, (96, 64)), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rendered(clip: Path, weights: Path, out: Path, *more: str) -> bytes:
    arguments = ["render", str(clip), str(out), "--engine", "wan-1.3b", "--weights", str(weights), *SIZE, *more]
    assert cli.main(arguments) == 0
    return out.read_bytes()


def frames_of(number: int, count: int) -> np.ndarray:
    return np.stack([render_pattern(4 * number + index, SPEC.size_wh) for index in range(count)])


def pictures(engine: StreamEngine, settings: list[ChunkSettings]) -> np.ndarray:
    """One chunk for each entry; -> all frames in order, every one finite."""
    results = []
    for number, chunk_settings in enumerate(settings):
        engine.submit(Chunk(number, frames_of(number, engine.frames_wanted)), chunk_settings)
        results += engine.poll()
    results += engine.flush()
    assert [result.chunk_id for result in results] == list(range(len(settings)))
    assert all(result.is_finite for result in results)
    return np.concatenate([result.frames for result in results])


# ---- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vae", VAES)
def test_render_gives_every_frame_the_same_twice_and_follows_the_prompt(
    clip: Path, weights: Path, tmp_path: Path, vae: str
) -> None:
    first = rendered(clip, weights, tmp_path / "a.mp4", "--vae", vae, "--prompt", "a red fox")
    again = rendered(clip, weights, tmp_path / "b.mp4", "--vae", vae, "--prompt", "a red fox")
    other = rendered(clip, weights, tmp_path / "c.mp4", "--vae", vae, "--prompt", "night")
    assert first == again != other
    frames = decoded(tmp_path / "a.mp4")
    assert frames.shape == (FRAMES, 64, 64, 3)
    assert all(frame.std() > 5 for frame in frames), "pictures, not grey"


def cut(source: Path, target: Path, frames: int) -> Path:
    """The first frames of a video file, in its own size."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as container:
        video = whole.streams.video[0]
        stream = container.add_stream("libx264", rate=video.average_rate)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for frame in itertools.islice(whole.decode(video), frames):
            picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return target


@pytest.mark.parametrize("vae", VAES)
def test_the_bundled_clip_is_rendered(weights: Path, tmp_path: Path, vae: str) -> None:
    """A short cut of it: opening, steady chunks and a tail of one frame."""
    source = cut(assets_dir() / "clip.mp4", tmp_path / "cut.mp4", 10)
    rendered(source, weights, tmp_path / "out.mp4", "--vae", vae, "--prompt", "a red fox")
    frames = decoded(tmp_path / "out.mp4")
    assert frames.shape == (10, 64, 64, 3) and all(frame.std() > 5 for frame in frames)


CAT_CLIP = os.environ.get("SDV2LIVE_CAT_CLIP", "")


@pytest.mark.skipif(not CAT_CLIP, reason="SDV2LIVE_CAT_CLIP names no video file; it is not ours to ship")
def test_the_cat_clip_is_rendered_whole(weights: Path, tmp_path: Path) -> None:
    with av.open(CAT_CLIP) as container:
        count = sum(1 for _ in container.decode(video=0))
    rendered(Path(CAT_CLIP), weights, tmp_path / "out.mp4", "--prompt", "a red fox")
    frames = decoded(tmp_path / "out.mp4")
    assert frames.shape == (count, 64, 64, 3) and all(frame.std() > 5 for frame in frames)


@pytest.mark.parametrize("vae", VAES)
def test_both_schedules_give_one_picture_in_both_profiles(weights: Path, vae: str) -> None:
    """The smallest window that rolls, so that the rules of both are at work; a prompt changes on the way."""
    made = {}
    chunks = 7
    for profile in ("default", "reference"):
        for schedule in ("latency", "throughput"):
            spec = replace(SPEC, vae=vae, weights=str(weights), profile=profile, window_frames=4, sink_frames=1)
            engine = build_wan(spec)
            steady = replace(SETTINGS, schedule=schedule)
            settings = [replace(steady, mix=OTHER if number > 4 else SETTINGS.mix) for number in range(chunks)]
            made[profile, schedule] = pictures(engine, settings).astype(int)
            engine.close()
    for profile in ("default", "reference"):
        difference = np.abs(made[profile, "latency"] - made[profile, "throughput"])
        assert len(difference) == 4 * chunks + (vae != "taehv") and difference.max() <= 1
    assert np.abs(made["default", "latency"] - made["reference", "latency"]).max() > 1, "the profiles differ"


def test_latents_may_be_normalised(weights: Path) -> None:
    made = []
    for normalises in (False, True):
        engine = build_wan(replace(SPEC, weights=str(weights), normalises_latents=normalises))
        made.append(pictures(engine, [SETTINGS] * 2))
        engine.close()
    assert np.abs(made[0].astype(int) - made[1].astype(int)).max() > 1


def test_a_grow_layer_with_room_for_more_gives_its_last_frames(weights: Path) -> None:
    """The file's first half is nonsense (9.0 throughout), so it must not have been taken."""
    engine = build_wan(replace(SPEC, vae="taehv", weights=str(weights)))
    assert engine.pipe.first.codec._decoder.decoder[7].conv.weight.max() < 1
    engine.close()


def test_the_second_start_takes_the_prompt_from_the_disk(
    clip: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_cache_in(monkeypatch, tmp_path / "cache")
    first = rendered(clip, weights, tmp_path / "a.mp4", "--prompt", "a red fox")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1

    def refuse(self: UMT5Encoder, texts: list[str]) -> list[Tensor]:
        raise UserError(f"the encoder was asked for {texts[0]}.")

    monkeypatch.setattr(UMT5Encoder, "encode", refuse)
    assert rendered(clip, weights, tmp_path / "b.mp4", "--prompt", " a red\tfox ") == first
    arguments = ["render", str(clip), str(tmp_path / "c.mp4"), "--engine", "wan-1.3b", "--weights", str(weights), *SIZE]
    assert cli.main([*arguments, "--prompt", "night"]) == 2
    assert "asked for night" in capsys.readouterr().err


def test_random_weights_need_no_files_but_follow_the_sizes(weights: Path, tmp_path: Path) -> None:
    (tmp_path / SIZES_FILE).write_bytes((weights / SIZES_FILE).read_bytes())
    engine = build_wan(replace(SPEC, vae="taehv", weights=str(tmp_path), random_weights=True))
    made = pictures(engine, [SETTINGS, replace(SETTINGS, mix=OTHER)])
    engine.close()
    again = build_wan(replace(SPEC, vae="taehv", weights=str(tmp_path), random_weights=True))
    assert (pictures(again, [SETTINGS, replace(SETTINGS, mix=OTHER)]) == made).all()
    assert (pictures(again, [SETTINGS]) != made[:4]).any(), "another epoch, other noise"
    again.close()


# ---- live --------------------------------------------------------------------------------------------------------


def test_a_stream_goes_on_while_a_prompt_is_encoded(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_open = threading.Event()
    real_encode = UMT5Encoder.encode

    def slow(self: UMT5Encoder, texts: list[str]) -> list[Tensor]:
        if texts == ["a slow one"]:
            assert is_open.wait(60)
        return real_encode(self, texts)

    monkeypatch.setattr(UMT5Encoder, "encode", slow)
    live = replace(SPEC, vae="taehv", weights=str(weights), waits_for_text=False)
    engines = [build_wan(live) for _ in range(2)]
    for engine in engines:
        engine.prepare(["a red fox"])
    changing, steady = engines
    changed = replace(SETTINGS, mix=(("a slow one", 1.0),))

    def chunk(number: int, settings: ChunkSettings) -> bool:
        """Whether the two pictures are one."""
        for engine, chunk_settings in ((changing, settings), (steady, SETTINGS)):
            engine.submit(Chunk(number, frames_of(number, 4)), chunk_settings)
        (ours,), (theirs,) = changing.poll(), steady.poll()
        return bool((ours.frames == theirs.frames).all())

    try:
        assert chunk(0, SETTINGS)
        assert all(chunk(number, changed) for number in range(1, 5)), "the prompt before stays meanwhile"
        is_open.set()
        texts = changing._prompts._texts
        assert isinstance(texts, TextAhead)
        until(lambda: texts.get("a slow one") is not None, "the prompt is encoded")
        assert not chunk(5, changed)
    finally:
        is_open.set()
        for engine in engines:
            engine.close()


def test_a_prompt_that_cannot_be_encoded_refuses_the_first_start_alone(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's own start, in this process: a later one shows the prompt that the disk has kept."""
    keep_cache_in(monkeypatch, tmp_path)
    encode = UMT5Encoder.encode

    def refusing(self: UMT5Encoder, texts: list[str]) -> list[Tensor]:
        if texts == ["bad"]:
            raise UserError("the prompt 'bad' could not be encoded: try another wording.")
        return encode(self, texts)

    monkeypatch.setattr(UMT5Encoder, "encode", refusing)
    spec = replace(SPEC, vae="taehv", weights=str(weights), waits_for_text=False)
    assert configured(spec, epoch=0, texts=["bad"]) == "the prompt 'bad' could not be encoded: try another wording."
    assert "could not be encoded" in str(configured(spec, epoch=5, texts=["bad"])), "and there is none to show yet"
    first = configured(spec, epoch=0, texts=["a red fox"])
    again = configured(spec, epoch=5, texts=["bad"])
    assert isinstance(first, StreamEngine) and isinstance(again, StreamEngine)
    while first._epoch < again._epoch:  # the noise is of an epoch
        first.reset()
    asked = replace(SETTINGS, mix=(("bad", 1.0),))
    made = pictures(again, [asked] * 2)
    assert (made == pictures(first, [SETTINGS] * 2)).all()
    again.reset()
    assert pictures(again, [asked]).shape == (4, 32, 32, 3), "nor does a reset fail"
    for engine in (first, again):
        engine.close()


def configured(spec: EngineSpec, *, epoch: int, texts: list[str]) -> StreamEngine | str:
    """The engine of a worker that was told to start, or why it refused."""

    class Told:
        def send(self, kind: Message, payload: bytes = b"") -> None:
            pass

    worker = Worker(Told())  # type: ignore[arg-type]
    fields = {"spec": asdict(spec), "assets": str(assets_dir()), "epoch": epoch, "texts": texts, "memory": {}}
    built: list[StreamEngine] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_engine", lambda *a, **k: built.append(build_engine(*a, **k)) or built[0])
        for name in ("MemoryHandle", "attach_memory", "SharedFrames"):
            patch.setattr(worker_module, name, lambda *_, **__: None)
        try:
            worker.configure(json.dumps(fields).encode())
        except UserError as error:
            built[0].close()
            return str(error)
    return built[0]


def test_a_live_process_from_files(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real process, nothing kept from before: five frames open it, and it never waits for a prompt's encoding."""
    keep_cache_in(monkeypatch, tmp_path)
    spec = replace(SPEC, weights=str(weights), threads=1, waits_for_text=False)
    client = EngineClient(spec, assets_dir(), MonotonicClock(), texts=["a red fox"])
    with contextlib.ExitStack() as stack:
        stack.callback(client.close)
        until(lambda: not client.poll() and client.is_ready, "the engine is ready")
        inside = build_engine(spec, assets_dir(), first_epoch=client.epoch)
        stack.callback(inside.close)
        deadline_s = time.monotonic() + PATIENCE_S
        for number in itertools.count():
            count = 4 if number else 5
            assert client.frames_wanted == inside.frames_wanted == count
            settings = SETTINGS if number < 2 else replace(SETTINGS, mix=OTHER)
            client.submit(Chunk(number, frames_of(number, count)), settings)
            results = []
            until(lambda found=results: bool(found.extend(client.poll()) or found), "a result")
            assert results[0].is_finite and results[0].frames.shape == (count, *SPEC.size_wh, 3)
            inside.submit(Chunk(number, frames_of(number, count)), SETTINGS)
            unchanged = inside.poll()[0].frames.astype(int)
            if np.abs(results[0].frames - unchanged).max() > 1:
                assert number >= 2, "a prompt arrives once it was asked for"
                break
            assert time.monotonic() < deadline_s, "the new prompt arrives"


def test_a_live_run_says_that_its_weights_are_drawn(weights: Path, tmp_path: Path) -> None:
    summary = tmp_path / "run.json"
    command = ["live", "--headless", "--source", "pattern", "--output", "null", "--seconds", "1", "--osc-port", "0"]
    engine = ["--engine", "wan-1.3b", "--weights", str(weights), "--vae", "taehv", "--random-weights", "--threads", "1"]
    assert cli.main([*command, *engine, *SIZE, "--json", str(summary)]) == 0
    run = json.loads(summary.read_text())
    assert run["settings"]["engine.random_weights"] is True and run["engine"] == "wan-1.3b"
    assert run["frames_generated"] > 0 and run["bad_chunks"] == run["restarts"] == 0


def test_bench_counts_the_memory_and_says_when_the_first_picture_came(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.json"
    command = [
        "bench",
        "--no-compile",
        "--engine",
        "wan-1.3b",
        "--weights",
        str(weights),
        "--random-weights",
        "--vae",
        "taehv",
    ]
    sizes = ["--size", "64x64", "--precision", "float32", "--device", "cpu", "--steps", "2"]
    assert cli.main([*command, *sizes, "--chunks", "4", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures["weights"] == "random" and figures["first_picture_ms"] > figures["start_ms"]
    spec = EngineSpec("wan-1.3b", (64, 64), vae="taehv")
    for run in figures["runs"]:
        counted = memory.count_memory(
            replace(spec, steps_count=run["steps"]), SMALL_DIT, SMALL_VAE, dtype=torch.float32
        )
        assert run["counted_memory_bytes"] == counted.total
        assert run["measured_memory_bytes"] is None, "on a GPU alone"
    printed = capsys.readouterr().out
    assert "first picture" in printed and f"counted {counted.total / 1e9:.2f}" in printed


# ---- what is wrong -----------------------------------------------------------------------------------------------


class RunsWhenLoaded:
    """A pickle that would make a file of its name."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def _remove(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def _replace(name: str, content: bytes) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).unlink()  # the folder's files are links to those of other tests
        (folder / name).write_bytes(content)

    return put


def _saved(name: str, change: Callable[[Path, dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """change: told the folder and the file's tensors, gives what is written in their place."""

    def put(folder: Path) -> None:
        path = folder / name
        stored = torch.load(path, weights_only=True)
        changed = change(folder, stored.get("generator", stored))
        path.unlink()
        torch.save(changed, path)

    return put


def _with_nan(_: Path, tensors: dict[str, Tensor]) -> object:
    tensors[sorted(tensors)[-1]].view(-1)[0] = float("nan")
    return tensors


def _with(name: str, tensor: Tensor) -> Callable[[Path, dict[str, Tensor]], object]:
    return lambda _, tensors: {**tensors, name: tensor}


def _malicious(folder: Path, tensors: dict[str, Tensor]) -> object:
    return {**tensors, "more": RunsWhenLoaded(folder / "was executed")}


def _truncated(name: str) -> Callable[[Path], None]:
    return lambda folder: _replace(name, (folder / name).read_bytes()[:-3000])(folder)


def _sizes(**changes: object) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        sizes = json.loads((folder / SIZES_FILE).read_text())
        for part, given in changes.items():
            sizes[part] = {**sizes.get(part, {}), **given} if isinstance(given, dict) else given  # type: ignore[dict-item]
        _replace(SIZES_FILE, json.dumps(sizes).encode())(folder)

    return put


def _as_14b(folder: Path) -> None:
    (folder / DIT_FILE).parent.rename(folder / "wan_causal_dmd_v2v_14b")
    _sizes(dit={"num_layers": 3, "ffn_dim": 112})(folder)


HTML = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>"


def as_it_is(folder: Path) -> None:
    pass


BROKEN: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "no transformer": (
        _remove(DIT_FILE),
        [],
        f"transformer of wan-1.3b is not in .*`sdv2live models get wan-1.3b --folder .*put {DIT_FILE} there",
    ),
    "no vae": (_remove(VAE_FILE), [], f"Wan VAE of wan-1.3b is not in .*put {VAE_FILE} there"),
    "no taehv": (
        _remove(TAEHV_FILE),
        ["--vae", "taehv"],
        "TAEHV of wan-1.3b is not in .*put taew2_1.safetensors there",
    ),
    "no text encoder": (_remove(TEXT_FILE), [], f"text encoder of wan-1.3b is not in .*put {TEXT_FILE} there"),
    "no tokenizer": (_remove(TOKENIZER), [], f"tokenizer of wan-1.3b is not in .*put {TOKENIZER}/tokenizer.json there"),
    "no tokenizer.json": (_remove(f"{TOKENIZER}/tokenizer.json"), [], r"tokenizer\.json"),
    "truncated transformer": (_truncated(DIT_FILE), [], r"model\.pt cannot be read .*not all of it is there"),
    "truncated vae": (_truncated(VAE_FILE), [], r"VAE\.pth cannot be read .*not all of it is there"),
    "truncated taehv": (_truncated(TAEHV_FILE), ["--vae", "wan-taehv"], r"taew2_1\.pth cannot be read"),
    "truncated text encoder": (_truncated(TEXT_FILE), [], r"bf16\.pth cannot be read .*not all of it is there"),
    "a grow layer that is no matrix": (
        _saved(TAEHV_FILE, _with("decoder.7.conv.weight", torch.zeros(()))),
        ["--vae", "taehv"],
        r"taew2_1\.pth are not those of this model \(decoder\.7\.conv\.weight is \(\), not \(256, 256, 1, 1\)\)",
    ),
    "a grow layer that is too small": (
        _saved(TAEHV_FILE, _with("decoder.7.conv.weight", torch.zeros(8, 256, 1, 1))),
        ["--vae", "wan-taehv"],
        r"decoder\.7\.conv\.weight is \(8, 256, 1, 1\), not \(256, 256, 1, 1\)",
    ),
    "of another size": (_as_14b, ["--engine", "wan-14b"], r"not those of this model .*blocks\.0\.ffn.* more\): fetch"),
    "NaN": (_saved(DIT_FILE, _with_nan), [], "holds values that are no numbers"),
    "NaN in the vae": (_saved(VAE_FILE, _with_nan), [], "holds values that are no numbers"),
    "malicious": (_saved(DIT_FILE, _malicious), [], "was not executed"),
    "malicious text encoder": (_saved(TEXT_FILE, _malicious), [], "was not executed"),
    "web page": (_replace(DIT_FILE, HTML), [], "it is a web page"),
    "web page for a vae": (_replace(VAE_FILE, HTML), [], "it is a web page"),
    "web page for a tokenizer": (_replace(f"{TOKENIZER}/tokenizer.json", HTML), [], r"tokenizer\.json cannot be used"),
    "empty": (_replace(DIT_FILE, b""), [], "the file is empty"),
    "sizes that are no JSON": (_replace(SIZES_FILE, b'{"dit": {'), [], r"sdv2live\.json cannot be used"),
    "sizes that are no text": (_replace(SIZES_FILE, b"\xff\xfe\x00"), [], r"sdv2live\.json cannot be used"),
    "sizes without end": (_replace(SIZES_FILE, b"[" * 50_000), [], r"sdv2live\.json cannot be used"),
    "sizes of nothing": (_replace(SIZES_FILE, b"[]"), [], "no object of objects"),
    "sizes of another part": (_sizes(unet={"dim": 8}), [], "'unet', and its parts are dit, vae, text"),
    "a size that there is not": (_sizes(dit={"width": 8}), [], "says 'width' is 8: the sizes there are dim"),
    "a size that is fixed": (_sizes(vae={"z_dim": 8}), [], "says 'z_dim' is 8: the sizes there are base_dim"),
    "a size below 1": (_sizes(dit={"num_layers": 0}), [], "says 'num_layers' is 0"),
    "a size that is no number": (_sizes(text={"d_ff": "40"}), [], "says 'd_ff' is 40"),
    "layers without end": (_sizes(dit={"num_layers": 1_000_000}), [], "says 'num_layers' is 1000000"),
    "heads that do not divide": (_sizes(dit={"num_heads": 5}), [], "'dim' is 48 and 'num_heads' is 5"),
    "an odd width": (_sizes(dit={"freq_dim": 31}), [], "'freq_dim' is 31"),
    "a text encoder of another width": (_sizes(text={"d_model": 32}), [], "gives 32 values a token .* takes 24"),
    "a size between": (as_it_is, ["--size", "72x64"], "64x64 and 80x64"),
    "steps that do not fall": (as_it_is, ["--steps-list", "500,700"], "smaller"),
    "no cuda": (as_it_is, ["--device", "cuda"], "no CUDA GPU can be used here"),
    "half floats on the cpu": (as_it_is, ["--precision", "float16"], "float16 cannot be used on the CPU"),
    "no room to roll": (
        as_it_is,
        ["--window-frames", "3", "--sink-frames", "3"],
        "window of 3 .* beside 3 that stay: raise --window-frames to 4 or more, or lower --sink-frames to 2 or less",
    ),
    "no room for the reference": (
        as_it_is,
        ["--profile", "reference", "--window-frames", "3", "--sink-frames", "1"],
        r"window of 3 frames .* beside 3 that stay in the reference .*: raise --window-frames to 4 or more\.$",
    ),
    "no room for the reference's sinks": (
        as_it_is,
        ["--profile", "reference", "--window-frames", "5", "--sink-frames", "6"],
        r"raise --window-frames to 7 or more, or lower --sink-frames to 4 or less\.$",
    ),
    "no folder": (as_it_is, ["--weights", "/nowhere/at all"], "folder /nowhere/at all does not exist"),
    "no folder for random weights": (
        as_it_is,
        ["--random-weights", "--weights", "/nowhere/at all"],
        "folder /nowhere/at all does not exist",
    ),
    "a file for a folder": (as_it_is, ["--weights", __file__], r"test_wan_engine\.py is a file"),
    "an unknown user's folder": (as_it_is, ["--weights", "~nobody-of-this-name/w"], "a user who is not known"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_gets_one_sentence_and_exit_code_2(
    case: str, clip: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks, more, expected = BROKEN[case]
    if case == "no cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    folder, out = tmp_path / "weights", tmp_path / "out.mp4"
    shutil.copytree(weights, folder, copy_function=os.link)
    breaks(folder)
    before = sorted(path.name for path in folder.iterdir())
    command = ["render", str(clip), str(out), "--engine", "wan-1.3b", "--weights", str(folder), *SIZE, *more]
    assert cli.main([*command, "--prompt", "a prompt of this test alone"]) == 2
    said = capsys.readouterr().err
    sentence = said.strip().splitlines()[-1]
    assert "Traceback" not in said
    assert sentence.startswith("sdv2live: ") and sentence.endswith(".") and ". " not in sentence, sentence
    assert len(sentence) < 700
    assert re.search(expected, sentence), sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"], "no half file is left"
    assert sorted(path.name for path in folder.iterdir()) == before, "nothing in the folder was executed"


def test_a_live_engine_refuses_in_the_same_words_and_is_not_started_again(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder, copy_function=os.link)
    _saved(DIT_FILE, _with_nan)(folder)
    command = ["live", "--headless", "--source", "pattern", "--output", "null", "--osc-port", "0"]
    assert cli.main([*command, "--engine", "wan-1.3b", "--weights", str(folder), *SIZE]) == 2
    said = capsys.readouterr().err
    assert "holds values that are no numbers" in said.strip().splitlines()[-1]
    assert "Traceback" not in said and "started again" not in said


def test_too_little_memory_is_said_before_anything_is_loaded(
    clip: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = []

    def count(spec: EngineSpec, *sizes: object, **_: object) -> Footprint:
        counted.append(sizes)
        return Footprint(int(2e9), int(1e9), int((spec.vae == "wan") * 1e9))

    monkeypatch.setattr(memory, "count_memory", count)
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(3.9e9))
    monkeypatch.setattr(memory, "choose_dtype", lambda *_: torch.float32)  # whatever this processor is made for
    monkeypatch.setattr(wan, "fill", lambda *_, **__: pytest.fail("something was loaded"))
    command = ["render", str(clip), str(tmp_path / "o.mp4"), "--engine", "wan-1.3b", "--weights", str(weights), *SIZE]
    assert cli.main(command) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "sdv2live: wan-1.3b at 64x64 with 2 steps and --vae wan needs 4.0 GB and 3.4 GB are free on cpu: "
        "--vae wan-taehv or --vae taehv would fit."
    )
    assert counted[0] == (SMALL_DIT, SMALL_VAE), "the sizes are those of the folder"


def test_an_engine_that_is_started_again_is_not_refused_for_steps_asked_for_live(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "count_memory", lambda spec, *_, **__: Footprint(0, int(spec.steps_count * 1e9), 0))
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(2.9e9))
    crowded = replace(SPEC, vae="taehv", weights=str(weights), steps_count=4)
    with pytest.raises(UserError, match=r"with 4 steps .* needs 4\.0 GB"):
        build_wan(crowded)
    build_wan(crowded, first_epoch=7).close()


def test_memory_that_fills_up_while_loading_is_one_sentence(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory")

    monkeypatch.setattr(wan.WanCodec, "new_state", full)
    with pytest.raises(UserError, match="32x32 does not fit into the memory of cpu beside what is there: close"):
        build_wan(replace(SPEC, weights=str(weights)))
