"""The engine's own process. Owns: the loop that turns messages into engine calls, and how the process ends.

Two threads: the reader takes messages from standard input and answers pings even while the other one computes; the
main thread owns the engine. When the app is gone, standard input ends, and the process ends at once: no orphan.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sdv2live import understood
from sdv2live.engine.base import TIMINGS, Chunk, ChunkResult, ChunkSettings, EngineSpec
from sdv2live.engine.ipc import (
    MemoryHandle,
    Message,
    Result,
    SharedFrames,
    Submit,
    attach_memory,
    read_message,
    slots_of,
    to_json,
    write_message,
)
from sdv2live.engine.thread_governor import ThreadGovernor
from sdv2live.errors import ChunkError, RankLost, UserError, one_line

if TYPE_CHECKING:
    from sdv2live.engine.stream import StreamEngine

log = logging.getLogger(__name__)

REPORT_PERIOD_S = 1.0


class Link:
    """The two pipes to the app; writing is locked because both threads answer."""

    def __init__(self, source: IO[bytes], target: IO[bytes]) -> None:
        self._source, self._target = source, target
        self._lock = threading.Lock()
        self.inbox: queue.SimpleQueue[tuple[Message, bytes]] = queue.SimpleQueue()

    def send(self, kind: Message, payload: bytes = b"") -> None:
        try:
            with self._lock:
                write_message(self._target, kind, payload)
        except BrokenPipeError:
            os._exit(0)  # the app is gone; there is nobody left to tell

    def read_until_gone(self) -> None:
        """The reader thread's whole life. Whatever ends the pipe ends the process: the app owns it."""
        try:
            while (message := read_message(self._source)) is not None:
                if message[0] is Message.PING:
                    self.send(Message.PONG, message[1])
                else:
                    self.inbox.put(message)
        finally:
            os._exit(0)


