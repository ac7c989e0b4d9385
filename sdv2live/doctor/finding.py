"""What the doctor says: one finding a check. Owns: its states, how it reads on a terminal and as JSON.

Standard library alone: it is said even where nothing is installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """fail: something that is needed does not work. warn: it works, and may not do what is hoped for."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """name: of what was looked at. text: what was found, one line. remedy: what to do about it; '' where nothing is."""

    name: str
    state: State
    text: str
    remedy: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Finding:
        """Raises ValueError for a line that is none."""
        try:
            fields = json.loads(line)
            texts = {name: fields[name] for name in ("name", "text", "remedy")}
            if not all(isinstance(text, str) for text in texts.values()):
                raise ValueError("its texts are none")
            return cls(state=State(fields["state"]), **texts)
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"no finding: {error}") from None


def finding(name: str, sentence: str, state: State = State.WARN) -> Finding:
    """From a sentence of the product, in which what to do follows the first colon that is not inside brackets."""
    sentence = " ".join(sentence.split()).rstrip(".")
    depth = 0
    for place, sign in enumerate(sentence):
        depth += (sign == "(") - (sign == ")")
        if depth <= 0 and sentence.startswith(": ", place):
            return Finding(name, state, sentence[:place], sentence[place + 2 :])
    return Finding(name, state, sentence)


NAME_CHARS = 16


def as_text(found: Finding) -> str:
    """`ok    python          3.11.7`, and what to do on a line of its own below."""
    line = f"{found.state.value:<5} {found.name:<{NAME_CHARS}} {found.text}"
    return f"{line}\n{'':<5} {'':<{NAME_CHARS}} -> {found.remedy}" if found.remedy else line


def verdict(findings: Iterable[Finding]) -> str:
    """`12 ok, 2 to know about, 1 failed: models`."""
    found = list(findings)
    count = {state: sum(each.state is state for each in found) for state in State}
    failed = ", ".join(each.name for each in found if each.state is State.FAIL)
    words = f"{count[State.OK]} ok, {count[State.WARN]} to know about, {count[State.FAIL]} failed"
    return f"{words}: {failed}" if failed else words


class Report:
    """Findings as they come, written by `write`, and the exit code that they make.

    as_json: one object for the whole, in which each finding has a line of its own, so that a program may read it as a
    file or as it comes.
    """

    def __init__(self, write: Callable[[str], object], *, as_json: bool) -> None:
        self._write, self._as_json = write, as_json
        self.findings: list[Finding] = []
        if as_json:
            write('{"findings": [')

    def add(self, found: Finding) -> None:
        comma = "," if self.findings else ""
        self.findings.append(found)
        self._write(comma + found.to_json() if self._as_json else as_text(found))

    @property
    def exit_code(self) -> int:
        return int(any(each.state is State.FAIL for each in self.findings))

    def end(self, *, is_whole: bool = True, **more: Any) -> int:
        """The last line; -> the exit code. is_whole False: it was stopped before its end."""
        words = verdict(self.findings) if is_whole else f"stopped before the end; {verdict(self.findings)}"
        if self._as_json:
            tail = {"passed": is_whole and not self.exit_code, "is_whole": is_whole, "verdict": words, **more}
            self._write("], " + json.dumps(tail, allow_nan=False)[1:])
        else:
            self._write(f"\n{words}")
        return self.exit_code
