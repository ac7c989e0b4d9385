"""Sheets of named pictures, side by side. Owns their layout; pictures are [H, W, 3] uint8 RGB, all of one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sdv2live.frames import Pixels

BAND_PX = 22
BAND_GREY = 24
Tile = tuple[str, Pixels]  # what it is called, and it


def labelled(name: str, picture: Pixels) -> Pixels:
    """The picture below a band that says what it is."""
    band = np.full((BAND_PX, picture.shape[1], 3), BAND_GREY, np.uint8)
    cv2.putText(band, name, (6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (214, 218, 226), 1, cv2.LINE_AA)
    return np.vstack([band, picture])


def sheet(tiles: Sequence[Tile], columns: int) -> Pixels:
    """All tiles, row by row; what the last row lacks is as dark as the bands."""
    named = [labelled(*tile) for tile in tiles]
    named += [np.full_like(named[0], BAND_GREY)] * (-len(named) % columns)
    return np.vstack([np.hstack(named[first : first + columns]) for first in range(0, len(named), columns)])


def write_picture(path: Path, picture: Pixels) -> None:
    """As a PNG or JPEG, by the path's ending. Raises OSError where it cannot be written."""
    if not cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88]):
        raise OSError(f"{path} could not be written")
