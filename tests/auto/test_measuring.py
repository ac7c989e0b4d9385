"""`--engine auto` on this machine: a real trial, what is kept of it, and how it meets flags, restarts and a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdv2live import cli
from sdv2live.app import LiveApp, LiveOptions
from sdv2live.auto import kept, measuring
from sdv2live.auto.choice import Candidate, EngineChoice
from sdv2live.registry import Registry
from sdv2live.settings import engine_name, engine_spec

ROOT = Path(__file__).parents[2]
ONE = Candidate("pocket", (64, 64), "", 1, "latency")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path / "sdv2live"


def registry_of(*flags: str) -> Registry:
    registry, _ = cli._registry(cli._parser().parse_args(["live", "--engine", "auto", *flags]))
    return registry


def no_trial(*arguments: Any, **more: Any) -> Any:
    raise AssertionError("nothing should be measured")


def test_a_real_trial_is_made_once_and_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the shipped engine, after one whose process refuses: its files are not there."""
    here = {"wan-1.3b": ("taehv",), "pocket": ()}
    monkeypatch.setattr(measuring, "engines_here", lambda registry: here)
    registry = registry_of("--size", "64x64", "--steps", "1")
    said: list[str] = []
    choice = measuring.measure(registry, wanted_fps=1.0, say=said.append)
    assert "wan-1.3b 64x64, taehv, 1 step, latency cannot be run here: the weights of wan-1.3b are not" in caplog.text
    assert choice.candidate == ONE and choice.fps is not None and choice.fps > 1.1
    assert choice.words == f"auto: pocket 64x64, 1 step, latency: {choice.fps:.1f} fps measured, 1 wanted"
    assert any("trying pocket 64x64" in words for words in said) and any("measuring" in words for words in said)
    assert engine_spec(registry).name == "pocket" and registry.get("engine.name") == "auto"
    assert list(kept.load(kept.key_of({}))) == [ONE]  # what is missing today may be here tomorrow
    del here["wan-1.3b"]
    monkeypatch.setattr(measuring, "Trial", no_trial)
    again = registry_of("--size", "64x64")
    assert measuring.measure(again, wanted_fps=1.0).words == choice.words
    # Another number of threads is another speed.
    assert kept.load(kept.key_of(measuring.flags_in(registry_of("--threads", "1")))) == {}
    record = json.loads((home / "auto.json").read_text())
    (key,) = record["machines"]
    assert f"{os.cpu_count()} cores" in key and "torch" in key and "sdv2live" in key
    assert not psutil.Process().children(recursive=True)


def test_flags_that_were_given_hold_and_the_rest_follows_the_choice() -> None:
    registry = registry_of("--steps", "2")
    registry.engine_choice = EngineChoice(Candidate("wan-1.3b", (512, 288), "taehv", 1, "throughput"), "auto: why")
    spec = engine_spec(registry)
    assert (spec.name, spec.size_wh, spec.vae, spec.steps_count) == ("wan-1.3b", (512, 288), "taehv", 2)
    assert registry.get("schedule") == "throughput" and not registry.is_user_set("schedule")
    assert engine_name(registry) == "wan-1.3b"
    registry.set_strictly([("engine.name", "pocket")], origin="gui")
    assert engine_spec(registry).size_wh == (256, 256)
    assert registry.get("schedule") == "auto"  # nothing of the choice is left
    registry = registry_of("--size", "128x128", "--vae", "wan", "--schedule", "latency")
    registry.engine_choice = EngineChoice(Candidate("wan-1.3b", (512, 288), "taehv", 1, "throughput"), "auto: why")
    spec = engine_spec(registry)
    assert (spec.size_wh, spec.vae, registry.get("schedule")) == ((128, 128), "wan", "latency")


def test_engines_are_considered_where_their_files_and_a_gpu_are(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdv2live.models.manifest import ENGINES, MODELS

    registry = registry_of()
    card = {"name": "A card", "memory_mib": 1, "driver": "1"}
    for name in ENGINES["wan-1.3b"]:
        if name != "wan-vae":
            path = home / "models" / MODELS[name].place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"weights")
    monkeypatch.setattr(measuring, "list_gpus", lambda notes: [])
    assert measuring.engines_here(registry) == {"pocket": ()}
    monkeypatch.setattr(measuring, "list_gpus", lambda notes: [card])
    assert measuring.engines_here(registry) == {"pocket": (), "wan-1.3b": ("taehv",)}
    assert measuring.engines_here(registry_of("--device", "cpu")) == {"pocket": ()}
    assert set(measuring.engines_here(registry_of("--random-weights"))) == {"pocket", "wan-1.3b", "wan-14b"}


