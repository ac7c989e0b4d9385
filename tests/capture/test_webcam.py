"""The webcam with devices made of scripts: every way in which a camera lets its user down."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sdv2live.capture.select import open_source
from sdv2live.capture.thread import CaptureThread
from sdv2live.capture.webcam import (
    MOTION_JPEG,
    SILENCE_LIMIT_S,
    STILL_IS_SUSPECT_S,
    STILL_PERIOD_S,
    Webcam,
    codec_name,
    configure,
    is_same,
    to_rgb,
)
from sdv2live.clock import FakeClock
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir
from sdv2live.queues import FrameRing
from tests.capture.fake_camera import CAMERA, SIZE_WH, Desk, FakeDevice, ForgetfulDevice, bgr, endless, number_of

FIRST_LIMIT = "sdv2live.capture.webcam.FIRST_PICTURE_LIMIT_S"


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(*devices: FakeDevice, **more: Any) -> Desk:
        made.append(Desk(*devices, **more))
        return made[-1]

    yield make
    for one in made:
        one.free()


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.002)


class Script:
    """Hands out a step only when the test says so, so that no picture is replaced before it was looked at."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._steps: list[Any] = []
        self._taken = 0
        self.device = FakeDevice(iter(lambda: self._next, object()))

    def _next(self) -> Any:
        with self._condition:
            self._taken += 1
            while not self._steps and not self.device.freed.is_set():
                self._condition.wait(0.01)
            return self._steps.pop(0) if self._steps else None

    def give(self, *steps: Any) -> None:
        """Each step, and back once the reader has come for the one after it."""
        for step in steps:
            with self._condition:
                taken = self._taken
                self._steps.append(step)
                self._condition.notify()
            until(lambda taken=taken: self._taken > taken and not self._steps)  # type: ignore[misc]


# ---- pictures ----


def test_pictures_come_as_rgb_with_what_was_really_got(desk: Callable[..., Desk]) -> None:
    script = Script()
    webcam = desk(script.device).webcam()
    script.device.values[cv2.CAP_PROP_FPS] = 24.0
    threading.Thread(target=script.give, args=(bgr(7, (32, 24)),)).start()
    info = webcam.open()
    assert (info.name, info.size_wh, info.rate_fps) == ("camera:HD Webcam", (32, 24), Fraction(24))
    first = webcam.read(1.0)
    assert first is not None and first.media_time_s == 0 and tuple(first.pixels[0, 0]) == (200, 100, 7)
    script.give(bgr(8, (32, 24)))
    second = webcam.read(1.0)
    assert second is not None and number_of(second.pixels) == 8 and second.media_time_s > 0
    webcam.close()


def test_the_newest_picture_wins(desk: Callable[..., Desk]) -> None:
    script = Script()
    webcam = desk(script.device).webcam()
    threading.Thread(target=script.give, args=(bgr(0),)).start()
    webcam.open()
    webcam.read(1.0)
    script.give(*(bgr(number) for number in range(1, 6)))
    newest = webcam.read(1.0)
    assert newest is not None and number_of(newest.pixels) == 5
    assert webcam.replaced == 4
    webcam.close()


def test_the_size_may_change_while_it_runs(desk: Callable[..., Desk]) -> None:
    device = FakeDevice([bgr(0), None, bgr(1, (33, 17))])
    webcam = desk(device).webcam()
    webcam.open()
    sizes = []
    until(
        lambda: (
            (frame := webcam.read(0.05)) is not None and sizes.append(frame.pixels.shape) is None and device.reads > 3
        )
    )
    assert sizes[-1] == (17, 33, 3)
    webcam.close()


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.full((5, 7), 90, np.uint8), (90, 90, 90)),
        (np.full((5, 7, 1), 90, np.uint8), (90, 90, 90)),
        (np.full((5, 7, 4), (1, 2, 3, 4), np.uint8), (3, 2, 1)),
        (np.full((5, 7, 3), (1, 2, 3), np.uint8), (3, 2, 1)),
        (np.full((5, 7), 0x5A00, np.uint16), (90, 90, 90)),
        (np.full((5, 14, 3), (1, 2, 3), np.uint8)[:, ::2], (3, 2, 1)),
    ],
)
def test_grey_four_channel_sixteen_bit_and_odd_sized_pictures_are_converted(picture: Any, expected: Any) -> None:
    pixels = to_rgb(picture, "HD Webcam")
    assert pixels.shape == (5, 7, 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert (pixels == expected).all() and not np.shares_memory(pixels, picture)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((5, 7, 2), np.uint8),
        np.zeros((5, 7, 3), np.float32),
        np.zeros((5, 7, 3), np.int8),
        np.zeros(30, np.uint8),
        np.zeros((1, 9000), np.uint8),
        np.zeros((2, 3, 4, 3), np.uint8),
    ],
)
def test_other_kinds_of_pictures_are_refused(picture: Any, desk: Callable[..., Desk]) -> None:
    webcam = desk(FakeDevice([picture])).webcam()
    with pytest.raises(UserError, match="The camera HD Webcam gives pictures of a kind that cannot be used"):
        webcam.open()
    webcam.close()


