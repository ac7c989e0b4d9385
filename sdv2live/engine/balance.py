"""Which blocks of the DiT run on which of several devices. Owns: plans, their cost, and the search for the best one.

Devices ("ranks") form a ring: rank 0 encodes, blocks lie on the ranks in order, the last rank hands its rows back to
rank 0. With P ranks, P micro-steps are under way: micro-step m carries one row of each of the chunks m, m - P, m - 2P,
... as far as there are denoising steps, and enters rank 0 once micro-step m - P has come back. A finished chunk is
decoded on rank 0, or on the last rank before that sends its rows back, in one message with the pictures. Pure
arithmetic on measured seconds; imports no torch and runs nothing.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from sdv2live.engine.stages import StageMap

REPLAN_GAIN = 0.1  # of the period: a move costs a pause, and measured times tremble by less


@dataclass(frozen=True, slots=True)
class RankCosts:
    """What one rank takes for one micro-step, in seconds, none below 0.

    block_s: one block, all rows of the batch (above 0). encode_s, decode_s: one chunk, if this rank is the one to do
    it. hop_s: sending the latents of all rows from this rank to the next one, or from the last one back to rank 0;
    tokens_s: sending their tokens too, from the first block on and not behind the last one; pictures_s: sending a
    decoded chunk too, from the last rank.
    """

    block_s: float
    encode_s: float
    decode_s: float
    hop_s: float
    tokens_s: float = 0.0
    pictures_s: float = 0.0


def estimate(plan: StageMap, costs: Sequence[RankCosts], steps: int) -> tuple[float, float]:
    """(period, delay) of a steady stream of `steps` denoising steps, in seconds.

    period: between two finished chunks. Work, hops and the round trip form a timed event graph, whose period is its
    largest cycle mean (Baccelli et al., Synchronization and Linearity, 1992, section 2.5). Its cycles are each rank by
    itself, each link by itself, and the ring, in which P micro-steps share one round trip.
    delay: from a complete chunk to its picture at rank 0, where chunks come a period apart, without waiting: its steps
    are P periods apart. Waiting for a busy rank 0 adds less than a period to it, as long as chunks come a little more
    slowly than the ring could take them (`simulate` counts it). Raises ValueError where plan and costs are not of the
    same ranks.
    """
    ranks = len(costs)
    if len(plan.counts) != ranks:
        raise ValueError(f"a plan for {len(plan.counts)} ranks and the costs of {ranks}")
    hops_s = hops_of(plan, costs)
    round_s = sum(hops_s) + sum(count * each.block_s for count, each in zip(plan.counts, costs, strict=True))
    decode_s = costs[plan.decode_rank].decode_s
    in_round_s = decode_s if plan.decode_rank else 0.0  # the message back waits for the pictures in it
    period_s = max(*busy_of(plan, costs), *hops_s, (round_s + in_round_s) / ranks)
    return period_s, costs[0].encode_s + (steps - 1) * ranks * period_s + round_s + decode_s


def busy_of(plan: StageMap, costs: Sequence[RankCosts]) -> list[float]:
    """How long each rank works for one micro-step, in seconds."""
    return [
        _codec_s(costs, rank, plan.decode_rank) + count * costs[rank].block_s for rank, count in enumerate(plan.counts)
    ]


def hops_of(plan: StageMap, costs: Sequence[RankCosts]) -> list[float]:
    """How long the link behind each rank takes for one micro-step, in seconds; a ring of one has no link."""
    last = len(costs) - 1
    if not last:
        return [0.0]
    return [
        each.hop_s
        + (each.tokens_s if rank < last and plan.edges[rank][1] else 0.0)
        + (each.pictures_s if rank == last == plan.decode_rank else 0.0)
        for rank, each in enumerate(costs)
    ]


def best_plan(costs: Sequence[RankCosts], blocks: int, *, like: StageMap | None = None) -> StageMap:
    """The plan of the shortest period; of equal ones that of the shortest delay, then of fewer blocks on earlier ranks.

    Exact. A plan's busiest rank is busy for one of few times: a rank's codec work and a whole number of its blocks.
    For each of these as a limit it takes the least block time in all that stays under it, which is found by giving
    blocks to the fastest ranks first; this is the shortest round trip, and the shortest delay as well. What hops is
    settled by who decodes, and by whether rank 0 has blocks at all: each of these is searched by itself.
    like: a plan that runs, of which only whole blocks can move: the decoder stays where it is, and rank 0 with blocks
    keeps one, without blocks gets none. Raises ValueError for no rank, no block, or more ranks than can have one.
    """
    ranks = len(costs)
    if not ranks or blocks < max(1, ranks - 1):
        raise ValueError(f"{blocks} blocks cannot be split over {ranks} ranks")
    if any(
        each.block_s <= 0 or min(each.encode_s, each.decode_s, each.hop_s, each.tokens_s, each.pictures_s) < 0
        for each in costs
    ):
        raise ValueError("a block takes more than no time, and nothing takes less than none")
    found = []
    decode_ranks = {0, ranks - 1} if like is None else {like.decode_rank}
    leasts = (0, 1) if like is None else (min(like.counts[0], 1),)
    for decode_rank, least in itertools.product(decode_ranks, leasts):
        codec_s = [_codec_s(costs, rank, decode_rank) for rank in range(ranks)]
        limits = {
            codec + n * each.block_s for codec, each in zip(codec_s, costs, strict=True) for n in range(blocks + 1)
        }
        for limit_s in limits:
            room = [
                sum(codec + n * each.block_s <= limit_s for n in range(blocks + 1)) - 1
                for codec, each in zip(codec_s, costs, strict=True)
            ]
            if not least:
                room[0] = min(room[0], 0)
            counts = _least_time(costs, blocks, room, least)
            if counts is not None:
                plan = StageMap(counts, decode_rank)
                found.append((*estimate(plan, costs, 1), counts, decode_rank))
    return StageMap(*min(found)[2:])


def better_plan(current: StageMap, costs: Sequence[RankCosts]) -> StageMap | None:
    """With the times as they are measured now, the best plan that blocks can move to; None where it would not shorten
    the period by a tenth or more."""
    best = best_plan(costs, current.blocks, like=current)
    gains = estimate(best, costs, 1)[0] <= (1 - REPLAN_GAIN) * estimate(current, costs, 1)[0]
    return best if gains else None


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


def _codec_s(costs: Sequence[RankCosts], rank: int, decode_rank: int) -> float:
    return (costs[rank].encode_s if rank == 0 else 0.0) + (costs[rank].decode_s if rank == decode_rank else 0.0)


def _least_time(costs: Sequence[RankCosts], blocks: int, room: Sequence[int], least: int) -> tuple[int, ...] | None:
    """The counts of the least block time in all with at most room[r] blocks on rank r; None where they do not fit.

    least: how many rank 0 has at least. Of equally fast ranks the later ones are filled first.
    """
    counts = [least, *[1] * (len(costs) - 1)]
    left = blocks - sum(counts)
    if left < 0 or any(most < count for most, count in zip(room, counts, strict=True)):
        return None
    for rank in sorted(range(len(costs)), key=lambda rank: (costs[rank].block_s, -rank)):
        more = min(left, room[rank] - counts[rank])
        counts[rank] += more
        left -= more
    return None if left else tuple(counts)


# ---- the ring, event by event ------------------------------------------------------------------------------------


def simulate(
    plan: StageMap, costs: Sequence[RankCosts], *, steps: int, chunks: int, arrival_s: float
) -> tuple[float, ...]:
    """When each chunk's picture is at rank 0, in seconds after chunk 0 was complete; chunk c is so at c * arrival_s.

    Plays the ring's rules event by event: a rank and a link do one thing at a time and never break it off, a hop runs
    beside the computing, and a chunk is encoded at most one ahead of the micro-step that takes it. After the last
    chunk the ring runs empty. Unlike `estimate` it counts the waiting that one piece of work causes to another.
    """
    return _Ring(plan, costs, steps=steps, chunks=chunks, arrival_s=arrival_s).run()


class _Work(IntEnum):
    """What ends at a place. In the order in which a rank does what belongs to one micro-step."""

    ENCODE = 0
    BLOCKS = 1
    DECODE = 2
    SEND = 3  # all that a link does
    ARRIVE = 4  # at no place: a chunk is complete


class _Ring:
    """Places 0 to P - 1 are the ranks, P to 2P - 1 the links behind them; each does one thing at a time.

    Work is named by a micro-step's number and taken up in that order. A chunk's own is the one that it enters with; it
    is decoded on the last rank with the micro-step that finished it, on rank 0 with the one that takes that one's turn.
    """

    def __init__(
        self, plan: StageMap, costs: Sequence[RankCosts], *, steps: int, chunks: int, arrival_s: float
    ) -> None:
        self._ranks, self._chunks = len(costs), chunks
        self._decode_rank, self._rows_behind = plan.decode_rank, (steps - 1) * len(costs)
        self._seconds: dict[tuple[int, _Work], float] = {}
        hops_s = hops_of(plan, costs)
        for rank, (count, each) in enumerate(zip(plan.counts, costs, strict=True)):
            self._seconds[rank, _Work.BLOCKS] = count * each.block_s
            self._seconds[rank, _Work.ENCODE] = each.encode_s
            self._seconds[rank, _Work.DECODE] = each.decode_s
            self._seconds[self._ranks + rank, _Work.SEND] = hops_s[rank]
        self._ready: list[list[tuple[int, _Work]]] = [[] for _ in range(2 * self._ranks)]
        self._busy: set[int] = set()
        # By time: (when it ends, where, what, which micro-step or chunk).
        self._events = [(chunk * arrival_s, -1, _Work.ARRIVE, chunk) for chunk in range(chunks)]
        self._met: Counter[tuple[_Work, int]] = Counter()  # conditions of work on rank 0, so far
        self._seen_s = [0.0] * chunks

    def run(self) -> tuple[float, ...]:
        while self._events:
            now_s = self._events[0][0]
            while self._events and self._events[0][0] == now_s:  # all of a moment, before anything new is taken up
                _, place, work, number = heapq.heappop(self._events)
                self._busy.discard(place)
                self._ended(now_s, place, work, number)
            for place, ready in enumerate(self._ready):
                if ready and place not in self._busy:
                    number, work = heapq.heappop(ready)
                    self._busy.add(place)
                    heapq.heappush(self._events, (now_s + self._seconds[place, work], place, work, number))
        return tuple(self._seen_s)

    def _ended(self, now_s: float, place: int, work: _Work, number: int) -> None:
        last = self._ranks - 1
        match work:
            case _Work.ARRIVE:
                self._meet(_Work.ENCODE, number, needs=1 + (number > 0))
            case _Work.ENCODE:
                self._enter(number)
            case _Work.DECODE:
                if place == last > 0:
                    self._want(self._ranks + place, _Work.SEND, number)
                else:
                    self._seen(now_s, number - (self._ranks if last else 0))
            case _Work.BLOCKS:
                if place == 0 and number + 1 < self._chunks:
                    self._meet(_Work.ENCODE, number + 1, needs=2)
                is_decoding = place == last == self._decode_rank and self._decode(number, with_micro_step=number)
                if last == 0:
                    self._enter(number + 1)
                elif not is_decoding:
                    self._want(self._ranks + place, _Work.SEND, number)
            case _Work.SEND:
                rank = place - self._ranks
                if rank < last:
                    self._want(rank + 1, _Work.BLOCKS, number)
                else:
                    if self._decode_rank == 0:
                        self._decode(number, with_micro_step=number + self._ranks)
                    else:
                        self._seen(now_s, number)
                    self._enter(number + self._ranks)

    def _enter(self, micro_step: int) -> None:
        """One more of: its chunk is encoded, the one before it in its place is back."""
        if micro_step < self._chunks + self._rows_behind:
            needs = (micro_step < self._chunks) + (micro_step >= self._ranks)
            self._meet(_Work.BLOCKS, micro_step, needs=needs)

    def _decode(self, finished: int, *, with_micro_step: int) -> bool:
        """Have the chunk in the last row of `finished` decoded; whether there is one."""
        if has_chunk := 0 <= finished - self._rows_behind < self._chunks:
            self._want(self._decode_rank, _Work.DECODE, with_micro_step)
        return has_chunk

    def _seen(self, now_s: float, finished: int) -> None:
        """The picture of the chunk in the last row of `finished` is at rank 0, if there is one."""
        if 0 <= finished - self._rows_behind < self._chunks:
            self._seen_s[finished - self._rows_behind] = now_s

    def _meet(self, work: _Work, number: int, *, needs: int) -> None:
        self._met[work, number] += 1
        if self._met[work, number] == needs:
            self._want(0, work, number)

    def _want(self, place: int, work: _Work, number: int) -> None:
        heapq.heappush(self._ready[place], (number, work))
