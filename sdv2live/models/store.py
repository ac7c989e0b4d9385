"""A folder of models: what lies in it, what is known of it, and what may be taken out. Knows no network.

Standard library alone, on the thread that calls it. `fetched.json` in the folder says for each file that we put there
where it came from and what it has to be; a file without an entry was put there by hand and is used as it lies. A file
has its own name only when all of it is there and was checked: until then it is `NAME.part`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sdv2live.errors import UserError, one_line
from sdv2live.file_lock import Lock, held
from sdv2live.models.manifest import ENGINES, MODELS, SHARED, Checksum, Model, find, size_text

log = logging.getLogger(__name__)

RECORD_NAME, LOCK_NAME = "fetched.json", "fetching.lock"
PART, DAMAGED, CONVERTING = ".part", ".damaged", "converting-"  # endings, and a beginning
SAFETENSORS, TORCH = ".safetensors", (".pt", ".pth")
READ_BYTES = 4 << 20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Tell = Callable[[int], None]  # so many bytes of this step are done


class State(StrEnum):
    HERE = "here"
    BY_HAND = "here, put there by hand"
    PARTLY = "partly fetched"
    DAMAGED = "damaged"
    MISSING = "not here"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one file of ours. made_from: the file that it was converted from, and whose source it has."""

    source: str
    revision: str
    bytes: int
    checksum: Checksum
    made_from: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """bytes: what is there of it, whole or not."""

    model: Model
    state: State
    path: Path
    bytes: int


