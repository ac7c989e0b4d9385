"""The table of splits in the documentation: `python -m sdv2live.several_devices` writes it.

Owns: which cards, links and engines are in it, and the words on why a split is the best. Computed, nothing is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from sdv2live.engine.balance import RankCosts, best_plan, busy_of, estimate, hops_of, reference_split, simulate
from sdv2live.engine.stages import StageMap, even_split
from sdv2live.engine.work_counts import CHUNK_FRAMES, DITS, Card, costs_on, work_of
from sdv2live.generated import write_section
from sdv2live.paths import assets_dir

PAGE, SECTION = "docs/several-devices.md", "splits"
FRACTION = 0.45  # of its rates that a card is taken to reach
SLACK = 1.05  # chunks come this much more slowly than the ring could take them
_CHUNKS = 96

NVLINK, PCIE, NETWORK = 450.0, 31.5, 1.25
LINKS = {NVLINK: "NVLink 4, 450 GB/s", PCIE: "PCIe 4.0 x16, 31.5 GB/s", NETWORK: "10 Gbit/s network, 1.25 GB/s"}
H200 = Card("H200", 788, 788, 4300, NVLINK)
H100 = Card("H100", 788, 788, 3020, NVLINK)
RTX_4090 = Card("RTX 4090", 165, 165, 920, PCIE)


@dataclass(frozen=True, slots=True)
class Case:
    """cards: in the ring's order; link: between them, GB/s one way."""

    engine: str
    size_wh: tuple[int, int]
    steps: int
    vae: str
    cards: tuple[Card, ...]
    link: float

    def costs(self) -> list[RankCosts]:
        work = work_of(self.engine, self.size_wh, steps=self.steps, vae=self.vae)
        return costs_on([replace(card, link_gb_per_s=self.link) for card in self.cards], work, fraction=FRACTION)


def _cases() -> list[Case]:
    wide, square = (832, 480), (512, 512)
    small = [("wan-1.3b", wide, steps, vae) for steps, vae in ((1, "wan"), (2, "wan"), (4, "wan"), (2, "taehv"))]
    rings: list[tuple[tuple[Card, ...], float]] = [
        ((H100, H100), NVLINK),
        ((H100,) * 4, NVLINK),
        ((RTX_4090, RTX_4090), PCIE),
        ((RTX_4090,) * 4, PCIE),
        ((H100, RTX_4090), PCIE),
        ((RTX_4090, H100), PCIE),
        ((H100, H100), NETWORK),
        ((RTX_4090, RTX_4090), NETWORK),
    ]
    large = [((H100, H100), NVLINK), ((H100,) * 4, NVLINK), ((H200, H100), PCIE), ((H100, H100), NETWORK)]
    return [
        *(Case(*engine, cards, link) for engine in small for cards, link in rings),
        *(Case("wan-14b", square, 2, "wan", cards, link) for cards, link in large),
        *(Case("wan-14b", wide, 2, "taehv", cards, link) for cards, link in large),
    ]


CASES = _cases()


