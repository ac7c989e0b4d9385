"""`sdv2live models list | get | verify | path | remove`. Owns: what each does and prints, on the thread that calls it.

What was asked for goes to standard output, how far it is to standard error.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from sdv2live.errors import UserError
from sdv2live.models.manifest import ENGINES, MODELS, Model, command, engines_with, size_text
from sdv2live.models.store import (
    CONVERTING,
    DAMAGED,
    SAFETENSORS,
    TORCH,
    Entry,
    Found,
    State,
    Store,
    checksum_of,
    removed_with,
)
from sdv2live.paths import models_dir
from sdv2live.progress import Line, Reading, Transfer

LOG_PERIOD_S = 10.0  # a line each, where progress goes into a file
SHIPPED = "pocket"
_PRESENT = (State.HERE, State.BY_HAND)


def add_parser(parser: argparse.ArgumentParser) -> None:
    """The flags of `sdv2live models`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="{list,get,verify,path,remove}")
    for name, words, wants_name in (
        ("list", "what there is, what of it is here, how large it is and under which licence", None),
        ("get", "fetch what is missing of a model, or of all that an engine needs", True),
        ("verify", "read the files again and compare them with their checksums", False),
        ("path", "print where a model lies; for an engine, the folder", True),
        ("remove", "delete what was fetched of a model; for an engine, what no other one needs", True),
    ):
        action = actions.add_parser(name, help=words, description=words, allow_abbrev=False)
        if wants_name is not None:
            action.add_argument(
                "name", metavar="NAME", nargs=None if wants_name else "?", help=f"one of {', '.join(MODELS)}"
            )
        action.add_argument("--folder", type=Path, metavar="DIR", help="in place of the models folder of this user")
        if name in ("list", "get"):
            action.add_argument("--json", action="store_true", help="as JSON, for programs")
        action.add_argument("-v", "--verbose", action="store_true", help="say more")


def run(options: argparse.Namespace) -> int:
    """Do it; -> the exit code. Raises UserError."""
    store = Store((options.folder or models_dir()).expanduser().absolute())
    if options.action == "list":
        print(list_json(store) if options.json else list_text(store))
        return 0
    if options.name == SHIPPED:
        raise UserError(f"{SHIPPED} ships with sdv2live: there is nothing to {options.action}.")
    if options.name is not None and options.name not in MODELS:
        raise UserError(f"there is no model {options.name[:40]!r}: there are {', '.join(MODELS)}.")
    match options.action:
        case "get":
            get(options.name, store, as_json=options.json)
        case "verify":
            verify(options.name, store)
        case "path":
            print(path_of(options.name, store))
        case "remove":
            remove(options.name, store)
    return 0


# ---- list and path -----------------------------------------------------------------------------------------------


def list_text(store: Store) -> str:
    """A table for people."""
    rows = [("NAME", "STATE", "SIZE", "LICENCE", "NEEDED BY", "FROM")]
    rows.append((SHIPPED, "ships with sdv2live", "", "", SHIPPED, ""))
    for found in map(store.look, MODELS.values()):
        model = found.model
        state = found.state.value
        if found.state == State.PARTLY:
            state = f"{size_text(found.bytes)} fetched"
        size = size_text(found.bytes if found.state in _PRESENT else model.rough_bytes)
        source = f"{model.repository} ({model.site})"
        rows.append((model.name, state, size, model.licence, ", ".join(engines_with(model.name)), source))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", f"folder: {store.folder}"])


def list_json(store: Store) -> str:
    """The same for programs."""
    models = [
        {
            "name": found.model.name,
            "state": found.state.name.lower(),
            "bytes": found.bytes,
            "rough_bytes": found.model.rough_bytes,
            "licence": found.model.licence,
            "engines": engines_with(found.model.name),
            "repository": found.model.repository,
            "path": str(found.path),
        }
        for found in map(store.look, MODELS.values())
    ]
    return json.dumps({"folder": str(store.folder), "models": models}, indent=2)


