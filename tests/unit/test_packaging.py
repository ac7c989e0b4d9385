"""The distribution: one list of pins, packages and data that match the folders, and a wheel that works elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import sdv2live
from sdv2live import bootstrap, paths

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = PYPROJECT["tool"]["sdv2live"]["pins"]
INDIRECT_PINS = PYPROJECT["tool"]["sdv2live"]["indirect-pins"]


def requirements(*extras: str) -> dict[str, tuple[int, ...]]:
    """Package -> lowest version, from the metadata."""
    project = PYPROJECT["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    extras_of_extras = [extra for line in lines for extra in re.findall(r"^sdv2live\[(\w+)\]$", line)]
    lines = [line for line in lines if not line.startswith("sdv2live[")]
    lines += [line for extra in extras_of_extras for line in project["optional-dependencies"][extra]]
    matches = [re.match(r"([\w-]+)>=([\d.]+)", line) for line in lines]
    assert all(matches), "every requirement has a lower bound"
    return {match[1]: version(match[2]) for match in matches if match}


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


# ---- pins ----


def test_every_module_that_a_command_needs_is_pinned_and_required() -> None:
    for command, needs in bootstrap.NEEDS_OF_COMMAND.items():
        extras = ("test",) if command == "test" else ()
        packages = {bootstrap.package_of(module) for module in (*needs.modules, *needs.along)}
        assert packages <= set(PINS), command
        assert packages <= set(requirements(*extras)), command


def test_every_requirement_is_installed_by_some_command_or_pinned_for_later() -> None:
    assert set(requirements("test")) == set(PINS)


def test_pins_are_exact_and_not_below_the_metadata() -> None:
    for name, lowest in requirements("test").items():
        assert version(PINS[name]) >= lowest, name
    for name, pin in {**PINS, **INDIRECT_PINS}.items():
        assert re.fullmatch(r"\d+(\.\d+)+", pin), name
    assert not set(PINS) & set(INDIRECT_PINS)


def test_oldest_torch_is_the_metadatas() -> None:
    assert requirements()["torch"] == bootstrap.OLDEST_TORCH
    assert next(iter(PINS)) == "torch", "torch is installed first"


def test_ci_runs_what_a_user_would_type() -> None:
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[-1] == "python3 -m sdv2live test"
    assert len(lines) == 3
    assert sys.platform == "win32" or os.access(script, os.X_OK)


# ---- packages and data ----


def test_every_package_folder_is_named_in_pyproject() -> None:
    named = {name for name in PYPROJECT["tool"]["setuptools"]["packages"] if "._data" not in name}
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for top in ("sdv2live", "gui", "bridges")
        for file in (ROOT / top).rglob("*.py")
    }
    assert named == found, "add the new folder to [tool.setuptools] packages in pyproject.toml"
    for name in named:
        assert (ROOT / name.replace(".", "/") / "__init__.py").is_file(), name


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what goes into the wheel, so that the build leaves nothing behind in the checkout."""
    source = tmp_path_factory.mktemp("source")
    shutil.copy(ROOT / "pyproject.toml", source)
    for name in ("sdv2live", "gui", "bridges", "presets", "assets"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name in ("presets/of_a_test.json", "assets/of_a_test/deeper/file.bin"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("here")
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), folder=source)
    (built,) = folder.glob("*.whl")
    return built


def pip(*arguments: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", *arguments]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
    result = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_wheel_holds_every_source_and_data_file(source: Path, wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    tops = {"sdv2live": "", "gui": "", "bridges": "", "presets": "sdv2live/_data/", "assets": "sdv2live/_data/"}
    for top, prefix in tops.items():
        files = [path for path in (source / top).rglob("*") if path.is_file()]
        assert {prefix + path.relative_to(source).as_posix() for path in files} <= inside
    assert {
        "sdv2live/_data/presets/night.json",
        "sdv2live/_data/presets/night.jpg",
    } <= inside  # a look and its thumbnail
    info = f"sdv2live-{sdv2live.__version__}.dist-info"
    assert {name.split("/")[0] for name in inside} == {"sdv2live", "gui", "bridges", info}


def test_a_wheel_installed_elsewhere_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel), folder=elsewhere)
    code = (
        "from sdv2live import paths\n"
        "print(paths.checkout_root())\n"
        "print((paths.presets_dir() / 'of_a_test.json').read_text())\n"
        "print((paths.assets_dir() / 'of_a_test' / 'deeper' / 'file.bin').read_text())\n"
        "print(paths.assets_dir())\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=elsewhere, env=environ, capture_output=True, text=True, timeout=60, check=True)
    data = (target / "sdv2live" / "_data" / "assets").resolve()
    assert result.stdout.splitlines() == ["None", "here", "here", str(data)]
    scripts = {path.name.removesuffix(".exe") for path in (target / "bin").iterdir()}
    assert "sdv2live" in scripts


# ---- folders ----


def test_a_checkout_uses_its_top_level_folders() -> None:
    assert paths.checkout_root() == ROOT
    assert (paths.presets_dir(), paths.assets_dir()) == (ROOT / "presets", ROOT / "assets")


HOME = Path("/home/me")


@pytest.mark.parametrize(
    ("platform", "environ", "config", "cache"),
    [
        ("linux", {}, ".config/sdv2live", ".cache/sdv2live"),
        ("linux", {"XDG_CONFIG_HOME": "/c", "XDG_CACHE_HOME": "/k"}, "/c/sdv2live", "/k/sdv2live"),
        ("linux", {"XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "relative"}, ".config/sdv2live", ".cache/sdv2live"),
        ("darwin", {"XDG_CONFIG_HOME": "/c"}, "Library/Application Support/sdv2live", "Library/Caches/sdv2live"),
        ("win32", {}, "AppData/Roaming/sdv2live", "AppData/Local/sdv2live/Cache"),
        ("win32", {"APPDATA": "/r", "LOCALAPPDATA": "/l"}, "/r/sdv2live", "/l/sdv2live/Cache"),
    ],
)
def test_folders_of_each_system(platform: str, environ: Mapping[str, str], config: str, cache: str) -> None:
    assert paths.config_dir_on(platform, environ, HOME) == HOME / config
    assert paths.cache_dir_on(platform, environ, HOME) == HOME / cache
