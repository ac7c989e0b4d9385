"""Which part of the model runs on which rank. Owns: the stage map; runs nothing itself.

Rank 0 encodes and has the rings' ends; blocks follow in the order of the ranks. The first rank with blocks embeds, the
last rank has the head and the re-noising; the decoder is on rank 0 or on the last one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sdv2live.engine.model.wan_transformer import Part
from sdv2live.errors import UserError


@dataclass(frozen=True, slots=True)
class StageMap:
    """counts: how many blocks each rank has, in order; rank 0 alone may have none. decode_rank: 0 or the last rank.

    Raises ValueError for a map that cannot be.
    """

    counts: tuple[int, ...]
    decode_rank: int = 0

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts[1:] or self.counts) < 1 or self.counts[0] < 0:
            raise ValueError(f"{self.counts} leave a rank without blocks")
        if self.decode_rank not in (0, len(self.counts) - 1):
            raise ValueError(f"rank {self.decode_rank} of {len(self.counts)} cannot decode")

    @classmethod
    def on_one(cls, blocks: int) -> StageMap:
        return cls((blocks,))

    @property
    def ranks(self) -> int:
        return len(self.counts)

    @property
    def blocks(self) -> int:
        return sum(self.counts)

    def part(self, rank: int) -> Part:
        """The part of the DiT that `rank` has."""
        first = sum(self.counts[:rank])
        end = first + self.counts[rank]
        return Part(first, end, embeds=first == 0 < end, finishes=rank == self.ranks - 1)

    def decodes(self, rank: int) -> bool:
        return rank == self.decode_rank


def split_of(text: str, blocks: int, ranks: int) -> StageMap:
    """The split that `--split` asks for: `auto` is even, with the decoder on the last rank, until times are known.

    text: `auto`, or numbers of blocks with commas, one a rank; a first 0 gives rank 0 the codec alone, and with it the
    decoder. Raises UserError.
    """
    if ranks > blocks + 1:
        raise UserError(f"{ranks} ranks are more than {blocks} blocks can be split over: take {blocks} or fewer.")
    if text == "auto":
        share, rest = divmod(blocks, ranks)
        counts = tuple(share + (rank < rest) for rank in range(ranks))
        return StageMap((0, *counts[:-1]) if min(counts) < 1 else counts, decode_rank=ranks - 1)
    try:
        counts = tuple(int(part) for part in text.split(","))
        stages = StageMap(counts, decode_rank=0 if counts[0] == 0 else ranks - 1)
    except ValueError:
        counts = ()
    if len(counts) != ranks or sum(counts) != blocks:
        raise UserError(
            f"--split {text} does not give {blocks} blocks to {ranks} ranks: write {ranks} numbers with commas, at "
            f"least 1 for each rank but the first, which add up to {blocks}; or leave it away."
        )
    return stages


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
