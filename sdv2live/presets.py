"""Looks in files. Owns: finding, reading, applying, saving, renaming and deleting presets, and their thumbnails.

A preset is strict JSON: {"sdv2live": 1, "values": {parameter: value}}. It is applied whole or not at all. null stands
for what the engine brings, so that a look that was saved on one engine is at home on another. A picture of the same
name may lie beside it. What is saved goes into the user's folder; one of the user's own hides a shipped one of its
name. Any thread may call; names come from the folder's listing, so none can point out of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdv2live.errors import UserError, one_line
from sdv2live.file_names import name_fault, twin_key
from sdv2live.parameters import TABLE, Kind, Value, coerce
from sdv2live.paths import presets_dir, user_config_dir
from sdv2live.registry import Registry, Snapshot
from sdv2live.strict_files import read_bytes, read_json, write_bytes, write_json

FORMAT = 1
MAX_THUMBNAIL_BYTES = 256 << 10
MAX_THUMBNAIL_SIDE = 1024
TRASH = ".trash"
MAX_TRASH = 32

# Rows that a rule of the table ties together are written together: half of a pair can be refused on another engine.
PAIRS = {
    name: pair
    for pair in (("noise.max", "noise.min"), ("steps.count", "steps.list"))
    for name in pair
}  # fmt: skip

_SUFFIX = ".json"
_PICTURE_SUFFIXES = (".jpg", ".png")
_lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class Preset:
    """One preset as a list shows it. reason: why it cannot be used, one sentence, or ''."""

    name: str
    path: Path
    is_own: bool
    reason: str = ""
    thumbnail: Path | None = None

    @property
    def is_readable(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class Look:
    """A preset that was read. values: None for what the engine brings. brought: that, where it is needed."""

    values: Mapping[str, Any]
    brought: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class DeletedPreset:
    """What brings a deleted preset back."""

    name: str
    path: Path
    kept: Path

    def restore(self) -> Path:
        """Put it back under its name. Raises UserError if that name is taken, or if too much was deleted since."""
        with _lock:
            if _twin_in(self.path.parent, self.name) is not None:
                raise UserError(f"the preset {self.name!r} cannot come back: another one has its name now; rename it.")
            try:
                os.replace(self.kept, self.path)
            except OSError as error:
                raise UserError(f"the preset {self.name!r} cannot come back: {_why(error)}.") from error
            _move_pictures(self.kept, self.path)
            with contextlib.suppress(OSError):
                self.kept.parent.rmdir()
        return self.path


# ---- finding and reading -------------------------------------------------------------------------------------------


def preset_names() -> list[str]:
    """The presets that can be named, the user's own and those that come with sdv2live."""
    return sorted({name for folder in _folders() for name in _stems(folder) if not name_fault(name)})


def list_presets() -> list[Preset]:
    """Every preset, by name, broken ones too. Reads each file: not for a thread that draws."""
    own, shipped = _folders()
    found = [_described(name, path, is_own=True) for name, path in _stems(own).items()]
    hidden = {twin_key(preset.name) for preset in found}
    if shipped != own:
        found += [
            _described(name, path, is_own=False)
            for name, path in _stems(shipped).items()
            if twin_key(name) not in hidden
        ]
    return sorted(found, key=lambda preset: (twin_key(preset.name), preset.name))


def find_preset(name: str) -> Path:
    """The user's own preset of that name before the shipped one. Raises UserError."""
    name = unicodedata.normalize("NFC", name)
    if not name_fault(name):
        for folder in _folders():
            path = _stems(folder).get(name)
            if path is not None and path.is_file() and _is_inside(path, folder):
                return path
    raise UserError(f"there is no preset {name[:64]!r}: choose one of {', '.join(preset_names()) or 'none'}.")


def load_preset(path: Path) -> dict[str, Any]:
    """The values of one file, None for what the engine brings. Raises UserError with the file and the place."""
    try:
        data = read_json(path)
    except OSError as error:
        raise UserError(f"the preset {path} cannot be read: {_why(error)}.") from error
    except ValueError as error:
        raise UserError(f"the preset {path} is not valid JSON ({one_line(error)}): mend it or delete it.") from error
    if not isinstance(data, dict) or not isinstance(data.get("values"), dict):
        raise UserError(f'the preset {path} has no "values": mend it or delete it.')
    if type(data.get("sdv2live")) is not int or data["sdv2live"] != FORMAT:
        found = repr(data.get("sdv2live"))[:40]
        raise UserError(f"the preset {path} is of format {found}, and this sdv2live reads {FORMAT}.")
    for key in data:
        if key not in ("sdv2live", "values"):
            raise UserError(f"the preset {path} has {key[:60]!r} beside its values: remove that line.")
    values: dict[str, Any] = data["values"]
    for key, value in values.items():
        if key not in TABLE or not TABLE[key].in_preset:
            raise UserError(f"the preset {path} sets {key[:60]!r}, which no preset can: remove that line.")
        if value is None and TABLE[key].default is not None:
            raise UserError(f"the preset {path} has no value for {key}: give it one, or remove that line.")
    try:
        Registry().set_strictly([item for item in _ordered(values) if item[1] is not None], origin="preset")
    except UserError as error:
        raise UserError(f"the preset {path} cannot be used, mend it or delete it: {error}") from error
    return values


