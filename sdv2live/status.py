"""How a live run is doing, at one moment. Owns: the words that a window and other programs are told.

Frozen values alone: whoever asks gets a copy and touches nothing that runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SourceLine:
    """state: opening, running, stalled, ended, failed or closed. fps is measured, 0 unless running. details: what was
    got of the device beside size and rate, such as a codec."""

    spec: str
    name: str
    state: str
    reason: str
    fps: float
    size_wh: tuple[int, int]
    details: str = ""


@dataclass(frozen=True, slots=True)
class OutputLine:
    """state: opening, running, failed or closed."""

    name: str
    state: str
    reason: str
    written: int
    skipped: int
    path: Path | None


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """engine_state: loading, running, restarting, failed or stopped. new_fps: new pictures a second; age_ms: of the
    newest ones when they were shown, None before the first. change_to_picture_ms: from a change to the first picture
    made with it, the middle of the last ones, None before the first. dropped, lagged, repeated and skipped are disjoint
    counts. problems: what is wrong now, a sentence each, the most important first.
    """

    engine_state: str
    engine_words: str
    engine_name: str
    device: str
    size_wh: tuple[int, int]
    source: SourceLine
    outputs: tuple[OutputLine, ...]
    camera: OutputLine | None
    recording: OutputLine | None
    new_fps: float
    engine_fps: float
    age_ms: float | None
    change_to_picture_ms: float | None
    dropped: int
    lagged: int
    repeated: int
    skipped: int
    restarts: int
    noise_scale: float
    motion: float
    memory_bytes: int | None
    osc_port: int | None
    problems: tuple[str, ...]