class Store:
    """The models in one folder, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # ---- what is there

    def look(self, model: Model) -> Found:
        """Quick: names and sizes, no contents. Raises UserError for a folder that cannot be read."""
        try:
            path = find(model, self.folder)
            if path is not None:
                return self._look_at(model, path)
            place = self.folder / model.place
            for state, ending in ((State.PARTLY, PART), (State.DAMAGED, DAMAGED)):
                if (left := with_ending(place, ending)).is_file() and left.stat().st_size:
                    return Found(model, state, left, left.stat().st_size)
        except OSError as error:
            raise self.failed("looked through", error) from None
        return Found(model, State.MISSING, place, 0)

    def _look_at(self, model: Model, path: Path) -> Found:
        entry, size = self.entry(path), _size_of(path)
        if entry is None:
            return Found(model, State.BY_HAND, path, size)
        return Found(model, State.HERE if size == entry.bytes else State.DAMAGED, path, size)

    def entry(self, path: Path) -> Entry | None:
        """What is known of a file of this folder; None for one that was put there by hand."""
        return self._entries().get(self._key(path))

    def _key(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.folder)).as_posix()

    # ---- what is known

    def revision_of(self, model: Model) -> str:
        """The revision that the model is fetched at: the manifest's, or the commit of the first fetch."""
        return self._revisions().get(model.repository, model.revision) if model.revision == "main" else model.revision

    def pin(self, model: Model, revision: str) -> None:
        """From now on the model's repository is fetched at this revision."""
        self._write(self._entries(), {**self._revisions(), model.repository: revision})

    def note(self, path: Path, entry: Entry) -> None:
        """The file at `path` is ours and whole."""
        self._write({**self._entries(), self._key(path): entry}, self._revisions())

    def forget(self, path: Path) -> None:
        entries = self._entries()
        if entries.pop(self._key(path), None) is not None:
            # A repository that nothing is left of is fetched at its newest state the next time.
            sources = {entry.source for entry in entries.values()}
            self._write(entries, {name: pin for name, pin in self._revisions().items() if name in sources})

    def _entries(self) -> dict[str, Entry]:
        entries = {}
        for name, fields in self._read().get("files", {}).items():
            try:
                entries[name] = Entry(**{**fields, "checksum": Checksum(**fields["checksum"])})
            except (TypeError, KeyError):
                log.warning("what %s says of %s cannot be read and is passed over", self.folder / RECORD_NAME, name)
        return entries

    def _revisions(self) -> dict[str, str]:
        revisions = self._read().get("revisions", {})
        return {str(name): str(revision) for name, revision in revisions.items()}

    def _read(self) -> dict[str, Any]:
        path = self.folder / RECORD_NAME
        try:
            record = json.loads(path.read_text("utf-8"))
            if isinstance(record, dict) and all(isinstance(part, dict) for part in record.values()):
                return record
            raise ValueError("it is no object of objects")
        except FileNotFoundError:
            pass
        except NotADirectoryError as error:
            raise self.failed("used", error) from None
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s cannot be read (%s): its models count as put there by hand", path, one_line(error))
        return {}

    def _write(self, entries: dict[str, Entry], revisions: dict[str, str]) -> None:
        path = self.folder / RECORD_NAME
        record = {"revisions": revisions, "files": {name: asdict(entry) for name, entry in entries.items()}}
        beside = path.with_name(path.name + ".new")
        beside.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        beside.replace(path)

    # ---- what is done to it

    @contextmanager
    def lock(self, *, on_wait: Callable[[], None]) -> Iterator[Lock]:
        """Held by whoever changes the folder, which is made if need be. Raises UserError."""
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(held(self.folder / LOCK_NAME, on_wait=on_wait))
            except OSError as error:
                raise self.failed("locked", error) from None
            yield lock

    def check_room(self, needed_bytes: int, what: str) -> None:
        """Raises UserError where the drive has less room than that."""
        free = self.free_bytes()
        if free < needed_bytes:
            raise UserError(
                f"{what} needs {size_text(needed_bytes)} and the drive of {self.folder} has {size_text(free)} free: "
                f"make {size_text(needed_bytes - free)} of room, or name a folder on another drive with --folder."
            )

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def set_aside(self, path: Path) -> None:
        """A damaged file of ours loses its name, so that it is taken for a model no more. Raises UserError."""
        try:
            path.replace(with_ending(path, DAMAGED))
            self.forget(path)
        except OSError as error:
            raise self.failed("changed", error) from None

    def remove(self, names: Iterable[str]) -> list[tuple[Path, int]]:
        """Delete what we put there for these models, and what is left of it; -> the files and their sizes.

        What was put there by hand stays. Raises UserError. The lock has to be held.
        """
        removed = []
        try:
            for name in names:
                for path in self._files_of(MODELS[name]):
                    removed.append((path, path.stat().st_size))
                    path.unlink()
                    self.forget(path)
                    self._tidy(path.parent)
        except OSError as error:
            raise self.failed("cleaned up", error) from None
        return removed

    def _files_of(self, model: Model) -> list[Path]:
        place = self.folder / model.place
        ours = {place, place.with_suffix(SAFETENSORS)}
        files = [path for path in sorted(ours) if path.is_file() and self.entry(path) is not None]
        return files + [
            left for path in sorted(ours) for ending in (PART, DAMAGED) if (left := with_ending(path, ending)).is_file()
        ]

    def _tidy(self, folder: Path) -> None:
        """Empty folders of ours go too."""
        while folder != self.folder and self.folder in folder.parents and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent

    def failed(self, what: str, error: OSError) -> UserError:
        """The sentence for what the file system refused."""
        where = error.filename or self.folder
        why = error.strerror or one_line(error)
        if error.errno in _NO_ROOM:
            free = shutil.disk_usage(self.folder).free if self.folder.is_dir() else 0
            return UserError(
                f"the drive of {self.folder} is full ({size_text(free)} free): make room and start again, what was "
                "fetched so far is kept; or name a folder on another drive with --folder."
            )
        return UserError(
            f"the models folder {self.folder} cannot be {what} ({where}: {why}): see that it may be written to, or "
            "name another folder with --folder."
        )


def removed_with(name: str, found: Iterable[Found]) -> tuple[str, ...]:
    """What goes when `name` is removed: an engine takes along the shared parts that no other engine here needs."""
    here = {each.model.name for each in found if each.state != State.MISSING}
    return (name, *SHARED) if name in ENGINES and not (here & ENGINES.keys()) - {name} else (name,)


def with_ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def checksum_of(path: Path, kind: str, tell: Tell = lambda _: None) -> Checksum:
    """Read a file and sum it up. tell: called with the bytes read so far. Raises OSError."""
    digest = hashlib.sha256()
    if kind == "git-sha1":  # names a content, guards against nobody
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    done = 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            done += len(block)
            tell(done)
    return Checksum(kind, digest.hexdigest())


def _size_of(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size
