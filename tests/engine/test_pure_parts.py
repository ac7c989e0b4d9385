"""Schedule, noise and prompts: small rules, each against what it must be."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from sdv2live.engine.model.wan_transformer import Part
from sdv2live.engine.noise import MotionController, NoiseSource, SeedMixer, draw, largest_change
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.schedule import chunk_timesteps, first_timestep, opening_timesteps, sigma_of
from sdv2live.engine.stages import StageMap
from sdv2live.engine.text_ahead import Direct
from sdv2live.errors import UserError

REFERENCE_LIST = (700, 500, 400, 200)


def test_timesteps_are_the_reference_s_in_its_range() -> None:
    for scale in np.linspace(0.7, 0.8, 21):
        steps = chunk_timesteps(REFERENCE_LIST, 4, noise_scale=float(scale), offset=-100)
        assert steps == (int(1000 * scale) - 100, 500, 400, 200)
    assert opening_timesteps(REFERENCE_LIST, 4) == REFERENCE_LIST
    assert opening_timesteps((120, 110, 40), 3) == (120, 70)
    for first in range(25, 1001):
        assert opening_timesteps((first, 20), 1) == (first,), "list[0] itself"


def test_below_that_range_noise_never_rises_again() -> None:
    for scale in np.linspace(0.05, 1.0, 96):
        for offset in (-100, 0):
            steps = chunk_timesteps(REFERENCE_LIST, 4, noise_scale=float(scale), offset=offset)
            assert steps[0] == max(int(1000 * scale) + offset, 50)
            assert all(a - b >= 50 for a, b in itertools.pairwise(steps)) and min(steps) >= 25
    assert chunk_timesteps(REFERENCE_LIST, 4, noise_scale=0.1, offset=0) == (100, 50)
    assert first_timestep(0.29, 0) == 290


@pytest.mark.parametrize(
    ("timestep", "sigma"), [(700, 0.700232), (500, 0.499719), (400, 0.400260), (200, 0.198347), (0, 0.007944)]
)
def test_sigma_is_snapped_to_the_table(timestep: int, sigma: float) -> None:
    assert sigma_of(timestep) == pytest.approx(sigma, abs=1e-6)


def test_motion_is_seen_in_uint8_as_in_floats() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    floats = frames.astype(np.float64) / 127.5 - 1
    plain = max(float(np.sqrt(((b - a) ** 2).mean())) for a, b in itertools.pairwise(floats))
    assert largest_change(frames[1:], frames[0]) == pytest.approx(plain, rel=1e-5)
    assert largest_change(frames[:1], None) == 0.0


def test_the_controller_follows_motion_between_its_bounds() -> None:
    controller = MotionController()
    bounds = {"maximum": 0.8, "minimum": 0.7, "sensitivity": 0.2, "smoothing": 0.9}
    assert controller.open(maximum=0.8) == 0.8
    assert controller.update(5.0, **bounds) == pytest.approx((0.71, 1.0))
    assert controller.update(0.0, **bounds) == pytest.approx((0.791, 0.0))


def test_noise_is_a_pure_function_of_its_key() -> None:
    shape = (1, 2, 16, 4, 6)
    assert torch.equal(draw((1, 2, 3), shape), draw((1, 2, 3), shape))
    a, b = NoiseSource(), NoiseSource()
    key = {"seed": 1, "epoch": 2, "phase": 0.0, "shape": shape}
    late = b.eps(mode="fresh", chunk=7, step=1, **key)
    for chunk in range(7):
        a.eps(mode="fresh", chunk=chunk, step=0, **key)
    assert torch.equal(a.eps(mode="fresh", chunk=7, step=1, **key), late), "no memory of what was drawn before"
    others = [a.eps(mode="fresh", chunk=c, step=s, **key) for c, s in ((7, 0), (8, 1))]
    assert not any(torch.equal(late, other) for other in others)


def test_noise_does_not_depend_on_the_process() -> None:
    code = "from sdv2live.engine.noise import draw; print(draw((5, 1, 0, 9), (3,)).tolist())"
    env = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(draw((5, 1, 0, 9), (3,)).tolist())


def test_fixed_noise_stays_and_slow_noise_turns_with_its_variance_kept() -> None:
    source, shape = NoiseSource(), (1, 1, 16, 32, 32)
    key = {"seed": 1, "epoch": 0, "step": 0, "shape": shape}
    fixed = [source.eps(mode="fixed", chunk=chunk, phase=float(chunk), **key) for chunk in (0, 9)]
    assert torch.equal(*fixed)
    slow = [source.eps(mode="slow", chunk=0, phase=phase, **key) for phase in (0.0, 0.1, 0.5, 1.0)]
    likeness = [float((slow[0] * other).mean()) for other in slow]
    assert likeness[0] > likeness[1] > likeness[2] > 0.6 > likeness[3] and likeness[1] > 0.97
    assert all(abs(float(eps.std()) - 1) < 0.03 for eps in slow)


def encoded(text: str) -> torch.Tensor:
    return torch.full((1, 2, 3), float(len(text)))


def test_prompts_cut_blend_and_mix() -> None:
    mixer = PromptMixer(Direct(encoded))
    first = mixer.advance((("aa", 1.0),), 5)
    assert first.embedding.unique().item() == 2 and not first.is_new, "the first chunk starts at its own prompt"
    steps = [mixer.advance((("a" * 10, 1.0),), 4) for _ in range(6)]
    assert [step.embedding.unique().item() for step in steps] == [4, 6, 8, 10, 10, 10]
    assert [step.is_new for step in steps] == [False, False, False, True, False, False]
    cut = mixer.advance((("aaaa", 1.0), ("a" * 8, 3.0)), 0)
    assert cut.embedding.unique().item() == 7 and cut.is_new
    assert mixer.advance((("aaaa", 1.0), ("a" * 8, 3.0)), 0).embedding is cut.embedding


class Slow:
    """Texts that are there when the test says so."""

    def __init__(self) -> None:
        self.there: dict[str, torch.Tensor] = {}
        self.asked: list[str] = []
        self.failures: dict[str, str] = {}

    def get(self, text: str) -> torch.Tensor | None:
        self.asked.append(text)
        return self.there.get(text)

    def wait(self, text: str) -> torch.Tensor:
        return self.there.setdefault(text, encoded(text))

    def prepare(self, text: str) -> None:
        self.asked.append(f"ahead: {text}")

    def last_used(self) -> torch.Tensor | None:
        return None

    def failure(self, text: str) -> str | None:
        return self.failures.get(text)

    def close(self) -> None:
        pass


def test_a_prompt_that_is_not_encoded_yet_does_not_stop_the_stream() -> None:
    texts = Slow()
    mixer = PromptMixer(texts)
    old, new = (("old", 1.0),), (("longer one", 1.0),)
    assert mixer.advance(old, 0).embedding.unique().item() == 3, "the first prompt is waited for"
    assert [mixer.advance(new, 2).embedding.unique().item() for _ in range(3)] == [3, 3, 3]
    texts.there["longer one"] = encoded("longer one")
    steps = [mixer.advance(new, 2) for _ in range(3)]
    assert [step.embedding.unique().item() for step in steps] == [6.5, 10, 10]
    assert [step.is_new for step in steps] == [False, True, False], "the blend starts when the prompt is there"
    assert PromptMixer(texts, waits=True).advance((("abc", 1.0), ("abcde", 1.0)), 0).embedding.unique().item() == 4


def test_the_next_prompt_is_encoded_ahead_once() -> None:
    texts = Slow()
    mixer = PromptMixer(texts)
    for _ in range(3):
        mixer.advance((("old", 1.0),), 0, upcoming="soon")
    assert texts.asked == ["ahead: soon"]


def test_a_prompt_that_fails_is_said_once_and_the_one_before_stays(caplog: pytest.LogCaptureFixture) -> None:
    texts = Slow()
    mixer = PromptMixer(texts)
    mixer.advance((("old", 1.0),), 0)
    texts.failures["bad"] = "the tokenizer is missing: fetch it."
    for _ in range(5):
        assert mixer.advance((("bad", 1.0),), 0).embedding.unique().item() == 3
    assert [record.message for record in caplog.records] == [
        "the prompt before stays: the tokenizer is missing: fetch it."
    ]


def test_a_reset_keeps_the_prompt_that_was_there_until_the_new_one_is() -> None:
    texts = Slow()
    mixer = PromptMixer(texts)
    old, slow = (("old", 1.0),), (("longer one", 1.0),)
    mixer.advance(old, 0)
    mixer.advance(slow, 0)
    for _ in range(2):
        mixer.reset()
        assert mixer.advance(slow, 2).embedding.unique().item() == 3, "a reset does not wait for an encoder"
    texts.there["longer one"] = encoded("longer one")
    steps = [mixer.advance(slow, 2) for _ in range(2)]
    assert [step.embedding.unique().item() for step in steps] == [6.5, 10] and steps[-1].is_new
    mixer.reset()
    first = mixer.advance(slow, 2)
    assert first.embedding.unique().item() == 10 and not first.is_new, "what is there opens the new stream"


class Bad(Direct):
    """An encoder that refuses one text."""

    def __init__(self) -> None:
        def encode(text: str) -> torch.Tensor:
            if text == "bad":
                raise UserError("bad was refused: write another one.")
            return encoded(text)

        super().__init__(encode)


def test_a_prompt_that_fails_does_not_fail_after_a_reset_or_a_start() -> None:
    bad = (("bad", 1.0),)
    mixer = PromptMixer(Bad())
    for ask in (lambda: mixer.advance(bad, 0), lambda: mixer.encode(["bad"])):
        with pytest.raises(UserError, match="bad was refused"):
            ask()
    mixer.encode(["old"])
    assert mixer.advance(bad, 0).embedding.unique().item() == 3, "what was encoded at the start is there"
    mixer.reset()
    assert mixer.advance(bad, 0).embedding.unique().item() == 3
    again = PromptMixer(Bad())
    with pytest.raises(UserError, match="bad was refused"):
        again.encode(["bad"], falls_back=True)
    again.encode(["next", "bad"], falls_back=True)
    assert again.advance(bad, 0).embedding.unique().item() == 4
    with pytest.raises(UserError, match="bad was refused"):
        PromptMixer(Bad(), waits=True).encode(["next", "bad"], falls_back=True)


def test_seeds_blend_on_the_sphere() -> None:
    mixer = SeedMixer()
    assert mixer.advance(1, 4) == ((1, 1.0),), "the first chunk starts at its own seed"
    path = [dict(mixer.advance(2, 4)) for _ in range(5)]
    assert [round(seeds.get(1, 0.0), 3) for seeds in path] == [0.924, 0.707, 0.383, 0, 0]
    assert path[-1] == {2: 1.0} and dict(mixer.advance(7, 0)) == {7: 1.0}
    for seed in range(50):
        weights = mixer.advance(seed, 9)
        assert len(weights) <= 4 and sum(weight**2 for _, weight in weights) == pytest.approx(1.0)


@pytest.mark.parametrize(("counts", "decode_rank"), [((), 0), ((0,), 0), ((-1, 7), 0), ((3, 0), 0), ((2, 2, 2), 1)])
def test_a_stage_map_that_cannot_be_is_refused(counts: tuple[int, ...], decode_rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        StageMap(counts, decode_rank)


def test_a_stage_map_gives_each_rank_its_part() -> None:
    assert StageMap.on_one(6).part(0) == Part(0, 6, embeds=True, finishes=True)
    halves = StageMap((2, 4), decode_rank=1)
    assert halves.part(0) == Part(0, 2, embeds=True, finishes=False)
    assert halves.part(1) == Part(2, 6, embeds=False, finishes=True)
    assert [halves.decodes(rank) for rank in range(2)] == [False, True]
    codec_alone = StageMap((0, 3, 3))
    assert codec_alone.part(0) == Part(0, 0, embeds=False, finishes=False)
    assert codec_alone.part(1) == Part(0, 3, embeds=True, finishes=False), "who has the first block embeds"
