"""Each check beside something broken that is real: a port that is taken, files that were cut short, no drive."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bridges import osc_server
from sdv2live import devices, trial
from sdv2live.capture import cameras as camera_list
from sdv2live.doctor import ends, engines, machine
from sdv2live.doctor.finding import State
from sdv2live.models.manifest import MODELS
from sdv2live.parameters import TABLE
from sdv2live.paths import assets_dir

PORT = int(str(TABLE["osc.port"].default))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of this test alone, none of which is there yet."""
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "home"


def test_osc_is_asked_over_a_socket_and_a_port_that_is_taken_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        try:
            other.bind((osc_server.HOST, PORT))
        except OSError:
            pytest.skip(f"port {PORT} is taken by a program of this machine")
        taken = ends.osc()
    assert taken.state is State.WARN and f"port {PORT} is taken" in taken.text and f"{PORT + 1} answers" in taken.text
    free = ends.osc()
    assert free.state is State.OK and str(PORT) in free.text


def test_folders_that_take_no_file(home: Path) -> None:
    good = machine.disk()
    assert good.state is State.OK and "free for models" in good.text
    assert not home.exists()  # what was made for the try is gone again
    home.write_text("a file in place of the folder")
    bad = machine.disk()
    assert bad.state is State.FAIL and "takes no file (Not a directory)" in bad.text and bad.remedy


def test_a_drive_that_is_full(tmp_path: Path) -> None:
    """A limit on the size of files stands in for one: the same way through the file system."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from sdv2live.doctor.machine import write_probe\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: write_probe(Path(sys.argv[1]) / 'a' / 'b')\n"
        "except OSError as error: print(error.strerror)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == os.strerror(27) and not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="cameras are nodes there")
def test_a_camera_that_is_no_camera_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sys" / "video0").mkdir(parents=True)
    (tmp_path / "sys" / "video0" / "name").write_text("Broken Webcam\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "video0").write_bytes(b"no device")
    listed = camera_list.list_v4l2_cameras(sys_dir=tmp_path / "sys", dev_dir=tmp_path / "dev")
    monkeypatch.setattr(ends, "list_cameras", lambda: listed)
    found = ends.cameras()
    assert found.state is State.WARN and "Broken Webcam" in found.text and "could not be opened" in found.text
    assert found.remedy


def test_no_camera_and_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "list_cameras", list)
    none = ends.cameras()
    assert (none.state, none.text) == (State.WARN, "This machine has no camera") and "plug one in" in none.remedy
    assert ends.screens().state is State.WARN  # tests have no display


def test_a_model_file_that_was_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(assets_dir() / "pocket", tmp_path / "pocket")
    weights = tmp_path / "pocket" / "dit.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    monkeypatch.setattr(trial, "assets_dir", lambda: tmp_path)
    found = engines.pocket()
    assert found.state is State.FAIL and "dit.safetensors cannot be read" in found.text and found.remedy


def test_files_of_a_wan_engine(home: Path) -> None:
    none = engines.wan("wan-1.3b")
    assert none.state is State.OK and "not fetched (17.6 GB)" in none.text
    place = home / "sdv2live" / "models" / "wan_causal_dmd_v2v" / "model.safetensors"
    place.parent.mkdir(parents=True)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}).encode()
    place.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4000))
    some = engines.wan("wan-1.3b")
    assert some.state is State.WARN and "1 of 5 files are here" in some.text
    assert some.remedy == "run `sdv2live models get wan-1.3b`"
    os.truncate(place, 500)
    cut = engines.wan("wan-1.3b")
    assert cut.state is State.FAIL and "cannot be read" in cut.text
    record = {"wan_causal_dmd_v2v/model.safetensors": {
        "source": "a", "revision": "b", "bytes": 4096, "checksum": {"kind": "sha256", "digest": "0"}}}  # fmt: skip
    (home / "sdv2live" / "models" / "fetched.json").write_text(json.dumps({"revisions": {}, "files": record}))
    ours = engines.wan("wan-1.3b")
    assert ours.state is State.FAIL and f"{MODELS['wan-1.3b'].what} in" in ours.text and "is damaged" in ours.text


def test_whether_an_engine_fits_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdv2live.engine import hardware, wan
    from sdv2live.engine.memory import Fit

    assert engines.fit_words("wan-1.3b")[1] is State.WARN  # no GPU here
    monkeypatch.setattr(hardware, "gpus", lambda: [hardware.Gpu("a card", (9, 0), 80 << 30, 79 << 30)])
    monkeypatch.setattr(wan, "fit_here", lambda spec: Fit(11_000_000_000, 9_000_000_000, ("--vae taehv", "--steps 1")))
    words, state, remedy = engines.fit_words("wan-1.3b")
    assert "832x480 with 2 steps and --vae wan takes 11.0 GB in float32 of 9.00 GB: it does not fit" in words
    assert (state, remedy) == (State.WARN, "--vae taehv or --steps 1 would fit")
    monkeypatch.setattr(wan, "fit_here", lambda spec: Fit(11_000_000_000, 12_000_000_000))
    assert engines.fit_words("wan-1.3b")[0].endswith("it fits; 4 steps fit, too")


@pytest.mark.parametrize(("number", "text"), [(91501, "9.15.1"), (8907, "8.9.7"), (90100, "9.1.0"), (91002, "9.10.2")])
def test_versions_of_cudnn(number: int, text: str) -> None:
    assert engines.cudnn_text(number) == text


def test_a_gpu_tool_that_does_not_answer_is_a_fault_and_one_that_is_missing_a_fact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu().state is State.OK
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    broken = machine.gpu()
    assert broken.state is State.FAIL and "nvidia-smi did not answer" in broken.text
    tool.write_text("#!/bin/sh\necho 'A card, 24564, 550.1'\n")
    found = machine.gpu()  # torch of these tests has no CUDA, and says so
    assert found.state is State.FAIL and "A card, driver 550.1" in found.text
    built = engines.torch_and_cuda()
    assert built.state is State.FAIL and "A card" in built.text and "SDV2LIVE_TORCH=cuda" in built.remedy
    monkeypatch.setattr(devices, "NVIDIA_SMI_LIMIT_S", 0.2)
    tool.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    assert machine.gpu().state is State.FAIL
