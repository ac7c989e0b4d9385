"""What the next start brings back, what it leaves alone, and that no broken file can stop it."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdv2live import cli, last_session, strict_files, window
from sdv2live.errors import UserError
from sdv2live.last_session import (
    MAX_PROMPTS,
    MAX_WINDOW_BYTES,
    LastSession,
    load_session,
    newest_prompts,
    save_session,
    values_kept,
)
from sdv2live.parameters import TABLE
from sdv2live.presets import apply_preset
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, not there yet."""
    monkeypatch.setattr("sdv2live.last_session.user_config_dir", lambda: tmp_path / "config")
    return tmp_path / "config"


def started(**rows: Any) -> Registry:
    """A registry after the command line: `prompt_text="x"` for prompt.text."""
    given = {name: value for name in TABLE if (value := rows.get(name.replace(".", "_"))) is not None}
    registry = Registry()
    registry.set_strictly([item for item in given.items() if item[0].startswith("engine.")], origin="cli")
    engine_spec(registry)
    registry.set_strictly([item for item in given.items() if not item[0].startswith("engine.")], origin="cli")
    return registry


def changed(**rows: Any) -> Registry:
    """A registry in which the window has set these rows, one after the other."""
    registry = started()
    for name, value in rows.items():
        (row,) = [row for row in TABLE if row.replace(".", "_") == name]
        assert registry.set(row, value, origin="gui").status == "accepted"
    return registry


def restored(registry: Registry, session: LastSession | None = None) -> Registry:
    (session or load_session()).apply(registry)
    engine_spec(registry)
    return registry


def test_what_was_set_comes_back(folder: Path) -> None:
    window = {"geometry": bytes(range(256)), "state": b""}
    registry = changed(
        prompt_text="night", prompt_mix=[["oil", 1], ["neon", 2]], noise_max=0.3, steps_list=[800, 400], steps_count=2,
        source_name="file:/tmp/a b.mp4", engine_threads=3, engine_size="128x192", output_rate=25, source_loop=False,
        output_filters="grey", output_wet=0.25, osc_port=9001,
    )  # fmt: skip
    path = save_session(registry, window=window, prompts=["night", "oil", "night"])
    assert path == folder / "session.json"
    session = load_session()
    assert (session.window, session.prompts) == (window, ("night", "oil"))
    later = restored(started(), session)
    assert later.snapshot().values == registry.snapshot().values
    assert save_session(later, window=session.window, prompts=session.prompts).read_text("utf-8") == path.read_text(
        "utf-8"
    )


def test_the_first_start_is_silent(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_session() == LastSession()
    assert load_session().apply(started()) == []
    assert not caplog.records and not folder.exists()


def test_what_holds_for_a_moment_is_not_kept(folder: Path) -> None:
    registry = changed(
        output_bypass=True, output_freeze=True, stream_paused=True, stream_reset=1, sinks_refresh=1, prompt_next="x",
        engine_random_weights=True, seed=3,
    )  # fmt: skip
    assert values_kept(registry) == {"seed": 3}
    hand = {name: registry.get(name) for name in ("output.freeze", "stream.paused", "sinks.refresh", "seed")}
    folder.mkdir()
    (folder / "session.json").write_text(json.dumps({"sdv2live": 1, "values": hand}), "utf-8")
    assert dict(load_session().values) == {"seed": 3}


# ---- the command line comes first ----


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        ({"prompt_text": "night", "seed": 4}, {"prompt_text": "oil"}, {"prompt.text": "oil", "seed": 4}),
        ({"prompt_mix": [["night", 1]]}, {"prompt_text": "oil"}, {"prompt.text": "oil", "prompt.mix": ()}),
        ({"prompt_text": "night"}, {"prompt_mix": [["a", 1]]}, {"prompt.mix": (("a", 1.0),)}),
        ({"noise_min": 0.9, "noise_max": 0.9}, {"noise_max": 0.4}, {"noise.max": 0.4}),
        ({"noise_max": 0.2}, {"noise_min": 0.45}, {"noise.min": 0.45}),
        ({"steps_list": [500], "seed": 4}, {"steps_count": 2}, {"steps.count": 2, "steps.list": (600, 100), "seed": 4}),
        ({"steps_list": [900, 600, 300], "steps_count": 3}, {"seed": 1}, {"steps.count": 3}),
        ({"source_name": "pattern"}, {"source_name": "clip"}, {"source.name": "clip"}),
        ({"noise_max": 0.2, "noise_min": 0.1}, {"noise_min": 0.3}, {"noise.min": 0.3}),
    ],
)  # fmt: skip
def test_the_command_line_is_not_moved(
    folder: Path, then: dict[str, Any], now: dict[str, Any], expected: dict[str, Any]
) -> None:
    save_session(changed(**then))
    later = restored(started(**now))
    assert {name: later.get(name) for name in expected} == expected


