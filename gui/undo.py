"""Undo and redo of what was turned here, by knob, look or key. What OSC sent is not undone."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gui.live import Knobs
from sdv2live.parameters import Kind, Value
from sdv2live.registry import Change

KEPT = 100
ONE_MOVE_S = 1.0
OWN = ("gui", "preset")
# What is switched on stage, and what acts only when an engine starts.
NOT_UNDONE = ("output.panic", "output.camera", "output.record", "stream.", "source.name", "engine.")


@dataclass(slots=True)
class _Step:
    before: dict[str, Value]
    after: dict[str, Value]
    at_s: float


class Undo:
    """One slider's move is one step, however many values it went through."""

    def __init__(self, knobs: Knobs) -> None:
        self._knobs = knobs
        self._past: list[_Step] = []
        self._future: list[_Step] = []
        self._held = dict(knobs.registry.snapshot().values)
        self._is_ours = False
        knobs.registry.subscribe(self._note)

    def undo(self) -> None:
        while self._past and self._past[-1].before == self._past[-1].after:
            self._past.pop()  # a knob that was moved and put back
        if self._past:
            step = self._past.pop()
            self._apply(step.before)
            self._future.append(step)

    def redo(self) -> None:
        if self._future:
            step = self._future.pop()
            self._apply(step.after)
            self._past.append(step)

    def _note(self, change: Change) -> None:
        # On the setter's thread: what the user does here is done on the GUI thread, and only that is kept.
        table = self._knobs.registry.table
        names = [n for n in change.values if not n.startswith(NOT_UNDONE) and table[n].kind is not Kind.TRIGGER]
        before = {name: self._held[name] for name in names}
        self._held.update(change.values)
        if self._is_ours or change.origin not in OWN or not names:
            return
        now_s = time.monotonic()
        last = self._past[-1] if self._past else None
        is_one_knob = change.origin == "gui" and all(table[name].kind in (Kind.FLOAT, Kind.INT) for name in names)
        is_same_knob = last is not None and last.after.keys() == set(names) and now_s - last.at_s < ONE_MOVE_S
        if last is not None and is_one_knob and is_same_knob:
            last.after.update({name: change.values[name] for name in names})
            last.at_s = now_s
        else:
            self._past = [*self._past, _Step(before, {name: change.values[name] for name in names}, now_s)][-KEPT:]
        self._future.clear()

    def _apply(self, values: dict[str, Value]) -> None:
        self._is_ours = True
        try:
            self._knobs.set_back(values)
        finally:
            self._is_ours = False
