"""The generated reference page is the table's, and presets that ship can be applied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdv2live.errors import UserError
from sdv2live.paths import assets_dir
from sdv2live.presets import apply_preset, load_preset, preset_names
from sdv2live.reference import PAGE, parameters_page
from sdv2live.registry import Registry


def test_the_reference_page_is_up_to_date() -> None:
    page = (assets_dir() / PAGE).read_text("utf-8")
    assert page == parameters_page(), "run `python -m sdv2live.reference`"


def test_every_shipped_preset_applies() -> None:
    names = preset_names()
    assert len(names) >= 6
    for name in names:
        registry = Registry()
        apply_preset(registry, name)
        assert registry.get("prompt.text") != Registry().get("prompt.text") or name == "pencil"


GOOD = '{"sdv2live": 1, "values": {"noise.max": 0.5}}'
BAD = {
    "not JSON": GOOD[:-3],
    "nothing": "",
    "a list": "[]",
    "NaN": GOOD.replace("0.5", "NaN"),
    "twins": GOOD.replace('"noise.max": 0.5', '"seed": 1, "seed": 2'),
    "deep": "[" * 100_000,
    "no values": '{"sdv2live": 1}',
    "newer": GOOD.replace(": 1,", ": 2,"),
    "unknown": GOOD.replace("noise.max", "noise.mx"),
    "start-up row": GOOD.replace("noise.max", "osc.port"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_preset_is_refused_with_its_file(tmp_path: Path, what: str) -> None:
    path = tmp_path / "look.json"
    path.write_text(BAD[what], "utf-8")
    with pytest.raises(UserError, match=r"look\.json"):
        load_preset(path)


def test_every_cut_of_a_good_preset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "look.json"
    path.write_text(GOOD, "utf-8")
    assert load_preset(path) == {"noise.max": 0.5}
    for length in range(len(GOOD)):
        path.write_text(GOOD[:length], "utf-8")
        with pytest.raises(UserError):
            load_preset(path)
    path.write_text(json.dumps({"pad": "x" * (1 << 20)}), "utf-8")
    with pytest.raises(UserError, match="larger"):
        load_preset(path)


def test_a_preset_out_of_range_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wild.json").write_text('{"sdv2live": 1, "values": {"seed": 5, "output.wet": 9}}', "utf-8")
    monkeypatch.setattr("sdv2live.presets._folders", lambda: (tmp_path, tmp_path))
    registry = Registry()
    before = registry.snapshot()
    with pytest.raises(UserError, match="wet"):
        apply_preset(registry, "wild")
    assert registry.snapshot() is before


@pytest.mark.parametrize("name", ["../night", "/etc/passwd", "night.json", "a\0b", "", "x" * 300, "CON:", "nïght"])
def test_a_preset_s_name_is_a_name_and_no_path(name: str) -> None:
    with pytest.raises(UserError, match="no preset"):
        apply_preset(Registry(), name)
