"""`sdv2live doctor [--soak SECONDS]`. Owns: its flags, what it prints while one waits, and its exit codes.

Findings go to standard output, how far it is to standard error. 0: nothing failed; 1: something did; 130: stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence

from sdv2live.doctor.checks import CHECKS, Check
from sdv2live.doctor.examination import examine
from sdv2live.doctor.finding import Report, State, finding
from sdv2live.errors import UserError, one_line
from sdv2live.registry import Registry

SOAK_SECONDS = 60.0
MakeRegistry = Callable[[argparse.Namespace], tuple[Registry, list[str]]]


def add_flags(parser: argparse.ArgumentParser, seconds: Callable[[str], float]) -> None:
    """Those of its own; the parameters' come from the table."""
    parser.add_argument("checks", metavar="CHECK", nargs="*", help="look at these lines alone, such as OSC or cameras")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs: a line for each finding")
    parser.add_argument(
        "--soak",
        type=seconds,
        nargs="?",
        const=SOAK_SECONDS,
        metavar="N",
        help=f"rehearse instead: N seconds (default {SOAK_SECONDS:g}) of a live run with the flags below, judged",
    )
    parser.add_argument("--output", action="append", metavar="O", help="with --soak: as with `live`; repeatable")
    parser.add_argument("--preset", metavar="NAME", help="with --soak: rehearse this look")


def run(options: argparse.Namespace, make_registry: MakeRegistry) -> int:
    """Look and say; -> the exit code. Raises UserError for flags that make no sense."""
    waiting = _Waiting(as_json=options.json)

    def write(line: str) -> None:
        waiting.clear()
        print(line, flush=True)

    if options.soak is not None:
        return _soak(options, make_registry, write, waiting)
    checks = _chosen(options.checks)
    report = Report(write, as_json=options.json)
    try:
        with contextlib.closing(
            examine(checks, say=lambda check: waiting.show(f"looking at {check.looks_at}"))
        ) as findings:
            for found in findings:
                report.add(found)
    except KeyboardInterrupt:
        report.end(is_whole=False)
        raise
    return report.end()


def _chosen(names: Sequence[str]) -> list[Check]:
    """The checks of these names, in their own order; all where there are no names. Raises UserError."""
    wanted = {name.casefold() for name in names}
    known = {check.name.casefold() for check in CHECKS}
    if unknown := sorted(wanted - known):
        listed = ", ".join(repr(check.name) if " " in check.name else check.name for check in CHECKS)
        raise UserError(f"the doctor has no check {unknown[0][:40]!r}: choose from {listed}.")
    return [check for check in CHECKS if not wanted or check.name.casefold() in wanted]


def _soak(
    options: argparse.Namespace, make_registry: MakeRegistry, write: Callable[[str], None], waiting: _Waiting
) -> int:
    from bridges.select import make_output
    from sdv2live.auto.measuring import prepare
    from sdv2live.doctor.soak import cap_of, rehearse
    from sdv2live.doctor.soak_limits import SHORTEST_S, judged

    if options.checks:
        raise UserError("--soak rehearses the whole chain: leave the names of checks away.")
    if options.soak < SHORTEST_S:
        raise UserError(f"--soak {options.soak:g} is too short to judge: give {SHORTEST_S:g} seconds or more.")
    registry, given = make_registry(options)
    outputs = [make_output(spec) for spec in options.output or []]
    report = Report(write, as_json=options.json)
    try:
        prepare(registry, source=str(registry.get("source.name") or "clip"), say=waiting.show)
        code, watch = rehearse(
            registry,
            seconds=options.soak,
            outputs=outputs,
            osc_port_is_asked="osc.port" in given,
            say=waiting.show,
        )
    except UserError as error:
        report.add(finding("rehearsal", one_line(error), State.FAIL))
        return report.end()
    except KeyboardInterrupt:
        report.end(is_whole=False)
        raise
    for found in judged(watch.rehearsal(cap_of(registry))):
        report.add(found)
    report.end(is_whole=code == 0, figures=watch.last)
    return code or report.exit_code


class _Waiting:
    """What is going on, on standard error: one line that goes again on a terminal, a line each for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._is_terminal, self._as_json = sys.stderr.isatty(), as_json
        self._width = 0

    def show(self, words: str) -> None:
        if self._is_terminal:
            self.clear()
            sys.stderr.write(f"{words} …")
            self._width = len(words) + 2
        elif self._as_json:
            sys.stderr.write(f"sdv2live: {words}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        if self._width:
            sys.stderr.write(f"\r{'':{self._width}}\r")
            sys.stderr.flush()
            self._width = 0
