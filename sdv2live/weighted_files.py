"""How a file with a weight is spelled: PATH or PATH:WEIGHT. Pure text; opens nothing.

What stands behind the last colon is a weight if it is a number, so that `C:\\look.safetensors` is a path.
"""

from __future__ import annotations

import math

PARTING = ";"  # between files, where several stand in one text
MAX_PATH_CHARS = 1000

WeightedFile = tuple[str, float]


def read(given: object) -> WeightedFile:
    """Path and weight, 1 where none is given; of a text, or of a pair. Raises ValueError with a clause."""
    if isinstance(given, str):
        path, _, behind = given.strip().rpartition(":")
        weight = _number(behind) if path else None
        return _checked(given.strip(), 1.0) if weight is None else _checked(path, weight)
    if isinstance(given, list | tuple) and len(given) == 2 and isinstance(given[0], str):
        weight = _number(given[1])
        if weight is not None:
            return _checked(given[0], weight)
    raise ValueError(f"{str(given)[:60]!r} is neither PATH nor PATH:WEIGHT")


def spelled(file: WeightedFile) -> str:
    """What `read` takes for the same."""
    path, weight = file
    return path if weight == 1 and read(path) == file else f"{path}:{weight:g}"


def _number(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return None
    try:
        return float(given)
    except (ValueError, OverflowError):
        return None


def _checked(path: str, weight: float) -> WeightedFile:
    if not path or len(path) > MAX_PATH_CHARS or not path.isprintable():
        raise ValueError(f"{path[:60]!r} names no file")
    if not math.isfinite(weight):
        raise ValueError(f"the weight of {path[:60]!r} is not a finite number")
    return path, weight
