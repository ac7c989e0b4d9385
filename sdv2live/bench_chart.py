"""Draws the stages of a `bench` as an SVG file. Standard library alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, ROW, TOP = 780, 190, 230, 26, 62
COLOURS = {"eager": "#5b7fa6", "compiled": "#4f9a6b", "graph": "#b07f3c"}
COLOURS |= {"encode": "#5b7fa6", "blocks": "#4f9a6b", "decode": "#b07f3c"}  # of a rank
INK, PALE, FLOOR = "#22262e", "#8a919c", "#c0392b"


def stage_chart(title: str, entries: Sequence[dict[str, Any]]) -> str:
    """A bar for each entry of `time_stages` or `rank_entries`, as long as it took, with a red line where a floor is.

    An entry without a time gets its reason in place of a bar.
    """
    longest_ms = max((entry["ms"] for entry in entries if "ms" in entry), default=1.0)
    scale = (WIDTH - LEFT - RIGHT) / longest_ms
    rows, top, stage = [], TOP, None
    for entry in entries:
        if entry["stage"] != stage:
            top += 10 if stage is not None else 0
            stage = entry["stage"]
            rows.append(_text(16, top + 17, stage, weight="bold"))
        rows.append(_text(96, top + 17, entry["mode"]))
        rows.extend(_bar(entry, top, scale) if "ms" in entry else [_text(LEFT, top + 17, entry["reason"], fill=PALE)])
        top += ROW
    height = top + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
        + _text(16, 26, title, weight="bold")
        + _text(16, 46, "ms a chunk of four frames; denoise, blocks: one micro-step; red: the floor", fill=PALE)
        + "".join(rows)
        + "</svg>\n"
    )


def _bar(entry: dict[str, Any], top: int, scale: float) -> list[str]:
    length = entry["ms"] * scale
    bar = f'<rect x="{LEFT}" y="{top + 3}" width="{length:.1f}" height="18" fill="{COLOURS[entry["mode"]]}"/>\n'
    if "floor_ms" not in entry:
        return [bar, _text(LEFT + length + 8, top + 17, f"{entry['ms']:.1f} ms")]
    floor = LEFT + entry["floor_ms"] * scale
    words = f"{entry['ms']:.1f} ms, {entry['fps']:.0f} fps, {entry['fraction_of_floor'] * 100:.0f} % of floor"
    return [
        bar,
        f'<line x1="{floor:.1f}" x2="{floor:.1f}" y1="{top}" y2="{top + 24}" stroke="{FLOOR}" stroke-width="2"/>\n',
        _text(max(LEFT + length, floor) + 8, top + 17, words),
    ]


def _text(x: float, y: float, words: str, *, fill: str = INK, weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y}" fill="{fill}" font-weight="{weight}">{escape(words)}</text>\n'
