"""A rank other than the first, in a process of its own, as whoever starts it sees it. Imports no torch.

It is told its rank and where the ranks meet; all else it hears from rank 0. It ends when its pipe closes.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import replace

from sdv2live.engine.base import EngineSpec
from sdv2live.engine.catalogue import known_blocks
from sdv2live.engine.child import end_child, start_child
from sdv2live.engine.ipc import BrokenMessage, Message, read_message, to_json, write_message
from sdv2live.engine.meeting_place import Address, listen_at
from sdv2live.engine.stages import split_to_begin_with
from sdv2live.errors import EngineDead

log = logging.getLogger(__name__)


class RankProcess:
    """One started rank. `reason` says why it ended, '' while it lives."""

    def __init__(self, rank: int, spec: EngineSpec, *, on_event: Callable[[], None] = lambda: None) -> None:
        """Raises EngineDead."""
        self.rank, self.reason, self.is_refusal = rank, "", False
        self._on_event, self._is_closed = on_event, False
        try:
            self._process = start_child("sdv2live.engine.rank_worker")
        except OSError as error:
            raise EngineDead(f"the process of rank {rank} could not be started ({error})") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to_child, self._from_child = self._process.stdin, self._process.stdout
        self._reader = threading.Thread(target=self._read, name=f"rank {rank} messages", daemon=True)
        self._reader.start()
        fields = {
            "rank": rank,
            "master": spec.master,
            "device": spec.device,
            "gpus": spec.gpus,
            "threads": spec.threads,
        }
        try:
            write_message(self._to_child, Message.CONFIGURE, to_json(fields))
        except (BrokenPipeError, ValueError):
            log.debug("rank %d was gone before it was told anything", rank)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self, *, grace_s: float = 2.0) -> None:
        """End it: it goes by itself when its pipe closes; one that hangs is killed. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        end_child(self._process, grace_s=grace_s)
        self._reader.join()
        self._from_child.close()

    def kill(self) -> None:
        """End one that hangs, at once."""
        self._process.kill()
        self.close()

    def _read(self) -> None:
        reason = "its process ended"
        try:
            while (message := read_message(self._from_child)) is not None:
                kind, payload = message
                if kind in (Message.DEAD, Message.REFUSED):
                    reason, self.is_refusal = payload.decode(), kind is Message.REFUSED
        except (BrokenMessage, ValueError) as error:
            reason = str(error)
        if not self._is_closed:
            self.reason = f"rank {self.rank}: {reason}"
            self._on_event()


def start_ranks(spec: EngineSpec, *, on_event: Callable[[], None] = lambda: None) -> list[RankProcess]:
    """All ranks of this machine but the first; they meet at `spec.master`.

    Raises UserError for what can be known to fail before any is started, and EngineDead; then none is left.
    """
    if spec.ranks > 1:
        _check(spec)
    started: list[RankProcess] = []
    try:
        for rank in range(1, spec.gpus):
            started.append(RankProcess(rank, spec, on_event=on_event))
    except EngineDead:
        for process in started:
            process.kill()
        raise
    return started


def _check(spec: EngineSpec) -> None:
    if (blocks := known_blocks(spec)) is not None:
        split_to_begin_with(spec.split, blocks, spec.ranks)
    listen_at(Address.parse(spec.master)).close()


def with_meeting_place(spec: EngineSpec) -> EngineSpec:
    """The spec of several ranks with where they meet: as it says, or a port of loopback that was free a moment ago."""
    if spec.master or spec.ranks == 1:
        return spec
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return replace(spec, master=f"127.0.0.1:{probe.getsockname()[1]}")
