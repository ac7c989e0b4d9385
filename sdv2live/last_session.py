"""What the next start brings back. Owns: session.json, what goes into it, and how it meets the command line.

A flag holds for its own start: where nobody has gone on from it in the window or by OSC, what was kept before stays.

Strict JSON, replaced whole. Unlike a preset it is never worth an error: what cannot be read is put aside, what makes
no sense any more is left out, and the log says so. Any thread; of two programs that save at once the later one wins.
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sdv2live.errors import UserError, one_line
from sdv2live.parameters import MAX_TEXT_CHARS, TABLE, Kind, clean_text
from sdv2live.paths import user_config_dir
from sdv2live.presets import PAIRS, engine_defaults
from sdv2live.registry import COMMAND_LINE, Registry
from sdv2live.settings import engine_spec
from sdv2live.strict_files import read_json, write_json

log = logging.getLogger(__name__)

FORMAT = 1
FILE_NAME, BROKEN_NAME = "session.json", "session.broken.json"
MAX_PROMPTS = 50
MAX_WINDOW_KEYS = 32
MAX_WINDOW_KEY_CHARS = 64
MAX_WINDOW_BYTES = 256 << 10
MAX_FAULTS_SAID = 5

# What holds for a moment, and a timing run's setting, which would silently make a meaningless picture next time.
_NOT_KEPT = frozenset(
    ["output.bypass", "output.freeze", "output.panic", "output.record", "prompt.next", "engine.random_weights"]
)


@dataclass(frozen=True, slots=True)
class LastSession:
    """engine: which one the values were chosen for. window: the window's own words. prompts: the newest first."""

    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    engine: str = ""
    window: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    prompts: tuple[str, ...] = ()

    def apply_engine(self, registry: Registry) -> list[str]:
        """The engine.* rows that nobody has set, then what that engine brings; -> the rows set. Never raises.

        For a start that has to know the engine before it reads the other flags, which depend on it.
        """
        wanted = [(name, value) for name, value in self._open(registry) if name.startswith("engine.")]
        trial = Registry()
        try:
            trial.set_strictly([*_chosen(registry, "engine."), *wanted], origin="session")
            engine_spec(trial)
        except UserError as error:
            log.warning("the last session's engine is not taken again: %s", one_line(error))
            return []
        registry.set_strictly(wanted, origin="session")
        engine_spec(registry)
        return [name for name, _ in wanted]

    def apply(self, registry: Registry) -> list[str]:
        """Every row that nobody has set yet; -> the rows set. Never raises, and moves nothing that was set before,
        not even through a rule that ties two rows together."""
        names = self.apply_engine(registry)
        is_same_engine = registry.get("engine.name") == self.engine
        wanted = [
            (name, value)
            for name, value in self._open(registry)
            if not name.startswith("engine.") and (is_same_engine or not _is_of_engine(name))
        ]
        fitting = _fitting(registry, wanted)
        registry.set_strictly(fitting, origin="session")
        left_out = sorted({name for name, _ in wanted} - {name for name, _ in fitting})
        if left_out:
            log.info("not taken from the last session, because it does not fit this start: %s", ", ".join(left_out))
        return names + [name for name, _ in fitting]

    def _open(self, registry: Registry) -> list[tuple[str, Any]]:
        """What nobody has set, neither the row nor a rival that it would win over, in the table's order."""
        cleared = {row.clears for row in TABLE.values() if row.clears and registry.is_user_set(row.name)}
        return [
            (name, self.values[name])
            for name in TABLE
            if name in self.values and name not in cleared and not registry.is_user_set(name)
        ]


def load_session() -> LastSession:
    """The last session, or an empty one. Never raises."""
    path = _path()
    try:
        data = read_json(path)
        if not isinstance(data, dict) or type(data.get("sdv2live")) is not int or data["sdv2live"] != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        return _read(data)
    except FileNotFoundError:
        return LastSession()
    except OSError as error:
        log.warning("the last session %s cannot be read, so this one starts afresh: %s", path, one_line(error))
    except ValueError as error:
        log.warning(
            "the last session %s is broken (%s), so this one starts afresh; %s.", path, one_line(error), _aside(path)
        )
    return LastSession()


