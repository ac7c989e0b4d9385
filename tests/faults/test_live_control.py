"""Control while it runs, on one running app: OSC to picture within one chunk, bypass, freeze, pause, reset."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest
from pythonosc.udp_client import SimpleUDPClient

from sdv2live.app import LiveApp
from tests.faults.live import Watcher, live_app, until


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Running = tuple[LiveApp, Watcher]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with live_app(osc_port=free_port(), noise__smoothing=1.0) as both:
        yield both


@pytest.fixture
def osc(running: Running) -> Iterator[SimpleUDPClient]:
    server = running[0].osc
    assert server is not None
    client = SimpleUDPClient("127.0.0.1", server.port)
    yield client
    client._sock.close()


def test_osc_acts_on_the_next_chunk(running: Running, osc: SimpleUDPClient) -> None:
    app, _ = running
    client = osc
    for scale in (0.9, 0.3, 0.7):
        seen: list[int] = []
        end = app.registry.subscribe(lambda change, s=seen: s.append(app.session._next_chunk))
        client.send_message("/sdv2live/noise/min", 0.05)
        client.send_message("/sdv2live/noise/max", scale)
        client.send_message("/sdv2live/noise/min", scale)
        until(lambda s=seen: s and app.registry.get("noise.min") == app.registry.get("noise.max"), "the bounds")
        end()
        formed = seen[-1]  # the first chunk that is formed after the change
        scales: dict[int, float] = {}
        original = app.session._take

        def spy(result, kept=scales, take=original) -> None:
            kept[result.chunk_id] = result.noise_scale
            take(result)

        app.session._take = spy  # type: ignore[method-assign]
        until(lambda f=formed, s=scales: f + 1 in s, "the chunk after it")
        app.session._take = original  # type: ignore[method-assign]
        # The chunk that was being formed at that moment may go either way; the next one may not.
        assert abs(scales[formed + 1] - scale) < 1e-6


def test_filters_over_osc_act_before_and_after_the_effect(running: Running, osc: SimpleUDPClient) -> None:
    app, watcher = running
    osc.send_message("/sdv2live/prompt", "the picture as it is")
    until(lambda: app.registry.get("prompt.text") == "the picture as it is", "the prompt")
    until(lambda: float(watcher.newest.mean()) > 40, "a picture of the pattern")
    osc.send_message("/sdv2live/input/filters", "brightness:-1")
    until(lambda: float(watcher.newest.mean()) < 25, "a black picture goes to the engine")
    osc.send_message("/sdv2live/output/filters", "brightness:1")
    until(lambda: int(watcher.newest.min()) > 200, "the outputs get a white one")
    osc.send_message("/sdv2live/output/filters", "nonsense:1")
    osc.send_message("/sdv2live/input/filters", "")
    osc.send_message("/sdv2live/output/filters", "")
    until(lambda: 40 < float(watcher.newest.mean()) < 200, "as before")


def test_bad_messages_never_stop_the_stream(running: Running, osc: SimpleUDPClient) -> None:
    app, _ = running
    port, before = osc._port, app.registry.get("noise.max")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        bad_bundle = b"#bundle\0" + bytes(8) + b"\xff\xff\xff\xfc"
        for data in (b"", b"\xff" * 40, bad_bundle, b"/sdv2live/noise/max\0,f\0\0"):
            stranger.sendto(data, ("127.0.0.1", port))
    osc.send_message("/sdv2live/noise/max", float("nan"))
    osc.send_message("/sdv2live/prompt", "night")
    until(lambda: app.registry.get("prompt.text") == "night", "the good message after the bad ones")
    generated = app.session.frames_generated
    until(lambda: app.session.frames_generated > generated, "the stream goes on")
    assert app.registry.get("noise.max") == before and app.supervisor.restarts == 0


def test_freeze_holds_and_bypass_shows_the_source(running: Running) -> None:
    app, watcher = running
    app.registry.set("output.freeze", True, origin="test")
    until(lambda: app.registry.get("output.freeze") is True, "set")
    written = len(watcher.ticks)
    until(lambda: len(watcher.ticks) > written + 3, "ticks")
    held, ticks = watcher.newest, len(watcher.ticks)
    until(lambda: len(watcher.ticks) > ticks + 10, "more ticks")
    assert np.array_equal(watcher.newest, held)
    app.registry.set_many([("output.freeze", False), ("output.bypass", True)], origin="test")
    ticks = len(watcher.ticks)
    until(lambda: len(watcher.ticks) > ticks + 3, "more ticks")
    frame = app.session.newest_frame
    assert frame is not None
    shown = app.presenter._fitted(frame, app.registry.snapshot())
    assert np.abs(shown.astype(int) - watcher.newest.astype(int)).mean() < 12, "the pattern, perhaps a frame older"
    app.registry.set("output.bypass", False, origin="test")


def test_pause_discards_and_goes_on_with_new_frames(running: Running) -> None:
    app, watcher = running
    app.registry.set("stream.paused", True, origin="test")
    until(lambda: not app.session.has_unfinished and not app.presenter.has_waiting, "everything shown")
    generated, ticks = app.session.frames_generated, len(watcher.ticks)
    until(lambda: len(watcher.ticks) > ticks + 20, "ticks go on")
    assert app.session.frames_generated == generated
    app.registry.set("stream.paused", False, origin="test")
    until(lambda: app.session.frames_generated > generated, "new pictures")


def test_a_reset_begins_a_new_epoch_and_the_schedule_can_change(running: Running) -> None:
    app, _ = running
    app.registry.set("steps.count", 2, origin="test")
    engine = app.supervisor.engine
    assert engine is not None
    epoch = engine.epoch
    app.registry.set("stream.reset", 1, origin="test")
    until(lambda: engine.epoch == epoch + 1, "a new epoch")
    for schedule in ("throughput", "latency"):
        app.registry.set("schedule", schedule, origin="test")
        generated = app.session.frames_generated
        until(lambda g=generated: app.session.frames_generated > g + 12, "pictures")
    assert app.supervisor.restarts == 0 and app.supervisor.bad_chunks == 0
