"""The rule of the rolling window: which slot a latent frame goes to and what each slot's position is.

Pure integers that follow from the frame's number: no torch, no device, no list to get out of step. The memory that
the rule speaks of is in `kv_cache.py`. K slots, S sinks; a frame is a latent frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

REFERENCE_RESET_FRAME = 50


@dataclass(frozen=True, slots=True)
class Window:
    """The rule of the ring. capacity K and sinks S count latent frames, the newest one included.

    profile `default`: slots S..K-1 roll, positions are relative to the window and end at K-1. profile `reference`:
    slots max(S, 3)..K-1 roll, positions are absolute and restart at K-1 when they reach `reset_frame`
    (engine.md, 4.3 and 4.5).
    """

    capacity: int
    sinks: int
    profile: str = "default"
    reset_frame: int = REFERENCE_RESET_FRAME

    def __post_init__(self) -> None:
        if not 0 <= self.sinks < self.capacity or self.first_rolling >= self.capacity:
            raise ValueError(f"{self.sinks} sink frames leave no rolling slot in a window of {self.capacity}")

    @property
    def first_rolling(self) -> int:
        return max(self.sinks, 3) if self.profile == "reference" else self.sinks

    @property
    def positions(self) -> int:
        """How many positions a table needs."""
        return max(self.reset_frame, self.capacity) if self.profile == "reference" else self.capacity

    def slot_of(self, frame: int) -> int:
        """The slot that latent frame `frame` (from 0) is written to."""
        if frame < self.capacity:
            return frame
        return self.first_rolling + (frame - self.capacity) % (self.capacity - self.first_rolling)

    def frame_in(self, slot: int, newest: int) -> int:
        """The frame that `slot` holds once frame `newest` is written."""
        if slot < self.first_rolling or newest < self.capacity:
            return slot
        behind = (self.slot_of(newest) - slot) % (self.capacity - self.first_rolling)
        return newest - behind

    def layout(self, newest: int) -> tuple[int, ...]:
        """Positions of the valid slots 0..n-1 once frame `newest` is written; n = min(newest + 1, K)."""
        if self.profile == "reference":
            return tuple(self._absolute(self.frame_in(slot, newest)) for slot in range(min(newest + 1, self.capacity)))
        return _relative_layout(self.capacity, self.first_rolling, newest, self.slot_of(newest))

    def sink_to_refresh(self, count: int) -> int | None:
        """The sink that the refresh number `count` replaces: they take turns. None without sinks."""
        return count % self.sinks if self.sinks else None

    def _absolute(self, frame: int) -> int:
        if frame < self.reset_frame:
            return frame
        first = self.capacity - 1
        return first + (frame - self.reset_frame) % (self.reset_frame - first)


@lru_cache(maxsize=256)
def _relative_layout(capacity: int, first_rolling: int, newest: int, newest_slot: int) -> tuple[int, ...]:
    """Sinks at 0..S-1, just before the rolling window; the newest frame last."""
    valid = min(newest + 1, capacity)
    if valid < capacity:
        return tuple(range(valid))
    rolling = capacity - first_rolling
    ages = ((newest_slot - slot) % rolling for slot in range(first_rolling, capacity))
    return (*range(first_rolling), *(capacity - 1 - age for age in ages))
