"""The virtual camera against a backend of the test's own: the picture, its place, and every way it fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pyvirtualcam import camera as pyvirtualcam_camera
from pyvirtualcam import register_backend

import bridges.virtual_camera
from bridges.base import OutputThread
from bridges.pipewire_camera import START
from bridges.virtual_camera import MODPROBE, VirtualCamera
from sdv2live.capture.test_pattern import read_frame_number, render_pattern
from sdv2live.clock import MonotonicClock
from sdv2live.errors import UserError
from sdv2live.frames import Pixels


class RecordingBackend:
    """Keeps what it was sent. opened: every one made, newest last."""

    opened: ClassVar[list[RecordingBackend]] = []
    open_error = ""
    send_error = ""

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: str | None, **kw: Any) -> None:
        if self.open_error:
            raise RuntimeError(self.open_error)
        self.shape = (height, width, 3)
        self.fps = fps
        self.on_watched = kw.get("on_watched", lambda is_watched: None)
        self.named = device
        self.pictures: list[Pixels] = []
        self.closed = 0
        self.opened.append(self)

    def send(self, frame: Pixels) -> None:
        if self.send_error:
            raise RuntimeError(self.send_error)
        self.pictures.append(frame.copy().reshape(self.shape))

    def close(self) -> None:
        self.closed += 1

    def device(self) -> str:
        return self.named or "test camera"

    def native_fourcc(self) -> int | None:
        return None


def refusing(reason: str) -> type[RecordingBackend]:
    return type("Refusing", (RecordingBackend,), {"open_error": reason, "opened": []})


NO_LOOPBACK = "No v4l2 loopback device found at /dev/video[0-99]. Did you run 'modprobe v4l2loopback'?"
NO_DAEMON = f"A PipeWire camera needs the PipeWire daemon, which does not run: run `{START}`."


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[RecordingBackend]]:
    monkeypatch.setattr(pyvirtualcam_camera, "BACKENDS", dict(pyvirtualcam_camera.BACKENDS))

    class Fresh(RecordingBackend):
        opened: ClassVar[list[RecordingBackend]] = []

    register_backend("test", Fresh)
    yield Fresh


def test_a_picture_of_the_cameras_size_goes_through_unchanged(backend: type[RecordingBackend]) -> None:
    camera = VirtualCamera(backend="test", size_wh=(320, 192))
    camera.open((320, 192), 30)
    sent = [render_pattern(tick, (320, 192)) for tick in range(5)]
    for tick, pixels in enumerate(sent):
        camera.write(pixels, tick)
    camera.close()
    (device,) = backend.opened
    assert device.fps == 30 and device.closed == 1
    assert all(np.array_equal(got, gave) for got, gave in zip(device.pictures, sent, strict=True))


@pytest.mark.parametrize(
    ("size_wh", "inner"),
    # inner: top, left, height, width within 1280x720
    [
        ((256, 256), (0, 280, 720, 720)),
        ((832, 480), (0, 16, 720, 1248)),
        ((640, 360), (0, 0, 720, 1280)),
        ((64, 16), (200, 0, 320, 1280)),
        ((1, 1), (0, 280, 720, 720)),
        ((1920, 1080), (0, 0, 720, 1280)),
    ],
)
def test_the_camera_stays_720p_and_the_picture_is_letterboxed(
    backend: type[RecordingBackend], size_wh: tuple[int, int], inner: tuple[int, int, int, int]
) -> None:
    camera = VirtualCamera(backend="test")
    camera.open(size_wh, 30)
    colour = (250, 120, 10)
    camera.write(np.full((size_wh[1], size_wh[0], 3), colour, np.uint8), 0)
    camera.close()
    (picture,) = backend.opened[0].pictures
    assert picture.shape == (720, 1280, 3)
    top, left, height, width = inner
    expected = np.zeros_like(picture)
    expected[top : top + height, left : left + width] = colour
    assert np.array_equal(picture, expected)


def test_the_number_in_the_pattern_survives_the_way(backend: type[RecordingBackend]) -> None:
    camera = VirtualCamera(backend="test")
    camera.open((256, 144), 30)
    for tick in (0, 7, 123_456):
        camera.write(render_pattern(tick, (256, 144)), tick)
    camera.close()
    assert [read_frame_number(picture) for picture in backend.opened[0].pictures] == [0, 7, 123_456]


def test_without_a_device_the_sentence_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    # The platform's own backend, on a machine without such a camera.
    monkeypatch.setattr(sys, "platform", "linux")
    backends = {"v4l2loopback": refusing(NO_LOOPBACK), "pipewire": refusing(NO_DAEMON)}
    monkeypatch.setattr(pyvirtualcam_camera, "BACKENDS", backends)
    with pytest.raises(UserError) as caught:
        VirtualCamera().open((256, 256), 30)
    sentence = str(caught.value)
    assert MODPROBE in sentence and START in sentence and "\n" not in sentence and ". " not in sentence
    with pytest.raises(UserError, match=r"^A PipeWire camera needs the PipeWire daemon") as caught:
        VirtualCamera(backend="pipewire").open((256, 256), 30)
    assert MODPROBE not in str(caught.value)


@pytest.mark.parametrize(
    ("loopback", "chosen"),
    # PipeWire stands in where there is no device at all, and not where one is busy or another was named.
    [("", "v4l2loopback"), (NO_LOOPBACK, "pipewire"), ("Device /dev/video10 is already in use.", None)],
)
def test_pipewire_stands_in_where_there_is_no_device(
    backend: type[RecordingBackend], monkeypatch: pytest.MonkeyPatch, loopback: str, chosen: str | None
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    v4l2 = refusing(loopback)
    monkeypatch.setattr(pyvirtualcam_camera, "BACKENDS", {"v4l2loopback": v4l2, "pipewire": backend})
    camera = VirtualCamera()
    if chosen is None:
        with pytest.raises(UserError, match="in use by another program"):
            camera.open((256, 256), 30)
    else:
        camera.open((256, 256), 30)
        camera.close()
    assert [len(v4l2.opened), len(backend.opened)] == [chosen == "v4l2loopback", chosen == "pipewire"]
    v4l2.open_error = "Device /dev/video7 does not exist."
    with pytest.raises(UserError, match="/dev/video7 does not exist"):
        VirtualCamera(device="/dev/video7").open((256, 256), 30)


def test_pictures_of_any_size_are_taken_while_it_stays_open(backend: type[RecordingBackend]) -> None:
    camera = VirtualCamera(backend="test", size_wh=(320, 180))
    camera.open((256, 256), 30)
    sizes = [(256, 256), (320, 180), (832, 480), (256, 256), (1, 1), (17, 301), (320, 180)]
    for tick, (width, height) in enumerate(sizes):
        camera.write(np.full((height, width, 3), 10 + tick, np.uint8), tick)
    camera.close()
    (device,) = backend.opened
    assert device.closed == 1 and [picture.shape for picture in device.pictures] == [(180, 320, 3)] * len(sizes)
    assert [int(picture.max()) for picture in device.pictures] == [10 + tick for tick in range(len(sizes))]


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 4), (0, 64, 3), (48, 64, 1)])
def test_what_is_no_picture_is_refused_in_a_sentence(backend: type[RecordingBackend], shape: tuple[int, ...]) -> None:
    camera = VirtualCamera(backend="test", size_wh=(64, 48))
    camera.open((64, 48), 30)
    with pytest.raises(UserError, match="a picture of shape"):
        camera.write(np.zeros(shape, np.uint8), 0)
    assert backend.opened[0].closed == 1


def test_a_held_picture_is_scaled_once(backend: type[RecordingBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[Pixels] = []
    place = bridges.virtual_camera.fit_into

    def counted(pixels: Pixels, out: Pixels, mode: str) -> None:
        placed.append(pixels)
        place(pixels, out, mode)

    monkeypatch.setattr(bridges.virtual_camera, "fit_into", counted)
    camera = VirtualCamera(backend="test", size_wh=(64, 48))
    camera.open((32, 32), 30)
    first, second = (np.full((32, 32, 3), value, np.uint8) for value in (10, 20))
    for tick, pixels in enumerate((first, first, second, second, first)):
        camera.write(pixels, tick)
    camera.close()
    assert [int(picture.max()) for picture in backend.opened[0].pictures] == [10, 10, 20, 20, 10]
    assert len(placed) == 3


def test_where_nobody_watches_nothing_is_scaled(
    backend: type[RecordingBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyvirtualcam_camera, "BACKENDS", {"pipewire": backend})
    camera = VirtualCamera(backend="pipewire", size_wh=(64, 48))
    camera.open((32, 32), 30)
    device = backend.opened[0]
    for tick, is_watched in enumerate((False, True, False)):
        device.on_watched(is_watched)
        camera.write(np.full((32, 32, 3), 10 + tick, np.uint8), tick)
        assert camera.is_watched is is_watched
    # Once it was watched the last picture drawn stays.
    assert [int(picture.max()) for picture in device.pictures] == [0, 11, 11]
    camera.close()
    assert camera.is_watched is None


def test_on_other_systems_it_says_obs(backend: type[RecordingBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    for platform in ("darwin", "win32"):
        monkeypatch.setattr(sys, "platform", platform)
        backend.open_error = "OBS Virtual Camera is not installed in your system."
        register_backend("obs", backend)
        with pytest.raises(UserError, match="install OBS Studio, start its virtual camera once"):
            VirtualCamera().open((256, 256), 30)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("Device /dev/video7 does not exist.", "does not exist"),
        ("Device /dev/video7 is already in use.", "in use by another program"),
        ("Could not open /dev/video7 due to missing permissions ('video' group).", "usermod -aG video"),
        ("Device /dev/video7 is not a video output device.", "not a virtual camera but another device"),
        ("Something new", "Something new"),
    ],
)
def test_each_refusal_has_its_sentence(backend: type[RecordingBackend], reason: str, said: str) -> None:
    backend.open_error = reason
    with pytest.raises(UserError) as caught:
        VirtualCamera(backend="test", device="/dev/video7").open((256, 256), 30)
    sentence = str(caught.value)
    assert said in sentence and "/dev/video7" in sentence and "\n" not in sentence


def test_a_backend_that_does_not_exist(backend: type[RecordingBackend]) -> None:
    with pytest.raises(UserError, match=r"no virtual camera backend 'unknown': choose one of .*test"):
        VirtualCamera(backend="unknown").open((256, 256), 30)


def test_words_choose_backend_or_device(backend: type[RecordingBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert VirtualCamera.from_spec("test").name == "camera:test"
    assert VirtualCamera.from_spec("/dev/video10").name == "camera:/dev/video10"
    assert VirtualCamera.from_spec("").name == "camera"
    with pytest.raises(UserError, match=r"no virtual camera 'webcam': give one of .*test.*/dev/video10"):
        VirtualCamera.from_spec("webcam")


def test_a_test_backend_is_never_chosen_by_itself(
    backend: type[RecordingBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyvirtualcam_camera, "BACKENDS", {"test": backend, "pipewire": refusing(NO_DAEMON)})
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(UserError, match="PipeWire daemon"):
        VirtualCamera().open((256, 256), 30)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match="no virtual camera backend"):
        VirtualCamera().open((256, 256), 30)
    assert backend.opened == []


def test_a_node_that_vanishes_or_is_another_one(backend: type[RecordingBackend], tmp_path: Path) -> None:
    node = tmp_path / "video10"
    for change in ("gone", "replaced"):
        node.touch()
        camera = VirtualCamera(backend="test", device=str(node), size_wh=(64, 48))
        camera.open((64, 48), 10)
        picture = render_pattern(0, (64, 48))
        for tick in range(15):
            camera.write(picture, tick)
        if change == "gone":
            node.unlink()
        else:
            other = tmp_path / "other"
            other.touch()
            other.replace(node)
        with pytest.raises(UserError, match="was removed"):
            for tick in range(15, 26):
                camera.write(picture, tick)
        assert backend.opened[-1].closed == 1


def test_a_send_that_fails_closes_it_and_its_thread_opens_it_again(backend: type[RecordingBackend]) -> None:
    thread = OutputThread(
        VirtualCamera(backend="test", size_wh=(64, 48)), size_wh=(64, 48), rate_fps=30, clock=MonotonicClock()
    )
    camera = thread.output
    camera.open((64, 48), 30)
    backend.send_error = "driver says no"
    with pytest.raises(UserError, match="driver says no"):
        camera.write(render_pattern(0, (64, 48)), 0)
    assert backend.opened[0].closed == 1
    backend.send_error = ""
    camera.open((64, 48), 30)
    camera.write(render_pattern(1, (64, 48)), 1)
    camera.close()
    assert len(backend.opened[1].pictures) == 1