def save_session(
    registry: Registry,
    *,
    window: Mapping[str, bytes] | None = None,
    prompts: Iterable[str] = (),
    last: LastSession | None = None,
) -> Path:
    """Keep what the user set, the window's words and the newest prompts; -> the file. Raises UserError.

    last: the session that this start found, of which it keeps what its flags left no place for.
    """
    path, last = _path(), last or LastSession()
    data = {
        "sdv2live": FORMAT,
        "engine": _next_engine(registry, last),
        "values": values_kept(registry, last),
        "window": {key: base64.b64encode(value).decode("ascii") for key, value in _bounded(window or {}).items()},
        "prompts": list(newest_prompts(prompts)),
    }
    try:
        write_json(path, data)
    except (OSError, ValueError) as error:
        raise UserError(
            f"this session cannot be kept for the next start in {path} ({one_line(error)}): "
            "see that its folder can be written and the disk is not full."
        ) from error
    return path


def values_kept(registry: Registry, last: LastSession | None = None) -> dict[str, Any]:
    """The rows that the next start brings back, in the table's order.

    Of what an engine brings, what differs from it: also where a rule moved it, and not what was only put back. last: as
    in `save_session`.
    """
    values, brought, last = registry.snapshot(), engine_defaults(registry), last or LastSession()
    engine = _next_engine(registry, last)
    # A rival that a flag displaced comes back; one that the user displaced does not.
    displaced = {
        row.clears for row in TABLE.values() if row.clears and registry.origin_of(row.name) not in (None, COMMAND_LINE)
    }

    def is_of_this_start(name: str) -> bool:
        is_foreign = _is_of_engine(name) and engine != values["engine.name"]
        return is_foreign or _is_of_a_flag(registry, name)

    def is_kept(name: str) -> bool:
        if _is_of_engine(name):
            return values[name] is not None and values[name] != brought.get(name)
        return registry.is_user_set(name) and values[name] is not None

    def is_left(name: str) -> bool:
        is_usable = engine == last.engine or not _is_of_engine(name)
        return name in last.values and is_usable and name not in displaced

    kept: dict[str, Any] = {}
    for name in filter(_may_be_kept, TABLE):
        if is_kept(name) and not is_of_this_start(name):
            kept[name] = values[name]
        elif is_left(name) and (is_of_this_start(name) or registry.origin_of(name) is None):
            kept[name] = last.values[name]
    return kept


def _is_of_a_flag(registry: Registry, name: str) -> bool:
    """Whether a flag of this start set it, or moved it through a rule, and nobody has set it since."""
    origin = registry.origin_of(name)
    pair = PAIRS.get(name, ()) if origin is None else (name,)
    return any(registry.origin_of(one) == COMMAND_LINE for one in pair)


def _next_engine(registry: Registry, last: LastSession) -> str:
    """The engine that a start without flags has."""
    if _is_of_a_flag(registry, "engine.name"):
        return str(last.values.get("engine.name", TABLE["engine.name"].default))
    return str(registry.get("engine.name"))


def newest_prompts(prompts: Iterable[str]) -> tuple[str, ...]:
    """The first, which are the newest, each once."""
    cleaned = (clean_text(text)[:MAX_TEXT_CHARS] for text in prompts)
    return tuple(dict.fromkeys(text for text in cleaned if text))[:MAX_PROMPTS]


def _path() -> Path:
    return user_config_dir() / FILE_NAME


def _may_be_kept(name: str) -> bool:
    return name not in _NOT_KEPT and not name.startswith("stream.") and TABLE[name].kind is not Kind.TRIGGER