def test_empty_buffers_are_passed_over(desk: Callable[..., Desk]) -> None:
    empty = np.zeros((0, 0, 3), np.uint8)
    webcam = desk(FakeDevice([None, empty, None, bgr(3)])).webcam()
    assert webcam.open().size_wh == SIZE_WH
    frame = webcam.read(1.0)
    assert frame is not None and number_of(frame.pixels) == 3
    webcam.close()


# ---- repeats ----


def test_a_picture_that_comes_again_is_a_repeat_and_no_frame(desk: Callable[..., Desk]) -> None:
    clock, script = FakeClock(), Script()
    webcam = desk(script.device).webcam(clock=clock)
    threading.Thread(target=script.give, args=(bgr(0),)).start()
    webcam.open()
    assert webcam.read(1.0) is not None
    for number in range(1, 6):
        clock.advance(1 / 30)
        script.give(bgr(number))
        clock.advance(1 / 30)
        script.give(bgr(number))  # the driver has nothing new yet
        frame = webcam.read(1.0)
        assert frame is not None and number_of(frame.pixels) == number
        assert webcam.read(0.0) is None
    assert webcam.repeats == 5
    webcam.close()


def test_a_still_is_shown_slowly_and_said_once(desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture) -> None:
    """A slide or a covered lens keeps the effect alive, at a pace that cannot be taken for a running camera."""
    clock, script = FakeClock(), Script()
    webcam = desk(script.device).webcam(clock=clock)
    threading.Thread(target=script.give, args=(bgr(9),)).start()
    webcam.open()
    assert webcam.read(1.0) is not None
    seconds, frames = STILL_IS_SUSPECT_S + 5, 0
    for _ in range(round(seconds * 30)):
        clock.advance(1 / 30)
        script.give(bgr(9))
        frames += webcam.read(0.0) is not None
    assert 0.7 * seconds / STILL_PERIOD_S < frames <= seconds / STILL_PERIOD_S
    assert webcam.repeats == round(seconds * 30)
    assert caplog.text.count("the same picture again and again") == 1
    webcam.close()


def test_one_changed_pixel_is_a_new_picture() -> None:
    picture = bgr(1, (640, 360))
    other = picture.copy()
    other[201, 333, 1] += 1
    assert is_same(picture, picture.copy()) and not is_same(picture, other)
    assert not is_same(picture, None) and not is_same(picture, picture[:100])


# ---- stalls, failures, unplugging ----


def test_a_blocked_read_holds_up_neither_read_nor_close(desk: Callable[..., Desk]) -> None:
    device = FakeDevice([bgr(0)])  # and then it blocks
    webcam = desk(device).webcam()
    webcam.open()
    webcam.read(1.0)
    assert webcam.read(0.05) is None
    webcam.close()
    webcam.close()
    assert not device.released.is_set(), "the driver holds on still"
    device.freed.set()
    assert device.released.wait(30), "the thread that was left behind lets go of the device"


def test_capture_ends_with_a_driver_that_hangs(desk: Callable[..., Desk]) -> None:
    device = FakeDevice([bgr(0)])
    capture = CaptureThread(desk(device).webcam(), FrameRing(), FakeClock())
    capture.start()
    until(lambda: capture.status.frames_in == 1)
    capture.stop(timeout_s=30)
    assert not capture._thread.is_alive() and capture.status.state == "closed"
    assert not device.released.is_set(), "the driver holds on still"


