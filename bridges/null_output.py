"""The output `null`: takes pictures and forgets them. For measuring, and for a show seen in the window alone.

Runs on its output's thread.
"""

from __future__ import annotations

from bridges.base import Output
from sdv2live.frames import Pixels


class NullOutput(Output):
    """Counts what it was given."""

    def __init__(self) -> None:
        self.name = "null"
        self.pictures = 0

    def open(self, size_wh: tuple[int, int], rate_fps: int) -> None:
        """Nothing to open."""

    def write(self, pixels: Pixels, tick: int) -> None:
        self.pictures += 1

    def close(self) -> None:
        """Nothing is held."""
