"""Cameras by name and stable identity, from a made-up sysfs and /dev."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from sdv2live.capture import select
from sdv2live.capture.cameras import (
    Camera,
    NodeAnswer,
    asked_node,
    find_camera,
    list_cameras,
    list_v4l2_cameras,
    node_trouble,
    parsed_answer,
    same_camera,
)
from sdv2live.capture.select import KINDS, list_sources, open_source
from sdv2live.errors import UserError

CAPTURE, META, OUTPUT, CODEC, STREAMING = 0x1, 0x00800000, 0x2, 0x8000, 0x04000000
Answer = NodeAnswer | OSError


class Machine:
    """A sysfs tree, a /dev with udev's links, and what each node answers."""

    def __init__(self, folder: Path) -> None:
        self.sys_dir, self.dev_dir = folder / "sys", folder / "dev"
        self.sys_dir.mkdir()
        self.dev_dir.mkdir()
        self.answers: dict[str, Answer] = {}

    def plug(self, node: str, answer: Answer, *, name: str = "", place: int = 0, links: Mapping[str, str] = {}) -> None:
        (self.sys_dir / node).mkdir()
        (self.sys_dir / node / "name").write_text((name or getattr(answer, "card", "")) + "\n")
        (self.sys_dir / node / "index").write_text(f"{place}\n")
        (self.dev_dir / node).touch()
        for kind, link in links.items():
            (self.dev_dir / "v4l" / kind).mkdir(parents=True, exist_ok=True)
            (self.dev_dir / "v4l" / kind / link).symlink_to(f"../../{node}")
        self.answers[node] = answer

    def ask(self, node: Path) -> NodeAnswer | None:
        answer = self.answers[node.name]
        if isinstance(answer, OSError):
            raise answer
        return answer

    def cameras(self, *, with_own_output: bool = False) -> list[Camera]:
        return list_v4l2_cameras(
            with_own_output=with_own_output, sys_dir=self.sys_dir, dev_dir=self.dev_dir, ask=self.ask
        )


def camera(card: str, capabilities: int = CAPTURE | STREAMING, driver: str = "uvcvideo") -> NodeAnswer:
    return NodeAnswer(driver, card, capabilities)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def desk(machine: Machine) -> Machine:
    """A webcam with its metadata node, one of the same make without a serial number, a codec, two loopbacks."""
    links = {"by-id": "usb-Acme_HD_Webcam_1234-video-index0", "by-path": "pci-0:1:1.0-video-index0"}
    machine.plug("video0", camera("HD Webcam: HD Webcam"), links=links)
    machine.plug(
        "video1",
        camera("HD Webcam: HD Webcam", META),
        place=1,
        links={"by-id": "usb-Acme_HD_Webcam_1234-video-index1", "by-path": "pci-0:1:1.0-video-index1"},
    )
    machine.plug("video10", camera("sdv2live", CAPTURE | OUTPUT, "v4l2 loopback"))
    machine.plug("video2", camera("Élégant Cam"), links={"by-path": "pci-0:2:1.0-video-index0"})
    machine.plug("video3", camera("bcm2835-codec", CODEC | STREAMING, "bcm2835-codec"))
    machine.plug("video4", camera("OBS Cam", CAPTURE, "v4l2 loopback"))
    machine.plug("video5", camera("Radio", OUTPUT))
    (machine.sys_dir / "v4l-subdev0").mkdir()
    return machine


def test_cameras_by_number_with_names_and_stable_ids(desk: Machine) -> None:
    found = [(one.index, one.name, one.id) for one in desk.cameras()]
    assert found == [
        (0, "HD Webcam", "usb-Acme_HD_Webcam_1234-video-index0"),
        (2, "Élégant Cam", "pci-0:2:1.0-video-index0"),
        (4, "OBS Cam", str(desk.dev_dir / "video4")),
    ]


def test_our_own_virtual_camera_is_no_source_unless_asked_for(desk: Machine) -> None:
    assert "sdv2live" not in {one.name for one in desk.cameras()}
    assert "sdv2live" in {one.name for one in desk.cameras(with_own_output=True)}


def test_a_camera_without_the_right_to_open_it_is_still_listed(machine: Machine) -> None:
    refused = PermissionError(errno.EACCES, "Permission denied")
    machine.plug("video0", refused, name="HD Webcam: HD Web")
    machine.plug("video1", refused, name="HD Webcam: HD Web", place=1)
    assert [(one.name, one.path) for one in machine.cameras()] == [("HD Webcam", str(machine.dev_dir / "video0"))]


