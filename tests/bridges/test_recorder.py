"""The recorder: what is written comes back, also after a kill and on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from bridges import recorder as recorder_module
from bridges.recorder import Recorder
from sdv2live.capture.test_pattern import read_frame_number, render_pattern
from sdv2live.errors import UserError
from sdv2live.frames import Pixels

SUFFIXES = (".mp4", ".mov", ".mkv")
ROOT = Path(__file__).resolve().parents[2]


def record(
    path: Path, ticks: list[int], *, size_wh: tuple[int, int] = (320, 192), rate_fps: int | Fraction = 30
) -> Path:
    recorder = Recorder(path)
    recorder.open(size_wh, rate_fps)
    for tick in ticks:
        recorder.write(render_pattern(tick, size_wh), tick)
    recorder.close()
    return recorder.path


def read_back(path: Path) -> list[tuple[float, Pixels]]:
    """(time in seconds, pixels) of each frame, decoded by PyAV."""
    with av.open(str(path)) as container:
        return [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24"))  # type: ignore[operator]
            for frame in container.decode(video=0)
        ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_come_back_in_order_at_their_ticks(tmp_path: Path, suffix: str) -> None:
    ticks = [*range(40), *range(100, 120)]
    path = record(tmp_path / f"show{suffix}", ticks)
    frames = read_back(path)
    assert [read_frame_number(pixels) for _, pixels in frames] == ticks
    # Ticks that were skipped are a gap in time; nothing moves up.
    assert np.allclose([time_s for time_s, _ in frames], np.array(ticks) / 30, atol=1e-3)


def test_a_recording_begins_with_its_first_picture(tmp_path: Path) -> None:
    frames = read_back(record(tmp_path / "late.mp4", [500, 501, 502]))
    assert np.allclose([time_s for time_s, _ in frames], [0, 1 / 30, 2 / 30], atol=1e-4)


def test_two_pictures_for_one_tick(tmp_path: Path) -> None:
    frames = read_back(record(tmp_path / "twice.mp4", [0, 1, 1, 2, 1, 3]))
    assert [read_frame_number(pixels) for _, pixels in frames] == [0, 1, 2, 3]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_colours_are_right_and_tagged(tmp_path: Path, suffix: str) -> None:
    colours = np.array([[220, 40, 40], [40, 200, 60], [50, 60, 210], [200, 200, 40], [250, 250, 250], [4, 4, 4]])
    picture = np.repeat(np.repeat(colours.reshape(1, 6, 3), 64, axis=0), 32, axis=1).astype(np.uint8)
    recorder = Recorder(tmp_path / f"colours{suffix}")
    recorder.open((192, 64), 30)
    for tick in range(3):
        recorder.write(picture, tick)
    recorder.close()
    for _, pixels in read_back(recorder.path):
        middles = pixels[32, 16::32].astype(int)
        assert np.abs(middles - colours).max() <= 4
    with av.open(str(recorder.path)) as container:
        codec = container.streams.video[0].codec_context
        # ITU-T H.273: 1 is BT.709 in all three, and 1 is FFmpeg's number of the TV range.
        assert (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)
        assert codec.pix_fmt == "yuv420p"


def test_odd_sizes_are_filled_up(tmp_path: Path) -> None:
    picture = np.full((95, 161, 3), (200, 100, 50), np.uint8)
    recorder = Recorder(tmp_path / "odd.mp4")
    recorder.open((161, 95), 30)
    recorder.write(picture, 0)
    recorder.close()
    ((_, pixels),) = read_back(recorder.path)
    assert pixels.shape == (96, 162, 3)
    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 4


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_pictures_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = (record(tmp_path / f"{name}{suffix}", list(range(70))) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_closed_mp4_is_a_plain_one(tmp_path: Path) -> None:
    path = record(tmp_path / "plain.mp4", list(range(90)))
    assert b"moof" not in path.read_bytes()[-2000:]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == 90 and stream.average_rate == 30
    capture = cv2.VideoCapture(str(path))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 90
    capture.release()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_kill_costs_at_most_the_last_second(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"killed{suffix}"
    script = textwrap.dedent(
        """
        import os, signal, sys
        from bridges.recorder import Recorder
        from sdv2live.capture.test_pattern import render_pattern
        recorder = Recorder(sys.argv[1])
        recorder.open((160, 96), 30)
        for tick in range(134):
            recorder.write(render_pattern(tick, (160, 96)), tick)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    ended = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == -9
    numbers = [read_frame_number(pixels) for _, pixels in read_back(path)]
    assert numbers == list(range(len(numbers))) and len(numbers) >= 134 - 30
    capture = cv2.VideoCapture(str(path))
    read = 0
    while capture.read()[0]:
        read += 1
    capture.release()
    assert read == len(numbers)


