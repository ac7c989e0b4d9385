"""The stages in several processes: rank 0 is a stream's `Pipe`, the others serve. Owns: what hops, which blocks move.

A micro-step goes round: rank 0 tells every rank its order, runs its own share and sends it on; each rank takes what
the one before sent, runs its share, sends on; what leaves the last rank comes back to rank 0, where a thread waits for
it. Rank 0 never waits for the others but in `take`. What a rank knows beforehand from the order is not in the message.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sdv2live.engine.balance import RankCosts, better_plan, reference_split
from sdv2live.engine.checkpoint import is_memory_full
from sdv2live.engine.codec import Form, Side
from sdv2live.engine.model.wan_transformer import Block
from sdv2live.engine.orders import NO_CHUNK, StepOrder
from sdv2live.engine.parcels import parcel_bytes
from sdv2live.engine.pipe import Landed, Picture
from sdv2live.engine.stage_clock import KEPT_TIMES
from sdv2live.engine.stage_runner import StageRunner
from sdv2live.engine.stages import StageMap
from sdv2live.engine.work_counts import Card
from sdv2live.engine.world import Pulse, Tell, World
from sdv2live.errors import RankLost, one_line

log = logging.getLogger(__name__)

LOOK_AFTER_CHUNKS = KEPT_TIMES  # between two looks at whether blocks should move
LOOK_PERIOD_S = 0.2  # how often a wait looks whether a rank was lost


class Parcels:
    """What hops where, by the order alone."""

    def __init__(self, runner: StageRunner, stages: StageMap) -> None:
        """runner: of any rank; what matters of it is the same in all."""
        self.stages = stages
        self._dim, self._dtype, self._channels = runner.dit.config.dim, runner.dtype, runner.dit.config.in_dim
        self._size_wh, self._cell = runner.size_wh, runner.codec.spatial_factor
        self._side = runner.codec.side_forms(runner.size_wh) if stages.decode_rank else ()

    def after(self, rank: int, order: StepOrder) -> tuple[Form, ...]:
        """What `rank` sends on: tokens, once they are embedded; latents; the side data of the chunk that enters."""
        width, height = (length // self._cell for length in self._size_wh)
        rows, frames = len(order.rows), order.rows[0].frames
        latents = Form((rows, frames, self._channels, height, width), torch.float32)
        if rank == self.stages.ranks - 1:
            whole = (self._size_wh[1], self._size_wh[0], 3)
            pictures = [
                form
                for decode in (order.decodes if self.stages.decode_rank else ())
                for form in (Form((decode.pictures, *whole), torch.uint8), Form((1,), torch.bool))
            ]
            return (latents, *pictures)
        tokens = Form((rows, frames * (height // 2) * (width // 2), self._dim), self._dtype)
        side = self._side if order.enters != NO_CHUNK else ()
        return (*((tokens,) if self.stages.part(rank).end_block else ()), latents, *side)

    def unpacked(self, rank: int, tensors: Sequence[Tensor]) -> tuple[Tensor | None, Tensor, Side]:
        """Tokens, latents and side data of what `rank` sent on."""
        rest = list(tensors)
        x = rest.pop(0) if self.stages.part(rank).end_block else None
        return x, rest[0], tuple(rest[1:])


class Pipeline:
    """Rank 0's end: the Pipe of a stream whose stages are on several ranks."""

    def __init__(
        self,
        world: World,
        runner: StageRunner,
        parcels: Parcels,
        *,
        say: Callable[[str], None] = lambda _: None,
        on_landed: Callable[[], None] = lambda: None,
        rule: str = "",
        cards: Sequence[Card] = (),
    ) -> None:
        """say: told how far the others' start is, from another thread. on_landed: called from another thread when
        something has come back. rule: of `rule_of_moves`. cards: of the ranks, where their links are known.
        Raises RankLost.
        """
        self.first, self.depth = runner, world.size
        self.decodes_here = parcels.stages.decode_rank == 0
        self._world, self._parcels, self._on_landed, self._cards = world, parcels, on_landed, cards
        self._sent: queue.SimpleQueue[StepOrder | None] = queue.SimpleQueue()
        self._landed: queue.SimpleQueue[Landed | str] = queue.SimpleQueue()
        self._newest: StepOrder | None = None
        self._under_way = 0
        self._rule = rule
        self._chunks_since_look = 0
        self._pulse = Pulse(world, on_lost=self._lose, on_stage=say)
        try:
            world.wait_until_ready(lambda: self._pulse.lost)
        except BaseException:
            self._pulse.stop()
            raise
        self._thread = threading.Thread(target=self._receive, name="rank results", daemon=True)
        self._thread.start()

    @property
    def stages(self) -> StageMap:
        return self._parcels.stages

    @property
    def reports(self) -> list[dict[str, Any]]:
        """What each rank said of itself last, in order; of those that have."""
        mine = report_of(self.first, self._world.rank)
        return [mine, *(self._pulse.reports[rank] for rank in sorted(self._pulse.reports))]

    def ensure_rows(self, rows: int) -> int:
        self._tell_all(Tell.ROWS, number=rows)
        there = _rows_had(self.first, rows)
        return min(there, *(self._answer_of(rank) for rank in range(1, self.depth)))

    def add_prompt(self, number: int, embedding: Tensor) -> None:
        self._tell_all(Tell.PROMPT, number=number, tensor=embedding)
        self.first.add_prompt(number, embedding)

    def set_strengths(self, strengths: tuple[float, ...]) -> None:
        assert not self._under_way, "weights change between micro-steps"
        self._tell_all(Tell.STRENGTHS, json.dumps(strengths).encode())
        self.first.set_strengths(strengths)
        for rank in range(1, self.depth):
            self._answer_of(rank)

    def send(self, order: StepOrder, latents: Tensor, side: Side) -> None:
        self._refuse_if_lost()
        self._tell_all(Tell.STEP, order.to_json().encode())
        x, latents = self.first.run(order, None, latents)
        forms = self._parcels.after(0, order)
        with _noticing():
            self._world.hop_out.send([*([x] if x is not None else []), latents, *side], forms)
        self._under_way += 1
        self._newest = order
        self._sent.put(order)

    def is_ready(self) -> bool:
        return not self._landed.empty()

    def take(self) -> Landed:
        """Raises RankLost where it will never come."""
        while True:
            try:
                landed = self._landed.get(timeout=LOOK_PERIOD_S)
            except queue.Empty:
                self._refuse_if_lost()
                continue
            if isinstance(landed, str):
                raise RankLost(landed)
            self._under_way -= 1
            return landed

    def reset(self) -> None:
        self._finish_what_is_under_way()
        self._tell_all(Tell.RESET)
        self.first.reset()

    def give_back_rows(self, kept: int) -> None:
        self._tell_all(Tell.KEEP_ROWS, number=kept)
        self.first.cache.give_back_rows(kept)

    def better_split(self) -> tuple[int, ...] | None:
        self._chunks_since_look += 1
        if not self._rule or self._chunks_since_look < LOOK_AFTER_CHUNKS:
            return None
        self._chunks_since_look = 0
        stages = self.stages
        costs = costs_of(self.reports, stages, self._hops_s())
        if costs is None:
            return None
        if self._rule == "reference":
            self._rule = ""
            dit_s = [count * cost.block_s for count, cost in zip(stages.counts, costs, strict=True)]
            total_s = [dit_s[0] + costs[0].encode_s, *dit_s[1:]]
            total_s[stages.decode_rank] += costs[stages.decode_rank].decode_s
            counts = reference_split(stages.counts, total_seconds=total_s, dit_seconds=dit_s)
            return counts if counts != stages.counts else None
        better = better_plan(stages, costs)
        return better.counts if better is not None else None

    def _hops_s(self) -> list[float]:
        """How long the newest micro-step's messages take, by the links as they were measured; else nothing."""
        if self._newest is None or not self._cards:
            return [0.0] * self.depth
        return [
            parcel_bytes(self._parcels.after(rank, self._newest)) / (card.link_gb_per_s * 1e9)
            for rank, card in enumerate(self._cards)
        ]

    def move_blocks(self, counts: tuple[int, ...]) -> None:
        """Give each rank so many blocks, with their weights and caches; nothing may be under way. Waits for all: how
        long a move takes says nothing about the micro-steps behind it."""
        assert not self._under_way, "blocks move between micro-steps"
        wanted = StageMap(counts, self.stages.decode_rank)
        self._tell_all(Tell.BLOCKS, ",".join(map(str, counts)).encode())
        with _noticing():
            move_blocks(self.first, self.stages, wanted, rank=0)
        self._parcels.stages = wanted
        for rank in range(1, self.depth):
            self._answer_of(rank)
        log.info("the blocks are split %s now", wanted)

    def close(self) -> None:
        """Tell the others that it is over. May be called twice."""
        if self._thread.is_alive():
            try:
                self._tell_all(Tell.END)
            except (RankLost, RuntimeError) as error:
                log.debug("a rank was gone before it was told to end: %s", error)
            self._sent.put(None)
            self._thread.join(timeout=5.0)
        self._pulse.stop()
        self._world.close()

    def _tell_all(self, what: Tell, payload: bytes = b"", *, number: int = 0, tensor: Tensor | None = None) -> None:
        self._refuse_if_lost()
        with _noticing():
            for line in self._world.orders.values():
                line.tell(what, payload, number, tensor)

    def _answer_of(self, rank: int) -> int:
        with _noticing():
            return self._world.orders[rank].heard()

    def _finish_what_is_under_way(self) -> None:
        while self._under_way:
            self.take()

    def _refuse_if_lost(self) -> None:
        if reason := self._pulse.lost:
            raise RankLost(reason)

    def _lose(self, sentence: str) -> None:
        self._landed.put(sentence)
        self._on_landed()

    def _receive(self) -> None:
        """The thread that waits for what comes back; on a GPU it waits on a stream of its own."""
        device = self.first.device
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        while (order := self._sent.get()) is not None:
            try:
                with torch.cuda.stream(stream):
                    tensors = self._world.hop_in.receive(self._parcels.after(self.depth - 1, order))
                if stream is not None:
                    stream.synchronize()  # this thread's own wait; the stream of the networks goes on
            except (dist.DistError, RuntimeError) as error:
                self._lose(self._world.failure() or f"a rank is gone ({one_line(error)[:120]})")
                return
            pictures: dict[int, Picture] = {}
            for index, decode in enumerate(order.decodes if not self.decodes_here else ()):
                pictures[decode.chunk] = tensors[1 + 2 * index], tensors[2 + 2 * index]
            self._landed.put(Landed(tensors[0], pictures))
            self._on_landed()