def test_a_silent_camera_is_opened_again(desk: Callable[..., Desk]) -> None:
    clock = FakeClock()
    webcam = desk(FakeDevice([bgr(0)])).webcam(clock=clock)
    webcam.open()
    webcam.read(1.0)
    clock.advance(SILENCE_LIMIT_S - 1)
    assert webcam.read(0.0) is None
    clock.advance(2)
    with pytest.raises(UserError, match="gives no picture for 5 s: it is opened again"):
        webcam.read(0.0)
    webcam.close()


def test_a_driver_that_raises_is_a_sentence(desk: Callable[..., Desk]) -> None:
    webcam = desk(FakeDevice([bgr(0), cv2.error("select() failed")])).webcam()
    webcam.open()
    with pytest.raises(UserError, match=r"The camera HD Webcam failed \(.*select\(\) failed\): it is opened again"):
        while webcam.read(1.0) is not None:
            pass
    webcam.close()


def test_an_unplugged_camera_does_not_spin_and_is_a_sentence(
    desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdv2live.capture.webcam.NO_PICTURE_PAUSE_S", 60.0)
    device = FakeDevice([bgr(0)])
    device._block = lambda: None  # type: ignore[method-assign]
    table = desk(device)
    webcam = table.webcam()
    webcam.open()
    webcam.read(1.0)
    until(lambda: device.reads == 2)
    assert webcam.read(0.05) is None
    assert device.reads == 2, "it pauses after each read without a picture"
    table.plugged.clear()
    with pytest.raises(UserError, match="The camera HD Webcam was unplugged: plug it in again and it goes on"):
        webcam.read(0.05)
    webcam.close()


def test_a_camera_that_comes_back_with_another_number_is_found(desk: Callable[..., Desk]) -> None:
    """The whole way: it plays, is unplugged, another camera takes its number, it comes back and plays on."""
    pulled = threading.Event()
    table = desk(FakeDevice([bgr(0), lambda: cv2.error("unplugged") if pulled.wait(30) else None]), endless())
    capture = CaptureThread(table.webcam(), FrameRing(), FakeClock())
    other = replace(CAMERA, id="usb-other-video-index0", name="Other")
    moved = replace(CAMERA, path="/dev/video4", index=4)
    capture.start()
    table.plugged[:] = [other]
    pulled.set()
    until(lambda: capture.status.state == "failed")
    assert "HD Webcam" in capture.status.reason
    table.plugged[:] = [other, moved]
    until(lambda: capture.status.openings == 2 and capture.status.frames_in > 5)
    assert [camera.path for camera in table.opened] == ["/dev/video0", "/dev/video4"]
    capture.stop()


def test_an_index_is_only_a_way_to_choose(desk: Callable[..., Desk]) -> None:
    """Chosen by number, it stays the camera that had the number then."""
    other = replace(CAMERA, id="usb-other-video-index0", name="Other", index=2, path="/dev/video2")
    table = desk(FakeDevice([bgr(0)]), FakeDevice([bgr(1)]), cameras=(CAMERA, other))
    webcam = table.webcam("2")
    webcam.open()
    webcam.close()
    table.plugged[:] = [replace(other, index=0, path="/dev/video0"), replace(CAMERA, index=2, path="/dev/video2")]
    webcam.open()
    webcam.close()
    assert [camera.path for camera in table.opened] == ["/dev/video2", "/dev/video0"]
    assert {camera.name for camera in table.opened} == {"Other"}


# ---- what cannot be opened ----


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EBUSY, "is in use by another program: close that program"),
        (errno.EACCES, "may not be used: run `sudo usermod -aG video"),
        (errno.ENODEV, "was unplugged: plug it in again"),
    ],
)
def test_the_system_says_why(number: int, sentence: str, desk: Callable[..., Desk]) -> None:
    table = desk(FakeDevice())
    table.trouble = number
    webcam = table.webcam()
    with pytest.raises(UserError, match=f"HD Webcam.*{sentence}"):
        webcam.open()
    assert table.opened == []


def test_no_camera_at_all(desk: Callable[..., Desk]) -> None:
    with pytest.raises(UserError, match="This machine has no camera: plug one in"):
        desk(cameras=()).webcam().open()


