"""The benchmarks page is what the program makes of the files beside it."""

from __future__ import annotations

import json
from pathlib import Path

from sdv2live.benchmarks import FOLDER, PAGE, SECTION, benches, figures_text
from sdv2live.generated import with_section
from sdv2live.paths import assets_dir


def test_the_page_is_up_to_date() -> None:
    page = (assets_dir() / PAGE).read_text("utf-8")
    made = figures_text(benches(assets_dir() / FOLDER))
    assert page == with_section(page, SECTION, made), "run `python -m sdv2live.benchmarks`"


def test_every_figure_says_where_it_is_from() -> None:
    found = benches(assets_dir() / FOLDER)
    assert found
    for name, figures in found:
        assert figures["versions"]["torch"] and figures["date_utc"] and figures["device"] and figures["threads"], name
        assert figures["weights"] in ("random", "shipped", "given") and set(figures["ceilings"]), name


def test_a_warm_opening_is_told_by_files_that_know_it() -> None:
    (name, figures), *_ = benches(assets_dir() / FOLDER)
    known, unknown = ({**figures, "opening_ms": 412.3}, {k: v for k, v in figures.items() if k != "opening_ms"})
    assert ", 412 ms after a first chunk when warm |" in figures_text([(name, known)])
    assert "when warm" not in figures_text([(name, unknown)])


def test_the_kernel_of_attention_is_named_or_who_chooses_it() -> None:
    (name, figures), *_ = benches(assets_dir() / FOLDER)
    untimed, timed = {"kernel": "sdpa", "ms": {}}, {"kernel": "cudnn", "ms": {"cudnn": 0.41, "flash": 0.523}}
    rows = [figures_text([(name, {**figures, "attention": each})]) for each in (untimed, timed)]
    assert "| attention | torch scaled_dot_product_attention, its own choice; nothing was timed |" in rows[0]
    assert "| attention | cudnn; timed: cudnn 0.41 ms, flash 0.52 ms |" in rows[1]


def test_a_run_over_ranks_says_its_split_and_what_is_not_seen_from_the_first() -> None:
    (name, figures), *_ = benches(assets_dir() / FOLDER)
    over = {"split": [4, 2], "of_slowest": 0.75, "of_sum": 0.625, "elsewhere": ["decode"], "fps": 100.0}
    rank = {"rank": 0, "device": "cpu", "blocks": [0, 4], "busy": 0.5, "encode_ms": 4, "blocks_ms": 16, "decode_ms": 0}
    run = {**figures["runs"][0], "steps": 2, "schedule": "throughput", **over}
    text = figures_text([(name, {**figures, "runs": [run], "ranks": [rank], "stages": [], "stages_left_out": "why"})])
    assert "| 2 | throughput | 4, 2 | 75 % | 62 % |" in text and "of a chunk's time; why." in text
    assert "cpu, 4 blocks, busy 50%: encode 4 ms, blocks 16 ms |" in text and "| elsewhere |" in text
    assert "| floor |" not in text and "| floor |" in figures_text([(name, figures)])


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "live.json").write_text(json.dumps({"frames_in": 3}))
    assert benches(tmp_path) == []
