"""The Wan VAE: the reference's numbers, the released names, one result however a stream is cut, and no waiting."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sdv2live.engine.model.wan_vae import LATENT_MEAN, LATENT_STD, WanVAE, WanVaeConfig, memory_bytes
from tests.engine.wan_cases import (
    NoWaiting,
    assert_close,
    decode_in,
    encode_in,
    one_thread,
    run_wan_vae_case,
    small_vae,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "wan_vae_stream"
SIZE_WH = (24, 16)
LIVE_SIZE_WH = (832, 480)


@pytest.fixture(autouse=True, scope="module")
def small_pictures() -> Iterator[None]:
    with one_thread():
        yield


def drawn_video(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, frames, SIZE_WH[1], SIZE_WH[0], generator=generator)


def drawn_latents(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 16, frames, SIZE_WH[1] // 8, SIZE_WH[0] // 8, generator=generator)


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return small_vae()


@pytest.fixture(scope="module")
def released() -> WanVAE:
    """The released size, without its values."""
    with torch.device("meta"):
        return WanVAE()


# What it computes.


def test_it_equals_the_reference() -> None:
    spec = json.loads(GOLDEN.with_suffix(".json").read_text())
    run_wan_vae_case(spec, load_file(GOLDEN.with_suffix(".safetensors")))


def test_it_equals_another_implementation(vae: WanVAE) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not ours to mend
        theirs_module = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_wan")
        names = pytest.importorskip("diffusers.loaders.single_file_utils")
        theirs = theirs_module.AutoencoderKLWan(base_dim=vae.config.base_dim)
    theirs.load_state_dict(names.convert_wan_vae_to_diffusers(vae.state_dict()))
    video, latents = drawn_video(9), drawn_latents(3)
    with torch.no_grad():
        their_latents = theirs.encode(video).latent_dist.mean
        their_frames = theirs.decode(latents).sample  # clamped
    assert_close(encode_in(vae, video, [5, 4]), their_latents)
    assert_close(decode_in(vae, latents, [2, 1]).clamp(-1, 1), their_frames)
    assert theirs.config.latents_mean == list(LATENT_MEAN)
    assert theirs.config.latents_std == list(LATENT_STD)


@pytest.mark.parametrize("chunks", [[1, 4, 4, 4], [5, 4, 4], [1, 8, 4], [9, 4], [1, 12]])
def test_a_stream_is_encoded_like_the_whole_clip(vae: WanVAE, chunks: list[int]) -> None:
    video = drawn_video(13)
    whole = encode_in(vae, video, [13])
    assert whole.shape == (1, 16, 4, 2, 3)
    assert torch.equal(encode_in(vae, video, chunks), whole)


@pytest.mark.parametrize("chunks", [[1, 1, 1, 1], [2, 1, 1], [1, 3], [3, 1]])
def test_a_stream_is_decoded_like_the_whole_clip(vae: WanVAE, chunks: list[int]) -> None:
    latents = drawn_latents(4)
    whole = decode_in(vae, latents, [4])
    assert whole.shape == (1, 3, 13, *SIZE_WH[::-1])
    assert torch.equal(decode_in(vae, latents, chunks), whole)


def test_nothing_depends_on_what_comes_later(vae: WanVAE) -> None:
    video, latents = drawn_video(9), drawn_latents(3)
    changed_video, changed_latents = video.clone(), latents.clone()
    changed_video[:, :, 5:] += 1
    changed_latents[:, :, 2:] += 1
    ours, changed = encode_in(vae, video, [9]), encode_in(vae, changed_video, [9])
    assert torch.equal(ours[:, :, :2], changed[:, :, :2])
    assert not torch.equal(ours[:, :, 2:], changed[:, :, 2:])
    ours, changed = decode_in(vae, latents, [3]), decode_in(vae, changed_latents, [3])
    assert torch.equal(ours[:, :, :5], changed[:, :, :5])
    assert not torch.equal(ours[:, :, 5:], changed[:, :, 5:])


def test_how_frames_lie_in_memory_changes_nothing(vae: WanVAE) -> None:
    video = drawn_video(5)
    lying_otherwise = video.to(memory_format=torch.channels_last_3d)
    assert torch.equal(encode_in(vae, lying_otherwise, [5]), encode_in(vae, video, [5]))


@pytest.mark.parametrize("count", [0, 2, 4, 6])
def test_an_opening_of_another_length_is_refused(vae: WanVAE, count: int) -> None:
    with pytest.raises(ValueError, match="groups of 4"):
        vae.encode(drawn_video(count), vae.new_encoder_state(SIZE_WH))


def test_a_later_chunk_of_another_length_is_refused(vae: WanVAE) -> None:
    state = vae.new_encoder_state(SIZE_WH)
    vae.encode(drawn_video(1), state)
    with pytest.raises(ValueError, match="groups of 4"):
        vae.encode(drawn_video(5), state)


def test_a_size_between_cells_is_refused(vae: WanVAE) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        vae.new_encoder_state((20, 16))


# Names and sizes.


def test_names_and_shapes_are_the_released_ones(released: WanVAE) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in released.state_dict().items()}
    assert sorted(shapes) == sorted(json.loads(GOLDEN.with_suffix(".json").read_text())["keys"])
    assert len(shapes) == 194
    expected = {
        "encoder.conv1.weight": (96, 3, 3, 3, 3),
        "encoder.downsamples.0.residual.0.gamma": (96, 1, 1, 1),
        "encoder.downsamples.3.shortcut.weight": (192, 96, 1, 1, 1),
        "encoder.downsamples.2.resample.1.weight": (96, 96, 3, 3),
        "encoder.downsamples.5.time_conv.weight": (192, 192, 3, 1, 1),
        "encoder.downsamples.8.time_conv.weight": (384, 384, 3, 1, 1),
        "encoder.middle.1.norm.gamma": (384, 1, 1),
        "encoder.middle.1.to_qkv.weight": (1152, 384, 1, 1),
        "encoder.head.2.weight": (32, 384, 3, 3, 3),
        "conv1.weight": (32, 32, 1, 1, 1),
        "conv2.weight": (16, 16, 1, 1, 1),
        "decoder.conv1.weight": (384, 16, 3, 3, 3),
        "decoder.upsamples.3.time_conv.weight": (768, 384, 3, 1, 1),
        "decoder.upsamples.7.time_conv.weight": (768, 384, 3, 1, 1),
        "decoder.upsamples.3.resample.1.weight": (192, 384, 3, 3),
        "decoder.upsamples.4.shortcut.weight": (384, 192, 1, 1, 1),
        "decoder.upsamples.11.resample.1.weight": (96, 192, 3, 3),
        "decoder.head.0.gamma": (96, 1, 1, 1),
        "decoder.head.2.weight": (3, 96, 3, 3, 3),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert sum(p.numel() for p in released.encoder.parameters()) == pytest.approx(53.6e6, abs=5e4)
    assert sum(p.numel() for p in released.decoder.parameters()) == pytest.approx(73.3e6, abs=5e4)


def test_either_half_can_be_had_alone(released: WanVAE) -> None:
    with torch.device("meta"):
        encoder, decoder = WanVAE(has_decoder=False), WanVAE(has_encoder=False)
    assert set(encoder.state_dict()).isdisjoint(decoder.state_dict())
    assert set(encoder.state_dict()) | set(decoder.state_dict()) == set(released.state_dict())


def test_the_work_of_a_chunk_is_the_references(released: WanVAE) -> None:
    """Counted without values, which also shows that no value is asked for (engine.md, 10: 8.05 and 13.55 TFLOP)."""
    encoder_state, decoder_state = (
        released.new_encoder_state(LIVE_SIZE_WH),
        released.new_decoder_state(LIVE_SIZE_WH),
    )
    width, height = LIVE_SIZE_WH
    latents = released.encode(torch.empty(1, 3, 5, height, width, device="meta"), encoder_state)
    assert latents.shape == (1, 16, 2, height // 8, width // 8)
    assert released.decode(latents, decoder_state).shape == (1, 3, 5, height, width)
    with FlopCounterMode(display=False) as counter:
        latents = released.encode(torch.empty(1, 3, 4, height, width, device="meta"), encoder_state)
    assert counter.get_total_flops() == pytest.approx(8.05e12, rel=1e-3)
    with FlopCounterMode(display=False) as counter:
        released.decode(latents, decoder_state)
    assert counter.get_total_flops() == pytest.approx(13.55e12, rel=1e-3)


# Memory.


def test_memory_is_foretold_to_the_byte(vae: WanVAE) -> None:
    for state, which in (
        (vae.new_encoder_state(SIZE_WH), {"decodes": False}),
        (vae.new_decoder_state(SIZE_WH), {"encodes": False}),
    ):
        held = sum(past.numel() * past.element_size() for past in state.past)
        assert memory_bytes(vae.config, SIZE_WH, torch.float32, **which) == held
        assert memory_bytes(vae.config, SIZE_WH, torch.bfloat16, **which) == held // 2


def test_memory_at_the_live_size_is_no_more_than_the_references() -> None:
    config = WanVaeConfig()
    assert memory_bytes(config, LIVE_SIZE_WH, torch.bfloat16, decodes=False) == pytest.approx(1.12e9, rel=5e-3)
    assert memory_bytes(config, LIVE_SIZE_WH, torch.bfloat16, encodes=False) == pytest.approx(1.89e9, rel=5e-3)


def test_memory_stays_where_it_is(vae: WanVAE) -> None:
    encoder_state, decoder_state = vae.new_encoder_state(SIZE_WH), vae.new_decoder_state(SIZE_WH)
    addresses = [past.data_ptr() for state in (encoder_state, decoder_state) for past in state.past]
    for frames in (5, 4, 4):
        vae.decode(vae.encode(drawn_video(frames), encoder_state), decoder_state)
    assert [past.data_ptr() for state in (encoder_state, decoder_state) for past in state.past] == addresses
    assert all(past.any() for state in (encoder_state, decoder_state) for past in state.past), "memory without use"


def test_a_reset_memory_is_a_new_one(vae: WanVAE) -> None:
    encoder_state, decoder_state = vae.new_encoder_state(SIZE_WH), vae.new_decoder_state(SIZE_WH)
    first = [vae.encode(drawn_video(5), encoder_state), vae.decode(drawn_latents(2), decoder_state)]
    vae.encode(drawn_video(4).fill_(torch.nan), encoder_state)
    vae.decode(drawn_latents(1).fill_(torch.nan), decoder_state)
    encoder_state.reset()
    decoder_state.reset()
    again = [vae.encode(drawn_video(5), encoder_state), vae.decode(drawn_latents(2), decoder_state)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, first, strict=True))


def test_the_host_never_waits(vae: WanVAE) -> None:
    encoder_state, decoder_state = vae.new_encoder_state(SIZE_WH), vae.new_decoder_state(SIZE_WH)
    videos = [drawn_video(frames) for frames in (5, 4, 4)]
    with NoWaiting():
        for video in videos:
            vae.decode(vae.encode(video, encoder_state), decoder_state)
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        videos[0].sum().item()
