"""When a sink frame is replaced, and by which: the rule alone, and its copy in a real stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sdv2live.engine.base import ChunkSettings
from sdv2live.engine.sinks import NEVER, SinkKeeper, likeness, look_of
from sdv2live.engine.window import Window
from sdv2live.frames import Pixels
from tests.engine.toy import run_toy, toy_engine

SIDE = 64


def picture(seed: int) -> Pixels:
    """Large blocks of colour; another seed is another scene."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((SIDE // 4, SIDE // 4, 1), np.uint8))


def chosen(window: Window, script: dict[int, dict], frames: int, threshold: float = NEVER) -> dict[int, int]:
    """Frame -> sink replaced; script: what is different at a frame."""
    keeper, found, scene = SinkKeeper(window), {}, 0
    for frame in range(frames):
        said = script.get(frame, {})
        scene = said.get("scene", scene)
        sink = keeper.choose(
            picture(scene),
            first=frame,
            newest=frame,
            outdated=said.get("outdated", False),
            requested=said.get("requested", False),
            threshold=threshold,
        )
        if sink is not None:
            found[frame] = sink
    return found


def test_nothing_is_replaced_without_a_reason_and_nothing_before_the_window_is_full() -> None:
    assert chosen(Window(6, 3), {}, 40) == {}
    # Asked for at frame 2, done once the window has filled, one sink a chunk, the oldest first.
    assert chosen(Window(6, 3), {2: {"outdated": True}}, 40) == {6: 0, 7: 1, 8: 2}


def test_a_new_prompt_replaces_every_sink_once() -> None:
    assert chosen(Window(6, 3), {20: {"outdated": True}}, 40) == {20: 0, 21: 1, 22: 2}
    assert chosen(Window(4, 1), {20: {"outdated": True}}, 40) == {20: 0}
    assert chosen(Window(4, 0), {20: {"outdated": True}}, 40) == {}


def test_a_fader_that_moves_the_prompt_all_the_time_leaves_each_sink_a_window_of_life() -> None:
    found = chosen(Window(6, 3), {frame: {"outdated": True} for frame in range(10, 60)}, 60)
    for sink in range(3):
        at = [frame for frame, which in found.items() if which == sink]
        assert len(at) > 3 and min(np.diff(at)) >= 6


def test_a_request_does_not_wait() -> None:
    script = {20: {"outdated": True}, 24: {"requested": True}}
    assert chosen(Window(6, 3), script, 40) == {20: 0, 21: 1, 22: 2, 24: 0, 25: 1, 26: 2}


def test_a_sink_that_is_unlike_the_picture_is_replaced_and_then_alike() -> None:
    assert likeness(look_of(picture(0)), look_of(picture(1))) < 0.6
    found = chosen(Window(6, 3), {20: {"scene": 1}}, 60, threshold=0.6)
    assert sorted(found.values()) == [0, 1, 2] and min(found) == 20
    assert chosen(Window(6, 3), {20: {"scene": 1}}, 60, threshold=NEVER) == {}


def test_likeness_does_not_look_at_brightness_and_knows_flat_pictures() -> None:
    scene = (picture(0) * 0.5).astype(np.uint8)
    assert likeness(look_of(scene), look_of(scene + 60)) == pytest.approx(1.0, abs=1e-3)
    assert likeness(look_of(scene), look_of(255 - scene)) == pytest.approx(-1.0, abs=1e-3)
    flat = np.full((SIDE, SIDE, 3), 7, np.uint8)
    assert likeness(look_of(flat), look_of(flat * 9)) == 1.0 and likeness(look_of(flat), look_of(scene)) == 0.0


@pytest.mark.parametrize("schedule", ["latency", "throughput"])
def test_a_replaced_sink_changes_the_stream_from_the_next_chunk_on(schedule: str) -> None:
    quiet = ChunkSettings(mix=(("one", 1.0),), steps=(800, 400), steps_count=2, noise_mode="fresh", schedule=schedule)
    asked = [replace(quiet, sink_requests=int(number >= 8)) for number in range(14)]
    window = Window(6, 3)
    steady, refreshed = (run_toy(toy_engine(window=window), settings) for settings in ([quiet] * 14, asked))
    assert all((steady[n] == refreshed[n]).all() for n in range(9)), "the chunk that writes the sink saw the old one"
    assert any((steady[n] != refreshed[n]).any() for n in range(9, 14))