def test_a_device_that_is_refused_or_stays_dark(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    refused, dark = FakeDevice(is_open=False), FakeDevice()
    for device, reason, limit_s in ((refused, "its driver refused", 30.0), (dark, "it gives no picture", 0.1)):
        monkeypatch.setattr(FIRST_LIMIT, limit_s)
        webcam = desk(device).webcam()
        with pytest.raises(UserError, match=rf"could not be opened \({reason}\): close other programs"):
            webcam.open()
    assert refused.released.is_set()


def test_a_constructor_that_raises_or_hangs(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"could not be opened \(StopIteration\)"):
        desk().webcam().open()
    monkeypatch.setattr(FIRST_LIMIT, 0.1)
    release = threading.Event()
    late = FakeDevice([bgr(0)])

    def slow(_camera: object) -> FakeDevice:
        release.wait(30)
        late.freed.set()
        return late

    webcam = Webcam(open_device=slow, cameras=lambda: [CAMERA], trouble=lambda _path: 0)
    with pytest.raises(UserError, match="it gives no picture"):
        webcam.open()
    release.set()
    assert late.released.wait(30), "opened too late, and let go of at once"


# ---- asking for a format ----


def test_the_codec_is_asked_for_before_the_size_and_the_rate() -> None:
    device = FakeDevice()
    got = configure(device, (1280, 720), 30, "linux")
    order = [cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS]
    assert device.asked == [*order, cv2.CAP_PROP_BUFFERSIZE]
    assert (got.codec, got.rate_fps) == ("MJPG", 30)


def test_a_codec_that_is_forgotten_is_asked_for_again() -> None:
    device = ForgetfulDevice()
    assert configure(device, (1280, 720), 30, "win32").codec == "MJPG"
    assert device.codec == MOTION_JPEG


def test_macos_chooses_the_codec_itself() -> None:
    device = FakeDevice()
    configure(device, (1280, 720), 30, "darwin")
    assert cv2.CAP_PROP_FOURCC not in device.asked


@pytest.mark.parametrize(
    ("said", "rate"),
    [(0.0, 30), (-1.0, 30), (float("nan"), 30), (1e9, 30), (29.97002997, Fraction(30000, 1001)), (15.0, 15)],
)
def test_a_rate_that_makes_no_sense_is_not_believed(said: float, rate: Fraction) -> None:
    assert configure(FakeDevice(rate_fps=said), (640, 480), 30, "linux").rate_fps == rate


def test_codecs_have_names() -> None:
    assert codec_name(MOTION_JPEG) == "MJPG"
    assert codec_name(0.0) == codec_name(-1.0) == codec_name(float("nan")) == codec_name(3.0) == "codec not said"


# ---- as it is chosen and used ----


def test_words_name_cameras() -> None:
    for spec in ("camera", "camera:0", "camera:HD Webcam"):
        assert isinstance(open_source(spec, loop=True), Webcam)
    with pytest.raises(UserError, match="names no camera"):
        open_source("camera:", loop=True)


def test_opencvs_own_class_is_what_the_fakes_stand_for() -> None:
    """A file in place of a camera: the same class, with every call that a webcam makes."""
    webcam = Webcam(
        open_device=lambda _camera: cv2.VideoCapture(str(assets_dir() / "clip.mp4")),
        cameras=lambda: [CAMERA],
        trouble=lambda _path: 0,
    )
    info = webcam.open()
    frame = webcam.read(1.0)
    webcam.close()
    assert (info.size_wh, info.rate_fps) == ((640, 360), 16)
    assert frame is not None and frame.pixels.shape == (360, 640, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="a path is what Linux opens")
def test_a_node_that_opencv_cannot_open_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nowhere = replace(CAMERA, path=str(tmp_path / "video0"))
    webcam = Webcam(cameras=lambda: [nowhere], trouble=lambda _path: 0)
    with pytest.raises(UserError, match=r"could not be opened \(its driver refused\): close other programs"):
        webcam.open()
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match="was unplugged"):
        Webcam(cameras=lambda: [nowhere]).open()


def test_two_different_pictures_are_told_apart_by_a_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done for each frame of a camera, nearly always with this answer: a full compare would take milliseconds."""
    rng = np.random.default_rng(5)
    one, other = (rng.integers(0, 256, (720, 1280, 3), dtype=np.uint8) for _ in range(2))
    looked_at: list[int] = []
    whole = np.array_equal

    def counted(left: Any, right: Any) -> bool:
        looked_at.append(left.nbytes)
        return whole(left, right)

    monkeypatch.setattr(np, "array_equal", counted)
    assert not is_same(one, other)
    assert sum(looked_at) < one.nbytes / 30
