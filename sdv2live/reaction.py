"""How long it takes until a change is seen. Owns: when the oldest change was made that no chunk carries yet.

The time goes with the chunk that carries the change first and with its pictures; the presenter measures at the first
of them that is shown. Of several changes before one chunk the oldest counts. What acts with the next tick (`output.*`)
and what starts the stream anew is not measured; a prompt that must be encoded first, or is blended in, comes later.
"""

from __future__ import annotations

import threading

from sdv2live.clock import Clock
from sdv2live.parameters import TABLE, When
from sdv2live.registry import Change, Registry

# prompt.next only gets something ready.
CARRIED = frozenset(
    name
    for name, row in TABLE.items()
    if row.when is When.CHUNK and not name.startswith("stream.") and name != "prompt.next"
)


class ChangeWatch:
    """Notes changes on whichever thread makes them; `taken` is for the thread that forms chunks."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._oldest_s: float | None = None
        self.close = registry.subscribe(self._note)

    def taken(self) -> float | None:
        """A chunk is about to be formed: -> when the oldest change was made that it is the first to carry, or None.

        To be asked before the values are read: a change in between counts for the next chunk, and none is too short.
        """
        with self._lock:
            oldest_s, self._oldest_s = self._oldest_s, None
            return oldest_s

    def _note(self, change: Change) -> None:
        if CARRIED.isdisjoint(change.values):
            return
        with self._lock:
            if self._oldest_s is None:
                self._oldest_s = self._clock.now_s()
