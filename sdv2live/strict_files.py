"""Small files of the user's that must never be half. Owns: strict bounded JSON in, one whole file out.

Standard library alone; knows nothing of what the files mean. Any thread and any number of processes may read and
write at once: of two writers the later one wins, and a reader sees one or the other, whole.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 20
PART_SUFFIX = ".part"
_STALE_PART_S = 3600.0
_MAX_DIGITS = 20  # more than any value has; int() of a long text would take its time, and float() of it overflows


def read_bytes(path: Path, most: int) -> bytes:
    """The file, if it is an ordinary one of at most `most` bytes. Raises OSError, or ValueError with one clause."""
    # A pipe or a device under a file's name would never end, so nothing is opened before it is known what it is.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no ordinary file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return data


def read_json(path: Path) -> Any:
    """Strict JSON: UTF-8, no NaN, no infinity, no key twice, at most 1 MiB. Raises OSError or ValueError."""
    text = read_bytes(path, MAX_BYTES).decode("utf-8")
    try:
        return json.loads(
            text, parse_constant=_no_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_no_twins
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: Path, data: object) -> None:
    """The same file for the same data. Raises OSError, or ValueError for what `read_json` would not take."""
    # Text that was typed stands there as it was typed, for people who open the file.
    encoded = (json.dumps(data, indent=4, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"it would be larger than {MAX_BYTES} bytes")
    write_bytes(path, encoded)


def write_bytes(path: Path, data: bytes) -> None:
    """The whole file or, whatever happens, the one that was there. Makes the folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(suffix=PART_SUFFIX, prefix=".", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
            written_s = os.fstat(file.fileno()).st_mtime
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    _sync_folder(path.parent)
    _sweep(path.parent, written_s)


def _sync_folder(folder: Path) -> None:
    """So that the exchange of names lasts as well, where a system has that (Windows has not)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sweep(folder: Path, now_s: float) -> None:
    """Take away what a killed process left; a younger part may belong to one that is writing. now_s: of the disk."""
    for part in folder.glob(f".*{PART_SUFFIX}"):
        with contextlib.suppress(OSError):
            if now_s - part.stat().st_mtime > _STALE_PART_S:
                part.unlink()


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not a value")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"{text[:40]}... is too long a number")
    return int(text)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found