def apply_preset(registry: Registry, name: str, *, origin: str = "preset") -> None:
    """Set everything that the preset `name` holds. Raises UserError; then nothing has changed."""
    apply_preset_file(registry, find_preset(name), origin=origin)


def apply_preset_file(registry: Registry, path: Path, *, origin: str = "preset") -> None:
    """`apply_preset` for a file whose place is known."""
    set_look(registry, read_look(registry, path), origin=origin)


def read_look(registry: Registry, path: Path) -> Look:
    """The half of `apply_preset_file` that reads files. Raises UserError."""
    values = load_preset(path)
    return Look(values, engine_defaults(registry) if None in values.values() else {})


def set_look(registry: Registry, look: Look, *, origin: str) -> None:
    """The other half, for a thread that may not wait for the disk. Raises UserError; then nothing has changed."""
    items = {key: value for key, value in look.values.items() if value is not None}
    # What already stands there is left alone, so that it goes on counting as the engine's and not as chosen.
    items |= {
        key: look.brought[key]
        for key, value in look.values.items()
        if value is None and key in look.brought and registry.get(key) != look.brought[key]
    }
    registry.set_strictly(_ordered(items), origin=origin)


def engine_defaults(registry: Registry) -> Mapping[str, Value]:
    """What the engine that `registry` names brings, as the table writes it."""
    from sdv2live.engine.base import EngineSpec
    from sdv2live.engine.catalogue import default_size, traits_of
    from sdv2live.settings import engine_name

    name = engine_name(registry)
    defaults = traits_of(EngineSpec(name, default_size(name))).defaults
    return {key: coerce(TABLE[key], value).value for key, value in defaults.items() if value is not None}


# ---- changing ------------------------------------------------------------------------------------------------------


def look_of(registry: Registry, held: Snapshot | None = None) -> dict[str, Value]:
    """What `save_preset` writes, in the table's order: all that makes the picture, so that nothing of an earlier
    look is left when it is applied; null where a row stands at what the engine brings."""
    values, brought = held or registry.snapshot(), engine_defaults(registry)

    def is_brought(name: str) -> bool:
        return TABLE[name].default is None and values[name] in (None, brought.get(name))

    return {
        name: None if all(map(is_brought, PAIRS.get(name, (name,)))) else values[name]
        for name, row in TABLE.items()
        if row.in_preset and row.kind is not Kind.TRIGGER
    }


def save_preset(
    registry: Registry,
    name: str,
    *,
    overwrite: bool = False,
    thumbnail: bytes | None = None,
    held: Snapshot | None = None,
) -> Path:
    """The present look as the user's own preset `name`; -> its file. thumbnail: a JPEG or PNG file's bytes, small.
    held: the look of an earlier moment, where the user has gone on since.

    Raises UserError; then what was there is there still. overwrite: also lets it hide a shipped one of its name.
    """
    name, picture_suffix = checked_name(name), ""
    if thumbnail is not None:
        try:
            picture_suffix = _picture_suffix(thumbnail)
        except ValueError as error:
            raise UserError(f"the preset {name!r} was not saved: of its thumbnail, {error}.") from error
    data = {"sdv2live": FORMAT, "values": look_of(registry, held)}
    with _lock:
        for folder in _folders():
            twin = _twin_in(folder, name)
            if twin is not None and (twin != name or not overwrite):
                raise UserError(
                    f"there is a preset {twin!r} already: choose another name"
                    f"{'' if twin == name else ', this one differs in its spelling alone'}."
                )
        path = _folders()[0] / f"{name}{_SUFFIX}"
        try:
            write_json(path, data)
        except (OSError, ValueError) as error:
            raise UserError(f"the preset {path} cannot be saved: {_why(error)}.") from error
        with contextlib.suppress(OSError):  # a picture is never worth an error
            # The old one goes in every case: better none than that of another look.
            for suffix in _PICTURE_SUFFIXES:
                path.with_name(name + suffix).unlink(missing_ok=True)
            if thumbnail is not None:
                write_bytes(path.with_name(name + picture_suffix), thumbnail)
    return path


def delete_preset(name: str) -> DeletedPreset:
    """Put the user's own preset `name` aside; -> what brings it back. Raises UserError."""
    with _lock:
        path = _own_path(name, "delete")
        trash = path.parent / TRASH
        try:
            trash.mkdir(exist_ok=True)
            kept = Path(tempfile.mkdtemp(dir=trash)) / path.name
            os.replace(path, kept)
        except OSError as error:
            raise UserError(f"the preset {path} cannot be deleted: {_why(error)}.") from error
        _move_pictures(path, kept)
        _empty(trash)
    return DeletedPreset(path.stem, path, kept)


