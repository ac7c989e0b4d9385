"""The rule of the rolling window: which slot a latent frame goes to and what each slot's position is.

Pure integers that follow from the frame's number: no torch, no device, no list to get out of step. The memory that
the rule speaks of is in `kv_cache.py`; the `reference` profile's own rule is in `reference_profile.py`. K slots, S
sinks; a frame is a latent frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Window:
    """The rule of the ring. capacity K and sinks S count latent frames, the newest one included.

    Slots S..K-1 roll; positions are relative to the window and end at K-1.
    """

    capacity: int
    sinks: int

    def __post_init__(self) -> None:
        if not 0 <= self.sinks < self.capacity:
            raise ValueError(f"{self.sinks} sink frames leave no rolling slot in a window of {self.capacity}")

    def slot_of(self, frame: int) -> int:
        """The slot that latent frame `frame` (from 0) is written to."""
        if frame < self.capacity:
            return frame
        return self.sinks + (frame - self.capacity) % (self.capacity - self.sinks)

    def held_at(self, newest: int) -> tuple[int, ...]:
        """The frames that are in the window once frame `newest` is written, the oldest first: where each stands is its
        position."""
        oldest_rolling = max(self.sinks, newest + 1 - (self.capacity - self.sinks))
        return (*range(min(self.sinks, newest + 1)), *range(oldest_rolling, newest + 1))

    def frame_in(self, slot: int, newest: int) -> int:
        """The frame that `slot` holds once frame `newest` is written, if no sink was replaced."""
        if slot < self.sinks or newest < self.capacity:
            return slot
        behind = (self.slot_of(newest) - slot) % (self.capacity - self.sinks)
        return newest - behind

    def layout(self, newest: int) -> tuple[int, ...]:
        """Positions of the valid slots 0..n-1 once frame `newest` is written; n = min(newest + 1, K)."""
        return _layout(self.capacity, self.sinks, newest, self.slot_of(newest))


@lru_cache(maxsize=256)
def _layout(capacity: int, sinks: int, newest: int, newest_slot: int) -> tuple[int, ...]:
    """Sinks at 0..S-1, just before the rolling window; the newest frame last."""
    valid = min(newest + 1, capacity)
    if valid < capacity:
        return tuple(range(valid))
    rolling = capacity - sinks
    ages = ((newest_slot - slot) % rolling for slot in range(sinks, capacity))
    return (*range(sinks), *(capacity - 1 - age for age in ages))