def test_stopped_in_the_middle_what_ships_runs_and_no_process_is_left() -> None:
    registry, stop = registry_of("--size", "64x64"), threading.Event()

    def say(words: str) -> None:
        if words.endswith("loading torch"):
            stop.set()

    choice = measuring.measure(registry, wanted_fps=30.0, say=say, stop=stop)
    assert choice.words.endswith("measuring was stopped") and choice.candidate == ONE
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"sdv2live": 2, "machines": {}}', '{"sdv2live": 1, "machines": {"KEY": [1]}}',
     '{"sdv2live": 1, "machines": {"KEY": [{"engine": "pocket"}]}}',
     '{"sdv2live": 1, "machines": {"KEY": [{"engine": "pocket", "size_wh": [64, 64], "vae": "", "steps": 1, '
     '"schedule": "latency", "fps": -1}]}}', '{"sdv2live": 1, "machines": {"KEY": [' + "1," * 300_000 + "1]}}"],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_measured_anew(text: str, home: Path) -> None:
    home.mkdir(exist_ok=True)
    key = kept.key_of({})
    (home / "auto.json").write_text(text.replace("KEY", key.replace('"', "")))
    assert kept.load(key) == {}
    kept.save(key, {ONE: 12.5})
    assert kept.load(key) == {ONE: 12.5}


def test_the_file_is_bounded_and_the_newest_machines_stay(home: Path) -> None:
    for number in range(20):
        kept.save(f"machine {number}", {ONE: float(number + 1)})
    many = {Candidate("pocket", (16 * side, 64), "", 1, "latency"): 1.0 for side in range(4, 120)}
    kept.save("machine 15", many)
    names = list(json.loads((home / "auto.json").read_text())["machines"])
    assert len(names) == kept.MOST_MACHINES and names[-1] == "machine 15" and "machine 19" in names
    assert len(kept.load("machine 15")) == kept.MOST_MEASUREMENTS


def test_a_folder_that_takes_no_file_costs_nothing_but_the_next_measuring(home: Path) -> None:
    home.write_text("in the way")
    kept.save("machine", {ONE: 1.0})
    assert kept.load("machine") == {}


def test_a_measurement_that_did_not_come_true_is_forgotten() -> None:
    registry = registry_of("--size", "64x64")
    registry.engine_choice = EngineChoice(ONE, "auto: why", 100.0)
    key = kept.key_of({})
    kept.save(key, {ONE: 100.0})
    measuring.check_after(registry, 42.0)  # 95 fps
    assert kept.load(key) == {ONE: 100.0}
    measuring.check_after(registry, 100.0)  # 40 fps
    assert kept.load(key) == {}


@pytest.mark.parametrize(("flags", "part"), [(["--gpus", "2"], "for one device"), (["--steps", "8"], "steps")])
def test_flags_that_leave_no_choice(flags: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["live", "--headless", "--engine", "auto", "--osc-port", "0", "--seconds", "1", *flags]) == 2
    assert part in capsys.readouterr().err


def test_what_has_no_rate_wants_an_engine_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir(exist_ok=True)
    assert cli.main(["render", str(ROOT / "assets/clip.mp4"), str(home / "out.mp4"), "--engine", "auto"]) == 2
    assert "name an engine with --engine" in capsys.readouterr().err and not list(home.iterdir())


def test_the_rate_that_is_wanted() -> None:
    registry = registry_of()
    assert [measuring.wanted_rate(registry, fps) for fps in (None, 16.0, 60.0)] == [30.0, 16.0, 30.0]
    assert measuring.wanted_rate(registry_of("--source-rate", "24"), None) == 24.0
    assert measuring.source_rate("clip") == 16.0 and measuring.source_rate("camera:1") is None
    assert measuring.source_rate("file:/nowhere.mp4") is None


def test_a_restart_while_it_runs_chooses_from_what_is_known() -> None:
    kept.save(kept.key_of({}), {ONE: 90.0})
    registry = Registry()
    app = LiveApp(registry, LiveOptions(outputs=[], spec=engine_spec(registry)))
    assert app.choice == app.status().choice == ""
    for name, value in (("engine.name", "auto"), ("engine.size", "64x64")):
        assert registry.set(name, value, origin="gui").status == "accepted"
    app._before_engine_start()  # what the session does for engine.restart
    assert app.choice == "auto: pocket 64x64, 1 step, latency: 90.0 fps measured, 16 wanted"  # the clip's rate
    assert app.spec.name == "pocket" and app.spec.size_wh == (64, 64)
    assert app.status().choice == app.summary()["choice"] == app.choice
    registry.set("engine.size", "96x96", origin="gui")
    app._before_engine_start()
    assert app.choice.startswith("auto: pocket 96x96, 1 step, latency: nothing was measured for this here")


@pytest.mark.skipif(sys.platform == "win32", reason="uses signals")
def test_ctrl_c_while_it_measures(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sdv2live", "live", "--headless", "--engine", "auto", "--osc-port", "0"]
    with subprocess.Popen(command, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "loading torch" in line:
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(30) == 130
    assert "stopped" in said and "Traceback" not in said
