"""The engine's process, in which blocks move once, and which stops itself there: test_ranks.py lets it go on."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

from sdv2live.engine import pipeline, worker

CHUNKS_BEFORE = 8  # of the warm-up and of the stream
MOVES_TO = (2, 4)


def main() -> None:
    asked, moves = itertools.count(), pipeline.move_blocks

    def stop_and_move(*what: Any, **rank: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        moves(*what, **rank)

    pipeline.move_blocks = stop_and_move
    pipeline.Pipeline.better_split = lambda _: (  # type: ignore[method-assign]
        MOVES_TO if next(asked) == CHUNKS_BEFORE else None
    )
    worker.main()