def test_a_node_that_is_gone_already_and_a_machine_without_any(machine: Machine, tmp_path: Path) -> None:
    machine.plug("video0", FileNotFoundError(errno.ENOENT, "gone"), name="HD Webcam")
    assert machine.cameras() == []
    assert list_v4l2_cameras(sys_dir=tmp_path / "nowhere", dev_dir=tmp_path) == []


def test_the_answer_of_a_node_is_read_field_by_field() -> None:
    def answer(capabilities: int, of_node: int) -> bytes:
        return struct.pack("=16s32s32s3I12x", b"uvcvideo", "Café".encode(), b"usb-1", 0x060100, capabilities, of_node)

    both = 0x80000000 | CAPTURE | META
    assert parsed_answer(answer(both, META)) == NodeAnswer("uvcvideo", "Café", META)
    assert not parsed_answer(answer(both, META)).is_camera
    assert parsed_answer(answer(both, CAPTURE)).is_camera
    assert parsed_answer(answer(CAPTURE, 0)).is_camera, "an old driver speaks of the device only"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs device files")
def test_a_file_that_is_no_camera_is_told_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    with pytest.raises(OSError):
        asked_node(tmp_path / "video0")
    assert node_trouble(str(tmp_path / "video0")) == errno.ENOTTY
    assert node_trouble(str(tmp_path / "video1")) == errno.ENOENT


# ---- finding one ----

A = Camera("usb-a-video-index0", "HD Webcam", "/dev/video0", 0)
B = Camera("usb-b-video-index0", "Studio Cam 2", "/dev/video2", 2)
C = Camera("pci-c-video-index0", "Studio Cam 2", "/dev/video4", 4)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", A),
        ("usb-b-video-index0", B),
        ("/dev/video4", C),
        ("0", A),
        ("2", B),
        ("HD Webcam", A),
        ("hd webcam", A),
        ("webc", A),
    ],
)
def test_a_camera_is_found_by_id_path_number_name_and_part_of_the_name(words: str, found: Camera) -> None:
    assert find_camera(words, [A, B, C]) == found


@pytest.mark.parametrize(
    ("words", "cameras", "sentence"),
    [
        ("Studio Cam 2", [A, B, C], "means more than one camera: write camera:usb-b-video-index0 or camera:pci-c"),
        ("studio", [A, B, C], "means more than one camera"),
        ("7", [A, B], r"There is no camera '7': plug it in, or choose one of HD Webcam \(camera:0\), Studio"),
        ("", [], "This machine has no camera: plug one in"),
        ("HD Webcam", [], "This machine has no camera"),
    ],
)
def test_a_camera_that_cannot_be_found(words: str, cameras: list[Camera], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        find_camera(words, cameras)


def test_the_same_camera_after_it_moved() -> None:
    moved = Camera(A.id, A.name, "/dev/video9", 9)
    other_socket = Camera("pci-elsewhere", A.name, "/dev/video9", 9)
    taken_place = Camera(A.id, "Another make", "/dev/video0", 0)
    assert same_camera(A, [B, moved]) == moved
    assert same_camera(A, [B, other_socket]) == other_socket
    assert same_camera(A, [B, taken_place]) is None
    twin = Camera("pci-other", B.name, "/dev/video7", 7)
    assert same_camera(B, [C, twin]) is None, "two of the name: not to be guessed"


def test_this_machine_can_be_asked() -> None:
    assert all(one.name and one.id for one in list_cameras())


# ---- for a picker ----


def test_every_choice_is_a_source_that_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdv2live.capture.cameras.list_cameras", lambda: [A, B, C])
    choices = list_sources()
    assert [choice.spec for choice in choices if choice.spec.startswith("camera:")] == [
        f"camera:{one.id}" for one in (A, B, C)
    ]
    assert {"clip", "pattern", "none"} <= {choice.spec for choice in choices}
    for choice in choices:
        open_source(choice.spec, loop=True)
        assert choice.label


def test_a_driver_that_hangs_or_fails_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    release, is_over = threading.Event(), threading.Event()

    def hanging() -> list[select.SourceChoice]:
        release.wait(30)
        is_over.set()
        return []

    monkeypatch.setattr(select, "LISTING_LIMIT_S", 0.1)
    monkeypatch.setattr(select, "_camera_choices", hanging)

    def broken() -> list[select.SourceChoice]:
        raise RuntimeError("driver")

    monkeypatch.setattr(select, "_screen_choices", broken)
    assert [choice.spec for choice in list_sources()] == ["clip", "pattern", "none"]
    assert not is_over.is_set(), "the driver hangs still"
    release.set()
    assert is_over.wait(30)


def test_the_sentence_names_every_kind() -> None:
    for kind in ("camera", "screen", "clip", "pattern", "none", "file:PATH"):
        assert kind in KINDS