def test_bounds_that_pushed_one_another_come_back(folder: Path) -> None:
    registry = changed(noise_max=0.3)
    registry.set("noise.max", 0.9, origin="gui")
    assert registry.get("noise.min") == 0.3 and not registry.is_user_set("noise.min")
    save_session(registry)
    later = restored(started())
    assert (later.get("noise.max"), later.get("noise.min")) == (0.9, 0.3)


def test_another_engine_keeps_what_it_brings(folder: Path) -> None:
    save_session(changed(steps_list=[600, 200], noise_max=0.3, noise_sensitivity=0.5, engine_threads=2))
    large = restored(started(engine_name="wan-1.3b"))
    plain = started(engine_name="wan-1.3b")
    assert {name: large.get(name) for name in TABLE if large.get(name) != plain.get(name)} == {
        "noise.sensitivity": 0.5,
        "engine.threads": 2,
    }


def test_the_engine_is_back_before_what_depends_on_it(folder: Path) -> None:
    registry = changed(engine_name="wan-1.3b")
    engine_spec(registry)
    registry.set("steps.count", 3, origin="gui")
    save_session(registry)
    later = Registry()
    assert load_session().apply_engine(later) == ["engine.name"]
    later.set_strictly([("steps.count", 4)], origin="cli")
    assert load_session().apply(later) == []
    assert restored(started()).get("steps.count") == 3


def test_an_engine_that_cannot_be_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_session(changed(engine_window_frames=6, engine_sink_frames=4, seed=4))
    later = restored(started(engine_window_frames=3))
    assert later.get("engine.window_frames") == 3 and later.get("engine.sink_frames") is None
    assert later.get("seed") == 4 and "engine is not taken again" in caplog.text


# ---- and holds for its own start ----


