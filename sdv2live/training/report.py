"""The evaluation as Markdown tables, its guards, and what falls short. Owns their columns and wording."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sdv2live.engine.model.pocket_text import STRENGTHS
from sdv2live.training.effects import STROKE_LOOKS
from sdv2live.training.evaluate import (
    DRIFT_SIZE_WH,
    NOISES,
    SIGMA,
    SLIGHTLY,
    STEPS,
    Evaluation,
    Knobs,
    Row,
    Variant,
)
from sdv2live.training.held_out import VIDEO
from sdv2live.training.losses import FLAT_STD, LATENT_STD_RANGE, LEAST_COST_DB, NORMALISED_STD_RANGE
from sdv2live.training.quality import BEST_PSNR_DB, GAIN_NEAR_DB, SMALLEST_WARP, WARP_SHARE, Figures, missed
from sdv2live.training.words import WEAK

WARP_FLOOR = f"{255 * math.sqrt(SMALLEST_WARP):.2f} grey levels of 255"
_LOOKS_LEGEND = (
    "In brackets: the source in place of our picture. The warp error misses its aim where its square is more than "
    f"{WARP_SHARE} times that of the target's, or of {WARP_FLOOR} where that is more."
)
MOST_FLICKER, MOST_DRIFT_DB, LARGEST_STEP = 0.5, 0.5, 0.3
WORSE_DB = 0.2  # less is noise


def report(found: Evaluation) -> str:
    """All tables, each with a line above it that says what it shows."""
    parts = []
    for size_wh in dict.fromkeys(row.size_wh for row in found.rows):
        rows = [row for row in found.rows if row.size_wh == size_wh]
        size = f"{size_wh[0]}x{size_wh[1]}"
        parts += [f"{size}, noise {SIGMA}, one step. {_LOOKS_LEGEND}", _looks(rows)]
        parts += [f"{size}, PSNR in dB, mean of the clips, by noise and steps.", _steps(rows)]
        measures = "SSIM, edge distance, palette distance, sharpness in %, warp error over the target's"
        measures = f"{measures} (or over {WARP_FLOOR} where that is more)"
        parts += [f"{size}, mean of the clips, by noise and steps: {measures}.", _others(rows)]
    if found.variants:
        parts += [_variants_legend(found.variants[0]), _variants(found.variants), _too_near(found.variants)]
    knobs = _knobs(found.knobs, found.drift_chunks)
    parts += ["Knobs, on a still picture, in grey levels of 255 unless said.", knobs]
    parts += ["Guards, over all clips and sizes; what a latent of nought costs is their mean.", _guards(found.rows)]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Guard:
    """What must hold of any model: a network that collapsed, or a transformer that is decoration, breaks one."""

    name: str
    value: str
    wanted: str
    holds: bool


def guards(rows: Sequence[Row]) -> list[Guard]:
    """All of them, of the looks that were run; NaN holds nowhere."""
    spreads = (
        ("spread of the encoder's latents", LATENT_STD_RANGE, [row.encoded_std for row in rows]),
        ("spread of the transformer's latents, normalised", NORMALISED_STD_RANGE, [row.latent_std for row in rows]),
    )
    found = [
        Guard(name, f"{min(stds):.2f} to {max(stds):.2f}", f"{low} to {high}", all(low <= std <= high for std in stds))
        for name, (low, high), stds in spreads
    ]
    flattest = [row.least_spread for row in rows]
    is_drawn = all(spread >= FLAT_STD for spread in flattest)
    found.append(
        Guard("spread within the flattest picture, of 2", f"{min(flattest):.3f}", f"{FLAT_STD} or more", is_drawn)
    )
    for look in STROKE_LOOKS:
        if costs := [row.zero_cost_db for row in rows if row.look == look]:
            cost_db = float(np.mean(costs))
            name = f"a latent of nought costs {look}, in dB"
            found.append(Guard(name, f"{cost_db:.1f}", f"{LEAST_COST_DB} or more", cost_db >= LEAST_COST_DB))
    return found


def _guards(rows: Sequence[Row]) -> str:
    lines = [
        f"| {guard.name} | {guard.value} | {guard.wanted} | {'yes' if guard.holds else '**NO**'} |"
        for guard in guards(rows)
    ]
    table = _table(("guard", "value", "wanted", "holds"), lines)
    if untested := [look for look in STROKE_LOOKS if look not in {row.look for row in rows}]:
        table += f"\n\nNot run, and so not tested with a latent of nought: {', '.join(untested)}."
    return table


def _variants_legend(one: Variant) -> str:
    return (
        f"{one.clip}, {one.size_wh[0]}x{one.size_wh[1]}, noise {SIGMA}, one step: PSNR in dB to the look in each "
        f"colour, and to {STRENGTHS[WEAK]} of the look over the source ({SLIGHTLY}). In brackets: the source in place "
        "of our picture."
    )


def _variants(variants: Sequence[Variant]) -> str:
    names = list(dict.fromkeys(each.variant for each in variants))
    cells: dict[str, dict[str, str]] = {}
    for each in variants:
        cells.setdefault(each.look, {})[each.variant] = f"{each.psnr:.1f} ({each.nothing_psnr:.1f})"
    return _table(
        ("look", *names),
        [f"| {look} | {' | '.join(row.get(name, '-') for name in names)} |" for look, row in cells.items()],
    )


def _too_near(variants: Iterable[Variant]) -> str:
    """Names those that are hardly better than the source, but for those whose target is the source."""
    short = [
        f"{each.look} {each.variant} ({each.psnr - each.nothing_psnr:+.1f})"
        for each in variants
        if each.nothing_psnr < BEST_PSNR_DB and not each.psnr - each.nothing_psnr >= GAIN_NEAR_DB
    ]
    return f"Less than {GAIN_NEAR_DB} dB better than doing nothing: {', '.join(short) or 'none'}."


def _looks(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        f = row.figures[f"{SIGMA} / 1"]
        lines.append(
            f"| {row.clip} | {row.look} | {f.psnr:.1f} ({f.nothing_psnr:.1f}) | {f.ssim:.2f} "
            f"| {f.edges:.2f} ({f.nothing_edges:.2f}) | {f.palette:.1f} ({f.nothing_palette:.1f}) "
            f"| {100 * f.sharpness:.0f} | {255 * math.sqrt(f.warp):.1f} ({255 * math.sqrt(f.target_warp):.1f}) "
            f"| {row.zero_cost_db:.1f} | {', '.join(missed(f, row.look, is_video=row.clip == VIDEO)) or '-'} |"
        )
    head = (
        "clip", "look", "PSNR in dB", "SSIM", "edge distance", "palette distance", "sharpness in % of the target's",
        "warp error (the target's)", "latent of nought costs in dB", "aims missed",
    )  # fmt: skip
    return _table(head, lines)


def _steps(rows: Sequence[Row]) -> str:
    keys = [f"{noise} / {steps}" for noise in NOISES for steps in STEPS]
    lines = []
    for look in dict.fromkeys(row.look for row in rows):
        means = [float(np.mean([row.figures[key].psnr for row in rows if row.look == look])) for key in keys]
        worse = [one - two for one, two in zip(means[::2], means[1::2], strict=True)]
        note = "yes" if max(worse) <= WORSE_DB else f"{max(worse):.1f} dB worse"
        lines.append(f"| {look} | {' | '.join(f'{mean:.1f}' for mean in means)} | {note} |")
    return _table(("look", *keys, "second step no worse"), lines)


def _others(rows: Sequence[Row]) -> str:
    keys = [f"{noise} / {steps}" for noise in NOISES for steps in STEPS]
    lines = []
    for look in dict.fromkeys(row.look for row in rows):
        cells = []
        for key in keys:
            means = np.mean([_measures(row.figures[key]) for row in rows if row.look == look], axis=0)
            cells.append("{:.2f}, {:.2f}, {:.1f}, {:.0f}, {:.1f}".format(*means))
        lines.append(f"| {look} | {' | '.join(cells)} |")
    return _table(("look", *keys), lines)


def _measures(f: Figures) -> tuple[float, ...]:
    warp = math.sqrt(f.warp / max(f.target_warp, SMALLEST_WARP))
    return f.ssim, f.edges, f.palette, 100 * f.sharpness, warp


def _knobs(knobs: Iterable[Knobs], drift_chunks: int) -> str:
    lines = []
    for k in knobs:
        rises = k.look == "identity" or all(b >= a - 0.5 for a, b in itertools.pairwise(k.strengths))
        lines.append(
            f"| {k.look} | {_or_mark(k.flicker, lambda v: v < MOST_FLICKER)} "
            f"| {' '.join(f'{s:.0f}' for s in k.strengths)}{'' if rises else ' (falls)'} "
            f"| {_or_mark(k.largest_step, lambda v: v < LARGEST_STEP)} "
            f"| {k.seeds:.1f} | {k.seed_psnr[0]:.1f} and {k.seed_psnr[1]:.1f} "
            f"| {'-' if k.drift_db is None else _or_mark(k.drift_db, lambda v: v > -MOST_DRIFT_DB)} |"
        )
    size = f"{DRIFT_SIZE_WH[0]}x{DRIFT_SIZE_WH[1]}"
    head = (
        "look", "flicker", "distance from the source at noise 0.05, 0.1, 0.2 to 0.6",
        "largest of ten steps of a blend, as a share of all ten",
        "two seeds differ by", "their PSNR in dB", f"drift over {drift_chunks} chunks at {size} in dB",
    )  # fmt: skip
    return _table(head, lines)


def _or_mark(value: float, is_good: Callable[[float], bool]) -> str:
    return f"{value:.2f}" if is_good(value) else f"**{value:.2f}**"


def _table(head: Sequence[str], lines: Iterable[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *lines])
