"""The ranks of a pipeline and the lines between them. Owns: how they find each other, and what shows that one is gone.

Everything goes through torch.distributed: a TCPStore at rank 0 for what is said rarely (what to build, who is ready,
pulses, times), gloo for orders, and NCCL or gloo for what hops from rank to rank. No wait is without a limit. On one
machine every socket is on loopback.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from sdv2live.engine.codec import Form
from sdv2live.engine.meeting_place import Address, listen_at
from sdv2live.engine.parcels import parcel_bytes, views
from sdv2live.errors import RankLost, UserError, one_line

log = logging.getLogger(__name__)

JOIN_LIMIT_S = 120.0
STEP_LIMIT_S = 600.0  # a hop, beyond any micro-step; a live stream is watched more closely by its app
ORDER_LIMIT_S = 300.0
KEEP_ALIVE_S = 30.0  # an order line that is idle says something so often
PULSE_S = 1.0
LOST_AFTER_S = 20.0
MOST_ORDERS_UNDER_WAY = 256


class Tell(IntEnum):
    """What rank 0 tells the others."""

    STEP = 1
    PROMPT = 2
    ROWS = 3
    KEEP_ROWS = 4
    RESET = 5
    BLOCKS = 6
    NOTHING = 7
    END = 8
    STRENGTHS = 9


class World:
    """All ranks, as this one sees them. The lines are made by `connect`, when every rank is known."""

    def __init__(self, store: Store, rank: int, size: int, address: Address) -> None:
        self.store, self.rank, self.size, self.address = store, rank, size, address
        self.orders: dict[int, OrderLine] = {}

    @classmethod
    def host(cls, size: int, address: Address, plan: dict[str, Any]) -> World:
        """Rank 0's: listens at `address` and says what is to be built. Raises UserError for a place that cannot be."""
        listener = listen_at(address)
        limit = timedelta(seconds=JOIN_LIMIT_S)
        # The store takes the listening socket over: it would listen on every interface by itself.
        store = TCPStore(
            address.host,
            address.port,
            is_master=True,
            timeout=limit,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        world = cls(store, 0, size, address)
        world.post("plan", {**plan, "size": size})
        return world

    @classmethod
    def join(cls, rank: int, address: Address) -> tuple[World, dict[str, Any]]:
        """Another rank's, and what is to be built. Waits for rank 0; raises UserError."""
        try:
            store = _client(address, JOIN_LIMIT_S)
            plan: dict[str, Any] = json.loads(store.get("plan"))
        except (dist.DistError, RuntimeError) as error:
            raise UserError(
                f"rank {rank} found no rank 0 at {address} within {JOIN_LIMIT_S:.0f} s ({one_line(error)[:120]}): "
                "start that first, with the same --master."
            ) from None
        if not 0 < rank < plan["size"]:
            raise UserError(f"--rank {rank} is not of this world, whose ranks are 0 to {plan['size'] - 1}.")
        return cls(store, rank, plan["size"], address), plan

    def connect(self, device: torch.device) -> None:
        """Meet the others and open the lines. Raises RankLost for one that never joined."""
        if self.address.is_local and sys.platform != "win32":
            loopback = "lo0" if sys.platform == "darwin" else "lo"
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
        self.store.set(f"here/{self.rank}", "")
        uses_nccl = device.type == "cuda" and dist.is_nccl_available()
        if device.type == "cuda" and not uses_nccl:
            log.warning("NCCL is missing from this torch: pictures go from GPU to GPU through the host, slower.")
        self.store.set(f"nccl/{self.rank}", str(int(uses_nccl)))
        try:
            for rank in range(self.size):
                self.store.wait([f"nccl/{rank}"], timedelta(seconds=JOIN_LIMIT_S))
            # One kind of line for all: it takes two ends.
            uses_nccl = all(self.store.get(f"nccl/{rank}") == b"1" for rank in range(self.size))
            limit = timedelta(seconds=JOIN_LIMIT_S)
            store = PrefixStore("ranks", self.store)
            dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=limit)
        except (dist.DistError, RuntimeError) as error:
            raise RankLost(self._who_is_missing(error)) from None
        step, order = timedelta(seconds=STEP_LIMIT_S), timedelta(seconds=ORDER_LIMIT_S)
        backend = "nccl" if uses_nccl else "gloo"
        # Every rank makes every group, in the same order, also those that it is not in.
        for sender in range(self.size):
            receiver = (sender + 1) % self.size
            group = dist.new_group(sorted((sender, receiver)), timeout=step, backend=backend)
            if self.rank == sender:
                self.hop_out = Hop(group, receiver, device, via_host=not uses_nccl)
            if self.rank == receiver:
                self.hop_in = Hop(group, sender, device, via_host=not uses_nccl)
        for rank in range(1, self.size):
            group = dist.new_group([0, rank], timeout=order, backend="gloo")
            if self.rank in (0, rank):
                self.orders[rank] = OrderLine(group, rank if self.rank == 0 else 0)

    def _who_is_missing(self, error: Exception) -> str:
        missing = [rank for rank in range(self.size) if not self.store.check([f"here/{rank}"])]
        if not missing:
            return f"the ranks could not be connected ({one_line(error)[:160]})"
        who = f"rank {missing[0]}" if len(missing) == 1 else f"ranks {', '.join(map(str, missing))}"
        return f"{who} of {self.size} did not join at {self.address} within {JOIN_LIMIT_S:.0f} s"

    def post(self, key: str, value: Any) -> None:
        """Say something to whoever asks for it."""
        self.store.set(key, json.dumps(value, allow_nan=False))

    def posted(self, key: str) -> Any:
        """What a rank has posted; waits for it. Raises RankLost where it does not come."""
        until_s = time.monotonic() + JOIN_LIMIT_S
        try:
            while not self.store.check([key]):
                if reason := self.failure():
                    raise RankLost(reason)
                if time.monotonic() > until_s:
                    raise RankLost(f"nobody said {key!r} within {JOIN_LIMIT_S:.0f} s, so a rank stands still")
                time.sleep(0.02)
            return json.loads(self.store.get(key))
        except (dist.DistError, RuntimeError) as error:
            raise RankLost(f"rank 0 is gone ({one_line(error)[:120]})") from None

    def say_stage(self, words: str) -> None:
        """Tell rank 0 how far this rank's start has come."""
        self.store.set(f"stage/{self.rank}", words)

    def say_ready(self) -> None:
        self.store.set(f"ready/{self.rank}", "")

    def say_failed(self, sentence: str) -> None:
        """Tell rank 0, as well as it can be told, why this rank cannot go on."""
        self.store.set(f"failed/{self.rank}", sentence)

    def failure(self) -> str:
        """What another rank said last, or ''."""
        for rank in range(1, self.size):
            if self.store.check([f"failed/{rank}"]):
                return f"rank {rank}: {self.store.get(f'failed/{rank}').decode()}"
        return ""

    def wait_until_ready(self, lost: Callable[[], str]) -> None:
        """Until every rank has loaded its part. Raises RankLost; `lost` says which is gone, or ''."""
        for rank in range(1, self.size):
            while not self.store.check([f"ready/{rank}"]):
                if reason := self.failure() or lost():
                    raise RankLost(reason)
                time.sleep(0.02)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def _client(address: Address, limit_s: float) -> Store:
    limit = timedelta(seconds=limit_s)
    return TCPStore(address.host, address.port, is_master=False, timeout=limit)


