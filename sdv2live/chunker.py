"""Which waiting frames make the next chunk. Pure: times in, a choice out; no thread, no clock of its own."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

ENGINE_MARGIN = 1.05  # a rate that the engine just about reaches would stutter
SAME_RATE = 1.05
LONGEST_CHUNK_S = 0.4  # the ring keeps half a second: a slower engine gets its frames from that, and then a gap


class Chunker:
    """Thins a source to the rate that is used and groups it into chunks.

    The rate used is the smallest of the source's own, the cap, and what the engine sustains. At the source's own
    rate every frame is used in order, and a short delay of the engine costs none; thinned, frames are taken evenly
    in time (a 30 fps camera for an engine at 16: four of the last eight). An engine that falls behind gets the
    newest frames: nothing waits for longer than two chunks.
    """

    def __init__(self, *, source_rate_fps: float, cap_fps: float | None) -> None:
        self._source_period_s = 1.0 / source_rate_fps
        self._cap_period_s = 1.0 / cap_fps if cap_fps else 0.0
        self._frame_times_s: deque[float] = deque(maxlen=16)
        self._last_used_s: float | None = None

    def follow_source(self, rate_fps: float) -> None:
        """Another source: what is known of the engine stays."""
        self._source_period_s = 1.0 / rate_fps
        self.restart()

    def engine_took(self, chunk_s: float, frames: int) -> None:
        """Note how long the engine was busy with a chunk of `frames`."""
        self._frame_times_s.append(chunk_s / frames)

    def restart(self) -> None:
        """A new epoch: the next chunk begins where the source is now."""
        self._last_used_s = None

    @property
    def period_s(self) -> float:
        """Time between the frames that are used."""
        engine_s = statistics.median(self._frame_times_s) * ENGINE_MARGIN if self._frame_times_s else 0.0
        return max(self._source_period_s, self._cap_period_s, engine_s)

    def pick(self, times_s: Sequence[float], count: int) -> tuple[int, ...] | None:
        """Positions in `times_s` (capture times, oldest first, all newer than the last chunk) of the next chunk's
        `count` frames, or None while it is too early."""
        waiting = len(times_s)
        if waiting < count:
            return None
        if self.period_s <= self._source_period_s * SAME_RATE:
            chosen = tuple(range(count)) if waiting < 2 * count else _evenly(waiting, count)
        else:
            picked = self._on_grid(times_s, count)
            if picked is None:
                return None
            chosen = picked
        self._last_used_s = times_s[chosen[-1]]
        return chosen

    def _on_grid(self, times_s: Sequence[float], count: int) -> tuple[int, ...] | None:
        period_s = min(self.period_s, LONGEST_CHUNK_S / (count - 1))
        first_s = times_s[0] if self._last_used_s is None else max(self._last_used_s + period_s, times_s[0])
        last_s = first_s + (count - 1) * period_s
        if times_s[-1] < last_s - self._source_period_s / 2:
            return None
        if times_s[-1] > last_s + count * period_s:
            return _evenly(len(times_s), count)
        chosen: list[int] = []
        for step in range(count):
            wanted_s = first_s + step * period_s
            left = len(times_s) - (count - step - 1)
            candidates = range(chosen[-1] + 1 if chosen else 0, left)
            chosen.append(min(candidates, key=lambda index: abs(times_s[index] - wanted_s)))
        return tuple(chosen)


def _evenly(waiting: int, count: int) -> tuple[int, ...]:
    """`count` of `waiting` positions, evenly spread, the newest among them."""
    return tuple((step + 1) * waiting // count - 1 for step in range(count))