class Worker:
    """Engine calls for messages, in order."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._engine: StreamEngine | None = None
        self._settings: dict[int, ChunkSettings] = {}
        self._slots: dict[int, int] = {}
        self._governor: ThreadGovernor | None = None
        self._reported_s = 0.0
        self._told_loras: list[dict[str, Any]] = []

    def configure(self, payload: bytes) -> None:
        fields = json.loads(payload)
        spec = EngineSpec.from_fields(fields["spec"])
        self._link.send(Message.STAGE, b"loading torch")
        import torch

        if spec.threads:
            torch.set_num_threads(spec.threads)
        from sdv2live.engine.build import build_engine
        from sdv2live.engine.precision import choose_device, device_name

        def say(stage: str) -> None:
            self._link.send(Message.STAGE, stage.encode())

        say("loading weights")
        engine = build_engine(
            spec,
            Path(fields["assets"]),
            first_epoch=fields["epoch"],
            say=say,
            on_landed=lambda: self._link.inbox.put((Message.LANDED, b"")),
            on_read=lambda entries: self._link.send(Message.UNDERSTOOD, understood.to_json(entries)),
        )
        say("warming up")
        started_s = time.monotonic()
        engine.warm_up(say)
        warm_up_s = time.monotonic() - started_s
        say("encoding the prompt")
        # The first start says what is wrong with its prompt; one that comes later has had pictures and is to come back.
        engine.prepare(fields["texts"], falls_back=fields["epoch"] > 0)
        self._frames = SharedFrames(
            attach_memory(MemoryHandle(**fields["memory"])),
            size_wh=spec.size_wh,
            frames=engine.traits.largest_chunk,
            slots=slots_of(spec.ranks),
        )
        epoch = engine.reset()
        self._engine = engine
        engine.on_lengthy = lambda chunk_id: self._link.send(Message.LENGTHY, chunk_id.to_bytes(8, "little"))
        self._tell_loras(engine)
        # What is compiled is compiled for a number of threads.
        is_free = not spec.threads and spec.ranks == 1 and not engine.pipe.first.compiles
        if is_free and choose_device(spec.device).type == "cpu":
            self._governor = ThreadGovernor(torch.get_num_threads(), torch.set_num_threads)
        self._link.send(
            Message.READY,
            to_json({"epoch": epoch, "device": device_name(choose_device(spec.device)), "warm_up_s": warm_up_s}),
        )

    def handle(self, kind: Message, payload: bytes) -> None:
        engine = self._engine
        assert engine is not None, "the app configures first"
        match kind:
            case Message.SETTINGS:
                version = int.from_bytes(payload[:4], "little")
                self._settings = {version: ChunkSettings.from_json(payload[4:])}
            case Message.SUBMIT:
                submit = Submit.unpack(payload)
                self._slots[submit.chunk_id] = submit.slot
                frames = self._frames.chunk_in(submit.slot)[: submit.frames]
                try:
                    engine.submit(Chunk(submit.chunk_id, frames), self._settings[submit.settings_version])
                    results = engine.poll()
                    self._send_results(results)
                    self._tell_loras(engine)
                    if self._governor is not None and results:
                        self._governor.adjust(time.monotonic(), results[-1].stage_ms["chunk"] / 1000)
                finally:
                    self._link.send(Message.TAKEN, submit.chunk_id.to_bytes(8, "little"))
            case Message.LANDED:
                self._send_results(engine.poll())
                self._report(engine)
            case Message.FLUSH:
                self._send_results(engine.flush())
                self._link.send(Message.FLUSHED)
            case Message.RESET:
                self._slots.clear()
                self._link.send(Message.EPOCH, engine.reset().to_bytes(8, "little"))

    def _send_results(self, results: list[ChunkResult]) -> None:
        for result in results:
            slot = self._slots.pop(result.chunk_id)
            self._frames.chunk_out(slot)[: len(result.frames)] = result.frames
            stage_ms = tuple(result.stage_ms[stage] for stage in TIMINGS)
            packed = Result(
                result.chunk_id,
                result.epoch,
                slot,
                len(result.frames),
                result.is_finite,
                result.steps,
                result.noise_scale,
                result.motion,
                stage_ms,  # type: ignore[arg-type]
            )
            self._link.send(Message.RESULT, packed.pack())

    def _tell_loras(self, engine: StreamEngine) -> None:
        """What is in the weights, where it is something else than before."""
        if (loras := engine.loras) != self._told_loras:
            self._told_loras = loras
            self._link.send(Message.LORAS, json.dumps(loras, allow_nan=False).encode())

    def _report(self, engine: StreamEngine) -> None:
        """Of several ranks, now and then, how each is doing."""
        now_s = time.monotonic()
        if now_s - self._reported_s >= REPORT_PERIOD_S and (reports := engine.reports):
            self._reported_s = now_s
            self._link.send(Message.REPORTS, json.dumps(reports, allow_nan=False).encode())

    def run(self) -> None:
        """Take messages for ever; the reader thread ends the process."""
        kind, payload = self._link.inbox.get()
        try:
            self.configure(payload)
        except UserError as error:
            self._die(Message.REFUSED, str(error))
        except Exception as error:  # a process's top: told to the app, which replaces this process
            traceback.print_exc()
            self._die(Message.DEAD, plain_reason(error))
        while True:
            kind, payload = self._link.inbox.get()
            try:
                self.handle(kind, payload)
            except Exception as error:
                traceback.print_exc()
                reason = plain_reason(error)
                if kind is not Message.SUBMIT or isinstance(error, RankLost):
                    # What the app waits for would never come: only a new process helps.
                    self._die(Message.DEAD, reason)
                self._link.send(Message.CHUNK_FAILED, reason.encode())

    def _die(self, kind: Message, reason: str) -> None:
        self._link.send(kind, reason.encode())
        os._exit(3)


def plain_reason(error: Exception) -> str:
    """Why a chunk failed, in words that help."""
    from sdv2live.engine.checkpoint import is_memory_full
    from sdv2live.engine.stream import MEMORY_IS_FULL

    if isinstance(error, ChunkError | UserError | RankLost):
        return one_line(error)
    if is_memory_full(error):
        return MEMORY_IS_FULL
    return f"{type(error).__name__}: {one_line(error)}"


def main() -> None:
    """Keep the real standard output for messages; whatever libraries print goes to the log with standard error."""
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Ctrl-C in a terminal reaches the whole group: the app decides when this process ends, by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = Link(sys.stdin.buffer, target)
    threading.Thread(target=link.read_until_gone, name="engine messages", daemon=True).start()
    Worker(link).run()


if __name__ == "__main__":
    main()
