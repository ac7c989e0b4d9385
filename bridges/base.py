"""The Output contract and the thread that feeds one output. Knows frames and queues, never the engine.

Each output has a thread and a slot of its own, so that a slow or broken one loses only its own frames.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from sdv2live.clock import Clock
from sdv2live.errors import UserError, one_line
from sdv2live.frames import Pixels
from sdv2live.queues import LatestSlot

log = logging.getLogger(__name__)

REOPEN_DELAYS_S = (0.5, 1.0, 2.0, 5.0)


class Output(ABC):
    """Where pictures go. All calls come from one thread."""

    name: str
    always_on: bool = False  # watched by other programs: it gets a card where there is no picture yet
    takes_any_size: bool = False  # otherwise it is closed and opened again where the pictures' size changes
    path: Path | None = None  # the file that it writes

    @abstractmethod
    def open(self, size_wh: tuple[int, int], rate_fps: int) -> None:
        """Open it for pictures of `size_wh` at `rate_fps`. Raises UserError with one sentence."""

    @abstractmethod
    def write(self, pixels: Pixels, tick: int) -> None:
        """Take one picture, [H, W, 3] uint8 RGB, read-only, of the size given to `open`.

        tick counts the output clock from 0; a skipped picture leaves a gap in it. May block. Raises UserError
        where it cannot go on; it is then closed and opened again after a pause.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish and free everything. Never raises; may be called twice, and without `open`."""


@dataclass(frozen=True, slots=True)
class OutputStatus:
    """state: opening, running, failed or closed; reason is the sentence behind `failed`. path: of a file."""

    name: str
    state: str
    reason: str
    written: int
    skipped: int
    path: Path | None = None


class OutputThread:
    """Runs one Output: newest picture wins, a failure is reported and the output reopened.

    The first `open` of one that is required happens in `start()`, on the caller's thread, before this one runs; all
    else happens on this thread.
    """

    def __init__(self, output: Output, *, size_wh: tuple[int, int], rate_fps: int, clock: Clock) -> None:
        self.output = output
        self._size_wh = size_wh
        self._rate_fps = rate_fps
        self._clock = clock
        self._slot: LatestSlot[tuple[Pixels, int]] = LatestSlot()
        self._stop = threading.Event()
        self._state, self._reason = "opening", ""
        self._written = 0
        self._failures_in_row = 0
        self._thread = threading.Thread(target=self._run, name=f"output {output.name}", daemon=True)

    def start(self, *, is_required: bool = True) -> None:
        """Open the output and feed it. Raises its UserError; one that is not required never waits and keeps trying."""
        if is_required:
            self._open()
        self._thread.start()

    def _open(self) -> None:
        self.output.open(self._size_wh, self._rate_fps)
        self._state, self._reason = "running", ""

    def offer(self, pixels: Pixels, tick: int) -> None:
        """Hand over one picture; never blocks. A picture not yet written is replaced and counted skipped."""
        self._slot.put((pixels, tick))

    @property
    def always_on(self) -> bool:
        return self.output.always_on

    @property
    def takes_any_size(self) -> bool:
        return self.output.takes_any_size

    @property
    def status(self) -> OutputStatus:
        return OutputStatus(
            self.output.name, self._state, self._reason, self._written, self._slot.replaced, self.output.path
        )

    def stop(self, timeout_s: float = 3.0) -> None:
        """Write what lies in the slot, close the output, end the thread (left behind if its write hangs)."""
        self._stop.set()
        self._slot.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("output %s did not stop within %.0f s and is left behind", self.output.name, timeout_s)
        self._state = "closed"

    def _run(self) -> None:
        try:
            self._feed()
        finally:
            self.output.close()

    def _feed(self) -> None:
        if self._state == "opening":
            try:
                self._open()
            except UserError as error:
                if not self._reopen(error):
                    return
        while True:
            item = self._slot.take(timeout_s=0.5)
            if item is None:
                if self._slot.is_closed:
                    break
                continue
            try:
                self._follow_size(item[0])
                self.output.write(*item)
                self._written += 1
                self._failures_in_row = 0
            except UserError as error:
                if not self._reopen(error):
                    break
            # The top of a thread: a driver's surprise costs this output a reopening, not its life.
            except Exception as error:
                log.exception("output %s failed", self.output.name)
                if not self._reopen(UserError(f"The output failed ({one_line(error)}): see the log.")):
                    break

    def _follow_size(self, pixels: Pixels) -> None:
        size_wh = pixels.shape[1], pixels.shape[0]
        if size_wh != self._size_wh:
            self._size_wh = size_wh
            if not self.output.takes_any_size:
                self.output.close()
                self._open()

    def _reopen(self, error: UserError) -> bool:
        """Close and open again until it works; False if the app stops meanwhile."""
        self._state, self._reason = "failed", one_line(error)
        log.error("output %s: %s", self.output.name, self._reason)
        self.output.close()
        while True:
            delay_s = REOPEN_DELAYS_S[min(self._failures_in_row, len(REOPEN_DELAYS_S) - 1)]
            self._failures_in_row += 1
            if self._clock.wait_until(self._clock.now_s() + delay_s, self._stop):
                return False
            try:
                self._open()
            except UserError as again:
                if one_line(again) != self._reason:
                    self._reason = one_line(again)
                    log.error("output %s: %s", self.output.name, self._reason)
                continue
            log.info("output %s: runs again", self.output.name)
            return True