class Hop:
    """One direction between two neighbours: all of a micro-step in one packed message. Buffers are used again.

    On a GPU messages travel on a stream of their own, beside the networks; events order the two, and no host waits.
    via_host: the line carries host memory, though the tensors may be a GPU's.
    """

    def __init__(self, group: dist.ProcessGroup, peer: int, device: torch.device, *, via_host: bool) -> None:
        self._group, self._peer, self._device = group, peer, device
        self._line = torch.device("cpu") if via_host else device
        self._stream: torch.cuda.Stream | None = None
        if self._line.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: dict[tuple[Form, ...], deque[tuple[Tensor, dist.Work | None]]] = {}

    def send(self, tensors: Sequence[Tensor], forms: tuple[Form, ...]) -> None:
        """Begin to send; returns once the tensors are copied into the message, or on their way into it."""
        ring = self._buffers.setdefault(forms, deque())
        if len(ring) < 2:
            buffer = torch.empty(parcel_bytes(forms), dtype=torch.uint8, device=self._line)
        else:
            buffer, work = ring.popleft()
            if work is not None:
                work.wait()  # on a GPU it is the stream that waits
        for view, tensor in zip(views(buffer, forms), tensors, strict=True):
            view.copy_(tensor)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            ring.append((buffer, dist.isend(buffer, self._peer, group=self._group)))

    def receive(self, forms: tuple[Form, ...]) -> list[Tensor]:
        """The next message's tensors, in memory of their own. The host waits for it, or on a GPU the current stream."""
        with torch.cuda.stream(self._stream):
            buffer = torch.empty(parcel_bytes(forms), dtype=torch.uint8, device=self._line)
            work = dist.irecv(buffer, self._peer, group=self._group)
            assert work is not None
            work.wait()
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            buffer.record_stream(current)
        return views(buffer.to(self._device), forms)


