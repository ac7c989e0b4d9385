"""The decisions of a start: what is needed, in which Python it runs, and what a user reads when it cannot."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import runpy
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from sdv2live import bootstrap, installer, pip_runner, torch_build
from tests.unit.start_files import ROOT, copy_start_files

LIVE = {"torch", "numpy", "einops", "safetensors", "cv2", "av"}
ENGINE = {"torch", "numpy", "einops", "safetensors"}
only_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs programs that are scripts")


def run_bare(
    *arguments: str, folder: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Start sdv2live in a Python that sees the standard library and `folder` alone."""
    command = [sys.executable, "-S", "-m", "sdv2live", *arguments]
    environ = {"PATH": os.environ.get("PATH", ""), **(environ or {})}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)


def copy_package(folder: Path) -> Path:
    """The files of a start, copied, with a command line that says where it runs."""
    return copy_start_files(
        folder,
        "import os, sys\n"
        "def main(argv):\n"
        "    print('runs in', sys.prefix, argv, os.environ.get('SDV2LIVE_BOOTSTRAP'))\n"
        "    return 7\n",
    )


# ---- what a command line needs ----


@pytest.mark.parametrize(
    ("arguments", "modules"),
    [
        ([], LIVE),
        (["--headless"], LIVE),
        (["live", "--source", "clip"], LIVE),
        (["render"], LIVE),
        (["evaluate"], LIVE),
        (["bench", "--engine", "pocket"], ENGINE),
        (["prompt", "oil"], ENGINE),
        (["stage"], ENGINE),
        (["devices"], {"numpy", "cv2", "mss"}),
        (["models", "get", "wan-1.3b"], ENGINE | {"huggingface_hub"}),
        (["models", "list"], set()),
        (["models"], set()),
        (["doctor"], set()),
        (["doctor", "--soak"], LIVE),
        (["doctor", "--soak=30", "--json"], LIVE),
        (["help"], set()),
        (["--version"], set()),
        (["--help"], set()),
        (["render", "--help"], set()),
        (["rendr"], set()),
    ],
)
def test_needs_of_each_command(arguments: list[str], modules: set[str]) -> None:
    assert set(bootstrap.needs_of(arguments).modules) == modules


def test_tests_need_what_they_test_with() -> None:
    needed = set(bootstrap.needs_of(["test", "--help"]).modules)
    assert needed > LIVE | {"pytest", "pythonosc", "psutil", "pyvirtualcam"}


def test_missing_modules_are_found_without_importing_any() -> None:
    assert bootstrap.missing_modules(["json", "no_such_module"]) == {"no_such_module": "is not installed"}


