"""Screen capture of a known picture under a real X server; and what is said where there is no screen."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sdv2live.capture import screen
from sdv2live.capture.screen import Region, ScreenSource, check_session, list_screens, parsed_words, screens_of
from sdv2live.capture.select import list_sources, open_source
from sdv2live.capture.thread import CaptureThread
from sdv2live.clock import FakeClock, MonotonicClock
from sdv2live.errors import UserError
from sdv2live.frames import Pixels
from sdv2live.queues import FrameRing
from tests.capture import x_display
from tests.capture.x_display import QUADRANTS, SIZE_WH, Display

JOIN_S = 30.0


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[Display]:
    with x_display.running() as display:
        monkeypatch.setenv("DISPLAY", display.name)
        monkeypatch.setenv("XDG_SESSION_TYPE", "x11")
        display.point(0, SIZE_WH[1] - 1)  # out of the way of the middles of the quadrants
        display.paint()
        yield display


def quadrants(pixels: Pixels) -> tuple[Any, ...]:
    height, width = pixels.shape[:2]
    places = [(height // 4, width // 4), (height // 4, width * 3 // 4)]
    places += [(height * 3 // 4, width // 4), (height * 3 // 4, width * 3 // 4)]
    return tuple(tuple(int(value) for value in pixels[place]) for place in places)


def one_frame(source: ScreenSource) -> Pixels:
    source.open()
    frame = source.read(1.0)
    source.close()
    assert frame is not None
    return frame.pixels


# ---- under a real X server ----


def test_what_is_on_the_screen_comes_to_the_bit(display: Display) -> None:
    pixels = one_frame(ScreenSource())
    assert pixels.shape == (SIZE_WH[1], SIZE_WH[0], 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert quadrants(pixels) == QUADRANTS
    assert (pixels[:90, :160] == QUADRANTS[0]).all(), "every pixel of it"


@pytest.mark.parametrize("words", ["", "0", "1"])
def test_the_screen_by_number(words: str, display: Display) -> None:
    assert quadrants(one_frame(ScreenSource(words))) == QUADRANTS


def test_a_part_of_the_screen(display: Display) -> None:
    pixels = one_frame(ScreenSource("150,90,21x33"))
    assert pixels.shape == (33, 21, 3)
    assert [tuple(pixels[y, x]) for y, x in ((0, 0), (0, 20), (32, 0), (32, 20))] == list(QUADRANTS)


def test_it_follows_what_is_shown(display: Display) -> None:
    source = ScreenSource()
    source.open()
    first = source.read(1.0)
    display.paint(colours=QUADRANTS[::-1])
    second = source.read(1.0)
    source.close()
    assert first is not None and second is not None
    assert quadrants(first.pixels) == QUADRANTS and quadrants(second.pixels) == QUADRANTS[::-1]


def test_the_pointer_is_in_the_picture(display: Display) -> None:
    before = one_frame(ScreenSource())
    display.point(80, 50)
    after = one_frame(ScreenSource())
    changed = np.argwhere((before != after).any(axis=2))
    near = changed[(abs(changed - (50, 80)) < 32).all(axis=1)]
    if len(changed) == 0:
        pytest.skip("this X server draws no pointer")
    assert len(near) > 0


def test_frames_come_at_their_rate_and_missed_ones_are_not_made_up_for(display: Display) -> None:
    clock = FakeClock(50.0)
    source = ScreenSource(rate_fps=20, clock=clock)
    assert source.open().rate_fps == 20
    times, media = [], []
    for number in range(30):
        if number == 10:
            clock.advance(0.73)
        frame = source.read(1.0)
        assert frame is not None
        times.append(clock.now_s() - 50.0)
        media.append(frame.media_time_s)
    source.close()
    assert media[:3] == pytest.approx([0, 0.05, 0.1])
    steps = np.diff(media)
    assert np.count_nonzero(steps > 0.051) == 1 and steps.max() >= 0.7
    assert all(later > earlier for earlier, later in itertools.pairwise(media))


def test_a_wait_that_is_too_long_ends_without_a_frame(display: Display) -> None:
    clock = FakeClock()
    source = ScreenSource(rate_fps=1, clock=clock)
    source.open()
    assert source.read(0.1) is not None
    assert source.read(0.1) is None and clock.now_s() == pytest.approx(0.1)
    source.close()


def test_a_screen_that_changes_its_size_goes_on_in_the_new_one(display: Display) -> None:
    clock = FakeClock()
    source = ScreenSource(clock=clock)
    source.open()
    assert source.read(1.0) is not None
    small_wh = (160, 120)
    display.resize(small_wh)
    display.paint(small_wh)
    frames = [source.read(1.0) for _ in range(45)]
    source.close()
    assert all(frame is not None for frame in frames)
    last = frames[-1]
    assert last is not None and last.pixels.shape == (120, 160, 3) and quadrants(last.pixels) == QUADRANTS


def test_a_screen_that_grows_is_noticed_within_a_second(display: Display) -> None:
    """Nothing fails then: the old part could be captured for ever."""
    clock = FakeClock()
    display.resize((160, 120))
    source = ScreenSource(clock=clock)
    assert source.open().size_wh == (160, 120)
    display.resize(SIZE_WH)
    sizes = [frame.pixels.shape[1::-1] for frame in (source.read(1.0) for _ in range(33)) if frame is not None]
    source.close()
    assert sizes[0] == (160, 120) and sizes[-1] == SIZE_WH


def test_a_part_that_lies_outside_after_that_is_a_sentence_and_comes_back(display: Display) -> None:
    capture = CaptureThread(ScreenSource("200,100,64x64"), FrameRing(), FakeClock())
    capture.start()
    display.resize((160, 120))
    until(lambda: capture.status.state == "failed")
    assert "does not lie on the screen, which is 160x120" in capture.status.reason
    display.resize(SIZE_WH)
    until(lambda: capture.status.state == "running" and capture.status.openings > 1)
    capture.stop()


def test_a_display_that_dies_is_a_sentence(display: Display) -> None:
    source = ScreenSource()
    source.open()
    display.end()
    with pytest.raises(UserError, match="The screen cannot be captured"):
        for _ in range(3):
            source.read(1.0)
    source.close()


def test_hours_of_it_leave_nothing_open(display: Display) -> None:
    """The connection is made anew each second, to learn of screens that came and went."""
    clock = FakeClock()
    source = ScreenSource(rate_fps=1, clock=clock)
    source.open()
    source.read(2.0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(60):
        source.read(2.0)
    assert len(os.listdir("/proc/self/fd")) <= before
    source.close()


def test_the_whole_way_in_real_time(display: Display) -> None:
    capture = CaptureThread(ScreenSource(), FrameRing(span_s=10), MonotonicClock())
    assert capture.start().name == "screen"
    until(lambda: capture.status.frames_in > 40)
    status = capture.status
    capture.stop(JOIN_S)
    assert status.state == "running" and status.fps > 0
    assert not capture._thread.is_alive()


def test_screens_are_listed_and_offered(display: Display) -> None:
    (only,) = list_screens()
    assert (only.number, only.region) == (1, Region(0, 0, *SIZE_WH)) and only.name
    offered = [choice for choice in list_sources() if choice.spec.startswith("screen")]
    assert [choice.spec for choice in offered] == ["screen:1"] and "320x200" in offered[0].label


def test_a_screen_that_is_not_there(display: Display) -> None:
    with pytest.raises(UserError, match="There is no screen 4, only 1: plug it in"):
        ScreenSource("4").open()
    with pytest.raises(UserError, match="does not lie on the screen, which is 320x200 from 0,0"):
        ScreenSource("300,0,64x64").open()


class StandingClock(FakeClock):
    """Its time does not pass: nothing but a stop ends a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waited_for = threading.Event()

    def wait_until(self, time_s: float, stop: threading.Event) -> bool:
        if time_s > self.now_s():
            self.is_waited_for.set()
            assert stop.wait(JOIN_S)
        return stop.is_set()


