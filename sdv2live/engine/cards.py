"""What the cards and links of a ring can do, found out when the ranks have met, before anything is loaded.

Owns: which number format all of them take, how fast they are, and what is said where they differ. Every rank runs each
of this at the same time.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from sdv2live.engine.ceilings import measure_ceilings
from sdv2live.engine.codec import Form
from sdv2live.engine.precision import choose_dtype, common_format, device_name, formats_of
from sdv2live.engine.stages import StageMap
from sdv2live.engine.work_counts import Card
from sdv2live.engine.world import World
from sdv2live.errors import RankLost, one_line

log = logging.getLogger(__name__)

TRIES = 3
LINK_FORMS = (Form((4 * 2**20,), torch.uint8),)  # about as much as hops in a stream
LINK_MESSAGES = 3
UNEQUAL = 1.5  # worth a word; also, times of processes that share cores tremble by less


def agreed_precision(world: World, wanted: str, device: torch.device) -> str:
    """The number format of all ranks, by name: the one that is wanted, or for `auto` one that every device is made for.

    Rank 0 says which device would have another one alone. Raises UserError for one that this device cannot have, and
    RankLost.
    """
    if wanted != "auto":
        choose_dtype(wanted, device)
        return wanted
    world.post(f"formats/{world.rank}", [device_name(device), *formats_of(device)])
    said = [world.posted(f"formats/{rank}") for rank in range(world.size)]
    taken = common_format([formats for _, *formats in said])
    if world.rank == 0 and (word := word_on_formats(said, taken)):
        log.warning("%s", word)
    return taken


def word_on_formats(said: Sequence[Sequence[str]], taken: str) -> str:
    """A sentence where a device would compute in another number format than the one `taken` by all, '' else.

    said: of each rank the name of its device and the formats that it is made for, the fastest first.
    """
    others = [
        f"rank {rank} ({name}) alone would take {formats[0]}"
        for rank, (name, *formats) in enumerate(said)
        if formats[0] != taken
    ]
    if not others:
        return ""
    return (
        f"all ranks compute in {taken}, the fastest number format that each of their devices is made for: "
        f"{', '.join(others)}. --precision asks for another one."
    )


def measured_cards(world: World, device: torch.device, dtype: torch.dtype) -> list[Card]:
    """At rank 0 the cards of all ranks, in their order; elsewhere none. dtype: of all of them. Raises RankLost."""
    ceilings = measure_ceilings(device, dtype, tries=TRIES)
    try:
        link_gb_per_s = _measured_link(world, device)
    except (dist.DistError, RuntimeError) as error:
        raise RankLost(world.failure() or f"a rank is gone while links are timed ({one_line(error)[:120]})") from error
    world.post(f"card/{world.rank}", {"name": device_name(device), "link_gb_per_s": link_gb_per_s, **ceilings})
    if world.rank:
        return []
    said = [world.posted(f"card/{rank}") for rank in range(world.size)]
    return [
        Card(
            each["name"],
            product_tflop_per_s=each["matmul_gflop_per_s"] / 1000,
            convolution_tflop_per_s=each["conv_gflop_per_s"] / 1000,
            memory_gb_per_s=each["copy_gb_per_s"],
            link_gb_per_s=said[(rank + 1) % world.size]["link_gb_per_s"],
        )
        for rank, each in enumerate(said)
    ]


def _measured_link(world: World, device: torch.device) -> float:
    """How fast the link into this rank is, GB/s: one link after another round the ring, as a micro-step goes."""

    def send() -> None:
        for _ in range(1 + LINK_MESSAGES):
            world.hop_out.send([torch.zeros(LINK_FORMS[0].shape, dtype=torch.uint8, device=device)], LINK_FORMS)

    def arrived_s() -> float:
        world.hop_in.receive(LINK_FORMS)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    if world.rank == 0:
        send()
    started_s = arrived_s()  # the first message also opens the line, and waits for the links before
    ended_s = [arrived_s() for _ in range(LINK_MESSAGES)][-1]
    if world.rank:
        send()
    return LINK_MESSAGES * LINK_FORMS[0].bytes / (ended_s - started_s) / 1e9


def word_on_unequal(cards: Sequence[Card], stages: StageMap) -> str:
    """A sentence where one card is much slower than another, '' else."""
    fast, slow = max(cards, key=_speed), min(cards, key=_speed)
    if _speed(fast) < UNEQUAL * _speed(slow):
        return ""
    named = [f"rank {cards.index(card)} ({card.name})" for card in (slow, fast)]
    return (
        f"the cards differ: {named[0]} works {_speed(fast) / _speed(slow):.1f} times slower than {named[1]}; the split "
        f"begins as {stages} (blocks of each rank, and which one decodes). Give another one with --split."
    )


def _speed(card: Card) -> float:
    """At products and convolutions alike."""
    return math.sqrt(card.product_tflop_per_s * card.convolution_tflop_per_s)
