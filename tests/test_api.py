"""The Python interface, and the examples that ship: what they promise, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import sdv2live
from sdv2live import cli
from sdv2live.api import _refuse_rows_of_the_app
from sdv2live.capture.test_pattern import render_pattern
from sdv2live.engine.model.wan_transformer import WanTransformer
from sdv2live.errors import UserError
from sdv2live.frames import Pixels
from sdv2live.parameters import TABLE

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"size": (64, 64), "prompt": "pencil drawing"}


def pattern(count: int, first: int = 0) -> list[Pixels]:
    return [render_pattern(first + number, (96, 64)) for number in range(count)]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, sdv2live; print([name for name in ('torch', 'numpy', 'cv2', 'av') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="Streams"):
        sdv2live.Streams  # noqa: B018


@pytest.mark.parametrize("count", [1, 4, 9])
def test_as_many_pictures_as_frames(count: int) -> None:
    with sdv2live.Stream(**SMALL) as stream:
        pictures = list(stream(pattern(count)))
    assert len(pictures) == count
    assert all(picture.shape == (64, 64, 3) and picture.dtype == np.uint8 for picture in pictures)


def test_an_iterator_chunks_and_stages_give_the_same_pictures() -> None:
    frames = pattern(16)
    with sdv2live.Stream(**SMALL, steps=2) as stream:
        whole = list(stream(frames))
    with sdv2live.Stream(**SMALL, steps=2, settings={"schedule": "throughput"}) as stream:
        chunks = [picture for first in range(0, 16, 4) for picture in stream.push(frames[first : first + 4])]
        chunks += stream.flush()
    with sdv2live.Stream(**SMALL, steps=2) as stream:
        apart = []
        for first in range(0, 16, 4):
            item = stream.encode(frames[first : first + 4])
            assert tuple(item.latents.shape) == (1, 1, 16, 8, 8)
            apart += stream.decode(stream.denoise(item))
    assert all((a == b).all() for a, b in zip(whole, apart, strict=True))
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(whole, chunks, strict=True)) <= 1


def test_the_iterator_gives_what_render_writes(tmp_path: Path) -> None:
    """Before encoding: the recorder is handed the same frames."""
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        video = container.add_stream("ffv1", rate=16)
        video.width, video.height, video.pix_fmt = 96, 64, "bgr0"
        for frame in pattern(6):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
    command = ["render", str(source), str(tmp_path / "out.mp4"), "--size", "64x64", "--prompt", "pencil drawing"]
    assert cli.main(command) == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        written = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with sdv2live.Stream(**SMALL) as stream:
        ours = list(stream(pattern(6)))
    assert len(written) == 6
    assert np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(written, ours, strict=True)]) < 6


def test_settings_act_from_the_next_chunk_on_and_a_reset_forgets() -> None:
    with sdv2live.Stream(**SMALL) as stream:
        steady = stream.push(pattern(4)) + stream.push(pattern(4, 4)) + stream.push(pattern(4, 8))
    with sdv2live.Stream(**SMALL) as stream:
        changed = stream.push(pattern(4)) + stream.push(pattern(4, 4))
        stream.set("prompt.text", "thermal camera")
        assert stream.get("prompt.text") == "thermal camera"
        changed += stream.push(pattern(4, 8))
        stream.reset()
        assert stream.frames_wanted == 4 and len(stream.push(pattern(4))) == 4
    assert all((a == b).all() for a, b in zip(steady[:8], changed[:8], strict=True))
    assert any((a != b).any() for a, b in zip(steady[8:], changed[8:], strict=True))


def test_filters_before_and_after() -> None:
    with sdv2live.Stream(**SMALL, settings={"output.filters": "grey, upscale:2"}) as stream:
        picture = stream.push(pattern(4))[0]
    assert picture.shape == (128, 128, 3) and int(np.ptp(picture, axis=2).max()) <= 1
    with sdv2live.Stream(**SMALL, settings={"input.filters": "mirror"}) as stream:
        mirrored = stream.push(pattern(4))
    with sdv2live.Stream(**SMALL) as stream:
        by_hand = stream.push([np.ascontiguousarray(frame[:, ::-1]) for frame in pattern(4)])
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(mirrored, by_hand, strict=True)) <= 12


def test_mistakes_get_a_sentence() -> None:
    for wrong, words in (
        ({"engine": "sd-turbo"}, "pocket, wan-1.3b, wan-14b"),
        ({"size": (72, 64)}, "64x64 and 80x64"),
        ({"steps": 9}, "2 entries"),
        ({"settings": {"noise.maximum": 1}}, "noise.maximum"),
        ({"settings": {"input.filters": "blurr:3"}}, "blur"),
    ):
        with pytest.raises(UserError, match=words):
            sdv2live.Stream(**{**SMALL, **wrong})
    with sdv2live.Stream(**SMALL) as stream:
        with pytest.raises(UserError, match="uint8 RGB"):
            stream.push([np.zeros((64, 64), np.uint8)] * 4)
        with pytest.raises(UserError, match="there is no parameter"):
            stream.get("noise.maximum")
        first, second = stream.encode(pattern(4)), stream.encode(pattern(4, 4))
        with pytest.raises(ValueError, match="order"):
            stream.denoise(second)
        with pytest.raises(ValueError, match="order"):
            stream.decode(first)
        stream.denoise(first)
        assert len(stream.decode(first)) == 4


THROUGHPUT = {"steps": 2, "settings": {"schedule": "throughput"}}


def test_a_call_that_is_broken_off_leaves_the_stream_ready_for_the_next() -> None:
    with sdv2live.Stream(**SMALL, **THROUGHPUT) as stream:
        for _picture in stream(pattern(20)):
            break
        assert len(list(stream(pattern(9)))) == 9, "a picture for each of its frames, none of the call before"
        unfinished = stream(pattern(20))
        next(unfinished)
        assert len(list(stream(pattern(4)))) >= 4
        assert len(list(stream(pattern(6)))) == 6


def test_what_was_pushed_comes_out_of_the_next_call_first() -> None:
    frames = pattern(17)
    with sdv2live.Stream(**SMALL, **THROUGHPUT) as stream:
        ours = stream.push(frames[:4]) + stream.push(frames[4:8]) + list(stream(frames[8:]))
    with sdv2live.Stream(**SMALL, **THROUGHPUT) as stream:
        whole = list(stream(frames))
    assert len(ours) == 17 and all((a == b).all() for a, b in zip(ours, whole, strict=True))


def test_a_row_that_does_nothing_here_is_refused() -> None:
    with sdv2live.Stream(**SMALL) as stream:
        for name, value in (("engine.size", (128, 128)), ("engine.precision", "float32")):
            with pytest.raises(UserError, match=rf"{name} is fixed once a stream has started"):
                stream.set(name, value)
        for name in ("output.bypass", "output.wet", "stream.paused", "source.loop", "source.name", "engine.restart"):
            with pytest.raises(UserError, match=f"{name} is a parameter of the app"):
                stream.set(name, 1)
            with pytest.raises(UserError, match=f"{name} is a parameter of the app"):
                sdv2live.Stream(**SMALL, settings={name: 1})
        with pytest.raises(UserError, match=r"no parameter 'stream\.resett'"):
            stream.set("stream.resett", 1)


def test_every_row_of_the_table_acts_or_is_refused() -> None:
    acts = {name for name in TABLE if not raises_user_error(lambda name=name: _refuse_rows_of_the_app(name))}
    assert acts >= {name for name in TABLE if name.startswith(("prompt.", "noise.", "steps.", "seed", "sinks."))}
    assert {name for name in acts if name.startswith(("output.", "source.", "stream."))} == {
        "output.filters",
        "source.fit",
        "source.mirror",
        "source.rotate",
        "stream.reset",
    }


def test_a_reset_by_its_row_and_framing_act_at_once() -> None:
    with sdv2live.Stream(**SMALL, **THROUGHPUT) as stream:
        first = stream.push(pattern(4))
        stream.push(pattern(4, 4))
        stream.set("stream.reset", 1)
        assert stream.flush() == [], "what was in flight is gone"
        assert len(stream.push(pattern(4))) == 4, "an opening comes out at once"
        stream.set("stream.reset", 0)
        stream.push(pattern(4, 4))
        assert len(stream.flush()) == 4, "0 pulls no trigger"
        stream.reset()
        stream.set("source.mirror", True)
        mirrored = stream.push(pattern(4))
    assert any((a != b).any() for a, b in zip(first, mirrored, strict=True))


def test_a_picture_that_is_no_number_does_not_spoil_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with sdv2live.Stream(**SMALL, steps=2, settings={"feedback.amount": 0.5}) as stream:
        stream.push(pattern(4))
        bias = stream._engine.pipe.first.dit.head.head.bias
        good = bias.clone()
        with torch.no_grad():
            bias.fill_(float("nan"))
        with pytest.raises(UserError, match=r"no numbers: take another --precision .*, or fetch the weights again\."):
            stream.push(pattern(4, 4))
        with torch.no_grad():
            bias.copy_(good)
        assert len(stream.push(pattern(4, 8))) == 4
        assert len(list(stream(pattern(8)))) == 8


def test_memory_that_fills_up_in_the_middle_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with sdv2live.Stream(**SMALL) as stream:
        stream.push(pattern(4))
        with monkeypatch.context() as patch:
            patch.setattr(stream._engine.pipe.first.dit, "run_blocks", full)
            with pytest.raises(UserError, match="a chunk failed: its memory is full: close other programs"):
                stream.push(pattern(4))
            with pytest.raises(UserError, match="its memory is full"):
                list(stream(pattern(9)))
            with pytest.raises(UserError, match="its memory is full"):
                stream.denoise(stream.encode(pattern(4)))
        assert len(stream.push(pattern(4))) == 4
    monkeypatch.setattr(WanTransformer, "run_blocks", full)
    command = ["render", str(ROOT / "assets" / "clip.mp4"), str(tmp_path / "o.mp4"), "--size", "64x64"]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and "its memory is full" in said.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_frames_that_make_no_chunk_get_a_sentence() -> None:
    with sdv2live.Stream(**SMALL) as stream:
        for frames, words in (
            ([], "takes 4 frames, not 0"),
            (pattern(3), "takes 4 frames, not 3"),
            (pattern(5), "takes 4 frames, not 5"),
            ([frame.tolist() for frame in pattern(4)], "not list: convert it"),
            ([np.zeros((0, 4, 3), np.uint8)] * 4, r"not \[0, 4, 3\] uint8"),
        ):
            for use in (stream.push, stream.encode):
                with pytest.raises(UserError, match=words):
                    use(frames)
        assert list(stream([])) == []
        stream.encode(pattern(4))
        with pytest.raises(UserError, match="encoded by itself is not denoised yet"):
            stream.push(pattern(4))
        stream.reset()
        assert len(stream.push(pattern(4))) == 4


def test_a_closed_stream_makes_no_more_pictures() -> None:
    stream = sdv2live.Stream(**SMALL)
    item = stream.encode(pattern(4))
    stream.close()
    stream.close()
    for use in (
        lambda: stream.push(pattern(4)),
        lambda: stream(pattern(4)),
        stream.flush,
        stream.reset,
        lambda: stream.encode(pattern(4)),
        lambda: stream.denoise(item),
        lambda: stream.decode(item),
        lambda: stream.set("seed", 3),
    ):
        with pytest.raises(UserError, match="this stream is closed"):
            use()


def raises_user_error(call: Callable[[], object]) -> bool:
    try:
        call()
    except UserError:
        return True
    return False


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = str(ROOT / "assets" / "examples" / name)
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_that_restyles_a_file(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=16)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for frame in pattern(18):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
    assert "18 frames" in run_example("restyle_file.py", str(source), "out.mp4", cwd=tmp_path)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(list(container.decode(video=0))) == 18


def test_the_example_with_the_stages_apart(tmp_path: Path) -> None:
    lines = run_example("stages.py", cwd=tmp_path).splitlines()
    assert len(lines) == 4 and "4 pictures" in lines[-1] and "clean" in lines[-1]