def test_skipped_ticks_do_not_make_fragments_longer_than_a_second(tmp_path: Path) -> None:
    path = record(tmp_path / "sparse.mp4", list(range(0, 300, 10)))
    with av.open(str(path)) as container:
        keys = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.is_keyframe and p.pts is not None]
    assert np.diff(keys).max() <= 1.0 + 1e-6


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    wanted = tmp_path / "show.mp4"
    assert record(wanted, [0]) == wanted
    assert record(wanted, [0]) == tmp_path / "show-2.mp4"
    assert record(wanted, [0]) == tmp_path / "show-3.mp4"
    with pytest.raises(UserError, match="give -y to replace it"):
        Recorder(wanted, if_exists="refuse").open((160, 96), 30)
    before = wanted.read_bytes()
    over = Recorder(wanted, if_exists="overwrite")
    over.open((160, 96), 30)
    over.write(render_pattern(1, (160, 96)), 0)
    over.close()
    assert over.path == wanted and wanted.read_bytes() != before
    # Opened again after a failure, it must not replace what it has recorded itself.
    over.open((160, 96), 30)
    over.write(render_pattern(2, (160, 96)), 0)
    over.close()
    assert over.path == tmp_path / "show-4.mp4"


def test_nothing_recorded_leaves_no_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "nothing.mp4")
    recorder.open((160, 96), 30)
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def sentence_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Recorder(path).open((160, 96), 30)
    return str(caught.value)


def test_each_kind_of_wrong_place_has_its_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.mp4").mkdir()
    assert "is a directory" in sentence_of(tmp_path / "folder.mp4")
    assert "does not end in .mp4, .mov or .mkv: name it show.mp4" in sentence_of(tmp_path / "show.avi")
    assert "does not end in" in sentence_of(tmp_path / "show")
    assert "does not exist: make it first" in sentence_of(tmp_path / "missing" / "show.mp4")
    assert "cannot be written" in sentence_of(tmp_path / ("long" * 100 + ".mp4"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written to: change its permissions" in sentence_of(tmp_path / "show.mp4")


def test_it_stops_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    recorder = Recorder(tmp_path / "show.mp4")
    recorder.open((160, 96), 30)
    for tick in range(100):
        recorder.write(render_pattern(tick, (160, 96)), tick)
    nearly_full = usage._replace(free=recorder_module.DISK_RESERVE_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nearly_full)
    with pytest.raises(UserError, match="has only 255 MB left"):
        for tick in range(100, 300):
            recorder.write(render_pattern(tick, (160, 96)), tick)
    # What there was is finished and plays; and it is not tried again while nothing has changed.
    assert len(read_back(tmp_path / "show.mp4")) >= 100
    with pytest.raises(UserError, match="free some space"):
        recorder.open((160, 96), 30)
    assert [path.name for path in tmp_path.iterdir()] == ["show.mp4"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    recorder = Recorder(tmp_path / "show.mp4")
    recorder.open((160, 96), 30)
    for tick in range(60):
        recorder.write(render_pattern(tick, (160, 96)), tick)
    real = recorder._container

    class Full:
        def mux(self, _: Any) -> None:
            raise OSError(code, os.strerror(code))

        def close(self) -> None:
            assert real is not None
            real.close()

    monkeypatch.setattr(recorder, "_container", Full())
    with pytest.raises(UserError, match="the disk is full" if code == errno.ENOSPC else "Input/output error"):
        recorder.write(render_pattern(60, (160, 96)), 60)
    assert len(read_back(tmp_path / "show.mp4")) == 60
    recorder.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the file size limit of Linux stands for a full disk")
def test_a_disk_that_really_is_full(tmp_path: Path) -> None:
    path = tmp_path / "full.mp4"
    script = textwrap.dedent(
        """
        import resource, sys
        import numpy as np
        from bridges.recorder import Recorder
        from sdv2live.errors import UserError
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        recorder = Recorder(sys.argv[1])
        recorder.open((160, 96), 30)
        noise = np.random.default_rng(0)
        try:
            for tick in range(300):
                recorder.write(noise.integers(0, 256, (96, 160, 3), dtype=np.uint8), tick)
        except UserError as error:
            print(error)
        recorder.close()
        """
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, timeout=60, check=True, capture_output=True, text=True
    )
    assert "cannot grow further because the disk is full" in ended.stdout
    assert "Traceback" not in ended.stderr
    capture = cv2.VideoCapture(str(path))
    assert capture.read()[0]
    capture.release()


@pytest.mark.parametrize("rate_fps", [Fraction(16), Fraction(30000, 1001), Fraction(12, 1), Fraction(25, 2)])
def test_a_rate_is_kept_exactly(tmp_path: Path, rate_fps: Fraction) -> None:
    path = record(tmp_path / "rate.mp4", list(range(64)), rate_fps=rate_fps)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == rate_fps