def path_of(name: str, store: Store) -> Path:
    """Where a model lies, an engine's folder. Raises UserError for what is not here, or not all of it."""
    for part in ENGINES.get(name, (name,)):
        found = store.look(MODELS[part])
        if found.state not in _PRESENT:
            raise UserError(
                f"{found.model.what} is {found.state.value} in {store.folder}: {command('get', name, store.folder)} "
                "fetches it."
            )
    return store.folder if name in ENGINES else found.path


# ---- get ---------------------------------------------------------------------------------------------------------


def get(name: str, store: Store, *, as_json: bool = False) -> None:
    """Fetch, check and convert what is missing. Raises UserError; Ctrl-C loses nothing."""
    models = [MODELS[part] for part in ENGINES.get(name, (name,))]
    watch = _Watch(as_json=as_json)
    try:
        waiting = f"another sdv2live is changing {store.folder}; waiting for it …"
        with store.lock(on_wait=lambda: watch.say(waiting)):
            if any(store.look(model).state not in _PRESENT for model in models):
                from sdv2live.models.fetch import fetch  # only now: what is here needs no network and no library

                fetch(models, store, say=watch.say, watch=watch)
            for model in models:
                _convert(model, store, watch)
    except KeyboardInterrupt:
        watch.end()
        print(
            f"sdv2live: what was fetched is kept: {command('get', name, store.folder)} goes on from there",
            file=sys.stderr,
        )
        raise
    except UserError:
        watch.end()
        raise
    watch.end()
    size = size_text(sum(store.look(model).bytes for model in models))
    use = f": `sdv2live --engine {name}` uses it" if name in ENGINES and store.folder == models_dir() else ""
    watch.say(f"{name} is here, {size} in {store.folder}{use}.")


