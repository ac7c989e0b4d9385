"""Which part of the model runs on which device. Owns: the stage map; runs nothing itself.

A stage is blocks [first, end) of the DiT on one device. The first stage also encodes and embeds, the last one also
has the head, the re-noising and the decoder.
"""

from __future__ import annotations

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