def rename_preset(name: str, new_name: str) -> Path:
    """Give the user's own preset `name` another name; -> its file. Raises UserError."""
    new_name = checked_name(new_name)
    with _lock:
        path = _own_path(name, "rename")
        target = path.with_name(new_name + _SUFFIX)
        if target == path:
            return path
        for folder in _folders():
            twin = _twin_in(folder, new_name, but=path)
            if twin is not None:
                raise UserError(f"there is a preset {twin!r} already: choose another name.")
        try:
            os.replace(path, target)
        except OSError as error:
            raise UserError(f"the preset {path} cannot be renamed: {_why(error)}.") from error
        _move_pictures(path, target)
    return target


def checked_name(name: str) -> str:
    """`name` as it is written on disk. Raises UserError that says what is wrong with it."""
    name = unicodedata.normalize("NFC", name)
    fault = name_fault(name)
    if fault:
        raise UserError(f"{name[:64]!r} is no name for a preset: {fault}.")
    return name


# ---- names, folders and pictures -----------------------------------------------------------------------------------


def _folders() -> tuple[Path, Path]:
    return user_config_dir() / "presets", presets_dir()


def _stems(folder: Path) -> dict[str, Path]:
    """Each preset file by its name in NFC, which is not always how the disk spells it."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    files = [Path(name) for name in names if name.endswith(_SUFFIX) and not name.startswith(".")]
    return {unicodedata.normalize("NFC", file.stem): folder / file for file in files}


def _twin_in(folder: Path, name: str, *, but: Path | None = None) -> str | None:
    key = twin_key(name)
    same = [stem for stem, path in _stems(folder).items() if twin_key(stem) == key and path != but]
    return name if name in same else next(iter(same), None)


def _own_path(name: str, verb: str) -> Path:
    own, shipped = _folders()
    name = unicodedata.normalize("NFC", name)
    path = _stems(own).get(name)
    if path is None and name in _stems(shipped):
        raise UserError(f"the preset {name!r} comes with sdv2live, so you cannot {verb} it: save one of your own.")
    if path is None:
        raise UserError(f"there is no preset {name[:64]!r} of your own to {verb}.")
    return path


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().parent == folder.resolve()
    except (OSError, RuntimeError):  # a ring of links
        return False


def _described(name: str, path: Path, *, is_own: bool) -> Preset:
    reason = ""
    fault = name_fault(name)
    if fault:
        reason = f"the preset {path} cannot be used under its name, rename it: {fault}."
    elif not _is_inside(path, path.parent):
        reason = f"the preset {path} is a link out of its folder: put the file itself there."
    else:
        try:
            load_preset(path)
        except UserError as error:
            reason = one_line(error)
    return Preset(name, path, is_own, reason, _thumbnail_of(path))


def _thumbnail_of(path: Path) -> Path | None:
    """The picture beside a preset, if it is one that can be drawn without a thought."""
    for suffix in _PICTURE_SUFFIXES:
        picture = path.with_name(path.stem + suffix)
        if picture.is_file() and _is_inside(picture, path.parent):
            with contextlib.suppress(OSError, ValueError):
                _picture_suffix(read_bytes(picture, MAX_THUMBNAIL_BYTES))
                return picture
    return None


def _move_pictures(path: Path, target: Path) -> None:
    """The preset at `path` is at `target` now. A picture is never worth an error."""
    for suffix in _PICTURE_SUFFIXES:
        picture, place = path.with_name(path.stem + suffix), target.with_name(target.stem + suffix)
        with contextlib.suppress(OSError):
            if picture.is_file():
                os.replace(picture, place)
            else:
                place.unlink(missing_ok=True)  # left there by another look


def _picture_suffix(data: bytes) -> str:
    """Of a small JPEG or PNG file, from its head alone; whoever draws it meets no surprise in size. Raises
    ValueError with one clause."""
    if len(data) > MAX_THUMBNAIL_BYTES:
        raise ValueError(f"{len(data)} bytes are more than the {MAX_THUMBNAIL_BYTES} that it may have")
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 24:
        suffix, sides = ".png", struct.unpack(">II", data[16:24])
    else:
        suffix, sides = ".jpg", _jpeg_sides(data)
    if not all(0 < side <= MAX_THUMBNAIL_SIDE for side in sides):
        raise ValueError(f"{sides[0]} by {sides[1]} pixels are not within 1 to {MAX_THUMBNAIL_SIDE}")
    return suffix


def _jpeg_sides(data: bytes) -> tuple[int, ...]:
    """From the first start-of-frame segment (ITU T.81, B.2.2). Raises ValueError."""
    at = 2 if data.startswith(b"\xff\xd8\xff") else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", data[at + 5 : at + 9])
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    raise ValueError("it is neither a JPEG nor a PNG picture")


def _empty(trash: Path) -> None:
    """Down to the newest deletions."""
    with contextlib.suppress(OSError):
        kept = [(entry.stat().st_mtime_ns, entry.path) for entry in os.scandir(trash)]
        for _, old in sorted(kept)[:-MAX_TRASH]:
            shutil.rmtree(old, ignore_errors=True)


def _ordered(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """In the table's order, so that of two rivals (prompt.text, prompt.mix) the same one wins every time."""
    return [(key, values[key]) for key in TABLE if key in values]


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)
