"""The weights in the repository load, and do what their card says, on pictures that no training has seen."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdv2live.engine.model.pocket_text import FIRST_LOOKS
from sdv2live.frames import Pixels
from sdv2live.training import quality, unseen
from sdv2live.training.effects import LOOKS, STROKE_LOOKS, gauss
from sdv2live.training.evaluate import PROMPTS, Model, Player, asking, drawn, load_model, restyle, to_pixels, to_planar
from sdv2live.training.held_out import held_out_clips
from sdv2live.training.losses import LATENT_STD_RANGE, LEAST_COST_DB, NORMALISED_STD_RANGE
from sdv2live.training.reading import figures_of, largest
from sdv2live.training.train import decode_clip, denoise
from sdv2live.training.unseen import Sheet

CODES = "1c03703b565537ffe7b2fb6350dde73fe85eb5d2010dd18cb0117b51305ad9e5"
ASSETS = Path(__file__).parents[2] / "assets" / "pocket"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(ASSETS, torch.device("cpu"))


def _clip() -> torch.Tensor:
    """Soft coloured blobs, [1, 8, 3, 128, 128] in [-1, 1]."""
    generator = torch.Generator().manual_seed(4)
    blobs = gauss(torch.rand(1, 3, 128, 128, generator=generator), 5.0)
    blobs = ((blobs - blobs.mean()) / blobs.std() * 0.22 + 0.5).clamp(0, 1)
    return (blobs * 2 - 1)[:, None].expand(-1, 8, -1, -1, -1).contiguous()


def test_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in ASSETS.glob("*.safetensors")) <= 16_000_000


@pytest.fixture(scope="module")
def held_out() -> list[Pixels]:
    """A cat and a face, eight frames each, [8, 128, 128, 3]."""
    pytest.importorskip("skimage")
    return [frames[:8] for frames in held_out_clips(None, (128, 128)).values()]


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_is_nearer_to_its_target_than_the_source_and_needs_its_latent(
    model: Model, held_out: list[Pixels], look: str
) -> None:
    """On pictures never trained on, with room for other weights: the evaluation has the figures."""
    costs_db = []
    for frames in held_out:
        target = drawn(frames, look)
        restyled = restyle(model, to_planar(frames), PROMPTS[look])
        ours, without = (to_pixels(x[0] / 2 + 0.5) for x in (restyled.pictures, restyled.without_latent))
        if look == "identity":
            assert quality.psnr(ours, target) > 30
        else:
            assert quality.psnr(ours, target) > quality.psnr(frames, target) + 2
        assert NORMALISED_STD_RANGE[0] < float(restyled.latent.std()) < NORMALISED_STD_RANGE[1]
        costs_db.append(quality.psnr(ours, target) - quality.psnr(without, target))
    if look in STROKE_LOOKS:
        assert np.mean(costs_db) > LEAST_COST_DB


def test_latents_have_a_usable_size(model: Model, held_out: list[Pixels]) -> None:
    for frames in held_out:
        assert LATENT_STD_RANGE[0] < float(model.codec.raw_latent(to_planar(frames))[0].std()) < LATENT_STD_RANGE[1]


@pytest.mark.parametrize("look", ["oil", "ink", "pixel"])
def test_sixteen_bits_draw_what_thirty_two_draw(look: str) -> None:
    """The format of GPUs and of newer processors, for weights that were trained in the other one."""
    frames = ((_clip()[0] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    full, half = (
        Player(ASSETS, (128, 128), precision).play(frames, asking(look)) for precision in ("float32", "bfloat16")
    )
    assert 40 < quality.psnr(half, full) < quality.BEST_PSNR_DB


def test_sentences_are_read_right(model: Model) -> None:
    right = 0
    for phrase, look, colour in unseen.SENTENCES:
        read = model.text.understand(phrase)
        right += largest(read.looks) == look
        right += largest(read.colours) == colour
    assert right >= 0.9 * 2 * len(unseen.SENTENCES)


@pytest.mark.parametrize("sheet", unseen.SHEETS.values(), ids=unseen.SHEETS)
def test_prompts_never_trained_on_are_read_as_the_card_says(model: Model, sheet: Sheet) -> None:
    figures = figures_of(model.text, sheet)
    assert figures.look >= 0.92
    assert min(figures.looks.values()) >= 0.8
    assert figures.colour >= 0.92
    assert figures.noticed >= 0.9
    assert figures.false_alarms <= 0.05


def test_the_looks_that_ship_are_understood(model: Model) -> None:
    for path in sorted((ASSETS.parents[1] / "presets").glob("*.json")):
        prompt = json.loads(path.read_text("utf-8"))["values"]["prompt.text"]
        read = model.text.understand(prompt)
        assert largest(read.looks) != "identity", prompt
        assert read.unknown == (), prompt


def test_what_tokens_are_made_of_is_what_the_pictures_were_trained_with(model: Model) -> None:
    """The text encoder was trained again after the picture networks, and looks were added: the codes stay theirs."""
    codes = load_file(ASSETS / "text.safetensors")
    made_of = hashlib.sha256(
        codes["look_codes"][:FIRST_LOOKS].numpy().tobytes() + codes["colour_codes"].numpy().tobytes()
    )
    assert made_of.hexdigest() == CODES


@pytest.mark.parametrize("prompt", ["xkqjz wvut", "a giant octopus playing the accordion", "\u6c34\u5f69\u753b"])
def test_an_unknown_prompt_asks_for_nothing_and_gives_the_picture_of_an_empty_one(model: Model, prompt: str) -> None:
    read = model.text.understand(prompt)
    assert read.unknown
    assert largest(read.looks) == "identity" and largest(read.colours) == "none"
    unknown = restyle(model, _clip(), prompt).pictures
    empty = restyle(model, _clip(), "").pictures
    assert torch.isfinite(unknown).all()
    torch.testing.assert_close(unknown, empty, atol=1 / 255, rtol=0)  # a grey level: "a" and "the" are heard


def test_an_unknown_word_changes_nothing_beside_a_known_one(model: Model) -> None:
    plain, odd = model.text.encode(["oil painting"]), model.text.encode(["oil painting, octopus"])
    assert model.text.understand("oil painting, octopus").unknown == ("octopus",)
    torch.testing.assert_close(plain, odd)


def test_words_for_how_much_act_on_the_picture_in_their_order(model: Model) -> None:
    source = _clip()
    far = {}
    for words_for in ("a hint of", "slightly", "", "extremely"):
        ours = restyle(model, source, f"{words_for} night").pictures
        far[words_for] = float((ours - source).abs().mean())
    assert list(far) == sorted(far, key=far.__getitem__), far


@pytest.mark.parametrize("look", ["pencil", "neon", "night", "cel"])
def test_a_blend_moves_evenly(model: Model, look: str) -> None:
    """From one prompt to another in ten steps, as the mixer blends: no step is a jump, and each goes on."""
    source = _clip()
    start, end = model.text.encode(["oil painting"]), model.text.encode([look])
    latent, side = model.codec.encode(source)
    noise = torch.randn(latent[:, :1].shape, generator=torch.Generator().manual_seed(1))
    noisy, scale = torch.lerp(latent, noise.expand_as(latent), 0.5), torch.full((1,), 0.5)
    pictures = []
    with torch.no_grad():
        for share in torch.linspace(0, 1, 11):
            tokens = torch.lerp(start, end, share)
            clean = denoise(model.dit, noisy, scale, tokens)
            pictures.append(decode_clip(model.codec, clean, side, model.codec.style(tokens, scale)))
    whole = float((pictures[-1] - pictures[0]).abs().mean())
    steps = [float((b - a).abs().mean()) / whole for a, b in itertools.pairwise(pictures)]
    assert max(steps) < 0.3, steps
    left = [float((pictures[-1] - picture).abs().mean()) for picture in pictures]
    assert left == sorted(left, reverse=True)
