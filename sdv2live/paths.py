"""Where files lie. Owns: the folders of presets, assets, settings and caches, on every system.

Standard library alone, because the bootstrap uses it before anything is installed. It makes no folder
and reads no file: who writes into a folder makes it, and who misses a file says so.

A checkout has `presets/` and `assets/` beside the package; a wheel carries the same two folders inside
it, as `sdv2live/_data/`. Callers cannot tell the difference.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

APP_NAME = "sdv2live"
_PACKAGE_DIR = Path(__file__).resolve().parent


def checkout_root() -> Path | None:
    """The top folder of the checkout that this package runs from, or None for an installed wheel."""
    root = _PACKAGE_DIR.parent
    is_installed = (_PACKAGE_DIR / "_data").is_dir()
    return root if not is_installed and (root / "pyproject.toml").is_file() else None


def presets_dir() -> Path:
    """The presets that come with the product. Read only."""
    return _data_dir("presets")


def assets_dir() -> Path:
    """The pocket model's weights, the sample clip, cards, icons and kits. Read only."""
    return _data_dir("assets")


def user_config_dir() -> Path:
    """Where this user's settings and presets belong. It may not exist yet."""
    return config_dir_on(sys.platform, os.environ, Path.home())


def models_dir() -> Path:
    """Where this user's fetched models lie, those of all engines: they share most files. It may not exist yet."""
    return cache_dir() / "models"


def cache_dir() -> Path:
    """Where this user's files belong that can be made or fetched again. It may not exist yet."""
    return cache_dir_on(sys.platform, os.environ, Path.home())


def recordings_dir() -> Path:
    """Where this user's recordings go unless told otherwise. It may not exist yet."""
    videos = Path.home() / ("Movies" if sys.platform == "darwin" else "Videos")
    return videos / APP_NAME


def config_dir_on(platform: str, environ: Mapping[str, str], home: Path) -> Path:
    """`user_config_dir` as a pure decision; `platform` as in `sys.platform`."""
    if platform == "win32":
        return _from_environ(environ, "APPDATA", home / "AppData" / "Roaming") / APP_NAME
    if platform == "darwin":
        return home / "Library" / "Application Support" / APP_NAME
    return _from_environ(environ, "XDG_CONFIG_HOME", home / ".config") / APP_NAME


def cache_dir_on(platform: str, environ: Mapping[str, str], home: Path) -> Path:
    """`cache_dir` as a pure decision; `platform` as in `sys.platform`."""
    if platform == "win32":
        # Beside other data of the program that stays on this machine, so with a folder of its own.
        return _from_environ(environ, "LOCALAPPDATA", home / "AppData" / "Local") / APP_NAME / "Cache"
    if platform == "darwin":
        return home / "Library" / "Caches" / APP_NAME
    return _from_environ(environ, "XDG_CACHE_HOME", home / ".cache") / APP_NAME


def _from_environ(environ: Mapping[str, str], name: str, otherwise: Path) -> Path:
    """The folder that a variable names. The XDG rules say that a relative one counts as not set."""
    value = environ.get(name, "")
    return Path(value) if os.path.isabs(value) else otherwise


def _data_dir(name: str) -> Path:
    root = checkout_root()
    return root / name if root is not None else _PACKAGE_DIR / "_data" / name
