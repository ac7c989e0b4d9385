"""The outputs that run. Owns: which there are, switched on and off while everything else goes on.

Opening a camera and closing a file take their time: what is asked for later happens on the thread `output rack`.
Knows outputs and their threads; knows nothing of what makes the pictures.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bridges.base import Output, OutputStatus, OutputThread
from sdv2live.clock import Clock
from sdv2live.errors import UserError, one_line

log = logging.getLogger(__name__)


class OutputRack:
    """Outputs by key. on_change(threads) is called after each change, before an output that left is closed."""

    def __init__(self, *, rate_fps: int, clock: Clock, on_change: Callable[[tuple[OutputThread, ...]], None]) -> None:
        self._rate_fps, self._clock, self._on_change = rate_fps, clock, on_change
        self._lock = threading.Lock()
        self._threads: dict[str, OutputThread] = {}
        self._refusals: dict[str, OutputStatus] = {}
        self._later = ThreadPoolExecutor(1, "output rack")

    def add(self, key: str, output: Output, size_wh: tuple[int, int], *, is_required: bool = True) -> None:
        """Open it and let it have pictures. Raises its UserError; one that is not required keeps trying instead."""
        thread = OutputThread(output, size_wh=size_wh, rate_fps=self._rate_fps, clock=self._clock)
        thread.start(is_required=is_required)
        with self._lock:
            self._threads[key] = thread
        self._tell()

    def switch(self, key: str, make: Callable[[], Output] | None, size_wh: tuple[int, int]) -> None:
        """Have the output `key`, or, with None, have it no longer. Never blocks; acts in the order of the calls."""
        self._later.submit(self._switch, key, make, size_wh)

    @property
    def statuses(self) -> list[OutputStatus]:
        """Of every output, those that could not even be made among them."""
        with self._lock:
            return [thread.status for thread in self._threads.values()] + list(self._refusals.values())

    def status(self, key: str) -> OutputStatus | None:
        with self._lock:
            thread = self._threads.get(key)
            return thread.status if thread is not None else self._refusals.get(key)

    def close(self) -> None:
        """Finish and close every output."""
        self._later.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            threads, self._threads = list(self._threads.values()), {}
        self._on_change(())
        for thread in threads:
            thread.stop()

    def _switch(self, key: str, make: Callable[[], Output] | None, size_wh: tuple[int, int]) -> None:
        with self._lock:
            self._refusals.pop(key, None)
            old = self._threads.pop(key, None)
        self._tell()
        if old is not None:
            old.stop()
        if make is None:
            return
        try:
            self.add(key, make(), size_wh, is_required=False)
        except UserError as error:
            self._refuse(key, one_line(error))
        except Exception as error:  # a thread's top: the other outputs go on
            log.exception("output %s failed", key)
            self._refuse(key, f"The output {key} failed ({one_line(error)}): see the log.")

    def _refuse(self, key: str, sentence: str) -> None:
        log.error("%s", sentence)
        with self._lock:
            self._refusals[key] = OutputStatus(key, "failed", sentence, 0, 0)

    def _tell(self) -> None:
        with self._lock:
            threads = tuple(self._threads.values())
        self._on_change(threads)