def test_it_can_be_stopped_while_it_waits(display: Display) -> None:
    clock = StandingClock()
    source = ScreenSource(rate_fps=1, clock=clock)
    source.open()
    assert source.read(2.0) is not None

    def stop() -> None:
        clock.is_waited_for.wait(JOIN_S)
        source._closed.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    assert source.read(5.0) is None
    stopper.join()
    source.close()


# ---- without a screen ----


def test_a_session_without_screens_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="This Wayland session shows its screens to a window only"):
        check_session({"XDG_SESSION_TYPE": "wayland", "DISPLAY": ":0"})
    with pytest.raises(UserError, match="without --headless"):
        check_session({"XDG_SESSION_TYPE": "tty", "WAYLAND_DISPLAY": "wayland-1", "DISPLAY": ":0"})
    check_session({"XDG_SESSION_TYPE": "x11", "WAYLAND_DISPLAY": "of-a-nested-one", "DISPLAY": ":0"})
    with pytest.raises(UserError, match="because DISPLAY is not set"):
        check_session({})
    check_session({"DISPLAY": ":0"})
    if os.name == "posix" and "linux" in screen.sys.platform:
        monkeypatch.setenv("DISPLAY", ":987")
        monkeypatch.delenv("XDG_SESSION_TYPE", raising=False)
        with pytest.raises(UserError, match="The screen cannot be captured"):
            ScreenSource().open()


def test_words_are_read() -> None:
    assert parsed_words("") == (None, None)
    assert parsed_words("2") == (2, None)
    assert parsed_words("-1920,0,1280x720") == (None, Region(-1920, 0, 1280, 720))


@pytest.mark.parametrize(
    "words", ["a", "-1", "1,2", "1,2,3", "0,0,0x5", "0,0,5x0", "0,0,99999x5", "0,0,5x5x5", "1" * 50, "²"]
)
def test_words_that_make_no_sense_are_a_sentence(words: str) -> None:
    with pytest.raises(UserError, match=r"cannot be read: write screen|has no usable size"):
        open_source(f"screen:{words}", loop=True)


def test_a_server_that_knows_no_screens_has_one() -> None:
    whole = {"left": 0, "top": 0, "width": 800, "height": 600}
    second = {"left": 800, "top": 0, "width": 640, "height": 480, "name": "HDMI-1", "is_primary": True}
    assert [one.region for one in screens_of([whole])] == [Region(0, 0, 800, 600)]
    assert [(one.name, one.is_primary) for one in screens_of([whole, whole, second])] == [
        ("Screen 1", True),
        ("HDMI-1", True),
    ]


def until(condition: Any, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)