def rule_of_moves(split: str, runner: StageRunner, *, fp8: bool) -> str:
    """How blocks move when times are known: `auto` by the best plan, as often as it pays; `reference` once, as the
    reference does it; '' never, and why not is said where `split` leaves it open.

    runner: of rank 0. fp8: whether it is asked for; a rank whose device lacks it has weights of another form.
    """
    if split not in ("auto", "reference"):
        return ""
    why = ""
    if runner.cache.judges_sinks:
        why = "the rings of --profile reference are not moved"
    elif fp8:
        why = "the weights of --fp8 are not moved"
    elif runner.loras is not None and not runner.loras.may_move:
        why = "LoRAs on drawn weights are not moved"
    if not why:
        return split
    log.warning("the blocks stay split as they begin, since %s: --split gives another split.", why)
    return ""


class _noticing:
    """What torch.distributed raises where the other end is gone becomes RankLost."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and not is_memory_full(error)):
            raise RankLost(f"a rank is gone ({one_line(error)[:120]})") from error


@torch.inference_mode()
def serve(world: World, runner: StageRunner, parcels: Parcels) -> None:
    """Another rank's whole life once it is loaded: do as rank 0 says, until it says that it is over.

    Raises RankLost when a neighbour is gone.
    """
    orders, rank = world.orders[world.rank], world.rank
    clean: dict[int, Tensor] = {}  # denoised, and not decoded yet
    sides: dict[int, Side] = {}
    world.say_ready()
    while True:
        with _noticing():
            what, payload, number, tensor = orders.hear()
        match what:
            case Tell.STEP:
                order = StepOrder.from_json(payload.decode())
                with _noticing():
                    received = world.hop_in.receive(parcels.after(rank - 1, order))
                x, latents, side = parcels.unpacked(rank - 1, received)
                x, latents = runner.run(order, x, latents)
                out = [*([x] if x is not None else []), latents, *side]
                if runner.dit.part.finishes:
                    out = [latents]
                    if parcels.stages.decodes(rank):
                        if order.enters != NO_CHUNK:
                            sides[order.enters] = side
                        out += _decoded(runner, order, latents, clean, sides)
                with _noticing():
                    world.hop_out.send(out, parcels.after(rank, order))
            case Tell.PROMPT:
                assert tensor is not None
                runner.add_prompt(number, tensor)
            case Tell.ROWS:
                orders.answer(_rows_had(runner, number))
            case Tell.KEEP_ROWS:
                runner.cache.give_back_rows(number)
            case Tell.STRENGTHS:
                runner.set_strengths(tuple(json.loads(payload)))
                orders.answer(0)
            case Tell.RESET:
                clean.clear()
                sides.clear()
                runner.reset()
            case Tell.BLOCKS:
                wanted = StageMap(tuple(map(int, payload.decode().split(","))), parcels.stages.decode_rank)
                with _noticing():
                    move_blocks(runner, parcels.stages, wanted, rank=rank)
                parcels.stages = wanted
                orders.answer(0)
            case Tell.END:
                return


def _decoded(
    runner: StageRunner, order: StepOrder, latents: Tensor, clean: dict[int, Tensor], sides: dict[int, Side]
) -> list[Tensor]:
    """The pictures that the order asks for, each with whether it is finite."""
    for row, denoised in zip(order.rows, torch.split(latents, 1), strict=True):
        if row.next_timestep is None and row.chunk != NO_CHUNK:
            clean[row.chunk] = denoised
    out: list[Tensor] = []
    for decode in order.decodes:
        pixels, is_finite = runner.decode(decode, clean.pop(decode.chunk), sides.pop(decode.chunk, ()))
        runner.decoding.give(pixels, is_finite)
        out += [pixels, is_finite[None]]
    return out


def _rows_had(runner: StageRunner, rows: int) -> int:
    """Have so many rows if the memory has room; -> how many there are."""
    try:
        runner.cache.ensure_rows(rows)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_full(error):
            raise
    return runner.cache.rows


def move_blocks(runner: StageRunner, now: StageMap, wanted: StageMap, *, rank: int) -> None:
    """This rank's part in a new split: blocks that change hands go from rank to rank, weights, keys and values.

    Every rank goes through the blocks in the same order, and two of them are busy with each. Through the host's
    memory, over the group that all are in: it is seldom.
    """
    owners = [_owners(stages) for stages in (now, wanted)]
    for layer, (before, after) in enumerate(zip(*owners, strict=True)):
        if before == after:
            continue
        if rank == before:
            for tensor in runner.block_tensors(layer):
                dist.send(tensor.cpu().contiguous().flatten().view(torch.uint8), after)
            runner.drop_block(layer)
        elif rank == after:
            runner.add_block(layer, Block(runner.dit.config))
            for tensor in runner.block_tensors(layer):
                arrived = torch.empty(tensor.numel() * tensor.element_size(), dtype=torch.uint8)
                dist.recv(arrived, before)
                tensor.copy_(arrived.view(tensor.dtype).view(tensor.shape))
    runner.have_part(wanted.part(rank))


def _owners(stages: StageMap) -> list[int]:
    return [rank for rank, count in enumerate(stages.counts) for _ in range(count)]


def costs_of(reports: Sequence[dict[str, Any]], stages: StageMap, hops_s: Sequence[float]) -> list[RankCosts] | None:
    """What the ranks say of their work, as costs; None until every rank knows enough of the work that it has now.

    hops_s: of whole messages, which stay what they are while the decoder stays and rank 0 has blocks or none.
    """
    if len(reports) < stages.ranks or any(
        report["chunks"] < KEPT_TIMES or tuple(report["blocks"]) != edge
        for report, edge in zip(reports, stages.edges, strict=True)
    ):
        return None
    each_s = [
        report["blocks_ms"] / 1000 / count if count else 0.0
        for report, count in zip(reports, stages.counts, strict=True)
    ]
    least_s = min(taken_s for taken_s in each_s if taken_s) if any(each_s) else 1e-6
    return [
        RankCosts(taken_s or least_s, report["encode_ms"] / 1000, report["decode_ms"] / 1000, hop_s)
        for taken_s, report, hop_s in zip(each_s, reports, hops_s, strict=True)
    ]


def report_of(runner: StageRunner, rank: int) -> dict[str, Any]:
    """What a window and other programs may know of a rank: its device, its blocks, and how long its work takes."""
    part = runner.dit.part
    return {
        "rank": rank,
        "device": str(runner.device),
        "blocks": [part.first_block, part.end_block],
        "chunks": runner.meter.count("blocks"),
        "busy": round(runner.meter.busy_share(), 3),
        **{f"{work}_ms": runner.meter.median_ms(work) for work in ("encode", "blocks", "decode")},
    }
