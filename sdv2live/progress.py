"""How far a command is through a file's frames, with the time left, on standard error. Owns: that one line."""

from __future__ import annotations

import sys
import time

PERIOD_S = 0.5


class Progress:
    """total: frames in all; None or 0 where nobody knows."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._started_s = self._shown_s = time.monotonic()
        self._is_shown = False

    def show(self, frames: int) -> None:
        """Say it, if the last time was long enough ago."""
        now_s = time.monotonic()
        if now_s - self._shown_s < PERIOD_S:
            return
        self._shown_s, self._is_shown = now_s, True
        rate_fps = frames / (now_s - self._started_s)
        left = f", {max(self._total - frames, 0) / rate_fps:.0f} s left" if self._total else ""
        line = f"frame {frames}{f' of {self._total}' if self._total else ''}, {rate_fps:.1f} fps{left}"
        sys.stderr.write(f"\r{line:<60}" if sys.stderr.isatty() else line + "\n")
        sys.stderr.flush()

    def done(self, frames: int, more: str = "") -> None:
        """The last line: how long it took, and `more`."""
        start = "\n" if self._is_shown and sys.stderr.isatty() else ""
        print(f"{start}{frames} frames in {time.monotonic() - self._started_s:.1f} s{more}", file=sys.stderr)
