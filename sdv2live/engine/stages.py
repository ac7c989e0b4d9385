"""Which part of the model runs on which rank. Owns: the stage map; runs nothing itself.

Rank 0 encodes and has the rings' ends; blocks follow in the order of the ranks. The first rank with blocks embeds, the
last rank has the head and the re-noising; the decoder is on rank 0 or on the last one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdv2live.errors import UserError

if TYPE_CHECKING:
    from sdv2live.engine.model.wan_transformer import Part


@dataclass(frozen=True, slots=True)
class StageMap:
    """counts: how many blocks each rank has, in order; rank 0 alone may have none. decode_rank: 0 or the last rank.

    Raises ValueError for a map that cannot be.
    """

    counts: tuple[int, ...]
    decode_rank: int = 0

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 0 or 0 in self.counts[1:] or not sum(self.counts):
            raise ValueError(f"blocks {self.counts}: rank 0 may have none, every other rank needs one")
        if self.decode_rank not in (0, len(self.counts) - 1):
            raise ValueError(
                f"rank {self.decode_rank} of {len(self.counts)} cannot decode: the first or the last one does"
            )

    @classmethod
    def on_one(cls, blocks: int) -> StageMap:
        return cls((blocks,))

    @property
    def ranks(self) -> int:
        return len(self.counts)

    @property
    def blocks(self) -> int:
        return sum(self.counts)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Each rank's blocks as [first, end)."""
        return tuple(itertools.pairwise((0, *itertools.accumulate(self.counts))))

    def part(self, rank: int) -> Part:
        """The part of the DiT that `rank` has."""
        from sdv2live.engine.model.wan_transformer import Part  # a plan is made without torch

        first, end = self.edges[rank]
        return Part(first, end, embeds=first == 0 < end, finishes=rank == self.ranks - 1)

    def __str__(self) -> str:
        """As `given_split` reads it."""
        return ",".join(map(str, self.counts)) + ("@last" if self.decode_rank else "@first")

    def decodes(self, rank: int) -> bool:
        return rank == self.decode_rank


def even_split(blocks: int, ranks: int) -> StageMap:
    """As the reference starts: as many blocks each, what is left over to the first ranks, decoded on the last."""
    share, over = divmod(blocks, ranks)
    return StageMap(tuple(share + (rank < over) for rank in range(ranks)), ranks - 1)


def split_to_begin_with(split: str, blocks: int, ranks: int) -> StageMap:
    """Of `--split`, while nothing is known of the cards. Raises UserError."""
    if ranks > blocks:
        raise UserError(f"{ranks} ranks are more than {blocks} blocks can be split over: take {blocks} or fewer.")
    return even_split(blocks, ranks) if split in ("auto", "reference") else given_split(split, blocks, ranks)


def given_split(text: str, blocks: int, ranks: int) -> StageMap:
    """The split that the user gives: numbers of blocks with commas, one a rank, and `@first` or `@last`, which decodes.

    Without that word the last rank decodes, but where a first 0 gives rank 0 the codec alone. Raises UserError.
    """
    numbers, at, place = text.partition("@")
    try:
        counts = tuple(int(part) for part in numbers.split(","))
        if at and place not in ("first", "last"):
            raise ValueError(place)
        decodes_first = place == "first" if at else counts[0] == 0
        stages = StageMap(counts, decode_rank=0 if decodes_first else len(counts) - 1)
    except ValueError:
        counts = ()
    if len(counts) != ranks or sum(counts) != blocks:
        raise UserError(
            f"--split {text} does not give {blocks} blocks to {ranks} ranks: write {ranks} numbers with commas, at "
            f"least 1 for each rank but the first, which add up to {blocks}, and @first or @last behind them for the "
            "rank that decodes; or take auto or reference."
        )
    return stages
