"""Checks in their process: what hangs, crashes or talks nonsense costs its own line and no other."""

from __future__ import annotations

import subprocess
import sys

import psutil

from sdv2live.doctor.checks import CHECKS, Check
from sdv2live.doctor.examination import examine
from sdv2live.doctor.finding import Finding, State

# A process like the doctor's: a name a line comes in. `hang` holds the interpreter, as a driver does.
PROGRAM = """
import ctypes, os, sys
for line in sys.stdin:
    name = line.strip()
    if name == "hang":
        ctypes.PyDLL(None).sleep(3600)
    if name == "crash":
        os.abort()
    if name == "leave":
        sys.exit(3)
    print("a library prints this")
    print('{"name": "%s", "state": "ok", "text": "%d", "remedy": ""}' % (name, os.getpid()), flush=True)
"""


def check(name: str, limit_s: float = 60.0) -> Check:
    return Check(name, "", limit_s, name, f"mend {name}")


def start() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_one_that_hangs_or_crashes_is_said_and_the_next_ones_are_looked_at() -> None:
    said: list[str] = []
    checks = [check("a"), check("b"), check("hang", 0.3), check("c"), check("crash"), check("leave"), check("d")]
    found = list(examine(checks, say=lambda each: said.append(each.name), start=start))
    assert [each.name for each in found] == said == ["a", "b", "hang", "c", "crash", "leave", "d"]
    assert [each.state for each in found] == [State.OK] * 2 + [State.FAIL, State.OK, State.FAIL, State.FAIL, State.OK]
    assert found[0].text == found[1].text != found[3].text  # one process, until it has to be replaced
    assert "no answer within 0.3 s" in found[2].text and found[2].remedy == "mend hang"
    assert "signal 6" in found[4].text and "code 3" in found[5].text
    assert not psutil.Process().children(recursive=True)


def test_whoever_stops_in_the_middle_leaves_no_process() -> None:
    findings = examine([check("a"), check("hang")], start=start)
    assert next(findings).state is State.OK
    assert psutil.Process().children()
    findings.close()
    assert not psutil.Process().children(recursive=True)


def test_no_process_can_be_started() -> None:
    def fails() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["/nowhere/python"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    assert [each.state for each in examine([check("a"), check("b")], start=fails)] == [State.FAIL] * 2


def test_a_check_that_fails_is_a_finding_and_so_is_a_package_that_is_missing() -> None:
    def look(place: str, argument: str = "") -> Finding:
        return Check("a", place, 1.0, "", "", argument).look()

    missing, broken = look("no_such_module:look"), look("machine:write_probe", "no path")
    assert missing.state is State.WARN and "no_such_module" in missing.text
    assert broken.state is State.FAIL and "AttributeError" in broken.text


def test_names_are_used_once_and_every_check_says_what_to_do_where_it_hangs() -> None:
    assert len({each.name for each in CHECKS}) == len(CHECKS)
    assert all(each.if_it_hangs and each.looks_at and each.limit_s > 0 for each in CHECKS)
