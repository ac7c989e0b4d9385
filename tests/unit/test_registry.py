"""The table's rules and the registry's: what is accepted, clamped, refused, and what a bundle does."""

from __future__ import annotations

import json
import math
import random
import threading

import pytest

from sdv2live import weighted_files
from sdv2live.errors import UserError
from sdv2live.parameters import TABLE, InvalidValue, Kind, coerce, range_text
from sdv2live.registry import Change, Registry

ENGINE = {"steps.list": (600, 300), "steps.count": 1, "noise.max": 0.6, "noise.min": 0.5, "noise.mode": "fixed"}


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.apply_engine_defaults(ENGINE)
    return registry


REQUIRED = [
    "prompt.text",
    "prompt.transition",
    "prompt.mix",
    "steps.count",
    "steps.list",
    "noise.max",
    "noise.min",
    "noise.sensitivity",
    "noise.smoothing",
    "noise.mode",
    "seed",
    "schedule",
    "output.wet",
    "output.bypass",
    "output.freeze",
    "stream.reset",
    "stream.paused",
]


def test_the_table_has_what_was_promised_and_names_are_unique_everywhere() -> None:
    assert set(REQUIRED) <= set(TABLE)
    addresses = [address for row in TABLE.values() for address in row.osc_addresses]
    flags = [row.cli_flag for row in TABLE.values()]
    assert len(set(addresses)) == len(addresses) and len(set(flags)) == len(flags)
    assert all(row.doc.endswith(".") and range_text(row) for row in TABLE.values())
    assert all(TABLE[row.clears] for row in TABLE.values() if row.clears)


def test_defaults_are_inside_their_own_range() -> None:
    for row in TABLE.values():
        if row.default is not None and row.default != ():
            assert coerce(row, row.default).note == "" and coerce(row, row.default).value == row.default, row.name


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "nan", "inf", "1e999"])
@pytest.mark.parametrize("name", ["noise.max", "steps.count", "output.bypass", "seed", "stream.reset", "output.wet"])
def test_nan_and_infinity_are_refused_before_anything_is_clamped(registry: Registry, name: str, bad: object) -> None:
    before = registry.snapshot()
    result = registry.set(name, bad, origin="osc")
    assert result.status == "rejected" and result.value == before[name]
    assert registry.snapshot() is before


def test_numbers_are_clamped_with_the_range_in_the_reason(registry: Registry) -> None:
    result = registry.set("output.wet", 7, origin="osc")
    assert (result.status, result.value) == ("clamped", 1.0) and "0 to 1" in result.reason
    assert registry.set("output.wet", 0.25, origin="osc").status == "accepted"


def test_osc_ways_of_writing_values(registry: Registry) -> None:
    assert registry.set("output.bypass", 1.0, origin="osc").value is True
    assert registry.set("steps.count", 2.0, origin="osc").value == 2
    assert registry.set("schedule", 2.0, origin="osc").value == "throughput"
    assert registry.set("steps.list", (700.0, 300.0), origin="osc").value == (700, 300)
    assert registry.set("prompt.mix", ("a", 1, "b", 0.5), origin="osc").value == (("a", 1.0), ("b", 0.5))


def test_the_later_of_two_rivals_wins(registry: Registry) -> None:
    registry.set("prompt.mix", ("a", 1, "b", 2), origin="osc")
    registry.set("prompt.text", "night", origin="osc")
    assert registry.get("prompt.mix") == ()


def test_steps_count_beyond_the_list_is_clamped_with_a_word(registry: Registry) -> None:
    result = registry.set("steps.count", 5, origin="osc")
    assert (result.status, result.value) == ("clamped", 2) and "2 entries" in result.reason
    registry.set("steps.list", (500,), origin="osc")
    assert registry.get("steps.count") == 1


def test_noise_bounds_never_cross(registry: Registry) -> None:
    assert registry.set("noise.max", 0.3, origin="osc").status == "accepted"
    assert registry.get("noise.min") == 0.3, "the bound that is set pushes the other along"
    assert registry.set("noise.min", 9.0, origin="osc").value == 1.0
    assert registry.get("noise.max") == 1.0
    low, high = registry.set_many([("noise.min", 0.7), ("noise.max", 0.8)], origin="osc")
    assert (low.status, high.status, low.value, high.value) == ("accepted", "accepted", 0.7, 0.8)


def test_a_bundle_is_applied_whole_or_not_at_all(registry: Registry) -> None:
    before = registry.snapshot()
    results = registry.set_many([("noise.max", 0.9), ("noise.nope", 1), ("seed", 4)], origin="osc")
    assert [result.status for result in results] == ["rejected"] * 3
    assert "noise.m" in results[1].reason and registry.snapshot() is before


def test_presets_and_the_command_line_are_refused_and_not_clamped(registry: Registry) -> None:
    before = registry.snapshot()
    with pytest.raises(UserError, match=r"output\.wet = 7 was refused.*0 to 1"):
        registry.set_strictly([("seed", 5), ("output.wet", 7)], origin="cli")
    with pytest.raises(UserError, match=r"noise\.max = 0\.2 was refused"):
        registry.set_strictly([("noise.min", 0.9), ("noise.max", 0.2)], origin="cli")
    with pytest.raises(UserError, match=r"did you mean noise\.max"):
        registry.set_strictly([("noise.mx", 0.5)], origin="cli")
    assert registry.snapshot() is before
    registry.set_strictly([("noise.min", 0.1), ("noise.max", 0.2)], origin="cli")
    assert registry.get("noise.max") == 0.2


