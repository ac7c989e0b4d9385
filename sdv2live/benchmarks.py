"""The tables of the benchmarks page, made from files that `bench --json` wrote: `python -m sdv2live.benchmarks`.

Owns: the form of the tables. Every figure is a file's, of assets/docs/benchmarks; what was tried and how a live run
went is written by hand around them. Standard library alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sdv2live.generated import write_section
from sdv2live.paths import assets_dir

PAGE, FOLDER, SECTION = "docs/benchmarks.md", "docs/benchmarks", "figures"
STAGES = ("encode", "denoise", "decode")


def benches(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(file name, figures) of every file in `folder` that a `bench` wrote, by name; other files are passed over."""
    found = [(path.name, json.loads(path.read_text("utf-8"))) for path in sorted(folder.glob("*.json"))]
    return [(name, figures) for name, figures in found if figures.get("kind") == "bench"]


def figures_text(found: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """The generated part of the page, Markdown."""
    return "\n".join(_bench(name, figures) for name, figures in found)


def _bench(name: str, figures: dict[str, Any]) -> str:
    size, versions = "x".join(map(str, figures["size"])), figures["versions"]
    ceilings = figures["ceilings"]
    weights = {"random": "random", "shipped": "shipped, trained", "given": "of files"}[figures["weights"]]
    facts = [
        ("file", f"[{name}](benchmarks/{name})"),
        ("taken", f"{figures['date_utc']} UTC"),
        ("machine", f"{figures['device']}; {figures['cores']} cores; {figures['system']}"),
        ("versions", ", ".join(f"{what} {number}" for what, number in versions.items())),
        ("run", f"{figures['dtype']}, {figures['threads']} threads" + _vae(figures)),
        ("weights", f"{weights}; source: {figures['source']}"),
        (
            "ceilings",
            f"matmul {ceilings['matmul_gflop_per_s']:.0f} GFLOP/s, convolution {ceilings['conv_gflop_per_s']:.0f} "
            f"GFLOP/s, copy {ceilings['copy_gb_per_s']:.0f} GB/s"
            + (f", FP8 {ceilings['fp8_gflop_per_s']:.0f} GFLOP/s" if "fp8_gflop_per_s" in ceilings else ""),
        ),
        *([("floor", _floor(figures))] if not figures.get("ranks") else []),
        *([("attention", _attention(figures["attention"]))] if "attention" in figures else []),  # older files: not told
        ("load before", "not told" if figures["load"] is None else f"{figures['load']:.1f}"),
        ("first picture", f"{figures['first_picture_ms'] / 1000:.1f} s after the start of loading" + _opening(figures)),
        *(("rank " + str(rank["rank"]), _rank_words(rank)) for rank in figures.get("ranks", [])),
        *([("note", figures["note"])] if figures["note"] else []),
    ]
    parts = [
        f"### {figures['engine']}{_shape(figures)}, {size}" + (", random weights" if weights == "random" else ""),
        _table(("", ""), facts),
        "Whole chunks; times are medians in ms.",
        _table(("steps", "schedule", "fps", *STAGES, "chunk", "chunk p99", "of floor"), map(_run_row, figures["runs"])),
    ]
    if "stages_left_out" in figures:
        splits = map(_split_row, figures["runs"])
        parts += [
            f"What the ranks' own works fill of a chunk's time; {figures['stages_left_out']}.",
            _table(("steps", "schedule", "blocks", "of the slowest rank", "of all ranks evenly"), splits),
        ]
    if figures["stages"]:
        parts += [
            "Each stage alone; denoise is one step.",
            _table(("stage", "mode", "ms", "fps", "of floor"), map(_stage_row, figures["stages"])),
        ]
    if "app" in figures:
        stages = list(figures["app"][0]["stage_ms"])
        parts += [
            "Our own work beside the engine, ms a frame at 832x480.",
            _table(("source", "wet", *stages, "in all"), map(_app_row, figures["app"])),
        ]
    if "compare" in figures:
        parts += _compared(figures["compare"])
    return "\n\n".join(parts) + "\n"


def _compared(found: dict[str, Any]) -> list[str]:
    sides = (("ours", "ours", "our_attention"), (found["package"], "reference", "reference_attention"))
    rows = [(words, *_side_row(found[name]), found[attention]) for words, name, attention in sides]
    return [
        f"Beside the published package: {found['steps']} steps in a {found['schedule']}, the same weights, size and "
        f"number format, {found['chunks']} chunks in turn. Ours is {found['ratio']:.2f} times as fast.",
        _table(("", "chunk ms", *STAGES, "fps", "GFLOP a chunk", "attention"), rows),
    ]


def _side_row(side: dict[str, Any]) -> tuple[str, ...]:
    times = (side["chunk_ms"], *(side["stage_ms"][stage] for stage in STAGES))
    return *(f"{ms:.0f}" for ms in times), f"{side['fps']:.2f}", f"{side['gflop']:.1f}"


def _app_row(entry: dict[str, Any]) -> tuple[str, ...]:
    times = (*entry["stage_ms"].values(), entry["frame_ms"])
    return "x".join(map(str, entry["source"])), f"{entry['wet']:g}", *(f"{ms:.2f}" for ms in times)


def _rank_words(rank: dict[str, Any]) -> str:
    works = ", ".join(f"{work} {ms:.0f} ms" for work in ("encode", "blocks", "decode") if (ms := rank[f"{work}_ms"]))
    return f"{rank['device']}, {rank['blocks'][1] - rank['blocks'][0]} blocks, busy {rank['busy']:.0%}: {works}"


def _attention(attention: dict[str, Any]) -> str:
    """Older files call torch's own choice by the name of its function."""
    name = {"sdpa": "torch scaled_dot_product_attention, its own choice"}.get(attention["kernel"], attention["kernel"])
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in attention["ms"].items())
    return f"{name}; timed: {times}" if times else f"{name}; nothing was timed"


