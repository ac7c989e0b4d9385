"""Captures of CUDA graphs and what other threads do beside them. Owns: the one lock between the two.

While a graph is captured, torch's allocator refuses to give memory back to the driver, and what another thread asks of
the driver may spoil the capture. Knows nothing of graphs or of what runs beside them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CaptureLock:
    """Captures come first: a piece of other work begins only while none is under way and none waits.

    Whoever works beside them does it in pieces, since a capture waits for the piece in hand, and a stream with it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._captures = 0  # under way, or waiting
        self._is_taken = False

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Nothing runs `beside` within the block."""
        with self._changed:
            self._captures += 1
            self._changed.wait_for(lambda: not self._is_taken)
            self._is_taken = True
        try:
            yield
        finally:
            self._free(captures=1)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Nothing is captured within the block, which is as small a piece of work as there can be."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_taken or self._captures))
            self._is_taken = True
        try:
            yield
        finally:
            self._free(captures=0)

    def _free(self, *, captures: int) -> None:
        with self._changed:
            self._captures -= captures
            self._is_taken = False
            self._changed.notify_all()


CAPTURES = CaptureLock()  # of this process: a graph of any of its streams