def test_triggers_count_and_ignore_the_release(registry: Registry) -> None:
    for value in (1.0, 0.0, 1, 0):
        registry.set("stream.reset", value, origin="osc")
    assert registry.get("stream.reset") == 2


def test_listeners_hear_what_changed_and_from_whom(registry: Registry) -> None:
    heard: list[Change] = []
    end = registry.subscribe(heard.append)
    registry.set("seed", 9, origin="gui")
    registry.set("seed", 9, origin="osc")
    end()
    registry.set("seed", 10, origin="gui")
    assert [(dict(change.values), change.origin) for change in heard] == [({"seed": 9}, "gui")]


def test_a_user_value_survives_a_change_of_engine(registry: Registry) -> None:
    registry.set("noise.max", 0.55, origin="gui")
    registry.apply_engine_defaults({"noise.max": 0.8, "noise.min": 0.5})
    assert registry.get("noise.max") == 0.55


def test_numbers_in_any_order_come_as_one_or_several(registry: Registry) -> None:
    for given in ((0.5, -1), [0.5, -1.0], "0.5, -1", ["0.5", "-1"]):
        assert registry.set("lora.strengths", given, origin="osc").value == (0.5, -1.0)
    assert registry.set("lora.strengths", 0.25, origin="osc").value == (0.25,)
    result = registry.set("lora.strengths", (9.0, 0.1), origin="osc")
    assert (result.status, result.value) == ("clamped", (4.0, 0.1)) and "-4 to 4" in result.reason
    for bad in ((0.5, math.nan), (0.1,) * 9, "strong", {"a": 1}):
        assert registry.set("lora.strengths", bad, origin="osc").status == "rejected"
    assert registry.set("lora.strengths", None, origin="osc").value == ()


FILES = {
    "a.safetensors": (("a.safetensors", 1.0),),
    "a.safetensors:0.8; two  words.safetensors": (("a.safetensors", 0.8), ("two  words.safetensors", 1.0)),
    "C:\\looks\\a.safetensors:-1.5": (("C:\\looks\\a.safetensors", -1.5),),
    "C:\\looks\\a.safetensors": (("C:\\looks\\a.safetensors", 1.0),),
    "": (),
}


@pytest.mark.parametrize("text", FILES)
def test_files_with_weights_are_read_and_spelled(registry: Registry, text: str) -> None:
    files = FILES[text]
    assert registry.set("engine.lora", text, origin="gui").value == files
    for again in (json.loads(json.dumps(files)), [weighted_files.spelled(file) for file in files]):
        registry.set_strictly([("engine.lora", again)], origin="cli")
        assert registry.get("engine.lora") == files
    odd = ("ends:2", 1.0)  # a name that reads like a weight keeps it
    assert weighted_files.read(weighted_files.spelled(odd)) == odd


@pytest.mark.parametrize("bad", [5, ["a", 5], [["a", "b", "c"]], ["a:nan"], ["a:inf"], ["a\nb"], [["", 1]], ["a"] * 9])
def test_what_names_no_file_is_refused(registry: Registry, bad: object) -> None:
    result = registry.set("engine.lora", bad, origin="gui")
    assert result.status == "rejected" and result.reason and registry.get("engine.lora") == ()
    assert registry.set("engine.lora", ["a:9"], origin="gui").status == "clamped"


def test_texts_are_one_clean_line(registry: Registry) -> None:
    result = registry.set("prompt.text", " a\x00b\n\tc\ud800 \u202e" + "é" * 3000, origin="osc")
    assert result.status == "clamped" and len(str(result.value)) == 2000
    assert str(result.value).startswith("a b c") and str(result.value).isprintable()


def test_whatever_is_set_a_value_stays_inside_its_range(registry: Registry) -> None:
    rng = random.Random(5)
    junk = [None, b"x", {}, [], "", "x", -1, 0, 1e300, -1e300, True, "on", [1, 2], ["a", 1], ("a",), 2**70, 0.5, "5x5"]
    for _ in range(4000):
        name = rng.choice(list(TABLE))
        registry.set(name, rng.choice(junk), origin="osc")
        value = registry.get(name)
        if value is not None and TABLE[name].kind is not Kind.TRIGGER and value != ():
            try:
                assert coerce(TABLE[name], value).note == ""
            except InvalidValue as error:
                raise AssertionError(f"{name} holds {value!r}: {error}") from error
        assert registry.get("noise.min") <= registry.get("noise.max")


def test_a_snapshot_never_shows_half_of_a_bundle(registry: Registry) -> None:
    stop = threading.Event()

    def storm() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 1000
            registry.set_many([("seed", number), ("prompt.transition", number % 64)], origin="osc")

    registry.set_many([("seed", 0), ("prompt.transition", 0)], origin="osc")
    writer = threading.Thread(target=storm)
    writer.start()
    try:
        for _ in range(5000):
            snapshot = registry.snapshot()
            assert snapshot["seed"] % 64 == snapshot["prompt.transition"]  # type: ignore[operator]
    finally:
        stop.set()
        writer.join()


def test_what_a_rule_moves_is_told_too(registry: Registry) -> None:
    heard: list[Change] = []
    registry.set("steps.count", 2, origin="osc")
    registry.subscribe(heard.append)
    assert registry.set("steps.list", (400,), origin="osc").status == "accepted"
    assert dict(heard[0].values) == {"steps.list": (400,), "steps.count": 1}
