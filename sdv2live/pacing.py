"""When each picture is shown. Pure: the time is passed in. Owns the one delay between capture and picture.

A picture is due at its capture time plus the delay. At each tick of the output's constant rate the newest due one is
shown; none due: the last is repeated. That covers 16 fps shown at 30, variable rates, the first chunk and a slow
engine. The delay is large enough that 95 of 100 chunks are ready in time, no larger, and moves by at most 2 % of
real time, except after a stall: then it is anchored anew, and nothing is ever played fast.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from sdv2live.frames import Pixels

SLEW = 0.02
MARGIN_S = 0.005
REANCHOR_S = 0.15
TOO_LONG_S = 1.0
WATCHED_CHUNKS = 32


@dataclass(frozen=True, slots=True)
class Picture:
    """One generated frame with the source frame it came from, and when that was captured. changed_s: when the change
    was made that its chunk is the first to carry."""

    effect: Pixels
    source: Pixels
    captured_s: float
    changed_s: float | None = None


class Pacer:
    """The queue between the engine and the output clock; at most a few chunks long."""

    def __init__(self) -> None:
        self.delay_s: float | None = None
        self.lagged = 0  # came later than their time
        self.passed_over = 0  # punctual, and overtaken between two ticks: the source is faster than the output
        self.repeated = 0
        self._needs_s: deque[float] = deque(maxlen=WATCHED_CHUNKS)
        self._waiting: deque[tuple[Picture, bool]] = deque()  # with: was it punctual
        self._last_tick_s: float | None = None

    def add(self, pictures: Sequence[Picture], ready_s: float) -> None:
        """A chunk's pictures, in order, that became ready at `ready_s`."""
        need_s = max(ready_s - picture.captured_s for picture in pictures) + MARGIN_S
        self._needs_s.append(need_s)
        due_s = [picture.captured_s + (need_s if self.delay_s is None else self.delay_s) for picture in pictures]
        self.lagged += sum(time_s < ready_s for time_s in due_s)
        if self.delay_s is None or need_s - self.delay_s > REANCHOR_S or self.delay_s - self.target_s > TOO_LONG_S:
            self.delay_s = need_s
        self._waiting.extend((picture, time_s >= ready_s) for picture, time_s in zip(pictures, due_s, strict=True))

    @property
    def target_s(self) -> float:
        """The delay at which 95 of 100 of the last chunks were ready in time."""
        ordered = sorted(self._needs_s)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0.0

    @property
    def is_started(self) -> bool:
        """Whether a first chunk has come; ticks before that repeat nothing."""
        return self.delay_s is not None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def tick(self, now_s: float) -> Picture | None:
        """The picture that this tick shows anew, or None: the one before stays."""
        self._slew(now_s)
        shown: tuple[Picture, bool] | None = None
        while self._waiting and self.delay_s is not None and self._waiting[0][0].captured_s + self.delay_s <= now_s:
            self.passed_over += shown is not None and shown[1]
            shown = self._waiting.popleft()
        if shown is None:
            self.repeated += 1
            return None
        return shown[0]

    def clear(self) -> None:
        """Throw away what waits: it belongs to an epoch that is over."""
        self._waiting.clear()

    def _slew(self, now_s: float) -> None:
        if self._last_tick_s is not None and self.delay_s is not None:
            most_s = SLEW * (now_s - self._last_tick_s)
            self.delay_s += min(max(self.target_s - self.delay_s, -most_s), most_s)
        self._last_tick_s = now_s