class OrderLine:
    """From rank 0 to one other rank: small messages that never make rank 0 wait, and now and then an answer."""

    def __init__(self, group: dist.ProcessGroup, peer: int) -> None:
        self._group, self._peer = group, peer
        self._under_way: deque[tuple[dist.Work | None, Tensor]] = deque()
        self._lock = threading.Lock()  # the pulse tells something too
        self.last_s = time.monotonic()

    def tell(self, what: Tell, payload: bytes = b"", number: int = 0, tensor: Tensor | None = None) -> None:
        """payload: text; or `tensor`, float32 on the host, of at most three axes."""
        shape = list(tensor.shape) if tensor is not None else []
        parts = [torch.tensor([what, len(payload), number, *shape, *[-1] * (3 - len(shape))], dtype=torch.int64)]
        if payload:
            parts.append(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
        if tensor is not None:
            parts.append(tensor.float().contiguous().clone())
        with self._lock:
            self.last_s = time.monotonic()
            for part in parts:
                if len(self._under_way) >= MOST_ORDERS_UNDER_WAY:
                    work, _ = self._under_way.popleft()
                    if work is not None:
                        work.wait()
                self._under_way.append((dist.isend(part, self._peer, group=self._group), part))

    def hear(self) -> tuple[Tell, bytes, int, Tensor | None]:
        """The next order; waits for it."""
        head = torch.empty(6, dtype=torch.int64)
        dist.recv(head, self._peer, group=self._group)
        what, length, number, *axes = head.tolist()
        payload, tensor = torch.empty(length, dtype=torch.uint8), None
        if length:
            dist.recv(payload, self._peer, group=self._group)
        if shape := [axis for axis in axes if axis >= 0]:
            tensor = torch.empty(shape)
            dist.recv(tensor, self._peer, group=self._group)
        return Tell(what), payload.numpy().tobytes(), number, tensor

    def answer(self, number: int) -> None:
        dist.send(torch.tensor([number]), self._peer, group=self._group)

    def heard(self) -> int:
        """The answer to the newest question; waits for it."""
        number = torch.empty(1, dtype=torch.int64)
        dist.recv(number, self._peer, group=self._group)
        return int(number)


class Pulse:
    """A thread that says that this rank lives, and notices when another one no longer does.

    It begins when the ranks are connected, so that one that dies while it loads is noticed too. on_lost: called once,
    from the thread, with a sentence; on_stage: in rank 0, with what another one says of its start. report: what rank 0
    may know of this rank, as JSON; there is one when it has loaded.
    """

    def __init__(
        self, world: World, *, on_lost: Callable[[str], None], on_stage: Callable[[str], None] = lambda _: None
    ) -> None:
        self._world, self._on_lost, self._on_stage = world, on_lost, on_stage
        self.report: Callable[[], dict[str, Any]] | None = None
        self._ended = threading.Event()
        self.reports: dict[int, dict[str, Any]] = {}
        self.lost = ""
        self._thread = threading.Thread(target=self._run, name="rank pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=2 * PULSE_S)

    def _run(self) -> None:
        try:
            # A connection of its own: a call on the other one may wait.
            store = _client(self._world.address, LOST_AFTER_S)
            if self._world.rank:
                self._beat(store)
            else:
                self._listen(store)
        except (dist.DistError, RuntimeError) as error:
            if not self._ended.is_set():
                self._lose(f"rank 0 is gone ({one_line(error)[:120]})" if self._world.rank else one_line(error))

    def _lose(self, sentence: str) -> None:
        self.lost = sentence
        self._on_lost(sentence)

    def _beat(self, store: Store) -> None:
        while True:
            store.add(f"pulse/{self._world.rank}", 1)
            if self.report is not None:
                store.set(f"report/{self._world.rank}", json.dumps(self.report(), allow_nan=False))
            if self._ended.wait(PULSE_S):
                return

    def _listen(self, store: Store) -> None:
        now_s = time.monotonic()
        heard = {rank: (-1, now_s) for rank in range(1, self._world.size)}
        watched_s = now_s
        stages: dict[int, str] = {}
        while not self._ended.wait(PULSE_S):
            now_s = time.monotonic()
            if now_s - watched_s > LOST_AFTER_S / 2:  # it was this process that stood still
                heard = {rank: (count, now_s) for rank, (count, _) in heard.items()}
            watched_s = now_s
            for rank, (count, since_s) in heard.items():
                new = store.add(f"pulse/{rank}", 0)
                if new != count:
                    heard[rank] = (new, now_s)
                elif now_s - since_s > LOST_AFTER_S:
                    return self._lose(f"rank {rank} no longer answers")
                if store.check([f"stage/{rank}"]) and (words := store.get(f"stage/{rank}").decode()) != stages.get(
                    rank
                ):
                    stages[rank] = words
                    self._on_stage(f"rank {rank}: {words}")
                if store.check([f"report/{rank}"]):
                    self.reports[rank] = json.loads(store.get(f"report/{rank}"))
            for line in self._world.orders.values():
                if now_s - line.last_s > KEEP_ALIVE_S:
                    line.tell(Tell.NOTHING)
        return None
