"""The engine in its own process: the same picture as in this one, replaced when it dies or hangs, never an orphan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest

from sdv2live.clock import MonotonicClock
from sdv2live.engine.base import Chunk, ChunkSettings
from sdv2live.engine.build import build_engine
from sdv2live.engine.client import EngineClient
from sdv2live.errors import EngineDead
from sdv2live.paths import assets_dir
from sdv2live.supervisor import RestartPolicy, State
from tests.faults.live import SMALL, live_app, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX are needed")


def frames_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


def started() -> tuple[EngineClient, threading.Event]:
    event = threading.Event()
    client = EngineClient(SMALL, assets_dir(), MonotonicClock(), first_epoch=6, on_event=event.set)
    until(lambda: not client.poll() and client.is_ready, "the engine is ready")
    return client, event


def test_the_process_gives_the_same_picture_as_the_engine_itself() -> None:
    client, _ = started()
    inside = build_engine(SMALL, assets_dir(), first_epoch=client.epoch)
    settings = ChunkSettings(mix=(("pencil drawing", 1.0),), steps_count=2, noise_mode="fresh")
    try:
        for number in range(5):
            inside.submit(Chunk(number, frames_of(number)), settings)
            expected = inside.poll()[0]
            until(lambda: client.can_submit, "a free place")
            client.input_buffer()[:] = frames_of(number)
            client.submit(Chunk(number, client.input_buffer()), settings)
            results = []
            until(lambda found=results: bool(found.extend(client.poll()) or found), "a result")
            assert (results[0].chunk_id, results[0].epoch) == (number, expected.epoch)
            assert np.abs(results[0].frames.astype(int) - expected.frames.astype(int)).max() <= 1
            assert results[0].noise_scale == expected.noise_scale
    finally:
        client.close()


def test_what_is_in_flight_at_a_reset_never_comes_back_and_no_slot_is_lost() -> None:
    client, _ = started()
    try:
        for round_number in range(30):
            until(lambda: not client.poll() and client.can_submit, "a free place")
            client.submit(Chunk(1000 + round_number, frames_of(1)), ChunkSettings())
            epoch = client.reset()
        until(lambda: not client.poll() and client.can_submit, "a free place after the last reset")
        client.submit(Chunk(7, frames_of(2)), ChunkSettings())
        results = []
        until(lambda: bool(results.extend(client.poll()) or results), "a result")
        assert [(r.chunk_id, r.epoch) for r in results] == [(7, epoch)]
        assert len(client._free) == 10
    finally:
        client.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_death_is_reported(how: signal.Signals) -> None:
    client, event = started()
    try:
        event.clear()
        os.kill(client.pid, how)
        assert event.wait(10), "the session is woken"
        with pytest.raises(EngineDead, match="ended"):
            until(lambda: bool(client.poll()), "never")
    finally:
        client.kill()


def test_weights_that_do_not_fit_are_refused_with_a_sentence(tmp_path) -> None:
    (tmp_path / "pocket").mkdir()
    for path in (assets_dir() / "pocket").iterdir():
        if path.is_file():
            (tmp_path / "pocket" / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / "pocket" / "dit.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    client = EngineClient(SMALL, tmp_path, MonotonicClock())
    try:
        with pytest.raises(EngineDead, match=r"dit\.safetensors cannot be read"):
            until(lambda: bool(client.poll()), "never")
    finally:
        client.close()


def test_killed_ten_times_under_a_running_output() -> None:
    with live_app(prompt__text="pencil drawing") as (app, watcher):
        for kill in range(10):
            engine = app.supervisor.engine
            assert engine is not None
            generated = app.session.frames_generated
            os.kill(engine.pid, signal.SIGKILL)
            until(lambda k=kill: app.supervisor.restarts == k + 1, "the engine is started again")
            assert watcher.newest.std() > 1, "the held picture or a card, never black"
            written = len(watcher.ticks)
            until(lambda g=generated: app.session.frames_generated > g + 4, "new pictures")
            assert len(watcher.ticks) > written, "the output went on meanwhile"
            assert watcher.newest.std() > 1
        assert app.registry.get("prompt.text") == "pencil drawing"
        assert app.supervisor.state is State.RUNNING
        assert watcher.ticks == sorted(set(watcher.ticks))


def test_an_engine_that_hangs_is_replaced() -> None:
    with live_app() as (app, _):
        until(lambda: app.session.frames_generated > 40, "the usual chunk time is known")
        engine = app.supervisor.engine
        assert engine is not None
        pid = engine.pid
        os.kill(pid, signal.SIGSTOP)
        until(lambda: app.supervisor.restarts == 1, "a hang is noticed")
        assert not psutil.pid_exists(pid)
        generated = app.session.frames_generated
        until(lambda: app.session.frames_generated > generated, "new pictures")


def test_after_too_many_failures_it_is_given_up_and_a_reset_tries_again() -> None:
    policy = RestartPolicy(delays_s=(0.0,), most_failures=2, healthy_s=1e9)
    with live_app(policy=policy) as (app, watcher):
        for _ in range(2):
            until(lambda: app.supervisor.state is State.RUNNING, "it runs")
            os.kill(app.supervisor.engine.pid, signal.SIGKILL)  # type: ignore[union-attr]
            until(lambda: app.supervisor.state is not State.RUNNING, "its death is noticed")
        until(lambda: app.supervisor.state is State.FAILED, "given up")
        assert "not started again" in app.supervisor.stage
        written = len(watcher.ticks)
        until(lambda: len(watcher.ticks) > written + 5, "outputs go on")
        app.registry.set("stream.reset", 1, origin="test")
        until(lambda: app.supervisor.state is State.RUNNING, "tried again on request")


def test_the_engine_is_gone_after_its_parent_was_killed() -> None:
    command = ["live", "--headless", "--source", "pattern", "--output", "null", "--size", "64x64", "--osc-port", "0"]
    parent = subprocess.Popen([sys.executable, "-m", "sdv2live", *command], stderr=subprocess.DEVNULL)
    try:
        process = psutil.Process(parent.pid)
        until(lambda: bool(process.children()), "the engine is started")
        child = process.children()[0]
        parent.kill()
        parent.wait(10)
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the engine is gone", 10)
    finally:
        parent.kill()
        parent.wait(10)