@pytest.mark.parametrize(
    ("version", "is_old"), [("2.4.1+cu121", True), ("2.10.0", True), ("2.11.0", False), ("3.0", False)]
)
def test_an_old_torch_counts_as_missing(
    version: str, is_old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    spec = ModuleSpec("torch", None, origin=str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert bootstrap.missing_modules(["torch"]) == {}  # no record, so nothing to object to
    (tmp_path / f"torch-{version}.dist-info").mkdir()
    expected = {"torch": f"{version} is older than 2.11"} if is_old else {}
    assert bootstrap.missing_modules(["torch", "numpy"]) == expected


def test_the_version_is_read_off_real_records() -> None:
    for package in ("torch", "pytest"):
        spec = importlib.util.find_spec(package)
        if spec is not None:  # torch may be missing where these tests run
            assert bootstrap._installed_version(package, spec.origin) == importlib.metadata.version(package)


# ---- a start ----


def test_nothing_happens_where_everything_is_there() -> None:
    """No process is started, nothing of the needed modules or of the installer is imported."""
    code = (
        "import sys\n"
        "from sdv2live import bootstrap\n"
        "before = set(sys.modules)\n"
        "sys.addaudithook(lambda event, _: event in {'subprocess.Popen', 'os.exec'} and sys.exit('started ' + event))\n"
        "bootstrap.NEEDS_OF_COMMAND = {'bench': bootstrap.Needs(('sqlite3', 'wave'))}\n"
        "bootstrap.ensure(['bench'])\n"
        "print({'sqlite3', 'wave', 'sdv2live.installer'} & set(sys.modules))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "set()\n"


def test_commands_without_needs_start_anywhere(tmp_path: Path) -> None:
    result = run_bare("doctor", folder=copy_package(tmp_path))
    assert (result.returncode, result.stderr) == (7, "")
    assert "['doctor']" in result.stdout


@only_posix
def test_the_doctor_goes_on_where_things_are_ready_and_installs_nothing(tmp_path: Path) -> None:
    copy_package(tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert run_bare("doctor", folder=tmp_path).returncode == 7  # in a checkout without .venv: here
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho went on "$@"\n')
    python.chmod(0o755)
    stamp = {"step": "ready", "is_ours": True, "python": "3.11", "modules": [], "pins": "of another day"}
    (tmp_path / ".venv" / "sdv2live.json").write_text(json.dumps(stamp))
    assert run_bare("doctor", folder=tmp_path).returncode == 7
    stamp["pins"] = installer.read_pins(tmp_path).digest
    (tmp_path / ".venv" / "sdv2live.json").write_text(json.dumps(stamp))
    assert run_bare("doctor", "--json", folder=tmp_path).stdout == "went on -m sdv2live doctor --json\n"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["live", "--help"], ["bench", "--help"]])
def test_help_needs_no_installation(arguments: list[str]) -> None:
    result = run_bare(*arguments, folder=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    assert "sdv2live" in result.stdout


def test_an_installed_package_says_what_is_missing(tmp_path: Path) -> None:
    result = run_bare("bench", folder=copy_package(tmp_path))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("sdv2live: this command cannot run in ")
    assert "torch is not installed" in result.stderr
    assert result.stderr.endswith('-m pip install "torch>=2.11" numpy einops safetensors\n')
    assert not (tmp_path / ".venv").exists()


def test_tests_are_only_in_a_checkout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bootstrap, "checkout_root", lambda: None)
    with pytest.raises(SystemExit) as stop:
        bootstrap.run_tests([])
    assert stop.value.code == 2
    assert "run them in a checkout" in capsys.readouterr().err


def test_a_start_never_goes_round_in_circles(tmp_path: Path) -> None:
    """In the process that an installation ended in, what is still missing is an error and no new installation."""
    copy_package(tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    result = run_bare("bench", folder=tmp_path, environ={bootstrap.GUARD_VARIABLE: "installed"})
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "still lacks what was just installed for it: torch is not installed" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_too_old_a_python_gets_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "sdv2live" / "__main__.py"), run_name="__main__")
    assert stop.value.code == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    assert "needs Python 3.11 or newer" in sentence and "is Python 3.9;" in sentence


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_what_a_too_old_python_reads_can_be_read_by_it(name: str) -> None:
    ast.parse((ROOT / "sdv2live" / name).read_text(encoding="utf-8"), feature_version=(3, 7))


# ---- which build of torch ----


@pytest.mark.parametrize(
    ("version", "requirements", "platform", "build"),
    [
        ("2.13.0+cpu", [], "linux", "cpu"),
        ("2.13.0+cu130", [], "linux", "cuda"),
        ("2.13.0", ["filelock", 'nvidia-cudnn-cu13==9.2; platform_system == "Linux"'], "linux", "cuda"),
        ("2.13.0", ["filelock", "cuda-toolkit[cublas]==13.0.3"], "linux", "cuda"),
        ("2.13.0", ["filelock"], "linux", "cpu"),
        ("2.13.0", ["filelock", "nvidia-cudnn-cu13==9.2"], "darwin", "cpu"),
        ("2.13.0", ["filelock", "nvidia-cudnn-cu13==9.2"], "win32", "cpu"),
    ],
)
def test_build_of_the_file_that_pip_would_take(
    version: str, requirements: list[str], platform: str, build: str
) -> None:
    report = {"metadata": {"version": version, "requires_dist": requirements}}
    assert torch_build.build_in(report, platform) == build


class RecordedPip(pip_runner.Pip):
    """A pip that would take `offered` from its usual sources and notes what it is told to install."""

    def __init__(self, offered: dict[str, Any] | None, *, fails: bool = False) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._offered = offered
        self._fails = fails

    def would_install(self, requirement: str) -> dict[str, Any]:
        if self._offered is None:
            raise pip_runner.PipError("No matching distribution", "look elsewhere")
        return self._offered

    def install(self, *arguments: str) -> None:
        self.calls.append(arguments)
        if self._fails:
            raise pip_runner.PipError("No route", "check it")


CPU_FILE = {"metadata": {"version": "2.13.0+cpu", "requires_dist": []}}
CUDA_FILE = {"metadata": {"version": "2.13.0", "requires_dist": ["nvidia-nccl-cu13==2.2"]}}
PLAIN_FILE = {"metadata": {"version": "2.13.0", "requires_dist": ["filelock"]}}
FROM_CPU_INDEX = ("--no-deps", "--index-url", "https://download.pytorch.org/whl/cpu", "torch==2.13.0+cpu")
FROM_CUDA_INDEX = ("--no-deps", "--index-url", "https://download.pytorch.org/whl/cu130", "torch==2.13.0+cu130")
USUAL = ("--no-deps", "torch==2.13.0")


@pytest.mark.parametrize(
    ("build", "offered", "platform", "call"),
    [
        ("cpu", CPU_FILE, "linux", USUAL),
        ("cpu", CUDA_FILE, "linux", FROM_CPU_INDEX),
        ("cpu", None, "linux", FROM_CPU_INDEX),
        ("cpu", PLAIN_FILE, "darwin", USUAL),
        ("cpu", PLAIN_FILE, "win32", USUAL),
        ("cuda", CUDA_FILE, "linux", USUAL),
        ("cuda", CPU_FILE, "linux", FROM_CUDA_INDEX),
        ("cuda", PLAIN_FILE, "win32", FROM_CUDA_INDEX),
        ("any", CUDA_FILE, "linux", USUAL),
    ],
)
def test_where_torch_comes_from(
    build: str, offered: dict[str, Any] | None, platform: str, call: tuple[str, ...]
) -> None:
    pip = RecordedPip(offered)
    torch_build.install(pip, "2.13.0", build, platform)
    assert pip.calls == [call]


def test_both_ways_to_torch_are_named_when_both_fail() -> None:
    with pytest.raises(pip_runner.PipError) as error:
        torch_build.install(RecordedPip(CUDA_FILE, fails=True), "2.13.0", "cpu", "linux")
    sentence = str(error.value)
    assert "offer only the CUDA build" in sentence and "whl/cpu) failed: No route" in sentence
    assert "SDV2LIVE_TORCH=any" in sentence and "several GB" in sentence


@only_posix
@pytest.mark.parametrize(
    ("script", "found"),
    [("echo 'GPU 0: NVIDIA (UUID: x)'", True), ("echo 'cannot talk to the driver'; exit 9", False), ("exit 0", False)],
)
def test_gpu_is_found_by_a_program_that_runs(script: str, found: bool, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    environ = {"PATH": str(tmp_path)}
    no_driver = tmp_path / "no-driver"
    assert torch_build.has_nvidia_gpu("linux", environ, no_driver) is found
    assert not torch_build.has_nvidia_gpu("darwin", environ, no_driver)
    assert torch_build.wanted_build("darwin", {**environ, "SDV2LIVE_TORCH": "CUDA"}) == "cuda"


def test_gpu_is_found_by_the_drivers_traces(tmp_path: Path) -> None:
    environ = {"PATH": "", "SystemRoot": str(tmp_path)}
    assert not torch_build.has_nvidia_gpu("linux", environ, tmp_path)
    assert not torch_build.has_nvidia_gpu("win32", environ, tmp_path)
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "System32").mkdir()
    (tmp_path / "System32" / "nvcuda.dll").touch()
    assert torch_build.has_nvidia_gpu("linux", environ, tmp_path)
    assert torch_build.has_nvidia_gpu("win32", environ, tmp_path)


# ---- what pip says ----


@pytest.mark.parametrize(
    ("output", "reason", "advice"),
    [
        ("ERROR: Could not find a version\nERROR: No matching distribution found for av==1\n",
         "No matching distribution found for av==1", "no build for Python"),
        ("WARNING: Retrying after NewConnectionError('x')\nERROR: No matching distribution found for av\n",
         "No matching distribution found for av", "check the network"),
        ("\x1b[31mERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\x1b[0m\n",
         "Could not install packages due to an OSError: [Errno 28] No space left on device", "make room"),
        ("ERROR: Exception:\nTraceback:\n  x\nValueError: odd\n", "ValueError: odd", "pip's lines above"),
        ("", "it ended without a message", "pip's lines above"),
    ],
)  # fmt: skip
def test_pips_last_word(output: str, reason: str, advice: str) -> None:
    error = pip_runner.error_in(output)
    assert error.reason == reason
    assert advice in str(error) and str(error).endswith("then start again.")