@pytest.mark.parametrize(
    ("then", "flags", "by_hand", "kept"),
    [
        ({}, {"seed": 7, "osc_port": 9007, "source_name": "pattern"}, {}, {}),
        ({"seed": 4}, {"seed": 7}, {}, {"seed": 4}),
        ({"seed": 4}, {"seed": 7}, {"seed": 8}, {"seed": 8}),
        ({"seed": 4}, {"seed": 7}, {"seed": 7}, {"seed": 7}),
        ({"seed": 4}, {"seed": 7}, {"output.wet": 0.5}, {"seed": 4, "output.wet": 0.5}),
        ({"prompt_mix": [["night", 1]]}, {"prompt_text": "oil"}, {}, {"prompt.mix": (("night", 1.0),)}),
        ({"prompt_mix": [["night", 1]]}, {"prompt_text": "oil"}, {"prompt.text": "ink"}, {"prompt.text": "ink"}),
        ({}, {"steps_count": 2}, {}, {}),
        ({"steps_list": [500]}, {"steps_count": 2}, {}, {"steps.list": (500,)}),
        ({}, {"noise_max": 0.1}, {}, {}),
        ({"noise_min": 0.9, "noise_max": 0.9}, {"noise_max": 0.4}, {}, {"noise.max": 0.9, "noise.min": 0.9}),
        ({"noise_max": 0.3}, {"engine_name": "wan-1.3b"}, {}, {"noise.max": 0.3, "noise.min": 0.3}),
        ({"noise_max": 0.3}, {"engine_name": "wan-1.3b"}, {"noise.max": 0.9}, {"noise.max": 0.3, "noise.min": 0.3}),
        ({"seed": 4}, {"engine_name": "wan-1.3b"}, {"engine.name": "wan-14b"}, {"seed": 4, "engine.name": "wan-14b"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("origin", ["gui", "osc", "preset"])
def test_a_flag_is_not_kept_for_the_next_start(
    folder: Path,
    then: dict[str, Any],
    flags: dict[str, Any],
    by_hand: dict[str, Any],
    kept: dict[str, Any],
    origin: str,
) -> None:
    save_session(changed(**then))
    last = load_session()
    registry = restored(started(**flags), last)
    for name, value in by_hand.items():
        assert registry.set(name, value, origin=origin).status == "accepted"
    engine_spec(registry)
    save_session(registry, last=last)
    found = load_session()
    assert dict(found.values) == kept and found.engine == kept.get("engine.name", "pocket")
    # And over any number of starts with the same flags.
    again = restored(started(**flags), found)
    save_session(again, last=found)
    assert dict(load_session().values) == kept


def test_what_is_put_back_by_hand_is_not_brought_back(folder: Path) -> None:
    save_session(changed(seed=4))
    last = load_session()
    registry = restored(started(seed=7), last)
    registry.reset(["seed"], origin="gui")
    assert values_kept(registry, last) == {}


def test_the_flags_of_the_real_command_line_are_not_kept(folder: Path) -> None:
    options = cli._parser().parse_args(["live", "--preset", "night", "--seed", "7", "--output", "camera:obs"])
    registry, given = cli._registry(options, LastSession())
    assert window._outputs(options, registry) == [] and "seed" in given
    assert registry.get("output.camera") is True and registry.get("camera.device") == "obs"
    assert values_kept(registry) == {}
    apply_preset(registry, "night", origin="preset")  # chosen in the window, too
    assert "prompt.text" in values_kept(registry)


# ---- a file that is not as it should be ----

GOOD = '{"sdv2live": 1, "engine": "pocket", "values": {"seed": 4, "noise.max": 0.3}, "window": {}, "prompts": ["a"]}'


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 100_000, GOOD[:-1], GOOD.replace("1,", "2,", 1), GOOD.replace("0.3", "NaN"), "\xff\xfe",
     GOOD.replace('{"seed"', '[{"seed"').replace('},', '}],', 1), GOOD.replace('["a"]', '"a"'), "x" * (1 << 20) + "xx",
     GOOD.replace('"noise.max"', '"seed"'), GOOD.replace("4,", "4" * 5000 + ",")],
)  # fmt: skip
def test_a_broken_file_is_put_aside(folder: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    folder.mkdir()
    (folder / "session.json").write_text(text, "latin-1")
    assert load_session() == LastSession()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "session.json is broken" in caplog.text and "kept as session.broken.json" in caplog.text
    assert os.listdir(folder) == ["session.broken.json"]
    save_session(changed(seed=5))
    assert load_session().values["seed"] == 5


def test_what_makes_no_sense_is_left_out_and_the_rest_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = {"seed": 4, "output.wet": 9, "no.such": 1, "noise.mode": "loud", "prompt.text": 7, "source.fit": "stretch"}
    values |= {f"old.{number}": 1 for number in range(20_000)}
    window = {"fine": "AAEC", "bad": "###", "worse": 3, "k" * 65: ""}
    prompts = ["a", 3, None, "  a ", "b\n"]
    data = {"sdv2live": 1, "values": values, "window": window, "prompts": prompts}
    folder.mkdir()
    (folder / "session.json").write_text(json.dumps(data), "utf-8")
    session = load_session()
    assert dict(session.values) == {"seed": 4, "source.fit": "stretch"}
    assert dict(session.window) == {"fine": b"\0\1\2"} and session.prompts == ("a", "b")
    assert "no.such" in caplog.text and "more" in caplog.text and len(caplog.text) < 2000
    assert (folder / "session.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such things there")
def test_a_folder_and_a_pipe_under_its_name(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir()
    os.mkfifo(folder / "session.json")
    assert load_session() == LastSession() and "ordinary" in caplog.text
    (folder / "session.json").mkdir()
    assert load_session() == LastSession() and "could not be put aside" in caplog.text
    with pytest.raises(UserError, match=r"cannot be kept for the next start in .*session\.json"):
        save_session(started())


@pytest.mark.fuzz
def test_mutated_files_never_stop_a_start(folder: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    registry = changed(prompt_text="night", noise_max=0.3, steps_list=[800, 400], engine_size="128x128", seed=9)
    path = save_session(registry, window={"a": bytes(50)}, prompts=["one", "two"])
    good = path.read_bytes()
    whole = 0
    for number in range(500):
        data = bytearray(good)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(data))
            data[at : at + draw.randrange(3)] = draw.choice(
                [b"", b"\xff", b'"', b"{", b"9" * 30, b"NaN", b"null", b"\\ud800", b"-", b"e99", b"[", b"0"]
            )
        path.write_bytes(data)
        later = started(prompt_text="oil")
        session = load_session()
        whole += bool(session.values)
        assert restored(later, session).get("prompt.text") == "oil", (seed, number)
    assert 0 < whole < 500, seed


# ---- bounds and writing ----


def test_prompts_and_window_are_bounded(folder: Path) -> None:
    many = [f"prompt {number % 70}" for number in range(200)]
    assert newest_prompts(many) == tuple(many[:MAX_PROMPTS])
    assert newest_prompts(["", " ", "a\0b", "a b"]) == ("a b",)
    long = ["\U00020000" * 3000 + str(number) for number in range(50)]
    window = {"small": b"1", "large": bytes(MAX_WINDOW_BYTES)} | {f"k{number}": bytes(9000) for number in range(99)}
    path = save_session(changed(prompt_text="夜" * 2000), window=window, prompts=long)
    assert path.stat().st_size <= strict_files.MAX_BYTES
    session = load_session()
    assert session.window["small"] == b"1" and "large" not in session.window
    assert sum(map(len, session.window.values())) <= MAX_WINDOW_BYTES and len(session.window) <= 32


def test_bytes_are_base64_and_the_order_is_the_table_s(folder: Path) -> None:
    path = save_session(changed(output_wet=0.5, seed=1, prompt_text="x"), window={"g": b"\0\xff"})
    data = json.loads(path.read_text("utf-8"))
    assert base64.b64decode(data["window"]["g"]) == b"\0\xff"
    assert list(data["values"]) == ["prompt.text", "seed", "output.wet"]


def test_a_save_that_fails_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_session(changed(seed=1))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(strict_files.os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        save_session(changed(seed=2))
    assert path.read_bytes() == before and os.listdir(folder) == ["session.json"]


def test_two_programs_that_save_at_once(folder: Path) -> None:
    """Each save is whole, whoever wins; and a reader never meets a half one."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from sdv2live import last_session\n"
        "from sdv2live.registry import Registry\n"
        "last_session.user_config_dir = lambda: Path(sys.argv[1])\n"
        "registry = Registry(); registry.set('seed', int(sys.argv[2]), origin='gui')\n"
        "for _ in range(150):\n"
        "    last_session.save_session(registry, window={'w': bytes(int(sys.argv[2]) * 20_000)})\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), str(number)], cwd=ROOT) for number in (1, 2, 3)
    ]
    seen = set()
    while any(child.poll() is None for child in children):
        session = load_session()
        if session.values:
            seen.add(session.values["seed"])
            assert len(session.window["w"]) == session.values["seed"] * 20_000
    assert [child.wait() for child in children] == [0, 0, 0]
    assert seen <= {1, 2, 3} and os.listdir(folder) == ["session.json"]
    assert last_session.load_session().values["seed"] in seen | {1, 2, 3}
