"""How far a command is, with the time left, on standard error. Owns: that one line, and how a rate is found."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PERIOD_S = 0.5
RATE_OVER_S, RATE_AFTER_S = 15.0, 2.0  # before that, a rate says how long the connection took


class Line:
    """One line that is written over on a terminal; elsewhere a line each `log_period_s`."""

    def __init__(self, *, log_period_s: float = PERIOD_S) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._period_s = PERIOD_S if self._is_terminal else log_period_s
        self._shown_s = time.monotonic()
        self._width = 60

    @property
    def is_due(self) -> bool:
        """Whether the last time was long enough ago."""
        return time.monotonic() - self._shown_s >= self._period_s

    def show(self, text: str) -> None:
        self._shown_s = time.monotonic()
        sys.stderr.write(f"\r{text:<{self._width}}" if self._is_terminal else text + "\n")
        self._width = max(60, len(text))  # so that a shorter line covers it
        sys.stderr.flush()

    def end(self) -> None:
        """What comes next stands on a line of its own."""
        if self._is_terminal:
            sys.stderr.write("\n")


class Progress:
    """Frames of a file. total: frames in all; None or 0 where nobody knows."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._started_s = time.monotonic()
        self._line = Line()
        self._is_shown = False

    def show(self, frames: int) -> None:
        """Say it, if the last time was long enough ago."""
        if not self._line.is_due:
            return
        self._is_shown = True
        rate_fps = frames / (time.monotonic() - self._started_s)
        left = f", {max(self._total - frames, 0) / rate_fps:.0f} s left" if self._total else ""
        self._line.show(f"frame {frames}{f' of {self._total}' if self._total else ''}, {rate_fps:.1f} fps{left}")

    def done(self, frames: int, more: str = "") -> None:
        """The last line: how long it took, and `more`."""
        if self._is_shown:
            self._line.end()
        print(f"{frames} frames in {time.monotonic() - self._started_s:.1f} s{more}", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes of one file and of all, those of earlier runs included; the rest is None until a rate can be told."""

    done: int
    total: int
    all_done: int
    all_total: int
    rate_per_s: float | None
    left_s: float | None
    all_left_s: float | None


class Transfer:
    """Bytes of several files that come one after another. totals: file -> bytes. The rate is that of the last seconds,
    and what an earlier run had brought is no part of it."""

    def __init__(
        self, totals: Mapping[str, int], done: Mapping[str, int], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._totals, self._now = dict(totals), now
        self._done = {name: done.get(name, 0) for name in totals}
        self._samples = deque([(now(), sum(self._done.values()))])

    def at(self, name: str, done: int) -> Reading:
        """So many bytes of a file are here."""
        self._done[name] = done
        now_s, all_done = self._now(), sum(self._done.values())
        samples = self._samples
        samples.append((now_s, all_done))
        while len(samples) > 2 and now_s - samples[1][0] >= RATE_OVER_S:
            samples.popleft()
        period_s, came = now_s - samples[0][0], all_done - samples[0][1]
        rate = came / period_s if period_s >= RATE_AFTER_S and came > 0 else None
        total, all_total = self._totals[name], sum(self._totals.values())
        return Reading(
            done=done,
            total=total,
            all_done=all_done,
            all_total=all_total,
            rate_per_s=rate,
            left_s=(total - done) / rate if rate else None,
            all_left_s=(all_total - all_done) / rate if rate else None,
        )
