"""The lock that says whether another window runs, tried with real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdv2live.one_instance import LOCK_NAME, InstanceLock, take_instance_lock

ROOT = Path(__file__).parents[2]
CODE = (
    "import subprocess, sys, time\n"
    "from pathlib import Path\n"
    "from sdv2live import one_instance\n"
    "one_instance.user_config_dir = lambda: Path(sys.argv[1])\n"
    "lock = one_instance.take_instance_lock()\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(lock is not None, child.pid, flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sdv2live.one_instance.user_config_dir", lambda: tmp_path / "config")
    return tmp_path / "config"


@contextmanager
def other_window(folder: Path) -> Iterator[tuple[subprocess.Popen[str], bool]]:
    """A second process that takes the lock and starts a program of its own, as a window starts its engine."""
    import psutil

    with subprocess.Popen([sys.executable, "-c", CODE, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        has_it, pid = it.stdout.readline().split()
        grandchild = psutil.Process(int(pid))
        try:
            yield it, has_it == "True"
        finally:
            it.kill()
            grandchild.kill()


def test_a_second_window_gets_none_until_the_first_is_done() -> None:
    first = take_instance_lock()
    assert first is not None and take_instance_lock() is None
    first.release()
    first.release()
    with take_instance_lock() or pytest.fail("it was not given back"):
        assert take_instance_lock() is None
    second = take_instance_lock()
    assert second is not None
    second.release()


def test_another_process_has_it_until_it_dies(folder: Path) -> None:
    with other_window(folder) as (other, has_it):
        assert has_it and take_instance_lock() is None
        other.kill()
        other.wait()
        # What it had started runs on, and must not keep the lock.
        lock = take_instance_lock()
        assert lock is not None
        lock.release()


def test_this_process_has_it_against_another(folder: Path) -> None:
    with take_instance_lock() or pytest.fail("nobody else has it"), other_window(folder) as (_, has_it):
        assert not has_it
    assert (folder / LOCK_NAME).read_bytes() == b""


def test_where_no_lock_can_be_had_the_app_starts_and_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("a file where the folder should be")
    lock = take_instance_lock()
    assert isinstance(lock, InstanceLock) and "cannot be locked" in caplog.text
    lock.release()
