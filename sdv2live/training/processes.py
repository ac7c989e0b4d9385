"""Work spread over processes of its own. Owns: how they start and end; knows nothing of the work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from sdv2live.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


def as_done(work: Callable[[Job], Result], jobs: Sequence[Job], *, processes: int) -> Iterator[tuple[int, Result]]:
    """(place in jobs, result) of each job as it is done. Raises UserError when a process dies.

    work: a function of a module, as for any process. An interrupt and an error wait for the jobs that are being done.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), context, initializer=_start) as pool:
        try:
            places = {pool.submit(work, job): place for place, job in enumerate(jobs)}
            for done in as_completed(places):
                yield places[done], done.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that makes clips was killed, as a full drive or memory does: make room, or take fewer "
                "--processes; what it finished is kept, and the same command goes on."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start() -> None:
    """One thread for torch; Ctrl-C is for the parent to answer, and without a parent there is nothing to do."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
