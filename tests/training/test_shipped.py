"""The weights in the repository load, and do what their card says, on a picture drawn here."""

from pathlib import Path

import pytest
import torch

from sdv2live.training import unseen
from sdv2live.training.effects import LOOKS, gauss
from sdv2live.training.evaluate import Model, load_model, restyle
from sdv2live.training.losses import psnr

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
    assert sum(path.stat().st_size for path in ASSETS.glob("*.safetensors")) < 12_000_000


def test_latents_have_a_usable_size(model: Model) -> None:
    assert 0.2 < float(model.codec.latent_std.mean()) < 1


@pytest.mark.parametrize("look", ["pencil", "ink", "thermal", "night", "vintage", "watercolour"])
def test_a_look_comes_nearer_to_its_target(model: Model, look: str) -> None:
    source = _clip()
    target = LOOKS[look](source[0] / 2 + 0.5)[None] * 2 - 1
    ours, _ = restyle(model, source, look)
    assert psnr(ours, target) > psnr(source, target) + 2


def test_the_latent_matters(model: Model) -> None:
    source = _clip()
    for look in ("oil painting", "cartoon"):
        ours, zero = restyle(model, source, look)
        assert float((ours - zero).abs().mean()) > 0.02


def test_held_out_phrases_are_read_right(model: Model) -> None:
    right = 0
    for phrase, look, colour in unseen.SENTENCES:
        read = model.text.understand(phrase)
        right += max(read.looks, key=read.looks.__getitem__) == look
        right += max(read.colours, key=read.colours.__getitem__) == colour
    assert right >= 0.9 * 2 * len(unseen.SENTENCES)


def test_nonsense_asks_for_nothing(model: Model) -> None:
    read = model.text.understand("xkqjz wvut")
    assert read.looks["identity"] > 0.5
    assert read.unknown > 0.5
