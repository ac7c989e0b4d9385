"""Files as they really come: missing, cut, garbled, turned, without pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sdv2live.capture import video_file
from sdv2live.capture.test_pattern import read_frame_number
from sdv2live.capture.video_file import VideoFile
from sdv2live.errors import SourceEnded, UserError

VideoMaker = Callable[..., Path]


def play(path: Path, *, loop: bool = False, at_most: int = 500) -> list[int | None]:
    """The numbers of the frames played; what the source raises other than its end comes through."""
    source = VideoFile(path, loop=loop)
    numbers = []
    try:
        source.open()
        for _ in range(at_most):
            frame = source.read()
            assert frame is not None
            numbers.append(read_frame_number(frame.pixels))
    except SourceEnded:
        pass
    finally:
        source.close()
    return numbers


def refused(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        VideoFile(path, loop=True).open()
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith((".", "?"))
    return sentence


def test_every_frame_once_and_in_order(make_video: VideoMaker) -> None:
    assert play(make_video(frames=50)) == list(range(50))


def test_each_kind_of_wrong_path_has_its_sentence(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nothing.mp4")
    assert "is a directory" in refused(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "is empty" in refused(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 100)
    assert "cannot be played" in refused(tmp_path / "text.mp4")
    os.mkfifo(tmp_path / "pipe")
    assert "a device or a pipe" in refused(tmp_path / "pipe")
    assert "not a file on this machine" in refused("http://127.0.0.1/video.mp4")
    assert "not a file on this machine" in refused("with\0nul.mp4")
    assert "cannot be read" in refused(tmp_path / ("long" * 100))


def test_a_file_without_permission(make_video: VideoMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video()

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert "cannot be read (Permission denied): check its permissions" in refused(path)


def test_a_playlist_reaches_nothing_but_local_files(tmp_path: Path) -> None:
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    refused(playlist)


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "sound.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "has no moving picture" in refused(path)


def test_a_video_without_frames(make_video: VideoMaker, tmp_path: Path) -> None:
    whole = make_video("whole.mp4", frames=24, movflags="faststart")
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    # All of the index and none of the pictures.
    cut.write_bytes(data[: data.index(b"mdat") + 4])
    assert "was cut off" in refused(cut)


@pytest.mark.parametrize(
    ("name", "movflags"),
    [
        ("plain.mp4", ""),
        ("front.mp4", "faststart"),
        ("fragments.mp4", "frag_keyframe+empty_moov"),
        ("video.mkv", ""),
        ("video.ts", ""),
    ],
)
def test_cut_anywhere_it_plays_a_part_or_says_why_not(
    make_video: VideoMaker, tmp_path: Path, name: str, movflags: str
) -> None:
    data = make_video(name, frames=24, movflags=movflags).read_bytes()
    cut = tmp_path / f"cut{Path(name).suffix}"
    most = 0
    for kept in np.linspace(0, len(data) - 1, 40).astype(int):
        cut.write_bytes(data[:kept])
        try:
            numbers = play(cut)
        except UserError as error:
            assert str(cut) in str(error)
            continue
        most = max(most, len(numbers))
        assert len(numbers) <= 24
        if name in ("front.mp4", "video.mkv"):
            assert len(numbers) >= 20, "more than a few frames are missing and nothing was said"
    if name != "plain.mp4":
        # Without its index, which stands at the end, a plain MP4 cannot be played at all.
        assert most >= 20


def test_a_file_that_ends_before_its_end_is_refused(make_video: VideoMaker, tmp_path: Path) -> None:
    for name, options in (("front.mp4", {"movflags": "faststart"}), ("video.mkv", {})):
        data = make_video(name, frames=48, **options).read_bytes()
        cut = tmp_path / f"cut-{name}"
        for kept in (0.3, 0.66, 0.85):
            cut.write_bytes(data[: int(len(data) * kept)])
            assert "was cut off" in refused(cut)


def test_a_recording_that_a_crash_ended_is_whole(make_video: VideoMaker, tmp_path: Path) -> None:
    data = make_video(frames=48, movflags="frag_keyframe+empty_moov").read_bytes()
    cut = tmp_path / "crashed.mp4"
    cut.write_bytes(data[: len(data) * 2 // 3])
    assert 10 < len(play(cut)) < 48


def test_garbled_files_never_raise_anything_unforeseen(make_video: VideoMaker, tmp_path: Path) -> None:
    data = make_video(frames=24, movflags="faststart").read_bytes()
    random = np.random.default_rng(11)
    bad = tmp_path / "bad.mp4"
    played = 0
    for round_number in range(60):
        garbled = bytearray(data)
        # The head of the file too, every third time: sizes and counts that lie.
        start = 0 if round_number % 3 == 0 else data.index(b"mdat") + 4
        for place in random.integers(start, len(data), 1 + round_number % 20):
            garbled[place] = random.integers(0, 256)
        bad.write_bytes(garbled)
        try:
            played += bool(play(bad, at_most=100))
        except UserError:
            continue
    assert played > 20


def test_too_many_errors_in_a_row_end_it(make_video: VideoMaker) -> None:
    source = VideoFile(make_video(frames=60), loop=True)
    source.open()
    # Each frame decoded sets the count back, so that scattered damage never adds up.
    for _ in range(100):
        source._count_decode_error(ValueError("damaged"))
        source.read()
    for _ in range(video_file.DECODE_ERRORS_IN_ROW - source._errors_in_row):
        source._count_decode_error(ValueError("damaged"))
    with pytest.raises(UserError, match="is damaged: more than 30 pictures in a row"):
        source._count_decode_error(ValueError("damaged"))
    assert source.decode_errors > 100
    source.close()


def test_a_file_changed_while_it_plays(make_video: VideoMaker) -> None:
    path = make_video(frames=6)
    source = VideoFile(path, loop=True)
    source.open()
    path.write_bytes(b"something else")
    with pytest.raises(UserError):
        for _ in range(20):
            source.read()
    with pytest.raises(SourceEnded):
        source.read()
    source.close()


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
        ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
        ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    ],
)
def test_a_phone_held_upright(
    make_video: VideoMaker, matrix: tuple[int, ...], turned: Callable[[np.ndarray], np.ndarray]
) -> None:
    picture = np.zeros((96, 160, 3), np.uint8)
    picture[:48, :80] = (230, 30, 30)
    picture[:48, 80:] = (30, 230, 30)
    path = make_video(pictures=[picture] * 4)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = matrix
    for offset, value in ((0, a), (4, b), (12, c), (16, d)):
        data[at + offset : at + offset + 4] = (value * 0x10000).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    source = VideoFile(path, loop=False)
    info = source.open()
    frame = source.read()
    source.close()
    expected = turned(picture)
    assert frame is not None and info.size_wh == (expected.shape[1], expected.shape[0])
    assert np.abs(frame.pixels.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("size_wh", [(160, 96), (1280, 720)])
def test_colours_are_rgb_and_right(make_video: VideoMaker, size_wh: tuple[int, int]) -> None:
    # Untagged files: the matrix is taken from the size, BT.601 below HD. PyAV's own conversion writes BT.601, so
    # for HD the picture is converted with the matrix that goes with it.
    colours = [(220, 40, 40), (40, 200, 60), (50, 60, 210), (200, 200, 40)]
    width, height = size_wh
    pictures = [np.full((height, width, 3), colour, np.uint8) for colour in colours]
    path = make_video(pictures=pictures)
    if height >= 720:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p", dst_colorspace="itu709")
                frame.pts, frame.time_base = index, Fraction(1, 24)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    source = VideoFile(path, loop=False)
    source.open()
    for colour in colours:
        read = source.read()
        assert read is not None
        assert np.abs(read.pixels.reshape(-1, 3).mean(axis=0) - colour).max() < 4
    source.close()


def test_a_huge_picture_is_refused(make_video: VideoMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video()
    monkeypatch.setattr(video_file, "LARGEST_SIDE", 128)
    assert "is 160x96, larger than 128 a side" in refused(path)
