"""Who may import whom, read from the files themselves; and what an import may cost."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Every module that a file names in an import, at any depth; what only type checkers see does not count."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


def reaches(path: Path, *packages: str) -> set[str]:
    return {name for name in imports_of(path) for p in packages if name == p or name.startswith(p + ".")}


RULES = [
    # rooms, what they may not import
    (
        "sdv2live/engine",
        [
            "PySide6",
            "pythonosc",
            "cv2",
            "av",
            "bridges",
            "gui",
            "sdv2live.registry",
            "sdv2live.parameters",
            "sdv2live.capture",
            "sdv2live.session",
            "sdv2live.app",
        ],
    ),
    ("sdv2live/engine/model", ["numpy", "safetensors", "sdv2live.clock", "sdv2live.frames"]),
    ("sdv2live/capture", ["torch", "bridges", "gui", "sdv2live.engine", "sdv2live.session", "sdv2live.app"]),
    (
        "sdv2live/models",
        ["torch", "safetensors", "bridges", "gui", "sdv2live.capture", "sdv2live.session", "sdv2live.app"],
    ),
    ("bridges", ["torch", "cv2", "gui", "sdv2live.engine", "sdv2live.session", "sdv2live.app", "sdv2live.supervisor"]),
    ("gui", ["torch", "cv2", "bridges", "sdv2live.engine", "sdv2live.session", "sdv2live.app"]),
]


@pytest.mark.parametrize(("room", "forbidden"), RULES)
def test_rooms_do_not_blur(room: str, forbidden: list[str]) -> None:
    broken = {str(path.relative_to(ROOT)): reaches(path, *forbidden) for path in files(room)}
    assert not {path: names for path, names in broken.items() if names}


def test_heavy_packages_stay_where_they_belong() -> None:
    may = {
        "torch": (
            "sdv2live/engine/",
            "sdv2live/training/",
            "sdv2live/bench",
            "sdv2live/api.py",
            "sdv2live/measures.py",
        ),
        "cv2": (
            "sdv2live/capture/",
            "sdv2live/training/",
            "sdv2live/filters.py",
            "sdv2live/evaluate.py",
            "sdv2live/measures.py",
        ),
        "av": ("sdv2live/capture/", "sdv2live/training/", "bridges/recorder.py"),
        "PySide6": ("gui/",),
        "pythonosc": (),
        "mss": ("sdv2live/capture/screen.py",),
        "cv2_enumerate_cameras": ("sdv2live/capture/cameras.py",),
        "pyvirtualcam": ("bridges/virtual_camera.py",),
        "huggingface_hub": ("sdv2live/models/fetch.py", "sdv2live/measures.py"),
        "httpx2": ("sdv2live/models/fetch.py",),
    }
    for package, rooms in may.items():
        users = {
            path.relative_to(ROOT).as_posix() for path in files("sdv2live", "bridges", "gui") if reaches(path, package)
        }
        assert not {user for user in users if not user.startswith(rooms)}, package


def test_only_the_composition_root_knows_session_and_bridges() -> None:
    may = {"sdv2live/app.py", "sdv2live/cli.py", "sdv2live/render.py", "sdv2live/window.py", "sdv2live/devices.py"}
    may |= {f"sdv2live/doctor/{name}.py" for name in ("command", "ends", "soak", "soak_sender")}  # they try them
    users = {path.relative_to(ROOT).as_posix() for path in files("sdv2live") if reaches(path, "bridges", "gui")}
    assert users <= may


def test_time_in_the_pipeline_is_monotonic_and_nothing_is_evaluated_or_unpickled() -> None:
    for path in files("sdv2live", "bridges", "gui"):
        tree = ast.parse(path.read_text("utf-8"))
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"time.time", "datetime.now", "datetime.datetime.now", "eval", "exec", "os.system"}, path
        assert not reaches(path, "pickle", "marshal", "shelve"), path


def run_python(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, cwd="/", capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    ("module", "not_loaded"),
    [
        ("sdv2live", "torch numpy cv2 av"),
        ("sdv2live.cli", "torch numpy cv2 av"),
        ("sdv2live.engine.client", "torch cv2 av"),
        ("sdv2live.engine.ipc", "torch cv2 av"),
        ("sdv2live.app", "torch"),
        ("bridges.osc_server", "torch cv2 av numpy"),
        ("sdv2live.bench", "cv2 av PySide6 pyvirtualcam huggingface_hub"),
        ("sdv2live.engine.worker", "torch cv2 av"),
        ("sdv2live.models.command", "torch numpy safetensors huggingface_hub httpx2"),
    ],
)
def test_an_import_brings_only_what_it_needs(module: str, not_loaded: str) -> None:
    code = f"import sys, {module}; print([name for name in {not_loaded.split()} if name in sys.modules])"
    assert run_python(code) == "[]"
