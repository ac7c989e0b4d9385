"""How a live run is doing, at one moment. Owns: the words that a window and other programs are told.

Frozen values alone: whoever asks gets a copy and touches nothing that runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdv2live.understood import Understood


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
class RankLine:
    """One of several devices that share the engine: its blocks [first, end) and how much of the time it works, 0..1."""

    rank: int
    device: str
    first_block: int
    end_block: int
    busy: float
    encode_ms: float
    blocks_ms: float
    decode_ms: float


def rank_lines(reports: Iterable[Mapping[str, Any]]) -> tuple[RankLine, ...]:
    """What the engine's process tells of its ranks."""
    return tuple(
        RankLine(
            rank=report["rank"],
            device=report["device"],
            first_block=report["blocks"][0],
            end_block=report["blocks"][1],
            busy=report["busy"],
            encode_ms=report["encode_ms"],
            blocks_ms=report["blocks_ms"],
            decode_ms=report["decode_ms"],
        )
        for report in reports
    )


@dataclass(frozen=True, slots=True)
class LoraLine:
    """A LoRA in the engine's weights. strength: what it has now. layers: how many it changes, rank: the largest of its
    updates, unused: how many tensors of the file belong to no layer of the engine."""

    file: str
    strength: float
    layers: int
    rank: int
    unused: int


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """engine_state: loading, running, restarting, failed or stopped. new_fps: new pictures a second; age_ms: of the
    newest ones when they were shown, None before the first. change_to_picture_ms: from a change to the first picture
    made with it, the middle of the last ones, None before the first. dropped, lagged, repeated and skipped are disjoint
    counts. understood: what the engine reads the prompts of now as, where it knows; not_understood: a sentence about
    the words of them that mean nothing to it, or ''. problems: what is wrong now, a sentence each, the most important
    first. choice: why this engine, where that was left open, or ''.
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
    ranks: tuple[RankLine, ...]
    loras: tuple[LoraLine, ...]
    understood: tuple[Understood, ...]
    not_understood: str
    problems: tuple[str, ...]
    choice: str = ""
