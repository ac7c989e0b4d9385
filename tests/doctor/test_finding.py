"""How findings read: on a terminal, for programs, and out of the product's own sentences."""

from __future__ import annotations

import io
import json

import pytest

from sdv2live.doctor.finding import Finding, Report, State, finding

GOOD = Finding("memory", State.OK, "20 GB free")
BAD = Finding("cameras", State.FAIL, 'it said "no"', "unplug it")


def test_a_finding_comes_back_from_its_line() -> None:
    assert [Finding.from_json(each.to_json()) for each in (GOOD, BAD)] == [GOOD, BAD]


@pytest.mark.parametrize(
    "line",
    ["", "[1]", '{"name": "a"}', '{"name": 1, "state": "ok", "text": "", "remedy": ""}', "[" * 9999,
     '{"name": "a", "state": "fine", "text": "", "remedy": ""}', "[ WARN:0@0.1] global cap.cpp"],
)  # fmt: skip
def test_what_a_library_prints_is_no_finding(line: str) -> None:
    with pytest.raises(ValueError):
        Finding.from_json(line)


@pytest.mark.parametrize(
    ("sentence", "text", "remedy"),
    [
        ("The camera A (reason: EIO) failed: unplug it.", "The camera A (reason: EIO) failed", "unplug it"),
        ("A is missing: run `a: b`, or: c.", "A is missing", "run `a: b`, or: c"),
        ("Nothing is to be done.", "Nothing is to be done", ""),
        ("It takes 10:30.", "It takes 10:30", ""),
    ],
)
def test_a_sentence_is_parted_into_what_is_and_what_to_do(sentence: str, text: str, remedy: str) -> None:
    assert finding("a", sentence) == Finding("a", State.WARN, text, remedy)


@pytest.mark.parametrize("is_whole", [True, False])
def test_json_reads_as_a_whole_and_line_by_line(is_whole: bool) -> None:
    out = io.StringIO()
    report = Report(lambda line: print(line, file=out), as_json=True)
    for found in (GOOD, BAD):
        report.add(found)
    assert report.end(is_whole=is_whole, figures={"a": 1}) == 1
    whole = json.loads(out.getvalue())
    assert [one["name"] for one in whole["findings"]] == ["memory", "cameras"]
    assert (whole["passed"], whole["is_whole"], whole["figures"]) == (False, is_whole, {"a": 1})
    lines = out.getvalue().splitlines()
    assert [Finding.from_json(line.removeprefix(",")) for line in lines[1:-1]] == [GOOD, BAD]


def test_text_has_what_to_do_below() -> None:
    lines: list[str] = []
    report = Report(lines.append, as_json=False)
    report.add(GOOD)
    assert report.end() == 0
    report.add(BAD)
    assert report.end() == 1
    assert lines[0] == "ok    memory           20 GB free"
    assert lines[2].splitlines() == ['fail  cameras          it said "no"', " " * 23 + "-> unplug it"]
    assert lines[3].strip() == "1 ok, 0 to know about, 1 failed: cameras"
