"""The app's end of the engine's process: the Engine contract, with nothing that blocks and no torch.

Owns one child process, from its start to its end; a new one is a new EngineClient (the supervisor decides). A reader
thread takes messages from the child; every other call comes from the session's thread.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdv2live import understood
from sdv2live.clock import Clock
from sdv2live.engine.base import TIMINGS, Chunk, ChunkResult, ChunkSettings, Engine, EngineSpec
from sdv2live.engine.catalogue import traits_of
from sdv2live.engine.child import end_child, start_child
from sdv2live.engine.ipc import (
    BrokenMessage,
    Message,
    Result,
    SharedFrames,
    Submit,
    create_memory,
    read_message,
    slots_of,
    to_json,
    write_message,
)
from sdv2live.engine.rank_process import RankProcess, start_ranks, with_meeting_place
from sdv2live.errors import ChunkError, EngineDead, UserError, one_line
from sdv2live.frames import Pixels
from sdv2live.understood import Understood

log = logging.getLogger(__name__)

START_LIMIT_S = 180.0  # for each stage of the start: a large file on a slow disk takes its time
PING_PERIOD_S = 0.5
PINGS_UNANSWERED_LIMIT = 10
LONGEST_COUNTED_GAP_S = 0.5
MIN_CHUNK_LIMIT_S = 2.0
FIRST_CHUNK_LIMIT_S = 15.0  # until it is known how long chunks take here: a loaded machine starts slowly
FIRST_CHUNK_WARM_UPS = 5.0  # or so many times what the warm-up took, for a large engine on a slow device
KNOWN_CHUNKS = 4
RANKS_REASON_S = 0.3  # so long a rank that ended may take to say why, after another one has noticed
CHUNK_LIMIT_MEDIANS = 10.0
CHUNK_LIMIT_LONGEST = 3.0  # a machine under load has chunks of very different length


class EngineRefused(EngineDead):
    """The engine cannot start, and another try would not help. The message is a sentence for the user."""


class EngineClient(Engine):
    """An engine in a process of its own. `poll` reports its death; `stage` says how far its start has come."""

    def __init__(
        self,
        spec: EngineSpec,
        assets: Path,
        clock: Clock,
        *,
        first_epoch: int = 0,
        texts: Sequence[str] = (),
        on_event: Callable[[], None] = lambda: None,
        on_read: Callable[[tuple[Understood, ...]], None] = lambda _: None,
    ) -> None:
        """on_event: something is to be polled; from any thread. on_read: what a prompt is read as; from `poll`.

        Raises EngineRefused where it is known beforehand that it cannot start, and EngineDead.
        """
        self.spec = spec = with_meeting_place(spec)
        self.traits = traits_of(spec)
        self.stage = "starting"
        self.device = ""
        self.is_ready = False
        self.epoch = first_epoch
        self._clock = clock
        self._on_event, self._on_read = on_event, on_read
        self.reports: list[dict[str, Any]] = []  # how each of several ranks is doing, as pipeline.report_of has it
        self.loras: list[dict[str, Any]] = []  # what is merged, as Loras.lines has it
        frames, slots = self.traits.largest_chunk, slots_of(spec.ranks)
        memory, handle = create_memory(SharedFrames.size_bytes(spec.size_wh, frames, slots))
        self._frames = SharedFrames(memory, size_wh=spec.size_wh, frames=frames, slots=slots)
        self._ranks: list[RankProcess] = []
        try:
            self._ranks = start_ranks(spec, on_event=on_event)
            self._process = start_child("sdv2live.engine.worker", descriptors=[handle.descriptor])
        except UserError as error:
            self._frames.close()
            raise EngineRefused(one_line(error)) from error
        except (OSError, EngineDead) as error:
            for rank in self._ranks:
                rank.kill()
            self._frames.close()
            raise EngineDead(f"its process could not be started ({error})") from error
        finally:
            handle.close()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to_child, self._from_child = self._process.stdin, self._process.stdout
        self._inbox: queue.SimpleQueue[tuple[Message, bytes]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="engine messages", daemon=True)
        self._started_s = self._last_watch_s = clock.now_s()
        self._last_ping_s = 0.0
        self._first_limit_s = FIRST_CHUNK_LIMIT_S
        self._pings_unanswered = 0
        self._not_taken: set[int] = set()
        # Of them, those before which weights are read again or move: LoRAs of other strengths, and what LENGTHY names.
        self._lengthy: set[int] = set()
        self._silent_s = 0.0
        self._free = set(range(slots))
        self._slot_of: dict[int, int] = {}
        self._reserved: int | None = None
        self._chunks_in_epoch = 0
        self._resets_unanswered = 0
        self._flushes_unanswered = 0
        self._settings: ChunkSettings | None = None
        self._settings_version = 0
        self._chunk_times_s: deque[float] = deque(maxlen=32)
        self._results: list[ChunkResult] = []
        self._death = self._refusal = ""
        self._death_s = math.inf
        self._is_closed = False
        self._reader.start()
        self._send(
            Message.CONFIGURE,
            to_json(
                {
                    "spec": asdict(spec),
                    "assets": str(assets),
                    "epoch": first_epoch,
                    "memory": asdict(handle),
                    "texts": list(texts),
                }
            ),
        )

    @property
    def pid(self) -> int:
        """Of the process with the rings' other ends: the first rank's."""
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Of its processes: the first rank's, then the others' on this machine."""
        return [self._process.pid, *(rank.pid for rank in self._ranks)]

    @property
    def frames_wanted(self) -> int:
        return self.traits.chunk_frames if self._chunks_in_epoch else self.traits.first_chunk_frames

    @property
    def can_submit(self) -> bool:
        """One chunk is worked on, one may wait. (In `throughput` more are in flight; they hold only slots.)"""
        return self.is_ready and not self._resets_unanswered and len(self._not_taken) < 2 and len(self._free) > 1

    @property
    def is_idle(self) -> bool:
        """Whether a chunk handed over now would start at once."""
        return self.can_submit and not self._not_taken

    def warm_up(self) -> None:
        """Nothing to do: the child warms up before it says that it is ready."""

    def input_buffer(self) -> Pixels:
        """Where the next chunk's frames are to be written: [T, H, W, 3] of shared memory. Submit it next."""
        if self._reserved is None:
            self._reserved = self._free.pop()
        return self._frames.chunk_in(self._reserved)[: self.frames_wanted]

    def submit(self, chunk: Chunk, settings: ChunkSettings) -> None:
        """`chunk.frames` may be `input_buffer()` itself: then nothing is copied here."""
        if not self.can_submit:
            raise ChunkError("the engine takes no chunk now")
        target = self.input_buffer()
        if chunk.frames.__array_interface__["data"] != target.__array_interface__["data"]:
            target[:] = chunk.frames
        if settings != self._settings:
            before = self._settings.lora_strengths if self._settings is not None else self.spec.lora_strengths
            if self.spec.lora and settings.lora_strengths != before:
                self._lengthy.add(chunk.chunk_id)
            self._settings, self._settings_version = settings, (self._settings_version + 1) % 2**32
            self._send(Message.SETTINGS, self._settings_version.to_bytes(4, "little") + settings.to_json())
        assert self._reserved is not None
        slot, self._reserved = self._reserved, None
        self._slot_of[chunk.chunk_id] = slot
        self._not_taken.add(chunk.chunk_id)
        self._chunks_in_epoch += 1
        self._send(Message.SUBMIT, Submit(chunk.chunk_id, slot, len(target), self._settings_version).pack())

    def poll(self) -> list[ChunkResult]:
        """Finished chunks. Raises ChunkError (the engine lives) or EngineDead (replace it)."""
        failure = ""
        while not self._inbox.empty():
            failure = self._take(*self._inbox.get()) or failure
        self._watch()
        results, self._results = self._results, []
        if failure:
            raise ChunkError(failure)
        return results

    def request_flush(self) -> None:
        """Have what is in flight finished without waiting for another chunk; `poll` returns it when it is there."""
        if not self._flushes_unanswered:
            self._flushes_unanswered += 1
            self._send(Message.FLUSH)

    def flush(self) -> list[ChunkResult]:
        """Wait for what is in flight. Raises EngineDead if the child goes or hangs meanwhile."""
        self.request_flush()
        results: list[ChunkResult] = []
        while self._flushes_unanswered:
            results += self.poll()
            time.sleep(0.001)
        return results

    def reset(self) -> int:
        """Begin a new epoch; what is in flight will never be returned."""
        self.epoch += 1
        self._resets_unanswered += 1
        self._results.clear()
        self._chunks_in_epoch = 0
        self._send(Message.RESET)
        return self.epoch

    def close(self, *, grace_s: float = 2.0) -> None:
        """End the child: it goes by itself when its pipe closes; one that hangs is killed. Its memory is freed."""
        if self._is_closed:
            return
        self._is_closed = True
        end_child(self._process, grace_s=grace_s)
        self._reader.join()
        self._from_child.close()
        for rank in self._ranks:
            rank.close(grace_s=grace_s)
        self._frames.close()

    def kill(self) -> None:
        """End a child that hangs, and all other ranks, at once."""
        self._process.kill()
        for rank in self._ranks:
            rank.kill()
        self.close()

    def _send(self, kind: Message, payload: bytes = b"") -> None:
        try:
            write_message(self._to_child, kind, payload)
        except (BrokenPipeError, ValueError):
            # Gone, or closed by us: the reader notices and `poll` says so, with the reason it left.
            self._on_event()

    def _read(self) -> None:
        """The reader thread: every message to the session's queue; the end of the pipe is a message too."""
        reason = "its process ended"
        try:
            while (message := read_message(self._from_child)) is not None:
                self._inbox.put(message)
                self._on_event()
        except (BrokenMessage, ValueError) as error:
            reason = str(error)
        self._inbox.put((Message.DEAD, reason.encode()))
        self._on_event()

    def _take(self, kind: Message, payload: bytes) -> str:
        """Note one message; returns why a chunk failed, or ''."""
        self._pings_unanswered = 0
        match kind:
            case Message.STAGE:
                if not self.is_ready:  # what another rank said of its start may come late
                    self.stage = payload.decode()
                    self._started_s = self._clock.now_s()
            case Message.READY:
                ready = json.loads(payload)
                self.epoch, self.device = ready["epoch"], ready["device"]
                self._first_limit_s = max(FIRST_CHUNK_LIMIT_S, FIRST_CHUNK_WARM_UPS * ready["warm_up_s"])
                self.is_ready, self.stage = True, "ready"
            case Message.RESULT:
                self._take_result(Result.unpack(payload))
            case Message.TAKEN:
                chunk_id = int.from_bytes(payload, "little")
                self._not_taken.discard(chunk_id)
                if chunk_id in self._lengthy:  # says nothing about how long chunks take
                    self._lengthy.discard(chunk_id)
                else:
                    self._chunk_times_s.append(self._silent_s)
                self._silent_s = 0.0
            case Message.LENGTHY:
                self._lengthy.add(int.from_bytes(payload, "little"))
            case Message.FLUSHED:
                self._flushes_unanswered -= 1
                self._silent_s = 0.0
            case Message.EPOCH:
                self._resets_unanswered -= 1
                self._silent_s = 0.0
                if not self._resets_unanswered:
                    self._free |= set(self._slot_of.values())
                    self._slot_of.clear()
            case Message.CHUNK_FAILED:
                return payload.decode()
            case Message.REPORTS:
                self.reports = json.loads(payload)
            case Message.LORAS:
                self.loras = json.loads(payload)
            case Message.UNDERSTOOD:
                self._on_read(understood.from_json(payload))
            case Message.REFUSED:
                self._refusal = payload.decode()
            case Message.DEAD:
                self._death = self._death or payload.decode()
        return ""

    def _take_result(self, result: Result) -> None:
        if result.chunk_id not in self._slot_of:
            return
        slot = self._slot_of.pop(result.chunk_id)
        # Copied, so that the picture outlives the slot and the engine; half a millisecond at 832x480.
        frames = self._frames.chunk_out(slot)[: result.frames].copy()
        self._free.add(slot)
        if result.epoch == self.epoch and not self._resets_unanswered:
            self._results.append(
                ChunkResult(
                    result.chunk_id,
                    result.epoch,
                    frames,
                    result.is_finite,
                    result.noise_scale,
                    result.motion,
                    result.steps,
                    dict(zip(TIMINGS, result.stage_ms, strict=True)),
                )
            )

    def _watch(self) -> None:
        """Raise EngineDead for a child that is gone, stopped, or over its time.

        Silence is counted in steps of at most half a second between two calls, so that a machine that slept, or an
        app that was stopped and goes on, does not take its engine for dead.
        """
        now_s = self._clock.now_s()
        gap_s, self._last_watch_s = min(now_s - self._last_watch_s, LONGEST_COUNTED_GAP_S), now_s
        if not self.is_ready:
            if now_s - self._started_s > START_LIMIT_S:
                self._death = self._death or f"it was {self.stage} for {START_LIMIT_S:.0f} s"
        else:
            is_awaited = self._not_taken or self._resets_unanswered or self._flushes_unanswered
            self._silent_s += gap_s if is_awaited else 0.0
            limit_s = self._first_limit_s
            if len(self._chunk_times_s) >= KNOWN_CHUNKS:
                usual_s = CHUNK_LIMIT_MEDIANS * statistics.median(self._chunk_times_s)
                limit_s = max(MIN_CHUNK_LIMIT_S, usual_s, CHUNK_LIMIT_LONGEST * max(self._chunk_times_s))
            if self._lengthy:  # all weights are read again, perhaps from a disk, or cross a slow network
                limit_s = START_LIMIT_S
            if self._silent_s > limit_s:
                self._death = self._death or f"it gave no picture for {limit_s:.1f} s"
            if now_s - self._last_ping_s >= PING_PERIOD_S:
                self._last_ping_s = now_s
                self._pings_unanswered += 1
                if self._pings_unanswered > PINGS_UNANSWERED_LIMIT:
                    self._death = self._death or "it no longer answers"
                self._send(Message.PING)
        self._raise_if_dead()

    def _raise_if_dead(self) -> None:
        """Of several ranks the one that ended knows best why; the others notice, and say so at about the same time."""
        for rank in self._ranks:
            if rank.reason and rank.is_refusal:
                self._refusal = self._refusal or rank.reason
            elif rank.reason:
                self._death, self._death_s = rank.reason, -math.inf
        if self._death and self._ranks and not self._refusal:
            now_s = self._clock.now_s()
            self._death_s = min(self._death_s, now_s)
            if now_s - self._death_s < RANKS_REASON_S:
                return
        if self._refusal:
            raise EngineRefused(self._refusal)
        if self._death:
            raise EngineDead(self._death)
