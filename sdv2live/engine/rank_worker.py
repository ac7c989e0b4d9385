"""The process of a rank other than the first: joins, loads its part, serves. Owns: how that process ends.

Started by the app with pipes, or by hand on another machine (`sdv2live stage`). It ends when rank 0 is over or gone,
when a neighbour is, and when its standard input closes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NoReturn

from sdv2live.engine.base import EngineSpec
from sdv2live.engine.ipc import Message, read_message, write_message
from sdv2live.engine.worker import plain_reason
from sdv2live.errors import RankLost, UserError, one_line

log = logging.getLogger(__name__)


def rank_from(rank: int | None, master: str | None, environ: Mapping[str, str]) -> tuple[int, str, int]:
    """Rank, meeting place, and which rank of this machine: as they are given, else as torchrun says them.

    Raises UserError.
    """
    if rank is None:
        if not environ.get("RANK", "").isdecimal():
            raise UserError("which rank is this? Add --rank N, from 1 to the number of ranks less one.")
        rank = int(environ["RANK"])
    if rank < 1:
        raise UserError(f"--rank {rank}: the first rank is the run itself; the others are numbered from 1.")
    if master is None:
        if not environ.get("MASTER_ADDR") or not environ.get("MASTER_PORT"):
            raise UserError("where is the run? Add --master HOST:PORT, as the run was given it.")
        master = f"{environ['MASTER_ADDR']}:{environ['MASTER_PORT']}"
    local = environ.get("LOCAL_RANK", "")
    return rank, master, int(local) if local.isdecimal() else 0


def run_rank(
    rank: int,
    master: str,
    *,
    device_name: str = "auto",
    index: int = 0,
    gpus: int | None = None,
    threads: int = 0,
    say: Callable[[str], None] = log.info,
    on_lost: Callable[[str], None],
) -> None:
    """Until rank 0 says that it is over. device_name: auto, cpu or cuda:N. index: which rank of
    this machine it is; gpus: of how many, None where nobody here knows. on_lost: called from another thread.

    Raises UserError for what the user can put right and RankLost.
    """
    say("loading torch")
    import torch

    from sdv2live.engine.build import build_rank
    from sdv2live.engine.cards import agreed_precision, measured_cards
    from sdv2live.engine.compile import telling
    from sdv2live.engine.meeting_place import Address
    from sdv2live.engine.pipeline import Parcels, report_of, serve
    from sdv2live.engine.precision import (
        choose_dtype,
        device_of_local_rank,
        device_of_rank,
        threads_of_rank,
        work_on,
    )
    from sdv2live.engine.stages import StageMap
    from sdv2live.engine.world import Pulse, World

    device = device_of_local_rank(device_name, index) if gpus is None else device_of_rank(device_name, index, gpus)
    torch.set_num_threads(threads_of_rank(threads, gpus or index + 1))
    work_on(device)
    say("joining")
    world, plan = World.join(rank, Address.parse(master))
    spec = EngineSpec.from_fields(plan["spec"])
    world.connect(device)

    def say_to_all(stage: str) -> None:
        say(stage)
        world.say_stage(stage)

    pulse = Pulse(world, on_lost=on_lost)
    try:
        spec = replace(spec, precision=agreed_precision(world, spec.precision, device))
        if spec.split == "auto":
            say_to_all("measuring")
            measured_cards(world, device, choose_dtype(spec.precision, device))
        counts, decode_rank = world.posted("stages")
        stages = StageMap(tuple(counts), decode_rank)
        runner = build_rank(spec, stages, rank, device, first_epoch=plan["epoch"], say=say_to_all)
        pulse.report = lambda: report_of(runner, rank)
        say_to_all("ready")
        with telling(say_to_all):
            serve(world, runner, Parcels(runner, stages))
    except UserError as error:
        world.say_failed(one_line(error))
        raise
    except RankLost:
        raise
    except Exception as error:
        world.say_failed(plain_reason(error))
        raise
    finally:
        pulse.stop()
        world.close()


def main() -> None:
    """Take rank, meeting place and device from standard input; whatever libraries print goes to the log."""
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the app decides when this process ends, by closing the pipe
    first = read_message(sys.stdin.buffer)
    if first is None:
        os._exit(0)
    fields = json.loads(first[1])

    def say(stage: str) -> None:
        try:
            write_message(target, Message.STAGE, stage.encode())
        except BrokenPipeError:
            os._exit(0)

    def end(kind: Message, reason: str) -> NoReturn:
        try:
            write_message(target, kind, reason.encode())
        except BrokenPipeError:
            log.debug("nobody is left to be told: %s", reason)
        os._exit(3)

    def read_until_gone() -> None:
        """Whatever ends the pipe ends the process: the app owns it."""
        try:
            while read_message(sys.stdin.buffer) is not None:
                pass
        finally:
            os._exit(0)

    threading.Thread(target=read_until_gone, name="rank messages", daemon=True).start()
    try:
        run_rank(
            fields["rank"],
            fields["master"],
            device_name=fields["device"],
            index=fields["rank"],
            gpus=fields["gpus"],
            threads=fields["threads"],
            say=say,
            on_lost=lambda reason: end(Message.DEAD, reason),
        )
    except UserError as error:
        end(Message.REFUSED, one_line(error))
    except RankLost as error:
        end(Message.DEAD, one_line(error))
    except Exception as error:  # a process's top: told to the app, which replaces all ranks
        traceback.print_exc()
        end(Message.DEAD, plain_reason(error))
    os._exit(0)


if __name__ == "__main__":
    main()
