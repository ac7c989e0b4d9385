"""A rehearsal: its limits by figures, its eye by pictures, and one that is real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdv2live.clock import FakeClock
from sdv2live.doctor.finding import State
from sdv2live.doctor.flags import flags_of
from sdv2live.doctor.soak import Eye
from sdv2live.doctor.soak_limits import OutputFigures, Rehearsal, judged
from sdv2live.engine.base import EngineSpec
from sdv2live.engine.catalogue import traits_of
from sdv2live.frames import Pixels
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec

ROOT = Path(__file__).parents[2]
GOOD = Rehearsal(
    source="clip",
    engine="pocket 256x256, 1 step, cpu",
    run_s=60.0,
    wanted_s=60.0,
    wanted=960.0,
    generated=955,
    age_p50_ms=385.0,
    age_p95_ms=419.0,
    gap_p99_ms=100.0,
    late=0,
    missed_ticks=0,
    ticks=1800,
    outputs=(OutputFigures("camera", "running", "", 1800, 2),),
    restarts=0,
    bad_chunks=0,
    memory_bytes=(500 << 20, 505 << 20),
    memory_over_s=29.0,
    chunk_ms=(120.0, 122.0),
    osc_port=9000,
    is_change_heard=True,
    change_ms=430.0,
    still_s=0.2,
    black_s=0.0,
    problems=(),
)


def test_a_good_run_passes_line_by_line() -> None:
    findings = list(judged(GOOD))
    assert {each.state for each in findings} == {State.OK}
    names = [each.name for each in findings]
    assert len(set(names)) == len(names) == 13
    assert all("above" in each.text for each in findings if each.name not in ("rehearsal",))  # limits are stated


@pytest.mark.parametrize(
    ("change", "name", "state"),
    [
        ({"generated": 900}, "frames made", State.WARN),
        ({"generated": 800}, "frames made", State.FAIL),
        ({"wanted": 0.0, "generated": 0}, "frames made", State.FAIL),
        ({"run_s": 30.0}, "rehearsal", State.FAIL),
        ({"age_p95_ms": 700.0}, "age", State.WARN),
        ({"age_p95_ms": 2000.0}, "age", State.FAIL),
        ({"age_p50_ms": None, "age_p95_ms": None}, "age", State.FAIL),
        ({"gap_p99_ms": 1200.0}, "gaps", State.FAIL),
        ({"late": 40}, "late pictures", State.WARN),
        ({"missed_ticks": 100}, "output clock", State.FAIL),
        ({"outputs": (OutputFigures("camera", "failed", "It was removed.", 9, 0),)}, "output camera", State.FAIL),
        ({"outputs": (OutputFigures("camera", "running", "", 1000, 30),)}, "output camera", State.WARN),
        ({"restarts": 1}, "engine", State.FAIL),
        ({"bad_chunks": 1}, "engine", State.FAIL),
        ({"memory_bytes": (500 << 20, 600 << 20)}, "memory", State.FAIL),
        ({"memory_bytes": (500 << 20, 520 << 20)}, "memory", State.OK),
        ({"chunk_ms": (100.0, 130.0)}, "pace", State.WARN),
        ({"osc_port": 0, "is_change_heard": False, "change_ms": None}, "OSC change", State.WARN),
        ({"is_change_heard": False, "change_ms": None}, "OSC change", State.FAIL),
        ({"change_ms": None}, "OSC change", State.FAIL),
        ({"change_ms": 2000.0}, "OSC change", State.WARN),
        ({"still_s": 4.0}, "still picture", State.FAIL),
        ({"black_s": 0.5}, "black picture", State.WARN),
        ({"problems": ("The camera failed.",)}, "while it ran", State.WARN),
    ],
)
def test_what_is_wrong_shows_in_its_own_line(change: dict[str, object], name: str, state: State) -> None:
    found = {each.name: each for each in judged(replace(GOOD, **change))}  # type: ignore[arg-type]
    assert found[name].state is state
    assert bool(found[name].remedy) == (state is not State.OK)
    others = {each.state for each in found.values() if each.name != name}
    assert others == {State.OK}


def picture(value: int) -> Pixels:
    return np.full((90, 160, 3), value, np.uint8)


def test_the_eye_sees_black_and_still_pictures_and_knows_when_the_source_is_so_too() -> None:
    clock, source = FakeClock(), picture(100)
    eye = Eye(clock, lambda: source)
    eye.open((160, 90), 30)

    def show(value: int, source_value: int) -> None:
        nonlocal source
        source = picture(source_value)
        eye.write(picture(value), 0)
        clock.advance(0.5)

    for number in range(4):
        show(50 + number, 100 + number)
    assert (eye.still_s, eye.black_s) == (0.0, 0.0)
    for _ in range(4):
        show(53, 103)  # a still source
    assert eye.still_s == 0.0
    for number in range(4):
        show(53, 110 + number)  # a moving one
    assert eye.still_s == pytest.approx(4.0)
    for number in range(3):
        show(number, 120 + number)
    assert eye.black_s == pytest.approx(1.5) and eye.still_s == pytest.approx(4.0)
    for number in range(9):
        show(number % 2, number % 2)  # the lens is covered
    assert eye.black_s == pytest.approx(1.5)


def test_a_show_as_flags() -> None:
    registry = Registry()
    engine_spec(registry)
    assert flags_of(registry) == []
    registry.set_strictly(
        [("engine.size", "256x192"), ("steps.list", "600,300"), ("engine.fp8", True), ("source.mirror", False),
         ("prompt.text", "-- ink, 'and' neon"), ("osc.port", 9100), ("output.wet", 0.5)],
        origin="gui",
    )  # fmt: skip
    flags = flags_of(registry)
    assert flags == ["--prompt=-- ink, 'and' neon", "--steps-list=600,300", "--no-mirror", "--size=256x192", "--fp8"]
    from sdv2live.cli import _parser, _registry

    again, _ = _registry(_parser().parse_args(["doctor", "--soak", *flags]))
    assert flags_of(again) == flags


def test_a_rehearsal_that_is_real(tmp_path: Path) -> None:
    """The command itself. What it measures depends on this machine; that all of it was measured does not."""
    command = [sys.executable, "-m", "sdv2live", "doctor", "--soak", "5", "--json", "--size", "64x64"]
    port = str(_free_port())
    output = tmp_path / "out.mp4"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [*command, "--osc-port", port, "--source", "pattern", "--output", f"file:{output}"],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert answer.returncode in (0, 1), answer.stderr
    whole = json.loads(answer.stdout)
    found = {one["name"]: one for one in whole["findings"]}
    assert whole["is_whole"] and whole["passed"] == (answer.returncode == 0)
    assert {"rehearsal", "frames made", "age", "OSC change", "still picture", f"output file:{output}"} <= found.keys()
    assert found["OSC change"]["text"].startswith(("seen ", "it was heard")) and found["rehearsal"]["state"] == "ok"
    brought = traits_of(EngineSpec("pocket", (64, 64))).defaults["noise.max"]
    assert abs(whole["figures"]["settings"]["noise.max"] - brought) == pytest.approx(0.1)
    assert output.stat().st_size > 0 and " of 5 s, " in answer.stderr


def test_a_rehearsal_without_its_camera_fails_in_one_line(tmp_path: Path) -> None:
    from sdv2live import cli

    assert cli.main(["doctor", "--soak", "5", "--source", "camera:/nowhere/video0", "--osc-port", "0"]) == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["--soak", "1"], "too short"), (["--soak", "9", "OSC"], "leave the names"), (["lenses"], "no check 'lenses'")],
)
def test_flags_that_make_no_sense(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    from sdv2live import cli

    # nargs="?" would take a name of a check for its number
    assert cli.main(["doctor", *reversed(arguments)] if arguments[-1] == "OSC" else ["doctor", *arguments]) == 2
    assert part in capsys.readouterr().err


def _free_port() -> int:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
