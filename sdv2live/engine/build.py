"""From an EngineSpec to an engine in this process, or to one rank of it. The one place that knows every builder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from sdv2live.engine.balance import best_plan
from sdv2live.engine.base import EngineSpec
from sdv2live.engine.host_memory import keep_freed_memory
from sdv2live.engine.model.wan_transformer import POCKET
from sdv2live.engine.pipe import LocalPipe, Pipe
from sdv2live.engine.pocket import build_pocket, pocket_stage
from sdv2live.engine.precision import choose_dtype, device_of_rank, threads_of_rank, work_on
from sdv2live.engine.stage_runner import StageRunner
from sdv2live.engine.stages import StageMap, split_to_begin_with
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.work_counts import DITS, Card, costs_on, work_of
from sdv2live.paths import assets_dir
from sdv2live.understood import Understood

log = logging.getLogger(__name__)

Say = Callable[[str], None]
OnRead = Callable[[tuple[Understood, ...]], None]


def build_engine(
    spec: EngineSpec,
    assets: Path,
    *,
    first_epoch: int = 0,
    say: Say = lambda _: None,
    on_landed: Callable[[], None] = lambda: None,
    on_read: OnRead = lambda _: None,
) -> StreamEngine:
    """Loaded, not warm; sets the process up for it. assets: holds the pocket engine's weights in a folder of its name.

    say: told what is being loaded. Of several ranks this is the first; the others are started by somebody else.
    on_landed: called from another thread when something comes back from them, or from the device. on_read: told what a
    prompt was understood as, by an engine that knows. Raises UserError and RankLost.
    """
    device = device_of_rank(spec.device, 0, spec.gpus)
    work_on(device)
    if device.type == "cpu":
        keep_freed_memory()
    if spec.ranks == 1:
        if spec.master:
            log.warning(
                "--master %s is not used, since there is one rank alone: --world says how many there are on all "
                "machines.",
                spec.master,
            )
        stages = StageMap.on_one(_blocks(spec))
        return _build(spec, assets, device, first_epoch, say, stages, _alone, on_landed, on_read)
    from sdv2live.engine.cards import agreed_precision, measured_cards, word_on_unequal
    from sdv2live.engine.meeting_place import Address
    from sdv2live.engine.pipeline import Parcels, Pipeline, rule_of_moves
    from sdv2live.engine.world import World

    stages = first_split(spec, _blocks(spec))
    torch.set_num_threads(threads_of_rank(spec.threads, spec.gpus))
    world = World.host(spec.ranks, Address.parse(spec.master), {"spec": asdict(spec), "epoch": first_epoch})
    try:
        say(f"waiting for {spec.ranks - 1} more ranks at {world.address}")
        world.connect(device)
        spec = replace(spec, precision=agreed_precision(world, spec.precision, device))
        cards: list[Card] = []
        if spec.split == "auto":
            say("measuring the ranks")
            cards = measured_cards(world, device, choose_dtype(spec.precision, device))
            stages = first_split(spec, _blocks(spec), cards)
            if word := word_on_unequal(cards, stages):
                log.warning("%s", word)
        log.info("the blocks are split %s", stages)
        world.post("stages", [stages.counts, stages.decode_rank])

        def pipe_of(runner: StageRunner) -> Pipe:
            say("waiting for the other ranks")
            rule = rule_of_moves(spec.split, runner, fp8=spec.fp8)
            parcels = Parcels(runner, stages)
            return Pipeline(world, runner, parcels, say=say, on_landed=on_landed, rule=rule, cards=cards)

        return _build(spec, assets, device, first_epoch, say, stages, pipe_of, on_landed, on_read)
    except BaseException:
        world.close()
        raise


def first_split(spec: EngineSpec, blocks: int, cards: Sequence[Card] = ()) -> StageMap:
    """How the ranks begin, before a chunk is measured. Raises UserError.

    `auto`: as it is best for these cards by the counted work of the engine; even where one of the two is not known.
    """
    begun = split_to_begin_with(spec.split, blocks, spec.ranks)
    if spec.split == "auto" and cards and spec.name in DITS:
        work = work_of(spec.name, spec.size_wh, steps=spec.steps_count, vae=spec.vae)
        return best_plan(costs_on(cards, work), blocks)
    return begun


def build_rank(
    spec: EngineSpec, stages: StageMap, rank: int, device: torch.device, *, first_epoch: int = 0, say: Say
) -> StageRunner:
    """What a rank other than the first runs, loaded. Raises UserError."""
    if device.type == "cpu":
        keep_freed_memory()
    if spec.name == "pocket":
        say("loading weights")
        return pocket_stage(spec, assets_dir() / spec.name, stages, rank, device)
    from sdv2live.engine.wan import wan_stage

    return wan_stage(spec, stages, rank, device, first_epoch=first_epoch, say=say)


def _alone(runner: StageRunner) -> Pipe:
    return LocalPipe([runner])


def _build(
    spec: EngineSpec,
    assets: Path,
    device: torch.device,
    first_epoch: int,
    say: Say,
    stages: StageMap,
    pipe_of: Callable[[StageRunner], Pipe],
    on_landed: Callable[[], None],
    on_read: OnRead,
) -> StreamEngine:
    if spec.name == "pocket":
        if spec.lora:
            log.warning("LoRAs are not used, since they are for the Wan engines: take --engine wan-1.3b or wan-14b.")
        return build_pocket(
            spec,
            assets / spec.name,
            first_epoch=first_epoch,
            stages=stages,
            pipe_of=pipe_of,
            device=device,
            on_landed=on_landed,
            on_read=on_read,
        )
    from sdv2live.engine.wan import build_wan

    return build_wan(
        spec, first_epoch=first_epoch, say=say, stages=stages, pipe_of=pipe_of, device=device, on_landed=on_landed
    )


def _blocks(spec: EngineSpec) -> int:
    if spec.name == "pocket":
        return POCKET.num_layers
    from sdv2live.engine.wan import wan_blocks

    return wan_blocks(spec)
