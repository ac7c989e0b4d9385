"""Plans for several devices, against every plan there is and against a ring that is played tick by tick."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterator, Sequence
from statistics import fmean

import pytest

from sdv2live.engine.balance import RankCosts, best_plan, better_plan, estimate, simulate
from sdv2live.engine.stages import StageMap
from sdv2live.engine.work_counts import Card, costs_on, work_of


def every_plan(ranks: int, blocks: int) -> Iterator[StageMap]:
    for counts in itertools.product(range(blocks + 1), repeat=ranks):
        if sum(counts) == blocks and 0 not in counts[1:]:
            yield from (StageMap(counts, decode_rank) for decode_rank in {0, ranks - 1})


def drawn_costs(rng: random.Random, ranks: int) -> list[RankCosts]:
    """Whole seconds, so that equal plans are equal to the last bit."""
    return [
        RankCosts(
            block_s=float(rng.choice((2, 4, 6, 8))),
            encode_s=float(rng.choice((0, 6, 16, 40))),
            decode_s=float(rng.choice((0, 6, 24, 60))),
            hop_s=float(rng.choice((0, 2, 6, 30))),
            tokens_s=float(rng.choice((0, 2, 8, 20))),
            pictures_s=float(rng.choice((0, 2, 6, 20))),
        )
        for _ in range(ranks)
    ]


def played(plan: StageMap, costs: Sequence[RankCosts], *, steps: int, micro_steps: int) -> list[int]:
    """The ring as plain programs in whole-second ticks: -> when rank 0 had each micro-step's picture.

    Every rank runs its own endless loop, as a process would: receive, blocks, send; the last one decodes before it
    sends, if that is its part, and rank 0 afterwards; rank 0 encodes before it receives. A link passes on one message
    after another: latents, from the first block on with tokens, behind the decoder with pictures.
    """
    ranks = len(costs)
    inbox: list[deque[int]] = [deque() for _ in range(ranks)]
    wire: list[deque[int]] = [deque() for _ in range(ranks)]
    decoded: dict[int, int] = {}
    now = 0

    def ticks(seconds: float) -> Iterator[None]:
        for _ in range(round(seconds)):
            yield

    def rank_program(rank: int) -> Iterator[None]:
        is_first, is_last = rank == 0, rank == ranks - 1
        for m in itertools.count():
            back = None
            if is_first:
                yield from ticks(costs[0].encode_s)
            if not (is_first and m < ranks):
                while not inbox[rank]:
                    yield
                back = inbox[rank].popleft()
            yield from ticks(plan.counts[rank] * costs[rank].block_s)
            if is_last and not is_first and plan.decode_rank == rank:
                yield from ticks(costs[rank].decode_s)
            wire[rank].append(m)
            if ranks == 1:
                yield from ticks(costs[0].decode_s)
                decoded[m] = now
            elif is_first and plan.decode_rank == 0 and back is not None:
                yield from ticks(costs[0].decode_s)
                decoded[back] = now

    def link_program(rank: int) -> Iterator[None]:
        is_last, is_embedded = rank == ranks - 1, rank > 0 or plan.counts[0] > 0
        takes_s = costs[rank].hop_s
        takes_s += costs[rank].tokens_s if is_embedded and not is_last else 0
        takes_s += costs[rank].pictures_s if is_last and plan.decode_rank == rank else 0
        while True:
            while not wire[rank]:
                yield
            yield from ticks(takes_s if ranks > 1 else 0)
            if is_last and ranks > 1 and plan.decode_rank == rank:
                decoded[wire[rank][0]] = now
            inbox[(rank + 1) % ranks].append(wire[rank].popleft())

    programs = [rank_program(r) for r in range(ranks)] + [link_program(r) for r in range(ranks)]
    while len(decoded) < micro_steps:
        for program in programs:
            next(program)
        now += 1
    return [decoded[m] for m in sorted(decoded)][(steps - 1) * ranks :]


def period_of(times: Sequence[float], ranks: int) -> float:
    """Of the second half, over whole turns of the ring: within one, chunks may come unevenly."""
    turns = (len(times) // 2) // ranks * ranks
    return (times[-1] - times[-1 - turns]) / turns


@pytest.mark.parametrize("seed", range(60))
def test_the_best_plan_is_the_best_of_all(seed: int) -> None:
    rng = random.Random(seed)
    ranks = rng.randint(1, 4)
    blocks = rng.randint(max(1, ranks - 1), 9)
    costs = drawn_costs(rng, ranks)
    ordered = sorted(
        every_plan(ranks, blocks), key=lambda plan: (*estimate(plan, costs, 1), plan.counts, plan.decode_rank)
    )
    assert best_plan(costs, blocks) == ordered[0]


@pytest.mark.parametrize("seed", range(12))
def test_the_formula_is_the_period_of_a_ring_played_tick_by_tick(seed: int) -> None:
    rng = random.Random(seed)
    ranks = rng.randint(1, 4)
    costs = drawn_costs(rng, ranks)
    plan = rng.choice(list(every_plan(ranks, rng.randint(max(1, ranks - 1), 7))))
    period_s, _ = estimate(plan, costs, 1)
    times = played(plan, costs, steps=1, micro_steps=24 * ranks)
    # Programs that go round in whole ticks lose up to a tick at each wait.
    assert period_of(times, ranks) == pytest.approx(period_s, rel=0.1, abs=2.0)


@pytest.mark.parametrize("seed", range(40))
def test_the_simulation_agrees_with_the_formula_for_any_plan(seed: int) -> None:
    rng = random.Random(seed)
    ranks, steps = rng.randint(1, 5), rng.randint(1, 4)
    costs = drawn_costs(rng, ranks)
    plan = rng.choice(list(every_plan(ranks, rng.randint(max(1, ranks - 1), 7))))
    period_s, _ = estimate(plan, costs, steps)
    times = simulate(plan, costs, steps=steps, chunks=60 * ranks, arrival_s=0.0)[: 50 * ranks]
    assert period_of(times, ranks) == pytest.approx(period_s, rel=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_no_plan_for_unequal_cards_and_links_plays_a_tenth_faster(seed: int) -> None:
    """Of every split with the decoder at either end: cards up to 16 times apart, links from 0.1 to 450 GB/s."""
    rng = random.Random(seed)
    cards = [
        Card(str(rank), *(rng.uniform(50, 800) for _ in range(2)), 3000.0, 0.1 * 4500 ** rng.random())
        for rank in range(2 + seed % 2)
    ]
    steps, blocks = rng.randint(1, 4), 30 if len(cards) == 2 else 10
    costs = costs_on(cards, work_of("wan-1.3b", (832, 480), steps=steps, vae=rng.choice(("wan", "taehv"))))

    def played_s(plan: StageMap) -> float:
        times = simulate(plan, costs, steps=steps, chunks=20 * len(cards), arrival_s=0.0)
        return period_of(times[: 16 * len(cards)], len(cards))

    assert played_s(best_plan(costs, blocks)) <= 1.1 * min(map(played_s, every_plan(len(cards), blocks)))


@pytest.mark.parametrize("seed", range(40))
def test_a_stream_with_a_little_slack_waits_less_than_a_period(seed: int) -> None:
    rng = random.Random(seed)
    ranks = rng.randint(1, 5)
    costs = drawn_costs(rng, ranks)
    plan = best_plan(costs, rng.randint(max(1, ranks - 1), 9))
    period_s, delay_s = estimate(plan, costs, 1)
    arrival_s, chunks = 1.05 * period_s, 120
    times = simulate(plan, costs, steps=1, chunks=chunks, arrival_s=arrival_s)
    assert period_of(times, ranks) == pytest.approx(arrival_s, rel=0.02), "it keeps up"
    waited_s = fmean(at_s - number * arrival_s - delay_s for number, at_s in list(enumerate(times))[chunks // 2 :])
    assert -1e-6 <= waited_s <= period_s


def test_a_ring_worked_out_by_hand() -> None:
    """Two ranks, one block each: rank 0 is busy for 3 + 4, a round trip takes 4 + 1 + 5 + 2 + 1 and serves two."""
    costs = [RankCosts(4.0, 3.0, 9.0, 1.0), RankCosts(5.0, 9.0, 2.0, 1.0)]
    plan = StageMap((1, 1), 1)
    assert estimate(plan, costs, 1) == (7.0, 3 + 4 + 1 + 5 + 2 + 1)
    assert estimate(plan, costs, 3) == (7.0, 16 + 2 * 2 * 7)
    # Chunk 1 comes at 2, is encoded from 7 to 10, runs 10 to 14 and 15 to 20, is decoded to 22, and back at 23.
    assert simulate(plan, costs, steps=1, chunks=2, arrival_s=2.0) == (16.0, 23.0)
    # A second step enters two micro-steps later, when the first has come back at 14: 14 to 18, 19 to 24, 26, 27.
    assert simulate(plan, costs, steps=2, chunks=1, arrival_s=1.0) == (27.0,)
    # The message back waits for the pictures that are in it: 4 + 1 + 5 + 2 + 1 + 5 serve two.
    slow_pictures = [costs[0], RankCosts(5.0, 9.0, 2.0, 1.0, pictures_s=5.0)]
    assert estimate(plan, slow_pictures, 1) == (9.0, 3 + 4 + 1 + 5 + 2 + 6)
    assert simulate(plan, slow_pictures, steps=1, chunks=1, arrival_s=1.0) == (21.0,)


def test_a_slow_codec_gets_a_rank_of_its_own() -> None:
    even = [RankCosts(1.0, 2.0, 2.0, 0.1)] * 2
    assert best_plan(even, 30).counts[0] > 0
    # The second card is slow at convolutions, and the first one is busy with them for as long as the blocks take.
    slow_codec = [RankCosts(1.0, 12.0, 18.0, 0.1), RankCosts(1.0, 40.0, 60.0, 0.1)]
    assert best_plan(slow_codec, 30) == StageMap((0, 30), 0)


def test_a_faster_card_gets_more_blocks_and_a_slow_link_moves_the_best_plan() -> None:
    unequal = [RankCosts(1.0, 2.0, 4.0, 0.0), RankCosts(3.0, 6.0, 12.0, 0.0)]
    plan = best_plan(unequal, 30)
    assert plan.decode_rank == 0 and plan.counts == (21, 9), "27 against 27 seconds"
    # Where the round trip is what counts, blocks go to the fast card beyond its share: there is no use in waiting.
    slow_link = [RankCosts(1.0, 0.0, 0.0, 30.0), RankCosts(3.0, 0.0, 0.0, 30.0)]
    period_s, _ = estimate(best_plan(slow_link, 30), slow_link, 1)
    assert best_plan(slow_link, 30).counts == (29, 1)
    assert period_s == (29 + 3 + 60) / 2


def test_a_new_plan_is_made_for_a_tenth_and_not_for_less() -> None:
    def costs(second_s: float) -> list[RankCosts]:
        return [RankCosts(1.0, 0.0, 0.0, 0.0), RankCosts(second_s, 0.0, 0.0, 0.0)]

    current = best_plan(costs(1.0), 30)
    assert current.counts == (15, 15)
    assert better_plan(current, costs(1.1)) is None, "15 of 16.5 s is 9 %, and whole blocks give 15.4"
    assert better_plan(current, costs(1.5)) == best_plan(costs(1.5), 30), "18 of 22.5 s"
    assert better_plan(best_plan(costs(1.5), 30), costs(1.5)) is None


def test_a_running_plan_moves_whole_blocks_alone() -> None:
    """Of all plans with the decoder where it is, and with or without blocks on rank 0 as it has them."""
    rng = random.Random(7)
    for _ in range(200):
        ranks = rng.choice((2, 3))
        costs, plans = drawn_costs(rng, ranks), list(every_plan(ranks, 6))
        current = rng.choice(plans)
        alike = [
            plan
            for plan in plans
            if plan.decode_rank == current.decode_rank and bool(plan.counts[0]) == bool(current.counts[0])
        ]
        best = best_plan(costs, 6, like=current)
        assert best in alike
        assert estimate(best, costs, 1) == min(estimate(plan, costs, 1) for plan in alike)


@pytest.mark.parametrize(
    ("counts", "decode_rank"), [((), 0), ((0,), 0), ((3, 0), 0), ((-1, 3), 0), ((1, 1, 1), 1), ((1, 1), 2)]
)
def test_a_plan_that_cannot_be_is_refused(counts: tuple[int, ...], decode_rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        StageMap(counts, decode_rank)


def test_more_ranks_than_blocks_are_refused() -> None:
    assert best_plan([RankCosts(1.0, 1.0, 1.0, 0.0)] * 3, 2).counts == (0, 1, 1)
    with pytest.raises(ValueError, match="cannot be split"):
        best_plan([RankCosts(1.0, 1.0, 1.0, 0.0)] * 4, 2)
    with pytest.raises(ValueError, match="no time"):
        best_plan([RankCosts(0.0, 1.0, 1.0, 0.0)], 2)
    with pytest.raises(ValueError, match="2 ranks and the costs of 1"):
        estimate(StageMap((1, 1), 0), [RankCosts(1.0, 1.0, 1.0, 0.0)], 1)


def test_the_edges_of_a_plan_cover_every_block_once() -> None:
    assert StageMap((0, 3, 2), 2).edges == ((0, 0), (0, 3), (3, 5))
