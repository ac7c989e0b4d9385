"""One suite for every source: what `Source` promises."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sdv2live.capture.base import Source
from sdv2live.capture.select import open_source
from sdv2live.capture.test_pattern import (
    NUMBER_BITS,
    EmptySource,
    PatternSource,
    read_frame_number,
    render_pattern,
)
from sdv2live.capture.video_file import VideoFile
from sdv2live.errors import SourceEnded, UserError
from sdv2live.paths import assets_dir
from tests.capture import x_display
from tests.capture.fake_camera import Desk, endless

SourceMaker = Callable[[], Source]
PICTURE_SOURCES = ("clip", "clip looped", "pattern", "file", "file looped", "variable rate", "transport stream")
LIVE_SOURCES = ("webcam", "screen")
ALL_SOURCES = (*PICTURE_SOURCES, *LIVE_SOURCES, "none")


@pytest.fixture
def make_source(
    request: pytest.FixtureRequest, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[SourceMaker]:
    kind: str = request.param
    loop = kind.endswith("looped")
    if kind == "webcam":
        desk = Desk(*(endless() for _ in range(3)))
        yield desk.webcam
        desk.free()
        return
    if kind == "screen":
        with x_display.running() as display:
            monkeypatch.setenv("DISPLAY", display.name)
            monkeypatch.delenv("XDG_SESSION_TYPE", raising=False)
            yield lambda: open_source("screen", loop=loop)
        return

    def make() -> Source:
        if kind.startswith("clip"):
            return open_source("clip", loop=loop)
        if kind in ("pattern", "none"):
            return open_source(kind, loop=loop)
        if kind == "variable rate":
            times = [0, 1, 2, 6, 7, 15, 16, 17, 30, 31]
            return open_source(f"file:{make_video('variable.mp4', frames=10, times=times)}", loop=loop)
        name = "stream.ts" if kind == "transport stream" else "video.mp4"
        return open_source(f"file:{make_video(name)}", loop=loop)

    yield make


def every(kinds: tuple[str, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make_source", kinds, indirect=True)


@every(ALL_SOURCES)
def test_may_be_closed_at_any_time_and_twice(make_source: SourceMaker) -> None:
    source = make_source()
    source.close()
    source.close()
    source.open()
    source.read(timeout_s=0.01)
    source.close()
    source.close()


@every((*PICTURE_SOURCES, *LIVE_SOURCES))
def test_can_be_opened_again_after_close(make_source: SourceMaker) -> None:
    source = make_source()
    first_info = source.open()
    source.read()
    source.close()
    assert source.open() == first_info
    frame = source.read()
    assert frame is not None
    source.close()


@every((*PICTURE_SOURCES, *LIVE_SOURCES))
def test_what_open_says_is_what_comes(make_source: SourceMaker) -> None:
    source = make_source()
    info = source.open()
    assert info.name and info.rate_fps > 0 and min(info.size_wh) > 0
    frames = []
    try:
        for _ in range(40 if source.is_live else 200):
            frame = source.read()
            assert frame is not None
            frames.append(frame)
    except SourceEnded:
        assert info.frame_count == len(frames)
    source.close()
    for frame in frames:
        pixels = frame.pixels
        assert pixels.shape == (info.size_wh[1], info.size_wh[0], 3)
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    times = [frame.media_time_s for frame in frames]
    assert times[0] == 0
    assert all(later > earlier for earlier, later in itertools.pairwise(times))
    assert len({id(frame.pixels) for frame in frames}) == len(frames), "frames belong to the receiver"


@every(LIVE_SOURCES)
def test_a_live_source_waits_and_never_ends(make_source: SourceMaker) -> None:
    source = make_source()
    info = source.open()
    assert source.is_live and not source.ends and info.frame_count is None
    assert any(source.read(timeout_s=0.0) is None for _ in range(1000)), "it has to be waited for"
    source.close()


@every(("clip", "file", "variable rate", "transport stream"))
def test_the_end_is_said_each_time_it_is_asked(make_source: SourceMaker) -> None:
    source = make_source()
    source.open()
    with pytest.raises(SourceEnded):
        for _ in range(1000):
            source.read()
    with pytest.raises(SourceEnded):
        source.read()
    source.close()


def test_a_loop_counts_on_with_even_steps(make_video: Callable[..., Path]) -> None:
    source = VideoFile(make_video(frames=12, rate=24), loop=True)
    assert source.open().frame_count is None
    frames = [source.read() for _ in range(40)]
    source.close()
    steps = np.diff([frame.media_time_s for frame in frames if frame is not None])
    assert np.allclose(steps, 1 / 24, atol=2e-4)
    assert [read_frame_number(frame.pixels) for frame in frames if frame is not None] == [n % 12 for n in range(40)]


def test_media_time_follows_a_variable_rate(make_video: Callable[..., Path]) -> None:
    times = [0, 1, 5, 6, 18, 19]
    source = VideoFile(make_video(frames=6, rate=24, times=times), loop=False)
    source.open()
    measured = [frame.media_time_s for frame in (source.read() for _ in times) if frame is not None]
    source.close()
    assert np.allclose(measured, np.array(times) / 24, atol=1e-3)


def test_none_is_open_and_never_has_a_frame() -> None:
    source = EmptySource()
    assert source.is_live
    assert source.open().name == "none"
    assert source.read(timeout_s=0.01) is None
    source.close()


def test_the_clip_is_what_its_page_says() -> None:
    source = open_source("clip", loop=False)
    info = source.open()
    first = source.read()
    last = first
    try:
        while True:
            last = source.read()
    except SourceEnded:
        pass
    source.close()
    assert (info.name, info.size_wh, info.rate_fps, info.frame_count) == ("clip", (640, 360), 16, 160)
    assert (assets_dir() / "clip.mp4").stat().st_size < 2_000_000
    assert first is not None and last is not None
    # Seamless: the step over the end is no larger than a step of hand and head.
    step = np.abs(first.pixels.astype(int) - last.pixels).mean()
    assert step < 6


@pytest.mark.parametrize("size_wh", [(640, 360), (256, 256), (161, 97), (1280, 720), (64, 32)])
def test_the_pattern_carries_its_number_at_any_size(size_wh: tuple[int, int]) -> None:
    for index in (0, 1, 2, 255, 65_535, 12_345_678, (1 << NUMBER_BITS) - 1):
        assert read_frame_number(render_pattern(index, size_wh)) == index
    assert read_frame_number(render_pattern(1 << NUMBER_BITS, size_wh)) == 0


def test_the_pattern_moves_and_is_the_same_each_time() -> None:
    assert np.array_equal(render_pattern(17), render_pattern(17))
    assert not np.array_equal(render_pattern(17)[:200], render_pattern(18)[:200])


def test_other_pictures_carry_no_number() -> None:
    assert read_frame_number(np.zeros((360, 640, 3), np.uint8)) is None
    assert read_frame_number(np.full((360, 640, 3), 255, np.uint8)) is None
    noise = np.random.default_rng(3).integers(0, 256, (360, 640, 3), dtype=np.uint8)
    assert read_frame_number(noise) is None


def test_words_name_sources(make_video: Callable[..., Path]) -> None:
    path = make_video()
    assert isinstance(open_source("pattern", loop=True), PatternSource)
    assert isinstance(open_source("none", loop=True), EmptySource)
    for spec in (f"file:{path}", str(path), "clip"):
        assert isinstance(open_source(spec, loop=True), VideoFile)


@pytest.mark.parametrize(
    "spec", ["", "pictures", "cameras", "screens:1", "file", "rtsp://host/stream", "no\0name", "x" * 5000]
)
def test_an_unknown_word_is_answered_with_the_known_ones(spec: str) -> None:
    with pytest.raises(UserError, match=r"camera, .*screen, .*clip, pattern, none or file:PATH"):
        open_source(spec, loop=True)


def test_a_file_spec_without_a_path() -> None:
    with pytest.raises(UserError, match="names no file"):
        open_source("file:", loop=True)
