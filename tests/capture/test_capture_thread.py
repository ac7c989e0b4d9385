"""The capture thread with scripted sources: clock, stall, failure, end, and a read that hangs."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from sdv2live.capture.base import Source, SourceFrame, SourceInfo
from sdv2live.capture.test_pattern import EmptySource, PatternSource, read_frame_number
from sdv2live.capture.thread import CaptureThread
from sdv2live.clock import FakeClock, MonotonicClock
from sdv2live.errors import SourceEnded, UserError
from sdv2live.frames import Frame
from sdv2live.queues import FrameRing

RATE_FPS = 25
JOIN_S = 30.0
Step = Any  # a SourceFrame to give, None, an exception to raise, or a function to call first


class ScriptedSource(Source):
    """Does what its script says, one step a read; then it ends. openings: one script for each time it is opened."""

    def __init__(self, *scripts: Sequence[Step], is_live: bool = False) -> None:
        self.is_live = is_live
        self._scripts = list(scripts)
        self._steps: Iterator[Step] = iter(())
        self.opened = self.closed = 0
        self.threads: set[int] = set()

    def open(self) -> SourceInfo:
        self.threads.add(threading.get_ident())
        self.opened += 1
        script = self._scripts.pop(0) if self._scripts else []
        if script and isinstance(script[0], Exception) and getattr(script[0], "at_open", False):
            raise script[0]
        self._steps = iter(script)
        return SourceInfo("scripted", (8, 6), Fraction(RATE_FPS))

    def read(self, timeout_s: float = 1.0) -> SourceFrame | None:
        self.threads.add(threading.get_ident())
        step = next(self._steps, SourceEnded("scripted"))
        if callable(step):
            step = step()
        if isinstance(step, Exception):
            raise step
        assert step is None or isinstance(step, SourceFrame)
        return step

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


def at_open(sentence: str) -> UserError:
    error = UserError(sentence)
    error.at_open = True  # type: ignore[attr-defined]
    return error


def picture(media_time_s: float = 0.0, size_wh: tuple[int, int] = (8, 6)) -> SourceFrame:
    return SourceFrame(np.zeros((size_wh[1], size_wh[0], 3), np.uint8), media_time_s)


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.002)


@pytest.fixture
def ring() -> FrameRing:
    return FrameRing(span_s=1000, capacity=1000)


def played(source: Source, ring: FrameRing, clock: FakeClock, state: str = "ended") -> list[Frame]:
    """Play to the end; the frames that came."""
    capture = CaptureThread(source, ring, clock)
    capture.start()
    until(lambda: capture.status.state == state)
    frames = ring.peek()
    capture.stop()
    assert capture.status.state == "closed"
    return frames


def test_a_file_keeps_its_own_clock(ring: FrameRing) -> None:
    times = [0.0, 0.04, 0.08, 0.3, 0.34]
    source = ScriptedSource([picture(t) for t in times])
    frames = played(source, ring, FakeClock(100.0))
    assert [frame.captured_s for frame in frames] == pytest.approx([100.0 + t for t in times])
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert source.closed >= 1
    assert len(source.threads) == 1, "one thread opens, reads and closes"


def test_a_file_decoded_too_slowly_is_not_fast_forwarded(ring: FrameRing) -> None:
    clock = FakeClock(0.0)

    def slowly() -> SourceFrame:
        clock.advance(3.0)
        return picture(0.08)

    frames = played(ScriptedSource([picture(0.0), picture(0.04), slowly, picture(0.12), picture(0.16)]), ring, clock)
    steps = np.diff([frame.captured_s for frame in frames])
    # The frame that was late is due when it comes, and the rest go on at the file's own pace from there.
    assert steps == pytest.approx([0.04, 3.0, 0.04, 0.04])


def test_a_little_late_is_caught_up(ring: FrameRing) -> None:
    clock = FakeClock(0.0)

    def late() -> SourceFrame:
        clock.advance(0.3)
        return picture(0.04)

    frames = played(ScriptedSource([picture(0.0), late, picture(0.08)]), ring, clock)
    assert [frame.captured_s for frame in frames] == pytest.approx([0.0, 0.04, 0.08])


def test_the_pattern_comes_in_real_time_and_in_order() -> None:
    ring, clock = FrameRing(span_s=1000), MonotonicClock()
    capture = CaptureThread(PatternSource((64, 48)), ring, clock)
    started_s = clock.now_s()
    info = capture.start()
    assert (info.name, info.size_wh) == ("pattern", (64, 48))
    until(lambda: capture.status.frames_in >= 20)
    status = capture.status
    capture.stop()
    frames = ring.peek()
    numbers = [read_frame_number(frame.pixels) for frame in frames]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert status.state == "running" and status.size_wh == (64, 48)
    # A busy machine may make it slower; nothing makes a frame come before its time.
    times_s = [started_s, *(frame.captured_s for frame in frames), clock.now_s()]
    assert times_s == sorted(times_s) and status.fps < 30.01
    assert all(later - earlier > 1 / 30.01 for earlier, later in itertools.pairwise(times_s[1:-1]))


def test_the_rate_is_that_of_the_frames_that_came_last(ring: FrameRing) -> None:
    more = threading.Event()
    slow, fast = [index / 5 for index in range(20)], [4 + index / RATE_FPS for index in range(40)]
    steps: list[Step] = [picture(time_s) for time_s in (*slow, *fast)]
    capture = CaptureThread(ScriptedSource([*steps, lambda: more.wait(JOIN_S) and picture(9.0)]), ring, FakeClock())
    capture.start()
    until(lambda: capture.status.frames_in == len(steps))
    assert capture.status.fps == pytest.approx(RATE_FPS)
    more.set()
    until(lambda: capture.status.state == "ended")
    assert capture.status.fps == 0
    capture.stop()


def test_a_file_is_held_until_it_is_to_play(ring: FrameRing) -> None:
    clock, plays = FakeClock(10.0), threading.Event()
    capture = CaptureThread(ScriptedSource([picture(0.0), picture(0.04)]), ring, clock, plays=plays)
    capture.start()
    clock.advance(20.0)
    time.sleep(0.02)
    assert capture.status.frames_in == 0 and capture.status.state == "running"
    plays.set()
    until(lambda: capture.status.state == "ended")
    assert [frame.captured_s for frame in ring.peek()] == pytest.approx([30.0, 30.04])
    capture.stop()


def test_a_camera_is_not_held(ring: FrameRing) -> None:
    source = ScriptedSource([picture(), SourceEnded("done")], is_live=True)
    capture = CaptureThread(source, ring, FakeClock(), plays=threading.Event())
    capture.start()
    until(lambda: capture.status.frames_in == 1)
    capture.stop()


def test_a_held_file_stops_at_once(ring: FrameRing) -> None:
    capture = CaptureThread(PatternSource(), ring, FakeClock(), plays=threading.Event())
    capture.start()
    capture.stop()
    assert capture.status.state == "closed" and ring.peek() == []


def test_what_cannot_be_opened_is_raised_at_the_start(ring: FrameRing) -> None:
    source = ScriptedSource([at_open("There is no such camera: plug it in.")], is_live=True)
    capture = CaptureThread(source, ring, FakeClock())
    with pytest.raises(UserError, match="plug it in"):
        capture.start()
    assert capture.status.state == "failed"
    capture.stop()


def test_a_surprise_at_the_start_is_a_sentence_too(ring: FrameRing, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ScriptedSource):
        def open(self) -> SourceInfo:
            raise ZeroDivisionError("driver")

    capture = CaptureThread(Broken(), ring, FakeClock())
    with pytest.raises(UserError, match=r"failed \(driver\)"):
        capture.start()
    assert "ZeroDivisionError" in caplog.text
    capture.stop()


def test_an_open_that_hangs_is_given_up(ring: FrameRing) -> None:
    release = threading.Event()

    class Hanging(ScriptedSource):
        def open(self) -> SourceInfo:
            release.wait(JOIN_S)
            return super().open()

    source = Hanging()
    capture = CaptureThread(source, ring, FakeClock())
    with pytest.raises(UserError, match="did not open within"):
        capture.start(open_timeout_s=0.05)
    release.set()
    capture.stop()
    assert source.closed == 1


def test_none_stalls_and_can_be_stopped(ring: FrameRing) -> None:
    clock = FakeClock()
    capture = CaptureThread(EmptySource(), ring, clock)
    capture.start()
    assert capture.status.state == "running"
    clock.advance(0.6)
    status = capture.status
    assert status.state == "stalled" and "gives no new frame" in status.reason and status.fps == 0
    capture.stop(JOIN_S)
    assert not capture._thread.is_alive()


def test_a_camera_that_stalls_and_comes_back(ring: FrameRing) -> None:
    clock = FakeClock()
    go, more = threading.Event(), threading.Event()

    def wait(event: threading.Event) -> Callable[[], SourceFrame]:
        def read() -> SourceFrame:
            event.wait(JOIN_S)
            return picture()

        return read

    source = ScriptedSource([picture(), wait(go), wait(more), picture()], is_live=True)
    capture = CaptureThread(source, ring, clock)
    capture.start()
    until(lambda: capture.status.frames_in == 1)
    clock.advance(0.4)
    assert capture.status.state == "running"
    clock.advance(0.2)
    # Noticed by whoever asks, though the thread itself hangs in read.
    assert capture.status.state == "stalled"
    go.set()
    until(lambda: capture.status.frames_in == 2)
    assert capture.status.state == "running"
    more.set()
    capture.stop()


def test_a_file_that_holds_a_picture_is_not_stalled(ring: FrameRing) -> None:
    held = threading.Event()

    class HeldClock(FakeClock):
        def wait_until(self, time_s: float, stop: threading.Event) -> bool:
            if time_s > 5:
                held.wait(JOIN_S)
            return super().wait_until(time_s, stop)

    clock = HeldClock()
    capture = CaptureThread(ScriptedSource([picture(0.0), picture(8.0), picture(8.04)]), ring, clock)
    capture.start()
    until(lambda: capture.status.frames_in == 1)
    clock.advance(7.0)
    time.sleep(0.02)
    assert capture.status.state == "running"
    held.set()
    until(lambda: capture.status.state == "ended")
    capture.stop()


def test_a_live_source_that_fails_is_opened_again_for_ever(ring: FrameRing, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    waits: list[float] = []

    class Waits(FakeClock):
        def wait_until(self, time_s: float, stop: threading.Event) -> bool:
            waits.append(time_s - self.now_s())
            return super().wait_until(time_s, stop)

    clock = Waits()
    unplugged = UserError("The camera was unplugged: plug it in again.")
    gone = at_open("There is no camera: plug it in.")
    scripts: list[list[Step]] = [[picture(), unplugged], *[[gone]] * 5, [picture(), ZeroDivisionError("driver")]]
    source = ScriptedSource(*scripts, [picture(), picture()], is_live=True)
    with caplog.at_level(logging.INFO):
        frames = played(source, ring, clock)
    assert waits == pytest.approx([0.5, 1.0, 2.0, 5.0, 5.0, 5.0, 0.5])
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert source.opened == 8 and source.closed == 8
    # Five failures in a row of one kind are one line.
    assert caplog.text.count("There is no camera") == 1
    assert len(source.threads) == 1


def test_reopenings_are_counted(ring: FrameRing) -> None:
    more = threading.Event()
    source = ScriptedSource([UserError("lost")], [picture(), lambda: more.wait(JOIN_S) and picture()], is_live=True)
    capture = CaptureThread(source, ring, FakeClock())
    capture.start()
    until(lambda: capture.status.frames_in == 1)
    assert capture.status.openings == 2
    more.set()
    capture.stop()


def test_a_file_that_fails_stays_failed(ring: FrameRing) -> None:
    source = ScriptedSource([picture(), UserError("The file is damaged: export it again.")], [picture()])
    capture = CaptureThread(source, ring, FakeClock())
    capture.start()
    until(lambda: capture.status.state == "failed")
    assert capture.status.reason == "The file is damaged: export it again."
    assert capture.status.frames_in == 1 and source.opened == 1
    capture.stop()


def test_a_read_that_hangs_does_not_hold_up_the_end(ring: FrameRing, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    source = ScriptedSource([picture(), lambda: release.wait(JOIN_S) and picture(0.04)], is_live=True)
    capture = CaptureThread(source, ring, FakeClock())
    capture.start()
    until(lambda: capture.status.frames_in == 1)
    capture.stop(timeout_s=0.1)
    assert "left behind" in caplog.text
    assert capture.status.state == "closed"
    assert source.closed == 0, "the driver holds on still"
    # When the driver lets go at last, nothing more reaches the ring and the source is closed.
    release.set()
    until(lambda: source.closed == 1)
    assert capture.status.frames_in == 1 and len(ring.peek()) == 1
    assert capture.status.state == "closed"


def test_what_is_no_picture_is_refused_and_counted(ring: FrameRing) -> None:
    bad = [np.zeros(shape, np.uint8) for shape in ((0, 0, 3), (4, 4), (4, 4, 4))]
    steps = [*(SourceFrame(pixels, 0.0) for pixels in bad), picture(0.0), picture(0.04, (12, 9))]
    capture = CaptureThread(ScriptedSource(steps), ring, FakeClock())
    capture.start()
    until(lambda: capture.status.state == "ended")
    assert capture.status.refused == 3 and capture.status.frames_in == 2
    assert capture.status.size_wh == (12, 9)
    capture.stop()


def test_a_fast_source_never_makes_the_ring_grow() -> None:
    ring = FrameRing()
    ticks = itertools.count()
    clock = FakeClock()

    def quickly() -> SourceFrame:
        next(ticks)
        clock.advance(1 / 120)
        return picture()

    capture = CaptureThread(ScriptedSource([quickly] * 10_000, is_live=True), ring, clock)
    capture.start()
    until(lambda: capture.status.frames_in == 10_000 or next(ticks) > 50_000)
    capture.stop()
    waiting = ring.peek()
    assert len(waiting) <= 64 and waiting[-1].captured_s - waiting[0].captured_s <= 0.5
    assert ring.dropped == 10_000 - len(waiting)


def test_stop_without_start_and_twice(ring: FrameRing) -> None:
    capture = CaptureThread(EmptySource(), ring, FakeClock())
    capture.stop()
    capture.stop()
    assert capture.status.state == "closed"
