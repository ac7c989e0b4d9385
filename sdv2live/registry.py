"""The values of the table while the app runs. Owns validation, snapshots, change notes and triggers.

Any thread may set and read. Readers get an immutable snapshot; a bundle is applied whole or not at all, so a
chunk never sees half of it. Knows the table; knows nothing of who shows or sends the values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdv2live.errors import UserError
from sdv2live.parameters import TABLE, InvalidValue, Kind, Parameter, Value, coerce, range_text, reconcile

if TYPE_CHECKING:
    from sdv2live.auto.choice import EngineChoice

Listener = Callable[["Change"], None]
COMMAND_LINE = "cli"  # the origin of what a flag set


@dataclass(frozen=True, slots=True)
class Change:
    """What a listener hears: the new snapshot's values by name, and who set them (`osc`, `gui`, `cli`, ...)."""

    values: Mapping[str, Value]
    origin: str


@dataclass(frozen=True, slots=True)
class SetResult:
    """status: accepted, clamped or rejected. value: what holds now. reason: why it was clamped or rejected."""

    name: str
    status: str
    value: Value
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All values at one moment; `version` grows with every change.

    Read by name; of which type a value is, its row in the table says.
    """

    version: int
    values: Mapping[str, Value]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


class Registry:
    """Values of `table`, each in its range at all times.

    engine_choice: what the value `auto` of engine.name means in this run; whoever has chosen puts it here.
    """

    def __init__(self, table: Mapping[str, Parameter] = TABLE) -> None:
        self.table = table
        self.engine_choice: EngineChoice | None = None
        self._lock = threading.RLock()
        self._defaults: dict[str, Value] = {name: row.default for name, row in table.items()}
        self._values = dict(self._defaults)
        self._user_set: set[str] = set()
        self._origins: dict[str, str] = {}
        self._listeners: list[Listener] = []
        self._snapshot = Snapshot(0, MappingProxyType(dict(self._values)))

    def copy(self) -> Registry:
        """The same values, chosen by the same, for a trial; nobody listens to it."""
        other = Registry(self.table)
        with self._lock:
            other._defaults, other._values = dict(self._defaults), dict(self._values)
            other._user_set, other._origins = set(self._user_set), dict(self._origins)
            other._snapshot, other.engine_choice = self._snapshot, self.engine_choice
        return other

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def get(self, name: str) -> Any:
        return self._snapshot[name]

    def is_user_set(self, name: str) -> bool:
        """Whether someone chose this value; engine defaults do not count."""
        return name in self._user_set

    def origin_of(self, name: str) -> str | None:
        """Who last set this value or put it back to its default; None: nobody, it is as it was brought or moved."""
        return self._origins.get(name)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each change, in the setter's thread; it must not raise. Returns what ends it."""
        with self._lock:
            self._listeners.append(listener)

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def set(self, name: str, value: object, *, origin: str) -> SetResult:
        """Set one value as a live control does: out of range is clamped, what makes no sense is rejected."""
        return self.set_many([(name, value)], origin=origin)[0]

    def set_many(self, items: Iterable[tuple[str, object]], *, origin: str) -> list[SetResult]:
        """A bundle from a live control: clamped where needed, applied whole or, if one is rejected, not at all."""
        with self._lock:
            draft, results = self._stage(list(items))
            if any(result.status == "rejected" for result in results):
                why = "another value of its bundle was"
                return [
                    r if r.status == "rejected" else SetResult(r.name, "rejected", self._values[r.name], why)
                    for r in results
                ]
            self._commit(draft, [result.name for result in results], origin)
        return results

    def set_strictly(self, items: Iterable[tuple[str, object]], *, origin: str) -> None:
        """A preset or the command line: out of range is refused. Raises UserError; then nothing has changed."""
        items = list(items)
        with self._lock:
            draft, results = self._stage(items)
            for (name, value), result in zip(items, results, strict=True):
                if result.status != "accepted":
                    row = self.table.get(name)
                    # A chain's own words name the steps there are.
                    is_said = "range" in result.reason or "entries" in result.reason
                    is_said = is_said or (row is not None and row.kind is Kind.CHAIN)
                    hint = f" (allowed: {range_text(row)})" if row and not is_said else ""
                    raise UserError(f"{name} = {_shown(value)} was refused: {result.reason}{hint}.")
            self._commit(draft, [name for name, _ in items], origin)

    def default(self, name: str) -> Value:
        """What holds where nobody chose: the engine's own, or the table's."""
        return self._defaults[name]

    def reset(self, names: Iterable[str], *, origin: str) -> None:
        """Go back to the defaults, as if nobody had chosen."""
        with self._lock:
            draft = dict(self._values)
            names = [name for name in names if self.table[name].kind is not Kind.TRIGGER]
            draft.update((name, self._defaults[name]) for name in names)
            self._user_set.difference_update(names)
            self._origins.update(dict.fromkeys(names, origin))
            for name in names:
                reconcile(draft, name)
            self._replace(draft, origin)

    def apply_engine_defaults(self, defaults: Mapping[str, Value]) -> None:
        """Fill in what the engine brings, for everything that the user did not choose."""
        with self._lock:
            draft = dict(self._values)
            for name, value in defaults.items():
                self._defaults[name] = coerce(self.table[name], value).value
                if name not in self._user_set:
                    draft[name] = self._defaults[name]
            for name in defaults:
                reconcile(draft, name)
            self._replace(draft, "engine")

    def _stage(self, items: list[tuple[str, object]]) -> tuple[dict[str, Value], list[SetResult]]:
        """Coerce each value, then apply the rules between rows, so that the order inside a bundle does not matter."""
        draft = dict(self._values)
        staged = [self._stage_one(draft, name, value) for name, value in items]
        notes = [reconcile(draft, result.name) if result.status != "rejected" else "" for result in staged]
        newest = {result.name: result for result in staged}
        results: list[SetResult] = []
        for result, note in zip(staged, notes, strict=True):
            if result.status == "rejected":
                results.append(result)
                continue
            held = draft[result.name]
            is_newest = result is newest[result.name]
            if is_newest and held != result.value and not note:
                note = "another value that was set with it does not allow it"
            note = note or result.reason
            results.append(SetResult(result.name, "clamped" if note else "accepted", held, note))
        return draft, results

    def _stage_one(self, draft: dict[str, Value], name: str, value: object) -> SetResult:
        row = self.table.get(name)
        if row is None:
            return SetResult(name, "rejected", None, f"there is no parameter {name[:60]!r}{_nearest(name, self.table)}")
        try:
            coerced = coerce(row, value)
        except InvalidValue as error:
            return SetResult(name, "rejected", draft[name], str(error))
        if row.kind is Kind.TRIGGER:
            draft[name] = int(draft[name] or 0) + int(bool(coerced.value))  # type: ignore[arg-type]
        else:
            draft[name] = coerced.value
        if row.clears:
            draft[row.clears] = self.table[row.clears].default
        return SetResult(name, "accepted", draft[name], coerced.note)

    def _commit(self, draft: dict[str, Value], names: list[str], origin: str) -> None:
        self._user_set.update(names)
        self._origins.update(dict.fromkeys(names, origin))
        self._replace(draft, origin)

    def _replace(self, draft: dict[str, Value], origin: str) -> None:
        """Make `draft` the values that hold, and tell: what a rule between rows moved is news as well."""
        changed = {name: value for name, value in draft.items() if value != self._values[name]}
        if not changed:
            return
        self._values = draft
        self._snapshot = Snapshot(self._snapshot.version + 1, MappingProxyType(dict(draft)))
        change = Change(MappingProxyType(changed), origin)
        for listener in list(self._listeners):
            listener(change)


def _nearest(name: str, table: Mapping[str, Parameter]) -> str:
    import difflib

    close = difflib.get_close_matches(name, table, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _shown(value: object) -> str:
    return repr(value if len(str(value)) <= 60 else str(value)[:57] + "...")
