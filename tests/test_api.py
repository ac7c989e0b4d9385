"""The Python interface, and the examples that ship: what they promise, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import sdv2live
from sdv2live import cli
from sdv2live.capture.test_pattern import render_pattern
from sdv2live.errors import UserError
from sdv2live.frames import Pixels

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
