"""`.venv` through good and bad days: real pip and small wheels, and fake interpreters that are scripts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdv2live import installer
from sdv2live.errors import UserError
from tests.unit.start_files import ROOT, copy_start_files

PINS = {"torch": "2.13.0", "numpy": "1.0", "einops": "1.0", "safetensors": "1.0"}
PACKAGES = {"numpy": "numpy", "einops": "einops"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses scripts as interpreters, and signals")

# Stands in for .venv/bin/python: `installed/` holds a file a package, and files named `pip-...` make its pip
# fail or wait.
FAKE_PYTHON = """#!{python} -S
import json, os, pathlib, sys, time
home = pathlib.Path(__file__).resolve().parent.parent
def version(package):
    file = home / "installed" / package
    return file.read_text() if file.exists() else None
if sys.argv[1] == "-c":
    packages = json.loads(sys.argv[3])
    versions = {{module: version(package) for module, package in packages.items()}}
    print(json.dumps({{"python": (home / "version").read_text(), "has_pip": True, "versions": versions}}))
else:
    package, _, pin = sys.argv[-1].partition("==")
    with open(home / "calls", "a") as calls:
        calls.write(package + "\\n")
    if (home / ("pip-waits-" + package)).exists():
        (home / "pip-pid").write_text(str(os.getpid()))
        time.sleep(60)
    if (home / ("pip-fails-" + package)).exists():
        sys.exit("ERROR: the wheel is broken")
    (home / "installed" / package).write_text(pin)
