"""`sdv2live doctor` as its users start it: every line beside what is found out by other means, and stopped half way."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sdv2live.doctor.checks import CHECKS
from tests.faults.live import until

ROOT = Path(__file__).parents[2]
SLOW = ("engine pocket", "engine wan-1.3b", "engine wan-14b", "attention")  # they have tests of their own


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [sys.executable, "-m", "sdv2live", "doctor", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, cwd=folder, stdout=pipe, stderr=pipe, text=True)


def test_every_line_is_true_of_this_machine(tmp_path: Path) -> None:
    names = [check.name for check in CHECKS if check.name not in SLOW]
    with start("--json", *names, folder=tmp_path) as process:
        out, said = process.communicate(timeout=300)
    whole = json.loads(out)
    found = {one["name"]: one for one in whole["findings"]}
    assert list(found) == names
    assert process.returncode == (0 if whole["passed"] else 1), said
    texts = {name: one["text"] for name, one in found.items()}
    assert platform.python_version() in texts["python"] and sys.executable in texts["python"]
    assert f"{os.cpu_count()} cores" in texts["system"] and platform.release() in texts["system"]
    assert importlib.metadata.version("torch") in texts["torch"]
    assert ("no nvidia-smi" in texts["GPU"]) == (shutil.which("nvidia-smi") is None)
    free_gb = psutil.virtual_memory().available / 1e9
    number, unit, _ = texts["memory"].split()
    assert unit == "GB" and abs(float(number) - free_gb) < 0.5 * free_gb
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    if flags:
        assert ("avx2" in texts["processor"]) == (" avx2 " in flags)
    has_node = any(Path("/dev").glob("video*"))
    assert has_node or texts["cameras"].startswith("This machine has no camera")
    assert found["screens"]["state"] == "warn"  # tests have no display
    assert not list(tmp_path.iterdir()), "what was written for a try is gone"
    assert "looking at the cameras" in said


@pytest.mark.skipif(sys.platform == "win32", reason="uses signals")
def test_ctrl_c_half_way_ends_it_and_all_that_it_started(tmp_path: Path) -> None:
    with start("python", "engine pocket", folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ok    python")
        me = psutil.Process(process.pid)
        until(lambda: len(me.children(recursive=True)) >= 2, "the check's process and the engine's")
        started = me.children(recursive=True)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped before the end; 1 ok" in out and "Traceback" not in said
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started), "all are gone")