class _Watch:
    """Progress as it is printed."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._line = Line(log_period_s=LOG_PERIOD_S if not as_json else 0.2)
        self._is_shown = False
        self._last = ""

    def __call__(self, doing: str, model: Model, reading: Reading) -> None:
        is_new = self._last != f"{doing} {model.name}"
        if not is_new and not self._line.is_due and reading.done < reading.total:
            return
        self._last, self._is_shown = f"{doing} {model.name}", True
        if self._as_json:
            print(json.dumps({"doing": doing, "name": model.name, **asdict(reading)}), flush=True)
        else:
            self._line.show(progress_text(doing, model.name, reading))

    def say(self, sentence: str) -> None:
        self.end()
        print(f"sdv2live: {sentence}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_shown and not self._as_json:
            self._line.end()
        self._is_shown = False


def progress_text(doing: str, name: str, reading: Reading) -> str:
    """`fetching wan-vae: 120.0 of 507.6 MB, 11.2 MB/s, 35 s left; in all 0.14 of 17.60 GB, 26 min left`."""
    text = f"{doing} {name}: {size_text(reading.done)} of {size_text(reading.total)}"
    if reading.rate_per_s is not None and reading.left_s is not None and reading.all_left_s is not None:
        text += f", {size_text(reading.rate_per_s)}/s, {time_text(reading.left_s)} left"
        if reading.all_total > reading.total:
            text += f"; in all {size_text(reading.all_done)} of {size_text(reading.all_total)}"
            text += f", {time_text(reading.all_left_s)} left"
    return text


def time_text(seconds: float) -> str:
    """`35 s`, `26 min`, `2 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 99:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _convert(model: Model, store: Store, watch: _Watch) -> None:
    """A torch file of ours becomes a safetensors file, once; where it cannot, the torch file is used as it is."""
    found = store.look(model)
    entry = store.entry(found.path)
    old = store.folder / model.place
    if entry is not None and entry.made_from and old.is_file() and store.entry(old) is not None:
        _drop(old, store)  # the run that converted it did not come so far
    if found.state != State.HERE or entry is None or found.path.suffix not in TORCH:
        return
    if importlib.util.find_spec("torch") is None:
        return
    if store.free_bytes() < found.bytes:
        watch.say(f"{found.path.name} is used as it is: there is no room to convert it to safetensors.")
        return
    from sdv2live.engine.convert import to_safetensors  # brings torch

    watch.say(f"converting {found.path.name} to safetensors, once …")
    target = found.path.with_suffix(SAFETENSORS)
    new = target.with_name(CONVERTING + target.name)
    try:
        to_safetensors(found.path, new)
        shutil.copymode(found.path, new)  # the library's is for its owner alone
        size = new.stat().st_size
        transfer = Transfer({model.name: size}, {})
        checksum = checksum_of(new, "sha256", lambda done: watch("checking", model, transfer.at(model.name, done)))
        store.note(target, Entry(entry.source, entry.revision, size, checksum, made_from=found.path.name))
        new.replace(target)
        _drop(found.path, store)
    except OSError as error:
        raise store.failed("written", error) from None
    finally:
        new.unlink(missing_ok=True)


def _drop(path: Path, store: Store) -> None:
    path.unlink()
    store.forget(path)


# ---- verify and remove -------------------------------------------------------------------------------------------


def verify(name: str | None, store: Store) -> None:
    """Read what is here again, print a line for each, and set damaged files of ours aside. Raises UserError for them.

    name: a model that has to be here, or an engine; None: whatever is here.
    """
    watch = _Watch(as_json=False)
    checked, bad, by_hand = 0, [], []
    with store.lock(on_wait=lambda: watch.say(f"another sdv2live is changing {store.folder}; waiting for it …")):
        for part in MODELS if name is None else ENGINES.get(name, (name,)):
            found = store.look(MODELS[part])
            if name is None and found.state in (State.MISSING, State.PARTLY):
                continue
            checked += 1
            is_good, words = _verdict(found, store, watch)
            watch.end()
            print(f"{part}: {words}")
            if not is_good:
                bad.append(part)
                by_hand += [found.path] if found.state == State.BY_HAND else []
    if not checked:
        print(f"no model is in {store.folder}")
    if bad:
        first = f"take {', '.join(map(str, by_hand))} away if it is not what you mean to use; " if by_hand else ""
        raise UserError(
            f"{', '.join(bad)} in {store.folder} did not pass: {first}{command('get', name or bad[0], store.folder)} "
            "fetches what is damaged or missing."
        )


def _verdict(found: Found, store: Store, watch: _Watch) -> tuple[bool, str]:
    """Whether the file may be used, and what was found out."""
    model, path = found.model, found.path
    if found.state in (State.MISSING, State.PARTLY) or path.name.endswith(DAMAGED):
        return False, found.state.value
    entry = store.entry(path)
    is_released = path.name == Path(model.place).name
    wanted = entry.checksum if entry is not None else model.checksum if is_released else None
    if wanted is None:
        return True, "put there by hand, and nothing is known to compare it with"
    transfer = Transfer({model.name: found.bytes}, {})
    try:
        # One of another length need not be read.
        actual = (
            checksum_of(path, wanted.kind, lambda done: watch("checking", model, transfer.at(model.name, done)))
            if found.state != State.DAMAGED
            else None
        )
        if actual == wanted:
            return True, f"as {'fetched' if entry is not None else 'released'}, {wanted.kind} {wanted.digest[:12]}…"
        if entry is None:
            return False, f"not the released file, whose {wanted.kind} is {wanted.digest[:12]}…; put there by hand"
        store.set_aside(path)
    except OSError as error:
        raise store.failed("read", error) from None
    return False, f"damaged, and set aside as {path.name}{DAMAGED}"


def remove(name: str, store: Store) -> None:
    """Delete what was fetched. Raises UserError."""
    with store.lock(on_wait=lambda: print(f"waiting for another sdv2live in {store.folder} …", file=sys.stderr)):
        names = removed_with(name, map(store.look, MODELS.values()))
        removed = store.remove(names)
        left = [store.look(MODELS[part]) for part in names]
    for path, size in removed:
        print(f"removed {path} ({size_text(size)})")
    for found in left:
        if found.state == State.BY_HAND:
            print(f"left {found.path}, which was put there by hand")
    if not removed:
        print(f"nothing of {name} was fetched into {store.folder}")