"""


def write_pins(root: Path, pins: dict[str, str]) -> None:
    lines = [f'{name} = "{version}"\n' for name, version in pins.items()]
    (root / "pyproject.toml").write_text("[tool.sdv2live.pins]\n" + "".join(lines) + "[tool.sdv2live.indirect-pins]\n")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A checkout's `.venv` whose Python is a script, made by somebody else as far as anyone can tell."""
    write_pins(tmp_path, PINS)
    venv = tmp_path / ".venv"
    for name in ("bin", "installed"):
        (venv / name).mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "version").write_text("3.11")
    python = venv / "bin" / "python"
    python.write_text(FAKE_PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    return venv


# Stands in for the Python that makes a `.venv`.
FAKE_BASE = """#!{python} -S
import os, pathlib, sys
venv = pathlib.Path(sys.argv[3])
if sorted(os.listdir(venv)) != ["sdv2live.json", "sdv2live.lock"]:
    sys.exit("not empty")
for name in ("bin", "installed"):
    (venv / name).mkdir()
(venv / "pyvenv.cfg").touch()
(venv / "version").write_text("3.12")
(venv / "bin" / "python").write_text({fake_python!r})
(venv / "bin" / "python").chmod(0o755)
"""


def fake_base(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = folder / "base-python"
    base.write_text(text)
    base.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(base))


def calls(venv: Path) -> list[str]:
    return (venv / "calls").read_text().split() if (venv / "calls").exists() else []


def take_over(venv: Path, **fields: str) -> None:
    """Make the `.venv` one of ours."""
    stamp = {"step": "ready", "is_ours": True, "python": "3.11", "pins": "", "modules": [], **fields}
    (venv / "sdv2live.json").write_text(json.dumps(stamp))


@pytest.fixture
def start(venv: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start an installation in a process of its own; whatever is left at the end is ended."""
    processes: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        code = f"import pathlib, sdv2live.installer as i; i.prepare(pathlib.Path({str(venv.parent)!r}), {PACKAGES!r})"
        process = subprocess.Popen([sys.executable, "-S", "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ---- with a fake interpreter ----


def test_only_what_is_missing_is_installed_and_the_stamp_says_ready(
    venv: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (venv / "installed" / "numpy").write_text("0.9")  # not the pin, but it was there before us
    assert not installer.is_ready(venv.parent, PACKAGES)
    installer.prepare(venv.parent, PACKAGES)
    assert calls(venv) == ["einops"]
    assert installer.is_ready(venv.parent, PACKAGES)
    output = capfd.readouterr().err
    assert "installing 1 of 1: einops 1.0 …" in output
    assert "adding what is missing" in output


def test_new_pins_are_followed_in_a_venv_of_ours(venv: Path) -> None:
    take_over(venv)
    installer.prepare(venv.parent, PACKAGES)
    write_pins(venv.parent, {**PINS, "einops": "2.0"})
    assert not installer.is_ready(venv.parent, PACKAGES)
    installer.prepare(venv.parent, PACKAGES)
    assert calls(venv) == ["numpy", "einops", "einops"]
    assert (venv / "installed" / "einops").read_text() == "2.0"


def test_commands_that_take_turns_do_not_forget_each_others_modules(venv: Path) -> None:
    installer.prepare(venv.parent, {"numpy": "numpy"})
    installer.prepare(venv.parent, {"einops": "einops"})
    assert installer.is_ready(venv.parent, PACKAGES)


def test_a_failure_names_package_and_reason_and_only_the_rest_is_tried_again(venv: Path) -> None:
    (venv / "pip-fails-einops").touch()
    with pytest.raises(UserError) as error:
        installer.prepare(venv.parent, PACKAGES)
    assert str(error.value).startswith(f"Installing einops 1.0 into {venv} failed: the wheel is broken; ")
    assert not installer.is_ready(venv.parent, PACKAGES)
    assert installer.is_ready(venv.parent, {"numpy": "numpy"})
    (venv / "pip-fails-einops").unlink()
    installer.prepare(venv.parent, PACKAGES)
    assert calls(venv) == ["numpy", "einops", "einops"]


@pytest.mark.parametrize("state", ["half-made", "killed while adding", "python gone", "python replaced"])
def test_a_bad_venv_of_ours_is_made_again(
    state: str, venv: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    take_over(venv, step={"half-made": "making", "killed while adding": "adding"}.get(state, "ready"))
    fake_python = FAKE_PYTHON.format(python=sys.executable)
    fake_base(venv.parent, FAKE_BASE.format(python=sys.executable, fake_python=fake_python), monkeypatch)
    (venv / "installed" / "numpy").write_text("1.0")
    if state == "python gone":
        (venv / "bin" / "python").unlink()
    elif state == "python replaced":
        (venv / "version").write_text("3.12")
    installer.prepare(venv.parent, PACKAGES)
    assert calls(venv) == ["numpy", "einops"]
    assert installer.is_ready(venv.parent, PACKAGES)
    expected = "starting clean" if state in {"half-made", "killed while adding"} else "making it again"
    assert expected in capfd.readouterr().err


def test_a_python_that_cannot_make_a_venv_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pins(tmp_path, PINS)
    fake_base(tmp_path, "#!/bin/sh\necho ensurepip is not available.\necho Failing command: x\nexit 1\n", monkeypatch)
    with pytest.raises(UserError, match=r"cannot be used: making it failed: .*python3-venv on Debian"):
        installer.prepare(tmp_path, PACKAGES)
    assert not installer.is_ready(tmp_path, {})


def test_what_only_comes_along_may_fail(venv: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (venv / "pip-fails-einops").touch()
    installer.prepare(venv.parent, {"numpy": "numpy"}, along={"einops": "einops"})
    assert installer.is_ready(venv.parent, {"numpy": "numpy"})
    assert "Going on without it." in capfd.readouterr().err


def test_somebody_elses_broken_venv_is_left_alone(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    with pytest.raises(UserError, match="does not run any more, so nothing was installed; delete or move"):
        installer.prepare(venv.parent, PACKAGES)
    assert (venv / "installed").is_dir()


def test_somebody_elses_too_old_venv_is_left_alone(venv: Path) -> None:
    (venv / "version").write_text("3.9")
    with pytest.raises(UserError, match=r"its Python is 3\.9, older than 3\.11, so nothing was installed"):
        installer.prepare(venv.parent, PACKAGES)


def test_a_folder_that_is_no_venv_is_left_alone(tmp_path: Path) -> None:
    write_pins(tmp_path, PINS)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "diary.txt").write_text("dear diary")
    with pytest.raises(UserError, match="is no virtual environment, so nothing was installed"):
        installer.prepare(tmp_path, PACKAGES)
    assert (tmp_path / ".venv" / "diary.txt").read_text() == "dear diary"


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    write_pins(tmp_path, PINS)
    (tmp_path / ".venv").write_text("")
    with pytest.raises(UserError, match=r"Installing into .* failed on .*\.venv: File exists; make room"):
        installer.prepare(tmp_path, PACKAGES)


def test_two_first_starts_install_once(venv: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    (venv / "pip-waits-numpy").touch()
    first = start()
    wait_for((venv / "pip-pid").exists)
    second = start()
    assert second.stderr is not None
    assert "is installing into" in second.stderr.readline()
    (venv / "pip-waits-numpy").unlink()
    os.kill(int((venv / "pip-pid").read_text()), signal.SIGKILL)  # the first one's pip fails
    assert "numpy 1.0" in first.communicate(timeout=20)[1]
    second.communicate(timeout=20)
    assert (first.returncode, second.returncode) == (1, 0)
    assert calls(venv) == ["numpy", "numpy", "einops"]
    assert installer.is_ready(venv.parent, PACKAGES)


def test_sigterm_ends_pip_too_and_leaves_no_ready_stamp(venv: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    (venv / "pip-waits-einops").touch()
    process = start()
    wait_for((venv / "pip-pid").exists)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert not is_alive(int((venv / "pip-pid").read_text()))
    assert not installer.is_ready(venv.parent, {"numpy": "numpy"})


def test_an_orphaned_pip_keeps_the_lock_until_it_ends(venv: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    (venv / "pip-waits-numpy").touch()
    first = start()
    wait_for((venv / "pip-pid").exists)
    first.kill()
    first.wait(timeout=20)
    second = start()
    assert second.stderr is not None
    assert "is installing into" in second.stderr.readline()
    (venv / "pip-waits-numpy").unlink()
    os.kill(int((venv / "pip-pid").read_text()), signal.SIGKILL)
    second.communicate(timeout=20)
    assert second.returncode == 0
    assert installer.is_ready(venv.parent, PACKAGES)


# ---- with a real one ----


def write_wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel with one module, by hand: what a wheel needs is four files."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, text in files.items():
            wheel.writestr(inner, text)
    return path


def test_a_first_start_that_fails_and_all_that_follow(tmp_path: Path) -> None:
    """Broken wheel -> one sentence; again -> clean and done; again -> at once; a module lost -> only that."""
    root, wheels = tmp_path / "checkout", tmp_path / "wheels"
    wheels.mkdir()
    copy_start_files(
        root,
        "import os, sys, einops\n"
        "def main(argv):\n    print(sys.prefix, argv, os.environ.get('SDV2LIVE_BOOTSTRAP'))\n    return 7\n",
    )
    write_pins(root, PINS)
    for name, version in PINS.items():
        write_wheel(wheels, name, version + ("+cpu" if name == "torch" else ""))
    broken = wheels / "numpy-1.0-py3-none-any.whl"
    broken.write_bytes(b"not a zip file")

    def start_here(folder: Path = root) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", "sdv2live", "bench", "--steps", "2"]
        environ = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels),
                   "SDV2LIVE_TORCH": "cpu", "HOME": str(tmp_path), "PYTHONPATH": str(root)}  # fmt: skip
        return subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False
        )

    venv = root / ".venv"
    first = start_here()
    assert first.returncode == 2
    assert "installing 1 of 4: torch 2.13.0 (CPU build) …" in first.stderr
    assert first.stderr.splitlines()[-1].startswith(f"sdv2live: Installing numpy 1.0 into {venv} failed: ")
    assert "Traceback" not in first.stderr and first.stdout == ""
    assert not installer.is_ready(root, {"torch": "torch"})

    write_wheel(wheels, "numpy", "1.0")
    (venv / "left-over").touch()
    second = start_here(tmp_path)  # from another folder as well
    assert "left half-made by an earlier try; starting clean" in second.stderr
    assert (second.returncode, second.stdout) == (7, f"{venv} ['bench', '--steps', '2'] None\n")
    assert not (venv / "left-over").exists()

    digest = hashlib.sha256((venv / "sdv2live.json").read_bytes()).digest()
    third = start_here()
    assert (third.returncode, third.stdout, third.stderr) == (7, second.stdout, "")
    assert hashlib.sha256((venv / "sdv2live.json").read_bytes()).digest() == digest

    site = next(venv.glob("lib/python3*/site-packages"))
    for path in site.glob("einops*"):
        shutil.rmtree(path)
    fourth = start_here()
    assert (fourth.returncode, fourth.stdout) == (7, second.stdout)
    assert "installing 1 of 1: einops 1.0 …" in fourth.stderr
