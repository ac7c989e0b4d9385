"""The sources that need nothing: `pattern` and `none`. Owns: how the pattern looks and how its number is read.

The pattern is a pure function of the frame index, so that a test at the far end of a chain can tell which frame
it sees (`read_frame_number`), even after a resize or a lossy codec. Knows nothing of time beyond its rate. Runs
on the capture thread.
"""

from __future__ import annotations

import math
import threading
from fractions import Fraction

import numpy as np

from sdv2live.capture.base import Source, SourceFrame, SourceInfo
from sdv2live.frames import Pixels

PATTERN_SIZE_WH = (640, 360)
PATTERN_RATE_FPS = Fraction(30)

# EBU bars at 75 %: white, yellow, cyan, green, magenta, red, blue, black. RGB.
BARS = np.array(
    [
        [191, 191, 191],
        [191, 191, 0],
        [0, 191, 191],
        [0, 191, 0],
        [191, 0, 191],
        [191, 0, 0],
        [0, 0, 191],
        [0, 0, 0],
    ],
    np.uint8,
)
DISC_RGB = (255, 144, 32)
NUMBER_BITS = 24
# The strip's cells from left to right: light, dark (so that a reader knows it is a strip), the number with its
# highest bit first, a parity bit that makes the count of light number cells even, light.
STRIP_CELLS = 2 + NUMBER_BITS + 2
SECONDS_ACROSS = 8.0


def strip_rows(height: int) -> int:
    """How many rows at the bottom carry the frame number."""
    return max(height // 12, 1)


def render_pattern(index: int, size_wh: tuple[int, int] = PATTERN_SIZE_WH) -> Pixels:
    """Frame `index` of the pattern, [H, W, 3] uint8 RGB; at least 32 wide and 16 high."""
    width, height = size_wh
    if width < 32 or height < 16:
        raise ValueError(f"the pattern needs at least 32x16 pixels, not {width}x{height}")
    time_s = index / float(PATTERN_RATE_FPS)
    shift = round(time_s / SECONDS_ACROSS * width)
    columns = (np.arange(width) + shift) % width
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = BARS[columns * len(BARS) // width]
    _draw_disc(picture, time_s)
    rows = strip_rows(height)
    picture[height - rows :] = _strip_row(index, width)[:, None]
    return picture


def read_frame_number(pixels: Pixels) -> int | None:
    """The frame index (below 2**24) in a picture of the whole pattern, of any size; None if it shows none."""
    height, width = pixels.shape[:2]
    row = height - 1 - strip_rows(height) // 2
    centres = ((np.arange(STRIP_CELLS) + 0.5) * width / STRIP_CELLS).astype(int)
    cells = pixels[row, centres].astype(int).sum(axis=1) > 3 * 127
    number_cells, parity = cells[2 : 2 + NUMBER_BITS], cells[2 + NUMBER_BITS]
    is_strip = cells[0] and not cells[1] and cells[-1] and (int(number_cells.sum()) + int(parity)) % 2 == 0
    if not is_strip:
        return None
    return int("".join("1" if cell else "0" for cell in number_cells), 2)


def _strip_row(index: int, width: int) -> Pixels:
    """[W] uint8: one row of the strip, 0 or 255."""
    number = index % (1 << NUMBER_BITS)
    bits = [number >> (NUMBER_BITS - 1 - place) & 1 for place in range(NUMBER_BITS)]
    cells = np.array([1, 0, *bits, sum(bits) % 2, 1], np.uint8) * 255
    return np.asarray(cells[np.arange(width) * STRIP_CELLS // width], np.uint8)


def _draw_disc(picture: Pixels, time_s: float) -> None:
    """A disc on a slow figure of eight; only the square around it is touched."""
    height, width = picture.shape[:2]
    radius = height / 6
    x = width * (0.5 + 0.33 * math.sin(2 * math.pi * time_s / 5.0))
    y = height * (0.45 + 0.25 * math.sin(4 * math.pi * time_s / 5.0))
    left, top = max(int(x - radius), 0), max(int(y - radius), 0)
    right, bottom = min(int(x + radius) + 2, width), min(int(y + radius) + 2, height)
    columns, rows = np.arange(left, right), np.arange(top, bottom)[:, None]
    picture[top:bottom, left:right][(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = DISC_RGB


class PatternSource(Source):
    """`pattern`: 640x360 at 30 fps, without end."""

    is_live = False
    ends = False

    def __init__(self, size_wh: tuple[int, int] = PATTERN_SIZE_WH) -> None:
        self._size_wh = size_wh
        self._next_index = 0

    def open(self) -> SourceInfo:
        self._next_index = 0
        return SourceInfo("pattern", self._size_wh, PATTERN_RATE_FPS)

    def read(self, timeout_s: float = 1.0) -> SourceFrame | None:
        index = self._next_index
        self._next_index += 1
        return SourceFrame(render_pattern(index, self._size_wh), index / float(PATTERN_RATE_FPS))

    def close(self) -> None:
        """Nothing is held."""


class EmptySource(Source):
    """`none`: open like a camera, and never a frame. For a show that starts without a picture."""

    is_live = True
    ends = False

    def __init__(self) -> None:
        self._closed = threading.Event()

    def open(self) -> SourceInfo:
        self._closed.clear()
        return SourceInfo("none", PATTERN_SIZE_WH, PATTERN_RATE_FPS)

    def read(self, timeout_s: float = 1.0) -> SourceFrame | None:
        self._closed.wait(timeout_s)
        return None

    def close(self) -> None:
        self._closed.set()
