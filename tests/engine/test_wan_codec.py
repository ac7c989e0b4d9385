"""The Wan codecs under the contract of every codec: counts, ranges, normalisation, and a memory for each stream."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdv2live.engine.base import Chunk, ChunkSettings, EngineTraits
from sdv2live.engine.model.taehv import TAEHV
from sdv2live.engine.model.wan_transformer import WanTransformer
from sdv2live.engine.model.wan_vae import LATENT_MEAN, LATENT_STD, WanVAE
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.wan_codec import VAE_MODES, WanCodec, WanCodecState, channels_last_, state_bytes
from sdv2live.engine.window import Window
from tests.engine.toy import SMALL, drawn_, one_stage, toy_prompt
from tests.engine.wan_cases import NoWaiting, assert_close, one_thread, small_vae

SIZE_WH = (24, 16)
MODES = tuple(VAE_MODES)
MEAN = torch.tensor(LATENT_MEAN).view(16, 1, 1)
STD = torch.tensor(LATENT_STD).view(16, 1, 1)


@pytest.fixture(autouse=True, scope="module")
def small_pictures() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def wan() -> WanVAE:
    return small_vae()


@pytest.fixture(scope="module")
def tiny() -> TAEHV:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return TAEHV().eval().requires_grad_(False)


def codec_of(mode: str, wan: WanVAE, tiny: TAEHV, *, normalise: bool = False) -> WanCodec:
    chosen = VAE_MODES[mode]
    encoder, decoder = (wan if is_wan else tiny for is_wan in (chosen.encoder_is_wan, chosen.decoder_is_wan))
    return WanCodec(encoder, decoder, normalise=normalise)


def frames_of(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, count, 3, SIZE_WH[1], SIZE_WH[0], generator=generator) * 2 - 1


def encoded(codec: WanCodec, frames: Tensor, state: WanCodecState) -> Tensor:
    latents, side = codec.encode(frames, state)
    assert side == ()
    return latents


def streamed(codec: WanCodec, seeds: list[int], state: WanCodecState) -> list[Tensor]:
    """What comes out for the opening and later chunks, one for each seed."""
    out = []
    for number, seed in enumerate(seeds):
        count = 4 if number else codec.first_chunk_frames
        latents = encoded(codec, frames_of(count, seed), state)
        out.append(codec.decode(latents, None, None, state))
    return out


@pytest.mark.parametrize("mode", MODES)
def test_as_many_frames_come_out_as_go_in(mode: str, wan: WanVAE, tiny: TAEHV) -> None:
    codec = codec_of(mode, wan, tiny)
    first = {"wan": 5, "wan-taehv": 5, "taehv": 4}[mode]
    assert codec.first_chunk_frames == VAE_MODES[mode].first_chunk_frames == first
    assert codec.prepare(torch.zeros(1, 4, 12), 0.7) is None
    state = codec.new_state(SIZE_WH)
    for count, latent_frames in ((first, 1 + (first - 1) // 4), (4, 1), (4, 1)):
        latents = encoded(codec, frames_of(count), state)
        assert latents.shape == (1, latent_frames, 16, SIZE_WH[1] // 8, SIZE_WH[0] // 8)
        pictures = codec.decode(latents, None, None, state)
        assert pictures.shape == (1, count, 3, SIZE_WH[1], SIZE_WH[0])
        assert pictures.dtype == torch.float32


def test_the_wan_encoder_normalises_when_asked(wan: WanVAE, tiny: TAEHV) -> None:
    plain, normalising = (codec_of("wan", wan, tiny, normalise=switch) for switch in (False, True))
    raw = encoded(plain, frames_of(5), plain.new_state(SIZE_WH))
    expected = wan.encode(frames_of(5).transpose(1, 2), wan.new_encoder_state(SIZE_WH)).transpose(1, 2)
    assert torch.equal(raw, expected)
    assert_close(encoded(normalising, frames_of(5), normalising.new_state(SIZE_WH)), (raw - MEAN) / STD, 1e-6)


def test_taehv_latents_are_made_as_strong_as_the_references(wan: WanVAE, tiny: TAEHV) -> None:
    plain, normalising = (codec_of("taehv", wan, tiny, normalise=switch) for switch in (False, True))
    normal = encoded(normalising, frames_of(4), normalising.new_state(SIZE_WH))
    expected = tiny.encode((frames_of(4) + 1) / 2, tiny.new_encoder_state(SIZE_WH))
    assert_close(normal, expected, 1e-6)
    assert_close(encoded(plain, frames_of(4), plain.new_state(SIZE_WH)), normal * STD + MEAN, 1e-6)


@pytest.mark.parametrize("normalise", [False, True])
def test_decoders_get_what_they_were_trained_on(wan: WanVAE, tiny: TAEHV, normalise: bool) -> None:
    latents = torch.randn(1, 2, 16, 2, 3, generator=torch.Generator().manual_seed(1))
    codec = codec_of("wan", wan, tiny, normalise=normalise)
    ours = codec.decode(latents, None, None, codec.new_state(SIZE_WH))
    expected = wan.decode((latents * STD + MEAN).transpose(1, 2), wan.new_decoder_state(SIZE_WH)).transpose(1, 2)
    assert torch.equal(ours, expected)
    whole = tiny.decode(latents, tiny.new_decoder_state(SIZE_WH)) * 2 - 1
    for mode, cut in (("taehv", 0), ("wan-taehv", 3)):
        codec = codec_of(mode, wan, tiny, normalise=normalise)
        assert torch.equal(codec.decode(latents, None, None, codec.new_state(SIZE_WH)), whole[:, cut:])


def test_a_picture_beyond_the_range_is_not_clamped(wan: WanVAE, tiny: TAEHV) -> None:
    for mode in ("wan", "taehv"):
        codec = codec_of(mode, wan, tiny)
        pictures = codec.decode(torch.full((1, 1, 16, 2, 3), 50.0), None, None, codec.new_state(SIZE_WH))
        assert pictures.isfinite().all()
    loud = small_vae(salt="loud")
    with torch.no_grad():
        loud.decoder.head["2"].bias.fill_(3.0)
    codec = WanCodec(loud, loud)
    assert codec.decode(torch.zeros(1, 1, 16, 2, 3), None, None, codec.new_state(SIZE_WH)).max() > 1.5


@pytest.mark.parametrize("mode", MODES)
def test_two_streams_do_not_mix(mode: str, wan: WanVAE, tiny: TAEHV) -> None:
    codec = codec_of(mode, wan, tiny)
    alone = [streamed(codec, seeds, codec.new_state(SIZE_WH)) for seeds in ([1, 2, 3], [4, 5, 6])]
    states = [codec.new_state(SIZE_WH), codec.new_state(SIZE_WH)]
    for number in range(3):
        for stream, state in enumerate(states):
            count = 4 if number else codec.first_chunk_frames
            latents = encoded(codec, frames_of(count, 1 + 3 * stream + number), state)
            assert torch.equal(codec.decode(latents, None, None, state), alone[stream][number])


@pytest.mark.parametrize("mode", MODES)
def test_a_new_or_a_reset_state_has_forgotten_everything(mode: str, wan: WanVAE, tiny: TAEHV) -> None:
    codec = codec_of(mode, wan, tiny)
    state = codec.new_state(SIZE_WH)
    first = streamed(codec, [1, 2], state)
    state.reset()
    for again in (streamed(codec, [1, 2], state), streamed(codec, [1, 2], codec.new_state(SIZE_WH))):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, first, strict=True))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_host_never_waits(mode: str, wan: WanVAE, tiny: TAEHV, normalise: bool) -> None:
    codec = codec_of(mode, wan, tiny, normalise=normalise)
    state = codec.new_state(SIZE_WH)
    chunks = [frames_of(codec.first_chunk_frames), frames_of(4)]
    with NoWaiting():
        for frames in chunks:
            codec.decode(encoded(codec, frames, state), None, codec.prepare(frames, 0.7), state)


@pytest.mark.parametrize("mode", MODES)
def test_a_chunk_remembers_the_one_before(mode: str, wan: WanVAE, tiny: TAEHV) -> None:
    codec = codec_of(mode, wan, tiny)
    one, other = (streamed(codec, [seed, 7], codec.new_state(SIZE_WH))[1] for seed in (1, 2))
    assert not torch.equal(one, other)


def test_each_network_keeps_its_own_number_format(wan: WanVAE) -> None:
    vae = small_vae().double()
    tiny = TAEHV(has_encoder=False).eval().requires_grad_(False)
    codec = WanCodec(vae, tiny)
    state = codec.new_state(SIZE_WH)
    latents = encoded(codec, frames_of(5), state)
    assert latents.dtype == torch.float64
    assert codec.decode(latents, None, None, state).dtype == torch.float32
    backward = WanCodec(TAEHV().double(), TAEHV(has_encoder=False))
    assert encoded(backward, frames_of(4), backward.new_state(SIZE_WH)).dtype == torch.float64


def test_taehv_cannot_encode_for_the_wan_decoder(wan: WanVAE, tiny: TAEHV) -> None:
    with pytest.raises(ValueError, match="TAEHV cannot encode"):
        WanCodec(tiny, wan)


@pytest.mark.parametrize("mode", MODES)
def test_memory_is_foretold_to_the_byte(mode: str, wan: WanVAE, tiny: TAEHV) -> None:
    state = codec_of(mode, wan, tiny).new_state(SIZE_WH)
    held = sum(past.numel() * 4 for half in (state.encoder, state.decoder) for past in half.past)
    dtypes = {"encoder_dtype": torch.float32, "decoder_dtype": torch.float32}
    assert state_bytes(VAE_MODES[mode], SIZE_WH, config=wan.config, **dtypes) == held


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_runs_on_it(mode: str, wan: WanVAE, tiny: TAEHV) -> None:
    """The whole way: pixels up, encoded, denoised, decoded, pixels down; nothing in it knows which codec it is."""
    codec = codec_of(mode, wan, tiny)
    size_wh = (32, 16)
    engine = StreamEngine(
        traits=EngineTraits(mode, size_wh, first_chunk_frames=codec.first_chunk_frames, chunk_frames=4, defaults={}),
        pipe=one_stage(drawn_(WanTransformer(SMALL)), codec, Window(capacity=4, sinks=1), size_wh),
        prompts=PromptMixer(Direct(toy_prompt)),
        window=Window(capacity=4, sinks=1),
    )
    results = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (engine.frames_wanted, 16, 32, 3), dtype=np.uint8)
        engine.submit(Chunk(number, pixels), ChunkSettings(steps=(700, 500), steps_count=2))
        results += engine.poll()
    results += engine.flush()
    assert [len(result.frames) for result in results] == [codec.first_chunk_frames, 4, 4]
    assert all(result.frames.shape[1:] == (16, 32, 3) for result in results)


@pytest.mark.parametrize("mode", MODES)
def test_weights_laid_out_for_a_gpu_give_the_same_pictures(mode: str, wan: WanVAE, tiny: TAEHV) -> None:
    expected, laid_out = codec_of(mode, wan, tiny), codec_of(mode, copy.deepcopy(wan), copy.deepcopy(tiny))
    for network in (laid_out._encoder, laid_out._decoder):
        assert network is not None
        channels_last_(network)
        kinds = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d}
        convolutions = [
            (module.weight, layout)
            for module in network.modules()
            for kind, layout in kinds.items()
            if isinstance(module, kind)
        ]
        assert convolutions and all(weight.is_contiguous(memory_format=layout) for weight, layout in convolutions)
    pictures = [streamed(codec, [1, 2, 3], codec.new_state(SIZE_WH)) for codec in (laid_out, expected)]
    for found, wanted in zip(*pictures, strict=True):
        assert_close(found, wanted, 1e-5)
