"""An engine over two processes inside a live run: ranks that die, hang, or never come."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from sdv2live.clock import FakeClock
from sdv2live.engine import client, rank_process
from sdv2live.engine.base import Chunk, ChunkResult, ChunkSettings, EngineSpec
from sdv2live.engine.child import start_child
from sdv2live.errors import EngineDead
from sdv2live.paths import assets_dir
from sdv2live.supervisor import State
from tests.faults import full_worker, moving_worker
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


def test_blocks_may_take_their_time_to_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real processes, and a clock that says how long they were silent."""
    monkeypatch.setattr(client, "start_child", lambda _, **options: start_child(moving_worker.__name__, **options))
    clock, results = FakeClock(), list[ChunkResult]()
    engine = client.EngineClient(
        EngineSpec("pocket", (64, 64), threads=1, device="cpu", gpus=2, split="3,3"), assets_dir(), clock
    )

    def is_idle() -> bool:
        results.extend(engine.poll())
        return engine.is_idle

    def goes_on(number: Iterator[int]) -> None:
        until(is_idle, "the chunk before is taken")
        frames = np.random.default_rng(0).integers(0, 256, (engine.frames_wanted, 64, 64, 3), np.uint8)
        engine.submit(Chunk(next(number), frames), ChunkSettings())

    try:
        numbers, process = itertools.count(), psutil.Process(engine.pid)
        while process.status() != psutil.STATUS_STOPPED:
            goes_on(numbers)
            until(lambda: is_idle() or process.status() == psutil.STATUS_STOPPED, "it is taken, or blocks move")
        until(lambda: not results.extend(engine.poll()) and bool(engine._lengthy), "the app is told before")
        for _ in range(8):
            clock.advance(0.5)  # a chunk as any other would be given up after 2 s
            results.extend(engine.poll())
        os.kill(engine.pid, signal.SIGCONT)
        while not engine.reports or engine.reports[0]["blocks"] != [0, moving_worker.MOVES_TO[0]]:
            goes_on(numbers)
        results.extend(engine.flush())
        assert [each.chunk_id for each in results] == list(range(next(numbers))) and not engine._lengthy
        with pytest.raises(EngineDead, match=r"it gave no picture for 2\.0 s"):
            os.kill(engine.pid, signal.SIGSTOP)
            goes_on(numbers)
            for _ in range(8):
                clock.advance(0.5)
                engine.poll()
            pytest.fail("a chunk as any other")
    finally:
        engine.kill()


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


def test_where_one_device_has_no_room_the_ranks_are_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two starts of both fail; then the engine on one device says that it does not fit, before it loads anything."""
    starts = itertools.count()

    def rank_starts(module: str, **options: Any) -> Any:
        return start_child("sdv2live.no_such_module" if next(starts) < 2 else module, **options)

    def engine_starts(module: str, **options: Any) -> Any:
        is_alone = next(counted) == 2
        return start_child(full_worker.__name__ if is_alone else module, **options)

    counted = itertools.count()
    monkeypatch.setattr(rank_process, "start_child", rank_starts)
    monkeypatch.setattr(client, "start_child", engine_starts)
    with live_app(engine__gpus=2, engine__threads=1) as (app, watcher):
        assert app.supervisor.restarts == 3 and app.supervisor.state is State.RUNNING
        assert len(app.supervisor.engine_pids) == 2 and watcher.newest.std() > 1
    assert f"one device cannot take over: {full_worker.REASON} All 2 ranks are tried again." in caplog.messages


def test_what_cannot_be_is_said_before_anything_is_started(tmp_path: Path) -> None:
    """The command: a sentence and nothing else, without torch and without numbers of what was never shown."""
    command = [sys.executable, "-X", "importtime", "-m", "sdv2live", "live", "--headless", "--gpus", "8"]
    env = {**os.environ, "PYTHONPATH": str(assets_dir().parent)}
    ran = subprocess.run([*command, "--osc-port", "0"], cwd=tmp_path, env=env, capture_output=True, text=True)
    said = [line for line in ran.stderr.splitlines() if not line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert ran.returncode == 2 and "numpy" in imported and "torch" not in imported
    assert said[-1].endswith("8 ranks are more than 6 blocks can be split over: take 6 or fewer.")
    assert not any("frames generated" in line or "torch" in line for line in said)
