"""What the window may ask of the app. Owns: that contract, and the way from the registry to the GUI thread.

The window sets parameters and reads a status; it never waits for the app and the app never waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from PySide6.QtCore import QObject, Qt, Signal

from sdv2live.frames import Shown
from sdv2live.parameters import Value
from sdv2live.queues import LatestSlot
from sdv2live.registry import Change, Registry
from sdv2live.status import LiveStatus

log = logging.getLogger(__name__)


class SourceChoice(Protocol):
    """A source that can be picked: its spelling and what a person calls it."""

    @property
    def spec(self) -> str: ...

    @property
    def label(self) -> str: ...


class CameraChoice(Protocol):
    """A virtual camera that can be picked: its spelling, what a person calls it, and how it stands, a sentence."""

    @property
    def spec(self) -> str: ...

    @property
    def label(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def is_missing(self) -> bool: ...


class Live(Protocol):
    """The running app."""

    registry: Registry

    @property
    def preview(self) -> LatestSlot[Shown]: ...

    def status(self) -> LiveStatus: ...

    def list_sources(self) -> Sequence[SourceChoice]:
        """May take a second: never on the GUI thread."""

    def list_virtual_cameras(self) -> Sequence[CameraChoice]:
        """May take a second: never on the GUI thread."""

    def is_over(self) -> bool:
        """Whether the run has ended by itself."""


class Knobs(QObject):
    """The registry for widgets: set from here, heard on the GUI thread, however often and by whomever it is set.

    Changes that come faster than the GUI thread takes them are gathered by name: a slow window hears less often.
    """

    changed = Signal(set)
    refused = Signal(str)
    _arrived = Signal()

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self.registry = registry
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._arrived.connect(self._deliver, Qt.ConnectionType.QueuedConnection)
        self._end = registry.subscribe(self._note)

    def set(self, name: str, value: object) -> None:
        self.set_many([(name, value)])

    def set_many(self, items: Sequence[tuple[str, object]]) -> None:
        for result in self.registry.set_many(items, origin="gui"):
            if result.status == "rejected":
                self.refused.emit(f"{result.name} was not changed: {result.reason}.")
                # The widget shows what was typed: let it show what holds.
                self.changed.emit({result.name})

    def set_back(self, values: Mapping[str, Value]) -> None:
        """Values that held before, those that nobody had chosen too."""
        registry = self.registry
        registry.reset([name for name, value in values.items() if value is None], origin="gui")
        self.set_many([(name, value) for name, value in values.items() if value is not None])

    def reset(self, name: str) -> None:
        self.registry.reset([name], origin="gui")

    def close(self) -> None:
        self._end()

    def _note(self, change: Change) -> None:
        with self._lock:
            is_first = not self._names
            self._names.update(change.values)
        if is_first:
            self._arrived.emit()

    def _deliver(self) -> None:
        with self._lock:
            names, self._names = self._names, set()
        self.changed.emit(names)


class Background(QObject):
    """Work off the GUI thread: `run(work, then)` calls then(result) back on it. One piece of work at a time.

    Of what is asked for meanwhile, the last is done afterwards; keeps_all: all of it, in its order. Work that fails is
    logged, and then is not called.
    """

    _done = Signal(object)

    def __init__(self, *, keeps_all: bool = False) -> None:
        super().__init__()
        self._done.connect(self._call_back, Qt.ConnectionType.QueuedConnection)
        self._keeps_all = keeps_all
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[], object], Callable[[object], None]]] = deque()
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        return self._thread is not None

    def run(self, work: Callable[[], object], then: Callable[[object], None]) -> None:
        with self._lock:
            if self._thread is not None:
                if not self._keeps_all:
                    self._waiting.clear()
                self._waiting.append((work, then))
                return
            self._thread = threading.Thread(target=self._work, args=(work, then), name="window work", daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """For the end of the window: until all of it is done, what waits too; nothing more is called back."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _work(self, work: Callable[[], object], then: Callable[[object], None]) -> None:
        while True:
            try:
                self._done.emit(partial(then, work()))
            except Exception:  # a thread's top
                log.exception("the window: work in the background failed")
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                work, then = self._waiting.popleft()

    def _call_back(self, finish: Callable[[], object]) -> None:
        finish()
