"""The outputs that run. Owns: which there are, switched on and off while everything else goes on.

Opening a camera and closing a file take their time: what is asked for later happens on the thread `output rack`, which
also tries again what could not be made. Knows outputs and their threads; knows nothing of what makes the pictures.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from bridges.base import Output, OutputStatus, OutputThread
from sdv2live.clock import Clock
from sdv2live.errors import UserError, one_line

log = logging.getLogger(__name__)

AGAIN_S = 5.0
Make = Callable[[], Output]
SizeWh = tuple[int, int]


class OutputRack:
    """Outputs by key. on_change(threads) is called after each change, before an output that left is closed."""

    def __init__(self, *, rate_fps: int, clock: Clock, on_change: Callable[[tuple[OutputThread, ...]], None]) -> None:
        self._rate_fps, self._clock, self._on_change = rate_fps, clock, on_change
        self._lock = threading.Lock()
        self._threads: dict[str, OutputThread] = {}
        self._refusals: dict[str, OutputStatus] = {}
        self._refused: dict[str, tuple[Make, SizeWh]] = {}  # the rack thread's own: what is tried again
        self._wishes: deque[tuple[str, Make | None, SizeWh]] = deque()
        self._wake = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="output rack", daemon=True)

    def add(self, key: str, output: Output, size_wh: SizeWh, *, is_required: bool = True) -> None:
        """Open it and let it have pictures. Raises its UserError; one that is not required keeps trying instead."""
        thread = OutputThread(output, size_wh=size_wh, rate_fps=self._rate_fps, clock=self._clock)
        thread.start(is_required=is_required)
        with self._lock:
            self._threads[key] = thread
            self._refusals.pop(key, None)
        self._tell()

    def switch(self, key: str, make: Make | None, size_wh: SizeWh) -> None:
        """Have the output `key`, or, with None, have it no longer. Never blocks; acts in the order of the calls.

        One that cannot even be made is made again every few seconds, until it can be or is no longer wanted.
        """
        with self._lock:
            if self._is_closed:
                return
            self._wishes.append((key, make, size_wh))
            if not self._thread.is_alive():
                self._thread.start()
        self._wake.set()

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
        with self._lock:
            self._is_closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            threads, self._threads = list(self._threads.values()), {}
        self._on_change(())
        for thread in threads:
            thread.stop()

    def _run(self) -> None:
        while True:
            self._wake.clear()
            with self._lock:
                if self._is_closed:
                    return
                wish = self._wishes.popleft() if self._wishes else None
            if wish is not None:
                self._switch(*wish)
            elif not self._refused:
                self._wake.wait()
            elif not self._clock.wait_until(self._clock.now_s() + AGAIN_S, self._wake):
                for key, (make, size_wh) in list(self._refused.items()):
                    self._make(key, make, size_wh)

    def _switch(self, key: str, make: Make | None, size_wh: SizeWh) -> None:
        self._refused.pop(key, None)
        with self._lock:
            self._refusals.pop(key, None)
            old = self._threads.pop(key, None)
        self._tell()
        if old is not None:
            old.stop()
        if make is not None:
            self._make(key, make, size_wh)

    def _make(self, key: str, make: Make, size_wh: SizeWh) -> None:
        try:
            self.add(key, make(), size_wh, is_required=False)
        except UserError as error:
            self._refuse(key, one_line(error))
            self._refused[key] = (make, size_wh)
        except Exception as error:  # a thread's top: the other outputs go on
            log.exception("output %s failed", key)
            self._refuse(key, f"The output {key} failed ({one_line(error)}): see the log.")
            self._refused.pop(key, None)  # a fault of ours would fill the log
        else:
            self._refused.pop(key, None)

    def _refuse(self, key: str, sentence: str) -> None:
        with self._lock:
            before = self._refusals.get(key)
            self._refusals[key] = OutputStatus(key, "failed", sentence, 0, 0)
        if before is None or before.reason != sentence:
            log.error("%s", sentence)

    def _tell(self) -> None:
        with self._lock:
            threads = tuple(self._threads.values())
        self._on_change(threads)
