"""An engine over two processes inside a live run: ranks that die, hang, or never come."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

from sdv2live.engine import rank_process
from sdv2live.engine.child import start_child
from sdv2live.supervisor import State
from tests.faults.live import live_app, until


def test_a_rank_that_is_killed_takes_the_others_with_it_and_all_come_back() -> None:
    with live_app(engine__gpus=2, engine__threads=1, prompt__text="pencil drawing") as (app, watcher):
        for kill in range(2):
            engine = app.supervisor.engine
            assert engine is not None
            pids, generated = engine.pids, app.session.frames_generated
            assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
            os.kill(pids[kill % 2 - 1], signal.SIGKILL)
            until(lambda k=kill: app.supervisor.restarts == k + 1, "all are started again")
            assert watcher.newest.std() > 1, "the held picture or a card, never black"
            until(lambda g=generated: app.session.frames_generated > g + 4, "new pictures")
            assert not any(psutil.pid_exists(pid) for pid in pids), "replaced as one"
        splits = [((0, blocks), (blocks, 6)) for blocks in range(1, 6)]
        # Blocks may move meanwhile, and each tells of it in its own time.
        until(
            lambda: tuple((rank.first_block, rank.end_block) for rank in app.status().ranks) in splits,
            "both tell how they do",
        )
        until(
            lambda: app.status().ranks[0].encode_ms > 0 and app.status().ranks[1].decode_ms > 0, "and how long it takes"
        )
        assert app.registry.get("prompt.text") == "pencil drawing"
        pids = app.supervisor.engine_pids
    assert not any(psutil.pid_exists(pid) for pid in pids), "nothing is left behind"


def test_a_rank_that_hangs_is_replaced() -> None:
    with live_app(engine__gpus=2, engine__threads=1) as (app, _):
        until(lambda: app.session.frames_generated > 40, "the usual chunk time is known")
        pid = app.supervisor.engine_pids[1]
        os.kill(pid, signal.SIGSTOP)
        until(lambda: app.supervisor.restarts == 1, "a hang is noticed")
        assert not psutil.pid_exists(pid)
        generated = app.session.frames_generated
        until(lambda: app.session.frames_generated > generated, "new pictures")


def test_ranks_that_cannot_start_become_one_device_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends_at_once(module: str, **options: Any) -> Any:
        return start_child("sdv2live.no_such_module", **options)

    monkeypatch.setattr(rank_process, "start_child", ends_at_once)
    with live_app(engine__gpus=2, engine__threads=1) as (app, watcher):
        assert app.supervisor.restarts == 2 and app.supervisor.state is State.RUNNING
        assert watcher.newest.std() > 1
        (problem, *_) = app.status().problems
        assert problem.startswith("2 ranks could not go on (rank 1: its process ended): the engine is started on one")
        assert app.status().ranks == () and len(app.supervisor.engine_pids) == 1
        monkeypatch.undo()
        app.registry.set("engine.restart", 1, origin="test")
        until(lambda: len(app.supervisor.engine_pids) == 2, "all are tried again on request")
        generated = app.session.frames_generated
        until(lambda: app.session.frames_generated > generated + 4, "new pictures from both")
