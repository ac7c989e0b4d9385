"""Which part of the model runs on which device. Owns: the stage map; runs nothing itself.

A stage is blocks [first, end) of the DiT on one device. The first stage also encodes and embeds, the last one also
has the head, the re-noising and the decoder.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks [first_block, end_block) on `device`."""

    device: torch.device
    first_block: int
    end_block: int


@dataclass(frozen=True, slots=True)
class StageMap:
    """The stages in order; together they cover every block once. Raises ValueError where they do not."""

    stages: tuple[Stage, ...]
    blocks: int

    def __post_init__(self) -> None:
        edges = [0, *(stage.end_block for stage in self.stages)]
        starts = [stage.first_block for stage in self.stages]
        if not self.stages or starts != edges[:-1] or edges[-1] != self.blocks or edges != sorted(set(edges)):
            raise ValueError(f"the stages {self.stages} do not cover {self.blocks} blocks once, in order")

    @classmethod
    def on_one(cls, device: torch.device, blocks: int) -> StageMap:
        return cls((Stage(device, 0, blocks),), blocks)

    @property
    def first(self) -> Stage:
        return self.stages[0]


def reference_split(
    counts: Sequence[int], *, total_seconds: Sequence[float], dit_seconds: Sequence[float]
) -> tuple[int, ...]:
    """How many blocks each rank should have, by the reference's rule (engine.md, 8); counts: how many each has now.

    total_seconds: a rank's time with the codec, dit_seconds: its time in the blocks. Each rank gives or takes as many
    blocks as bring it to the mean; what does not add up is evened out by ones. More ranks than blocks: unchanged.
    """
    blocks, ranks = sum(counts), len(counts)
    if ranks > blocks:
        return tuple(counts)
    per_block = sum(dit_seconds) / blocks
    mean = sum(total_seconds) / ranks
    wanted = [
        max(1, round(count + (mean - total) / per_block)) for count, total in zip(counts, total_seconds, strict=True)
    ]
    excess = sum(wanted) - blocks
    order = sorted(range(ranks), key=lambda rank: (wanted[rank], rank), reverse=excess > 0)
    turns = itertools.cycle(order)
    while excess:
        rank = next(turns)
        if excess < 0:
            wanted[rank] += 1
            excess += 1
        elif wanted[rank] > 1:
            wanted[rank] -= 1
            excess -= 1
    return tuple(wanted)