def delay_of(plan: StageMap, costs: Sequence[RankCosts], *, steps: int) -> float:
    """Seconds from a complete chunk to its picture at rank 0 in a steady stream, with waiting: the ring is played."""
    arrival_s = SLACK * estimate(plan, costs, steps)[0]
    times = simulate(plan, costs, steps=steps, chunks=_CHUNKS, arrival_s=arrival_s)
    return median(at_s - number * arrival_s for number, at_s in list(enumerate(times))[_CHUNKS // 2 :])


def reference_plan(costs: Sequence[RankCosts], blocks: int) -> StageMap:
    """What the reference's rule makes of the even plan once it has measured it."""
    start = even_split(blocks, len(costs))
    dit = [count * each.block_s for count, each in zip(start.counts, costs, strict=True)]
    total = list(dit)
    total[0] += costs[0].encode_s
    total[-1] += costs[-1].decode_s
    return StageMap(reference_split(start.counts, total_seconds=total, dit_seconds=dit), start.decode_rank)


def why(case: Case, plan: StageMap, costs: Sequence[RankCosts]) -> str:
    """What holds the ring up, in a few words."""
    ranks = len(costs)
    period_s = estimate(plan, costs, case.steps)[0]
    busy_s = busy_of(plan, costs)
    if max(busy_s) < 0.999 * period_s:
        return "the link itself is full" if max(hops_of(plan, costs)) == period_s else "the way round is long"
    busiest = busy_s.index(max(busy_s))
    blocks = plan.counts[busiest]
    if blocks <= 1 and costs[busiest].block_s * blocks < 0.1 * period_s:
        what = "encodes and decodes" if plan.decode_rank == 0 else "encodes" if busiest == 0 else "decodes"
        if busiest == 0 and not blocks:
            return f"card 1 {what} and has no block: more would slow it down"
        return f"card {busiest + 1} {what} all the time: no split of the blocks helps"
    idle = 1 - sum(busy_s) / ranks / period_s
    return "all are busy" if idle < 0.03 else f"whole blocks, and the codec, leave {idle:.0%} idle".replace("%", " %")


def splits_text() -> str:
    """The generated part of the page, Markdown."""
    lines = [
        f"Computed from counted work, not measured: every card and link is taken to reach {FRACTION:.0%} of its rate.",
        "Rates: H200 788 TFLOP/s and 4.3 TB/s, H100 788 and 3.02, RTX 4090 165 and 0.92; links as published. Another",
        "share changes fps and delay in proportion, and no split. Counted are work, bytes and waiting, not the latency",
        "of a network. One card runs `latency`, several run `throughput`, and their delay is that of a live stream",
        f"{SLACK - 1:.0%} slower than the ring could take it, from a complete chunk to its picture at the first card.",
        "`0 + 30` are the blocks of each card in the ring's order; the first one always encodes.",
    ]
    text = "\n".join(lines).replace("%", " %") + "\n"
    title = ""
    for case in CASES:
        engine = f"{case.engine}, {case.size_wh[0]}x{case.size_wh[1]}, {_counted(case.steps, 'step')}, --vae {case.vae}"
        if engine != title:
            title = engine
            text += f"\n### {title}\n\n" + _HEAD
            for card in dict.fromkeys(card for each in CASES if _alike(each, case) for card in each.cards):
                text += _alone(case, card)
        text += _row(case)
    return text


_HEAD = (
    "| cards | link | blocks | decodes | fps | delay ms | even split, fps | reference's rule, fps | why |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def _alike(one: Case, other: Case) -> bool:
    return (one.engine, one.size_wh, one.steps, one.vae) == (other.engine, other.size_wh, other.steps, other.vae)


def _alone(case: Case, card: Card) -> str:
    blocks = DITS[case.engine].blocks
    period_s = estimate(StageMap((blocks,), 0), replace(case, cards=(card,)).costs(), 1)[0]
    return f"| {card.name} | - | {blocks} | 1st | {_fps(period_s)} | {period_s * 1000:.0f} | - | - | one card |\n"


def _row(case: Case) -> str:
    costs, blocks = case.costs(), DITS[case.engine].blocks
    plan = best_plan(costs, blocks)
    period_s = estimate(plan, costs, case.steps)[0]
    others = [estimate(each, costs, 1)[0] for each in (even_split(blocks, len(costs)), reference_plan(costs, blocks))]
    cells = (
        _names(case.cards),
        LINKS[case.link],
        " + ".join(map(str, plan.counts)),
        "1st" if plan.decode_rank == 0 else "last",
        _fps(period_s),
        f"{delay_of(plan, costs, steps=case.steps) * 1000:.0f}",
        *map(_fps, others),
        why(case, plan, costs),
    )
    return "| " + " | ".join(cells) + " |\n"


def _fps(period_s: float) -> str:
    return f"{CHUNK_FRAMES / period_s:.1f}"


def _names(cards: Sequence[Card]) -> str:
    """In the ring's order: `H100 + RTX 4090`, `4 x H100`."""
    names = [card.name for card in cards]
    return f"{len(names)} x {names[0]}" if len(set(names)) == 1 else " + ".join(names)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


if __name__ == "__main__":
    write_section(assets_dir() / PAGE, SECTION, splits_text())
    print(f"written: {assets_dir() / PAGE}")
