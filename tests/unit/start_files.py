"""The modules that a start runs before anything is installed, and a checkout of them alone, for the tests of both."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_FILES = (
    "__init__",
    "__main__",
    "bootstrap",
    "installer",
    "pip_runner",
    "torch_build",
    "paths",
    "errors",
    "file_lock",
)


def copy_start_files(folder: Path, command_line: str) -> Path:
    """Into a package of `folder`, with `command_line` in place of the real one; -> `folder`."""
    package = folder / "sdv2live"
    package.mkdir(parents=True)
    for name in START_FILES:
        shutil.copy(ROOT / "sdv2live" / f"{name}.py", package)
    (package / "cli.py").write_text(command_line)
    return folder
