"""The page on several devices is what the program writes; its splits hold against every other one, played."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sdv2live.engine.balance import best_plan, estimate, hops_of, simulate
from sdv2live.engine.orders import DecodeOrder, NoiseKey, RowOrder, StepOrder
from sdv2live.engine.parcels import parcel_bytes
from sdv2live.engine.pipeline import Parcels
from sdv2live.engine.stages import StageMap, even_split
from sdv2live.engine.work_counts import DITS, Card, costs_on, work_of
from sdv2live.generated import with_section
from sdv2live.paths import assets_dir
from sdv2live.several_devices import CASES, H100, PAGE, SECTION, Case, reference_plan, splits_text


def test_the_page_is_up_to_date() -> None:
    page = (assets_dir() / PAGE).read_text("utf-8")
    assert page == with_section(page, SECTION, splits_text()), "run `python -m sdv2live.several_devices`"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no marks of 'splits'"):
        with_section("# A page\n", SECTION, "text")
    marked = with_section("<!-- x: written by a program -->\nold\n<!-- x: end -->\nmore\n", "x", "new")
    assert marked == "<!-- x: written by a program -->\nnew\n<!-- x: end -->\nmore\n"


def played_period(plan: StageMap, case: Case) -> float:
    ranks = len(case.cards)
    times = simulate(plan, case.costs(), steps=case.steps, chunks=40 * ranks, arrival_s=0.0)
    return (times[30 * ranks] - times[10 * ranks]) / (20 * ranks)


def worst_apart(case: Case) -> list[StageMap]:
    """Every split of two cards; of four, those whose middle cards have a multiple of five blocks."""
    blocks, ranks = DITS[case.engine].blocks, len(case.cards)
    shares = [range(blocks + 1), *([range(1, blocks + 1) if ranks == 2 else range(5, blocks, 5)] * (ranks - 1))]
    return [
        StageMap(counts, decode_rank)
        for counts in itertools.product(*shares)
        if sum(counts) == blocks
        for decode_rank in (0, ranks - 1)
    ]


@pytest.mark.parametrize("case", CASES[:16:3] + CASES[17:32:5] + CASES[32::2])
def test_no_split_that_is_played_is_better_by_a_tenth(case: Case) -> None:
    plan = best_plan(case.costs(), DITS[case.engine].blocks)
    ours = played_period(plan, case)
    assert ours == pytest.approx(estimate(plan, case.costs(), case.steps)[0], rel=0.1)
    assert ours <= 1.1 * min(played_period(other, case) for other in worst_apart(case))


@pytest.mark.parametrize("case", CASES)
def test_the_reference_s_rule_never_does_better(case: Case) -> None:
    costs, blocks = case.costs(), DITS[case.engine].blocks
    ours = estimate(best_plan(costs, blocks), costs, case.steps)[0]
    for other in (even_split(blocks, len(costs)), reference_plan(costs, blocks)):
        assert ours <= estimate(other, costs, case.steps)[0]


@pytest.mark.parametrize(
    ("name", "size_wh", "steps", "tera", "giga"),
    [
        ("wan-1.3b", (832, 480), 1, 6.74, 6.33),
        ("wan-1.3b", (512, 512), 4, 15.27, 12.7),
        ("wan-14b", (512, 512), 2, 60.1, 46.6),
        ("wan-14b", (832, 480), 3, 149.7, 75.0),
    ],
)
def test_the_counts_are_those_of_the_networks(
    name: str, size_wh: tuple[int, int], steps: int, tera: float, giga: float
) -> None:
    """The whole transformer's operations (10^12) and bytes (10^9) of a micro-step, counted by hand."""
    work = work_of(name, size_wh, steps=steps, vae="wan")
    flop, moved = (DITS[name].blocks * each for each in work.block)
    assert flop == pytest.approx(tera * 1e12, rel=0.005)
    assert moved == pytest.approx(giga * 1e9, rel=0.005)


def test_a_card_takes_as_long_as_its_slower_resource_and_a_link_as_what_crosses_it() -> None:
    work = work_of("wan-1.3b", (832, 480), steps=2, vae="wan")
    first, _ = costs = costs_on([H100, replace(H100, convolution_tflop_per_s=394)], work, fraction=0.5)
    assert [each.encode_s for each in costs] == pytest.approx([8052e9 / 788e12 / 0.5, 8052e9 / 394e12 / 0.5])
    assert costs[0].block_s == costs[1].block_s == pytest.approx(work.block[0] / 788e12 / 0.5)
    assert first.hop_s == pytest.approx(2 * 16 * 60 * 104 * 4 / 450e9 / 0.5)
    assert first.tokens_s == pytest.approx(2 * 1560 * 1536 * 2 / 450e9 / 0.5)
    assert first.pictures_s == pytest.approx(4 * 832 * 480 * 3 / 450e9 / 0.5)


@pytest.mark.parametrize("stages", [StageMap((0, 30), 0), StageMap((3, 27), 1)])
def test_the_bytes_that_are_counted_are_those_that_a_rank_sends(stages: StageMap) -> None:
    """By the forms that `Parcels` gives for a steady micro-step of two rows; a message rounds them up a little."""
    row = RowOrder(7, 1, 8, 8, 1, 1, 450, 300, NoiseKey("fixed", ((3, 1.0),), 7, 0.0), sink=0, copies_to=())
    order = StepOrder(4, (row, row), (DecodeOrder(6, 1, 0.5, 4),), enters=7, texts=(1,), contexts=(1,))
    runner = SimpleNamespace(
        dit=SimpleNamespace(config=SimpleNamespace(dim=1536, in_dim=16)),
        dtype=torch.bfloat16,
        size_wh=(832, 480),
        codec=SimpleNamespace(spatial_factor=8, side_forms=lambda size_wh: ()),
    )
    parcels = Parcels(runner, stages)  # type: ignore[arg-type]
    per_byte = Card("", 1.0, 1.0, 1.0, link_gb_per_s=1e-9)
    counted = hops_of(stages, costs_on([per_byte] * 2, work_of("wan-1.3b", (832, 480), steps=2, vae="wan")))
    assert [parcel_bytes(parcels.after(rank, order)) for rank in (0, 1)] == pytest.approx(counted, abs=64)
