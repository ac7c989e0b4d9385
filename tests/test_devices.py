"""`sdv2live devices`: what it lists, how it reads, and that nothing missing stops it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridges import virtual_camera
from bridges.virtual_camera import VirtualCamera, backend_state, camera_choices, camera_report
from sdv2live import cli, devices
from sdv2live.capture.cameras import Camera
from sdv2live.capture.screen import Region, Screen
from sdv2live.errors import UserError
from tests.capture import x_display

CAMERAS = [
    Camera("usb-acme_1-video-index0", "HD Webcam", "/dev/video0", 0),
    Camera("/dev/video12", "A much longer name", "/dev/video12", 12),
]
SCREENS = [
    Screen(1, "DP-1", Region(0, 0, 1920, 1080), True),
    Screen(2, "HDMI-1", Region(-1280, 40, 1280, 1024), False),
]
GPUS = "NVIDIA H100 80GB HBM3, 81559, 570.86.15\nNVIDIA, with a comma, 24564, 550.1\nnonsense\n, 1, 2\nA, [N/A], 3\n"


@pytest.fixture
def furnished(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two cameras, two screens and two GPUs."""
    monkeypatch.setattr(devices, "list_cameras", lambda: CAMERAS)
    monkeypatch.setattr("sdv2live.capture.screen.list_screens", lambda: SCREENS)
    answer = subprocess.CompletedProcess(devices.NVIDIA_SMI, 0, stdout=GPUS, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **more: answer)
    monkeypatch.setattr(virtual_camera, "camera_report", lambda: [("v4l2loopback", "Ready: /dev/video10.")])


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing."""

    def no_screen() -> list[Screen]:
        raise UserError("There is no screen to capture: start it from a desktop session.")

    def no_tool(*arguments: Any, **more: Any) -> Any:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(devices, "list_cameras", lambda: [])
    monkeypatch.setattr("sdv2live.capture.screen.list_screens", no_screen)
    monkeypatch.setattr(subprocess, "run", no_tool)


def test_text_is_aligned_and_says_what_to_type(furnished: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == [
        "Cameras (--source camera, or camera: and a part of the name)",
        "Screens (--source screen, or screen:X,Y,WxH for a part)",
        "Virtual cameras (--output camera)",
        "GPUs",
    ]
    assert "  camera:usb-acme_1-video-index0  HD Webcam           /dev/video0" in lines
    assert "  camera:/dev/video12             A much longer name" in lines
    assert "  screen:1  1920x1080 at 0,0       DP-1, primary" in lines
    assert "  screen:2  1280x1024 at -1280,40  HDMI-1" in lines
    assert "  camera:v4l2loopback  Ready: /dev/video10." in lines
    assert "  NVIDIA H100 80GB HBM3  81559 MiB  driver 570.86.15" in lines


def test_json_holds_the_same_for_programs(furnished: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"cameras", "screens", "virtual_cameras", "gpus", "notes"}
    assert [one["source"] for one in found["cameras"]] == ["camera:usb-acme_1-video-index0", "camera:/dev/video12"]
    assert found["screens"][1]["left"] == -1280 and found["screens"][0]["is_primary"] is True
    assert [gpu["memory_mib"] for gpu in found["gpus"]] == [81559, 24564]
    assert found["notes"] == {}


def test_a_bare_machine_is_told_what_to_do(bare: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices"]) == 0
    text = capsys.readouterr().out
    assert "This machine has no camera: plug one in" in text
    assert "There is no screen to capture" in text
    assert "No NVIDIA GPU was found" in text
    assert cli.main(["devices", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["notes"]) == {"cameras", "screens", "gpus"}


@pytest.mark.parametrize(
    "error", [subprocess.TimeoutExpired("nvidia-smi", 5), subprocess.CalledProcessError(9, "nvidia-smi"), OSError("no")]
)
def test_a_gpu_tool_that_fails_is_a_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **more: Any) -> Any:
        raise error

    monkeypatch.setattr(subprocess, "run", fails)
    notes: dict[str, str] = {}
    assert devices.list_gpus(notes) == [] and "nvidia-smi did not answer" in notes["gpus"]


def test_the_virtual_camera_says_the_exact_command(tmp_path: Path) -> None:
    assert "sudo modprobe v4l2loopback devices=1" in backend_state("v4l2loopback", tmp_path)
    (tmp_path / "video4000").mkdir()
    assert "sudo usermod -aG video" in backend_state("v4l2loopback", tmp_path)


def test_a_picker_gets_each_device_by_its_name_and_what_is_missing_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtual_camera, "registered_backends", lambda: {"zeta": object(), "v4l2loopback": object()})
    missing, other = camera_choices(tmp_path)
    assert (missing.spec, missing.is_missing, other.spec, other.is_missing) == ("v4l2loopback", True, "zeta", False)
    assert "sudo modprobe" in missing.state and "see what `--output camera:zeta` says" in other.state
    for number in (10, 11):
        (tmp_path / f"video{number}").mkdir()
        (tmp_path / f"video{number}" / "name").write_text(f"Stage {number}\n")
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/dev/video10")
    choices = camera_choices(tmp_path)
    assert [choice.label for choice in choices] == ["Stage 11 (/dev/video11)", "zeta"]
    for choice in choices[:1]:
        assert VirtualCamera.from_spec(choice.spec).name == "camera:/dev/video11"


def test_every_back_end_is_reported_and_none_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_camera, "registered_backends", lambda: {"zeta": object(), "v4l2loopback": object()})
    assert [backend for backend, state in camera_report() if state.endswith(".")] == ["v4l2loopback", "zeta"]

    def missing() -> dict[str, Any]:
        raise UserError("The virtual camera needs pyvirtualcam: run `pip install pyvirtualcam`.")

    monkeypatch.setattr(virtual_camera, "registered_backends", missing)
    ((_, sentence),) = camera_report()
    assert "pip install pyvirtualcam" in sentence


def test_the_whole_command_on_this_machine_without_torch() -> None:
    root = Path(__file__).parents[1]
    code = (
        "import sys; from sdv2live import cli; code = cli.main(['devices', '--json'])\n"
        "assert code == 0 and 'torch' not in sys.modules and 'av' not in sys.modules"
    )
    with x_display.running() as display:
        environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "DISPLAY": display.name}
        command = [sys.executable, "-c", code]
        answer = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    (screen,) = json.loads(answer.stdout)["screens"]
    assert (screen["source"], screen["width"], screen["height"]) == ("screen:1", *x_display.SIZE_WH)