def _floor(figures: dict[str, Any]) -> str:
    """Older files know no bytes."""
    if any("work" in run for run in figures["runs"]):
        return "operations, and bytes of weights and of the KV cache; not what the networks make on their way"
    return "operations alone"


def _split_row(run: dict[str, Any]) -> tuple[str, ...]:
    shares = (f"{run[name] * 100:.0f} %" for name in ("of_slowest", "of_sum"))
    return str(run["steps"]), run["schedule"], ", ".join(map(str, run["split"])), *shares


def _shape(figures: dict[str, Any]) -> str:
    """An engine's networks may be of sizes of one's own."""
    network = figures.get("transformer")
    return f" ({network['width']} wide, {network['blocks']} blocks)" if network else ""


def _opening(figures: dict[str, Any]) -> str:
    """Older files do not have it."""
    return f", {figures['opening_ms']:.0f} ms after a first chunk when warm" if "opening_ms" in figures else ""


def _vae(figures: dict[str, Any]) -> str:
    return f", VAE {figures['vae']}" if figures["vae"] else ""


def _run_row(run: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(run["steps"]),
        run["schedule"],
        f"{run['fps']:.1f}",
        *("elsewhere" if stage in run.get("elsewhere", ()) else f"{run[f'{stage}_ms']['p50']:.0f}" for stage in STAGES),
        f"{run['chunk_ms']['p50']:.0f}",
        f"{run['chunk_ms']['p99']:.0f}",
        f"{run['fraction_of_floor'] * 100:.0f} %" if "fraction_of_floor" in run else "-",
    )


def _stage_row(entry: dict[str, Any]) -> tuple[str, ...]:
    if "ms" not in entry:
        return entry["stage"], entry["mode"], entry["reason"], "-", "-"
    share = f"{entry['fraction_of_floor'] * 100:.0f} %"
    return entry["stage"], entry["mode"], f"{entry['ms']:.1f}", f"{entry['fps']:.0f}", share


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    write_section(assets_dir() / PAGE, SECTION, figures_text(benches(assets_dir() / FOLDER)))
    print(f"written: {assets_dir() / PAGE}")
