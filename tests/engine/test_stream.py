"""One algorithm, two schedules: latency and throughput give the same picture whatever changes meanwhile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sdv2live.engine.base import Chunk, ChunkSettings
from sdv2live.engine.window import Window
from sdv2live.errors import ChunkError
from tests.engine.toy import SIZE_WH, SumCodec, run_toy, toy_engine, toy_frames, toy_prompt

BASE = ChunkSettings(
    mix=(("one", 1.0),), steps=(800, 600, 400, 200), steps_count=2, noise_max=0.8, noise_min=0.6, noise_mode="fresh"
)


def difference(a: dict[int, np.ndarray], b: dict[int, np.ndarray]) -> int:
    assert a.keys() == b.keys()
    return max(int(np.abs(a[key].astype(int) - b[key].astype(int)).max()) for key in a)


def scripted(*changes: tuple[int, dict]) -> list[ChunkSettings]:
    """14 chunks; from chunk n on, these fields are changed."""
    current, settings = BASE, []
    for number in range(14):
        for at, fields in changes:
            if at == number:
                current = replace(current, **fields)
        settings.append(current)
    return settings


SCRIPTS = {
    "steady": scripted(),
    "prompt cut": scripted((5, {"mix": (("two", 1.0),)})),
    "prompt blend": scripted((4, {"mix": (("two", 1.0), ("three", 2.0)), "transition_chunks": 3})),
    "more steps": scripted((3, {"steps_count": 4}), (9, {"steps_count": 1})),
    "steps down and up at once": scripted(
        (2, {"steps_count": 4}),
        (5, {"steps_count": 1}),
        (6, {"steps_count": 4}),
        (8, {"steps_count": 2}),
        (9, {"steps_count": 4}),
    ),
    "step list": scripted((4, {"steps": (700, 300, 100)}), (8, {"steps_count": 3})),
    "noise bounds": scripted((4, {"noise_max": 0.3, "noise_min": 0.1}), (9, {"noise_max": 0.9, "noise_min": 0.8})),
    "noise so low that steps fall away": scripted((4, {"noise_max": 0.08, "noise_min": 0.05, "smoothing": 1.0})),
    "slow noise and another seed": scripted((3, {"noise_mode": "slow", "noise_rate": 0.3}), (8, {"seed": 99})),
    "fixed noise": scripted((0, {"noise_mode": "fixed"})),
    "seeds blended": scripted((4, {"seed": 9, "seed_transition_chunks": 4})),
    "feedback while the steps change": scripted(
        (2, {"feedback": 0.6}), (5, {"steps_count": 4}), (8, {"steps_count": 1}), (10, {"steps_count": 3})
    ),
    "sinks asked for": scripted((8, {"sink_requests": 1})),
}


@pytest.fixture(autouse=True)
def exact_latents(monkeypatch: pytest.MonkeyPatch):
    """uint8 would hide a difference: keep the float pictures that the decoder makes and compare those as well."""
    kept: dict[int, list[torch.Tensor]] = {}
    from tests.engine import toy

    original = toy.SumCodec.decode

    def keeping(self, latents, *rest):
        kept.setdefault(id(self), []).append(latents.clone())
        return original(self, latents, *rest)

    monkeypatch.setattr(toy.SumCodec, "decode", keeping)
    return kept


@pytest.mark.parametrize("window", [Window(4, 1), Window(6, 3)], ids=["pocket window", "wan window"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_throughput_equals_latency(script: str, window: Window, exact_latents: dict) -> None:
    latency, throughput = toy_engine(window=window), toy_engine(window=window)
    a = run_toy(latency, [replace(s, schedule="latency") for s in SCRIPTS[script]])
    b = run_toy(throughput, [replace(s, schedule="throughput") for s in SCRIPTS[script]])
    assert difference(a, b) <= 1  # one grey level: a rounding edge
    first, second = (exact_latents[id(engine.pipe.first.codec)] for engine in (latency, throughput))
    for ours, theirs in zip(first, second, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * ours.abs().max()


@pytest.mark.parametrize("schedule", ["latency", "throughput"])
def test_a_chunk_reads_its_prompt_as_its_noise_asks_for_it(schedule: str) -> None:
    """Engines that weaken prompts by themselves, beside engines that are given weak ones from the start."""
    settings = [replace(s, schedule=schedule, noise_max=0.4, noise_min=0.4) for s in SCRIPTS["prompt cut"]]
    weakening = toy_engine(at_noise=lambda embedding, noise: embedding * 2 * noise)
    weak = toy_engine(prompt=lambda text: toy_prompt(text) * 0.8)
    ours = run_toy(weakening, settings)
    assert difference(ours, run_toy(weak, settings)) == 0
    assert difference(ours, run_toy(toy_engine(), settings)) > 0


def test_schedule_may_change_while_it_runs() -> None:
    mixed = [replace(s, schedule=("latency", "throughput")[n // 3 % 2]) for n, s in enumerate(SCRIPTS["more steps"])]
    assert difference(run_toy(toy_engine(), mixed), run_toy(toy_engine(), SCRIPTS["more steps"])) <= 1


def test_settings_change_the_picture_from_their_chunk_on() -> None:
    steady = run_toy(toy_engine(), SCRIPTS["steady"])
    for script, changed_at in (
        ("prompt cut", 5),
        ("noise bounds", 4),
        ("more steps", 3),
        ("step list", 4),
        ("seeds blended", 4),
        ("feedback while the steps change", 2),
    ):
        other = run_toy(toy_engine(), SCRIPTS[script])
        assert all((steady[n] == other[n]).all() for n in range(changed_at)), script
        assert (steady[changed_at] != other[changed_at]).any(), script


def test_same_input_same_picture_and_a_reset_forgets_everything() -> None:
    engine = toy_engine(first_epoch=3)
    first = run_toy(engine, SCRIPTS["prompt cut"])
    assert engine.reset() == 4
    other_epoch = run_toy(engine, SCRIPTS["prompt cut"])
    fresh = run_toy(toy_engine(first_epoch=4), SCRIPTS["prompt cut"])
    assert all((other_epoch[n] == fresh[n]).all() for n in fresh)
    assert any((first[n] != fresh[n]).any() for n in fresh), "noise belongs to its epoch"


def test_results_name_their_epoch_and_in_flight_ones_are_dropped_by_a_reset() -> None:
    engine = toy_engine()
    settings = replace(BASE, schedule="throughput", steps_count=4)
    for number in range(3):
        engine.submit(Chunk(number, toy_frames(number)), settings)
        results = engine.poll()
    assert [r.chunk_id for r in results] == []
    epoch = engine.reset()
    assert engine.flush() == []
    engine.submit(Chunk(9, toy_frames(9)), settings)
    assert [(r.chunk_id, r.epoch) for r in engine.poll()] == [(9, epoch)]


def test_at_most_one_chunk_waits_and_counts_are_checked() -> None:
    engine = toy_engine()
    engine.submit(Chunk(0, toy_frames(0)), BASE)
    assert not engine.can_submit
    with pytest.raises(ChunkError, match="waiting"):
        engine.submit(Chunk(1, toy_frames(1)), BASE)
    engine.poll()
    with pytest.raises(ChunkError, match="4 frames"):
        engine.submit(Chunk(2, toy_frames(1)[:3]), BASE)


def test_a_picture_that_is_not_finite_is_marked() -> None:
    engine = toy_engine()
    with torch.no_grad():
        engine.pipe.first.dit.head.head.bias.fill_(float("nan"))
    engine.submit(Chunk(0, toy_frames(0)), BASE)
    assert [result.is_finite for result in engine.poll()] == [False]


class HalfPrecision(SumCodec):
    """Pictures in float16, as on a GPU before Ampere: all of one value, but for a corner."""

    def __init__(self, value: float, corner: float) -> None:
        super().__init__()
        self._frames = torch.full((1, 4, 3, 128, 192), value, dtype=torch.float16)
        self._frames[..., -1, -1] = corner

    def decode(self, *_: object) -> torch.Tensor:
        return self._frames


@pytest.mark.parametrize(
    ("value", "corner", "is_finite"),
    [(0.9, 0.9, True), (-0.9, -0.9, True), (0.9, float("inf"), False), (0.0, float("nan"), False)],
)
def test_a_picture_in_float16_is_good_however_bright_it_is(value: float, corner: float, is_finite: bool) -> None:
    """295 000 values of 0.9 make four times what float16 can hold."""
    engine = toy_engine(codec=HalfPrecision(value, corner))
    engine.submit(Chunk(0, toy_frames(0)), BASE)
    (result,) = engine.poll()
    assert result.is_finite is is_finite
    assert abs(int(result.frames[0, 0, 0, 0]) - (128 + 127.5 * value)) <= 1


def test_a_long_run_neither_grows_nor_moves_out_of_the_window() -> None:
    engine = toy_engine()
    settings = replace(BASE, steps_count=1)
    frames = np.full((4, SIZE_WH[1], SIZE_WH[0], 3), 90, np.uint8)
    sizes = set()
    for number in range(300):
        engine.submit(Chunk(number, frames), settings)
        result = engine.poll()[0]
        sizes.add(engine.cache_bytes)
        assert result.is_finite
    assert len(sizes) == 1
