"""Bounded hand-over between threads. Owns: LatestSlot and FrameRing; both drop the oldest and count it."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

from sdv2live.frames import Frame

T = TypeVar("T")


class LatestSlot(Generic[T]):
    """A place for one value between a fast writer and a slow reader: the newest wins.

    `put` never blocks and returns whether an unread value was replaced; `replaced` counts those.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._value: T | None = None
        self._is_closed = False
        self.replaced = 0

    def put(self, value: T) -> bool:
        with self._condition:
            was_unread = self._value is not None
            self.replaced += was_unread
            self._value = value
            self._condition.notify()
            return was_unread

    def take(self, timeout_s: float | None = None) -> T | None:
        """The value, removed from the slot; None once the time is over or the slot is closed and empty."""
        with self._condition:
            self._condition.wait_for(lambda: self._value is not None or self._is_closed, timeout_s)
            value, self._value = self._value, None
            return value

    def close(self) -> None:
        """Wake the reader; what lies in the slot can still be taken."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    @property
    def is_closed(self) -> bool:
        return self._is_closed


class FrameRing:
    """The newest frames of a source, oldest first, at most `span_s` seconds or `capacity` of them.

    The capture thread appends, the session takes. What falls out unused is counted in `dropped`. arrived: set with
    each frame; sources that follow one another may share it.
    """

    def __init__(self, *, span_s: float = 0.5, capacity: int = 64, arrived: threading.Event | None = None) -> None:
        self._lock = threading.Lock()
        self._frames: deque[Frame] = deque()
        self._span_s = span_s
        self._capacity = capacity
        self.dropped = 0
        self.arrived = arrived or threading.Event()

    def append(self, frame: Frame) -> None:
        with self._lock:
            self._frames.append(frame)
            # Two chunks always stay, whatever the rate: a 5 fps camera would never fill one else.
            while len(self._frames) > self._capacity or (
                len(self._frames) > 8 and frame.captured_s - self._frames[0].captured_s > self._span_s
            ):
                self._frames.popleft()
                self.dropped += 1
        self.arrived.set()

    def peek(self) -> list[Frame]:
        """The frames that wait now, oldest first."""
        with self._lock:
            return list(self._frames)

    def release_through(self, index: int, *, used: int) -> None:
        """Forget the frames up to source index `index`; all but `used` of them count as dropped."""
        with self._lock:
            released = 0
            while self._frames and self._frames[0].index <= index:
                self._frames.popleft()
                released += 1
            self.dropped += max(released - used, 0)

    def clear(self) -> None:
        with self._lock:
            self.dropped += len(self._frames)
            self._frames.clear()