def _is_of_engine(name: str) -> bool:
    """Whether the row's default is the engine's, so that its value means something with that engine alone."""
    return TABLE[name].default is None and TABLE[name].in_preset


def _chosen(registry: Registry, prefix: str) -> list[tuple[str, Any]]:
    return [(name, registry.get(name)) for name in TABLE if name.startswith(prefix) and registry.is_user_set(name)]


def _fitting(registry: Registry, wanted: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """As many of the rows as can be set at once without a refusal and without moving what the user has set."""
    if _is_harmless(registry, wanted):
        return wanted
    fitting: list[tuple[str, Any]] = []
    waiting = wanted
    while waiting:  # again as long as it helps: a count of steps may have to wait for its list
        left: list[tuple[str, Any]] = []
        for item in waiting:
            if _is_harmless(registry, [*fitting, item]):
                fitting.append(item)
            else:
                left.append(item)
        if len(left) == len(waiting):
            break
        waiting = left
    return fitting


def _is_harmless(registry: Registry, items: list[tuple[str, Any]]) -> bool:
    held = {
        name: value
        for name, value in registry.snapshot().values.items()
        if value is not None and TABLE[name].kind is not Kind.TRIGGER
    }
    trial = Registry()
    trial.apply_engine_defaults(held)  # the present values, whoever set them
    try:
        trial.set_strictly(items, origin="session")
    except UserError:
        return False
    return all(trial.get(name) == value for name, value in held.items() if registry.is_user_set(name))


def _read(data: dict[str, Any]) -> LastSession:
    """What can still be used of a file that is JSON. Raises ValueError where it is not built as it should be."""
    values, window, prompts = data.get("values", {}), data.get("window", {}), data.get("prompts", [])
    if not (isinstance(values, dict) and isinstance(window, dict) and isinstance(prompts, list)):
        raise ValueError("its parts are not of the kinds they should be")
    kept: dict[str, Any] = {}
    faults = [f"there is no {name[:60]!r}" for name in values if name not in TABLE]
    for name in TABLE:
        if name not in values:
            continue
        trial = Registry()
        try:
            if not _may_be_kept(name):
                raise UserError(f"{name} does not last from one start to the next")
            trial.set_strictly([(name, values[name])], origin="session")
            kept[name] = trial.get(name)
        except UserError as error:
            faults.append(one_line(error).rstrip("."))
    states: dict[str, bytes] = {}
    for key, text in window.items():
        try:
            states[key] = base64.b64decode(text, validate=True)
        except (ValueError, TypeError):
            faults.append(f"the window's {key[:60]!r} is no base64")
    if faults:
        more = f" and {len(faults) - MAX_FAULTS_SAID} more" if len(faults) > MAX_FAULTS_SAID else ""
        log.warning("left out of the last session: %s%s", "; ".join(faults[:MAX_FAULTS_SAID]), more)
    return LastSession(
        values=MappingProxyType(kept),
        engine=str(data.get("engine", "")),
        window=MappingProxyType(_bounded(states)),
        prompts=newest_prompts(text for text in prompts if isinstance(text, str)),
    )


def _bounded(window: Mapping[str, bytes]) -> dict[str, bytes]:
    """The window's words as far as they go into the file."""
    kept: dict[str, bytes] = {}
    room_bytes = MAX_WINDOW_BYTES
    for key, value in window.items():
        if len(kept) < MAX_WINDOW_KEYS and len(key) <= MAX_WINDOW_KEY_CHARS and len(value) <= room_bytes:
            kept[key] = bytes(value)
            room_bytes -= len(value)
    if len(kept) < len(window):
        log.warning("left out of the session: %d of the window's entries, which are too large", len(window) - len(kept))
    return kept


def _aside(path: Path) -> str:
    broken = path.with_name(BROKEN_NAME)
    try:
        os.replace(path, broken)
    except OSError as error:
        return f"it could not be put aside ({one_line(error)})"
    return f"it is kept as {broken.name}"
