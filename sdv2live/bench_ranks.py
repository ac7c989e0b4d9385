"""What `bench` says of several ranks. Owns: that a figure is of one split, and what a run is held against.

A rank reports how long its works take (`report_of` in engine/pipeline.py). Work and ceilings are known of the first
rank alone, so that there is no floor here: a run is held against the ranks' own times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from sdv2live.engine.base import Chunk, ChunkSettings
from sdv2live.engine.stage_clock import KEPT_TIMES
from sdv2live.engine.stream import StreamEngine

WORKS = ("encode", "blocks", "decode")
MOST_SPLITS = 4  # that are tried before one is taken as it is


def settle(engine: StreamEngine, settings: ChunkSettings, *, steps: int) -> None:
    """Run chunks until no block has moved for two looks of the engine at its ranks. Raises ChunkError."""
    settings = replace(settings, steps_count=steps, schedule="throughput")
    width, height = engine.traits.size_wh
    for _ in range(MOST_SPLITS):
        before = split_of(engine.reports)
        for number in range(2 * KEPT_TIMES + 2):
            frames = np.full((engine.frames_wanted, height, width, 3), 8 * (number % 32), np.uint8)
            engine.submit(Chunk(number, frames), settings)
            engine.poll()
        engine.flush()
        if split_of(engine.reports) == before:
            return


@contextmanager
def held_split(engine: StreamEngine) -> Iterator[None]:
    """Within the block no block moves: a figure is of one split."""
    engine.holds_split = True
    try:
        yield
    finally:
        engine.holds_split = False


def split_of(reports: Sequence[dict[str, Any]]) -> list[int]:
    """How many blocks each rank has."""
    return [report["blocks"][1] - report["blocks"][0] for report in reports]


def against_ranks(reports: Sequence[dict[str, Any]], run: dict[str, Any], *, chunk_frames: int) -> dict[str, Any]:
    """The split of a run, and how much of its time the ranks' works fill.

    of_slowest: the works of the slowest rank as a share of the time that a chunk takes: what a pipeline that loses
    nothing between its stages would take. of_sum: the works of all, shared out evenly: what the best split would.
    elsewhere: which stages the first rank, whose times a run has, does not do.
    """
    steps_at_once = run["steps"] if run["schedule"] == "throughput" else 1
    per_chunk = {"encode": 1, "blocks": run["steps"] // steps_at_once, "decode": 1}
    ranks_ms = [sum(count * report[f"{work}_ms"] for work, count in per_chunk.items()) for report in reports]
    period_ms = 1000 * chunk_frames / run["fps"]
    return {
        "split": split_of(reports),
        "of_slowest": round(max(ranks_ms) / period_ms, 3),
        "of_sum": round(sum(ranks_ms) / len(ranks_ms) / period_ms, 3),
        "elsewhere": [work for work in ("encode", "decode") if not reports[0][f"{work}_ms"]],
    }


def split_words(run: dict[str, Any]) -> str:
    """What `against_ranks` found."""
    split = ",".join(map(str, run["split"]))
    return f"blocks {split}; {run['of_slowest']:.0%} of the slowest rank, {run['of_sum']:.0%} of all ranks evenly"


def rank_words(report: dict[str, Any]) -> str:
    """One line on a rank."""
    first, end = report["blocks"]
    works = ", ".join(f"{work} {ms:.1f} ms" for work in WORKS if (ms := report[f"{work}_ms"]))
    return f"rank {report['rank']} on {report['device']}: blocks {first} to {end}, {works}, busy {report['busy']:.0%}"


def rank_entries(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """An entry a rank and work for the chart: {"stage", "mode", "ms"}, or the reason why there is no time."""
    return [
        {"stage": f"rank {report['rank']}", "mode": work}
        | ({"ms": report[f"{work}_ms"]} if report[f"{work}_ms"] else {"reason": "another rank's work"})
        for report in reports
        for work in WORKS
    ]


def stages_left_out(ranks: int) -> str:
    """Why no stage is timed alone."""
    return f"no stage is timed alone over {ranks} ranks: each has a part of the networks; one device times them"
