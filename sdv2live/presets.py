"""Looks in files. Owns: reading one preset, strictly and bounded, and finding it by name.

A preset is strict JSON: {"sdv2live": 1, "values": {parameter: value}}. It is applied whole or not at all.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sdv2live.errors import UserError
from sdv2live.parameters import TABLE
from sdv2live.paths import presets_dir, user_config_dir
from sdv2live.registry import Registry

FORMAT = 1
MAX_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")


def preset_names() -> list[str]:
    """The presets that can be named, the user's own and those that come with sdv2live."""
    return sorted({path.stem for folder in _folders() if folder.is_dir() for path in folder.glob("*.json")})


def apply_preset(registry: Registry, name: str, *, origin: str = "preset") -> None:
    """Set everything that the preset `name` holds. Raises UserError; then nothing has changed."""
    values = load_preset(find_preset(name))
    # In the table's order, so that of two rivals (prompt.text, prompt.mix) the same one wins every time.
    registry.set_strictly([(key, values[key]) for key in TABLE if key in values], origin=origin)


def find_preset(name: str) -> Path:
    """The user's own preset of that name before the shipped one. Raises UserError."""
    if _NAME.fullmatch(name):
        for folder in _folders():
            path = folder / f"{name}.json"
            if path.is_file() and path.resolve().parent == folder.resolve():
                return path
    raise UserError(f"there is no preset {name[:64]!r}: choose one of {', '.join(preset_names()) or 'none'}.")


def load_preset(path: Path) -> dict[str, Any]:
    """The values of one file. Raises UserError with the file and the place."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"the preset {path} is larger than {MAX_BYTES} bytes: it is no preset.")
        data = json.loads(path.read_text("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except OSError as error:
        raise UserError(f"the preset {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the preset {path} is not valid JSON ({error}): mend it or delete it.") from error
    if not isinstance(data, dict) or not isinstance(data.get("values"), dict):
        raise UserError(f'the preset {path} has no "values": mend it or delete it.')
    if data.get("sdv2live") != FORMAT:
        raise UserError(f"the preset {path} is of format {data.get('sdv2live')!r}, and this sdv2live reads {FORMAT}.")
    values: dict[str, Any] = data["values"]
    for key in values:
        if key not in TABLE or not TABLE[key].in_preset:
            raise UserError(f"the preset {path} sets {key[:60]!r}, which no preset can: remove that line.")
    return values


def _folders() -> tuple[Path, Path]:
    return user_config_dir() / "presets", presets_dir()


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not a value")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found
