"""The Source contract. Owns: what a source of frames promises; knows nothing of chunks or engines.

A source is opened, read and closed by one thread (the capture thread, or `render`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

from sdv2live.frames import Pixels


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What was really opened. rate_fps is the nominal rate; frame_count is None where it cannot be known.

    details: what else a user may want to know, such as a webcam's codec.
    """

    name: str
    size_wh: tuple[int, int]
    rate_fps: Fraction
    frame_count: int | None = None
    details: str = ""


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """pixels: [H, W, 3] uint8 RGB, C-contiguous, owned by the receiver. media_time_s: time since the first frame,
    never going back (a looped clip counts on)."""

    pixels: Pixels
    media_time_s: float


class Source(ABC):
    """Where frames come from.

    is_live: True where `read` waits for a device by itself (a camera); False where frames can be read as
    fast as wanted and the capture thread keeps their own clock (`media_time_s`).
    """

    is_live: bool = False
    ends: bool = True  # False: it never runs out of frames by itself, so there is no whole of it to render

    @abstractmethod
    def open(self) -> SourceInfo:
        """Open it. Raises UserError with one sentence that says what to do.

        Called again only after `close`: a live source that failed is opened anew.
        """

    @abstractmethod
    def read(self, timeout_s: float = 1.0) -> SourceFrame | None:
        """The next frame; None if a live source had none within `timeout_s`.

        Raises SourceEnded after the last frame of a source that does not loop (and each time it is asked again),
        UserError where it cannot go on.
        """

    @abstractmethod
    def close(self) -> None:
        """Free everything. Never raises; may be called twice, and without `open`."""
