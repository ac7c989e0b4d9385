"""Frame: the one way a picture travels inside the app. Owns no pixels' memory beyond its own array.

Engine chunks have a type of their own (`sdv2live.engine.base.Chunk`), because they also carry the
settings' identity and cross a process border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured picture.

    pixels: [H, W, 3] uint8, RGB, C-contiguous; whoever holds the Frame may read it, nobody writes it.
    captured_s: monotonic time at which it was captured (a played file: at which it was due).
    index: counts the frames of this source from 0, without gaps.
    """

    pixels: Pixels
    captured_s: float
    index: int

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True, slots=True)
class Framing:
    """How a source is seen: turned clockwise by quarters, then mirrored left to right, then fitted."""

    fit: str = "crop"
    quarter_turns: int = 0
    is_mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """What one tick showed, for a window: the picture as every output got it, and the source's beside it.

    Both [H, W, 3] uint8 RGB, of any sizes, not to be written to; source is None where there is none.
    """

    picture: Pixels
    source: Pixels | None
