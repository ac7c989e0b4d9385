"""TAEHV: released names, a stream equal to the whole clip, and both equal to a plain slow form written here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdv2live.engine.model.taehv import TAEHV, memory_bytes, patched_state_dict
from tests.engine.wan_cases import NoWaiting, assert_close, one_thread

SIZE_WH = (24, 16)


@pytest.fixture(autouse=True, scope="module")
def small_pictures() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def taehv() -> TAEHV:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return TAEHV().eval().requires_grad_(False)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def encode_in(taehv: TAEHV, frames: Tensor, chunks: list[int]) -> Tensor:
    state = taehv.new_encoder_state(SIZE_WH)
    return torch.cat([taehv.encode(part, state) for part in frames.split(chunks, 1)], 1)


def decode_in(taehv: TAEHV, latents: Tensor, chunks: list[int]) -> Tensor:
    state = taehv.new_decoder_state(SIZE_WH)
    return torch.cat([taehv.decode(part, state) for part in latents.split(chunks, 1)], 1)


# The plain form: the whole clip at once, layer by layer, from the tensors by name. x is [T, C, H, W].


def convolved(weights: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = weights[f"{name}.weight"]
    return F.conv2d(x, weight, weights.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)


def remembered(weights: dict[str, Tensor], name: str, x: Tensor, *, first: Tensor) -> Tensor:
    before = torch.cat([first, x[:-1]])
    y = convolved(weights, f"{name}.conv.0", torch.cat([x, before], 1)).relu()
    y = convolved(weights, f"{name}.conv.2", y).relu()
    return (convolved(weights, f"{name}.conv.4", y) + x).relu()


def plainly_encoded(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    x = convolved(weights, "encoder.0", x).relu()
    for level, pooled in enumerate((2, 2, 1)):
        first = 2 + 5 * level
        frames, channels, height, width = x.shape
        x = x.reshape(frames // pooled, pooled * channels, height, width)
        x = convolved(weights, f"encoder.{first}.conv", x)
        x = convolved(weights, f"encoder.{first + 1}", x, stride=2)
        for block in range(first + 2, first + 5):
            x = remembered(weights, f"encoder.{block}", x, first=x[:1])
    return convolved(weights, "encoder.17", x)


def plainly_decoded(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    x = convolved(weights, "decoder.1", 3 * torch.tanh(x / 3)).relu()
    for level, grown in enumerate((1, 2, 2)):
        first = 3 + 6 * level
        for block in range(first, first + 3):
            x = remembered(weights, f"decoder.{block}", x, first=torch.zeros_like(x[:1]))
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        frames, channels, height, width = x.shape
        x = convolved(weights, f"decoder.{first + 4}.conv", x)
        x = x.reshape(frames * grown, channels, height, width)
        x = convolved(weights, f"decoder.{first + 5}", x)
    return convolved(weights, "decoder.22", x.relu())


def test_encoding_equals_the_plain_form(taehv: TAEHV) -> None:
    frames = drawn(1, 12, 3, 16, 24)
    assert_close(encode_in(taehv, frames, [12])[0], plainly_encoded(taehv.state_dict(), frames[0]), 1e-5)


def test_a_picture_that_stands_still_is_encoded_alike_from_the_first_chunk_on(taehv: TAEHV) -> None:
    still = drawn(1, 1, 3, 16, 24).expand(-1, 12, -1, -1, -1)
    first, *later = encode_in(taehv, still, [4, 4, 4]).unbind(1)
    for latent in later:
        assert_close(latent, first, 1e-6)
    state = taehv.new_encoder_state(SIZE_WH)
    taehv.encode(drawn(1, 8, 3, 16, 24, seed=2), state)
    state.reset()
    assert torch.equal(taehv.encode(still[:, :4], state)[:, 0], first), "nor does it see what was before a reset"


def test_decoding_equals_the_plain_form(taehv: TAEHV) -> None:
    latents = 4 * drawn(1, 3, 16, 2, 3) - 2
    assert_close(decode_in(taehv, latents, [3])[0], plainly_decoded(taehv.state_dict(), latents[0]), 1e-5)


@pytest.mark.parametrize("chunks", [[4, 4, 4], [8, 4], [4, 8]])
def test_a_stream_is_encoded_like_the_whole_clip(taehv: TAEHV, chunks: list[int]) -> None:
    frames = drawn(1, 12, 3, 16, 24)
    whole = encode_in(taehv, frames, [12])
    assert whole.shape == (1, 3, 16, 2, 3)
    assert torch.equal(encode_in(taehv, frames, chunks), whole)


@pytest.mark.parametrize("chunks", [[1, 1, 1], [2, 1], [1, 2]])
def test_a_stream_is_decoded_like_the_whole_clip(taehv: TAEHV, chunks: list[int]) -> None:
    latents = drawn(1, 3, 16, 2, 3)
    whole = decode_in(taehv, latents, [3])
    assert whole.shape == (1, 12, 3, 16, 24)
    assert torch.equal(decode_in(taehv, latents, chunks), whole)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_another_number_of_frames_is_refused(taehv: TAEHV, count: int) -> None:
    with pytest.raises(ValueError, match="groups of 4"):
        taehv.encode(drawn(1, count, 3, 16, 24), taehv.new_encoder_state(SIZE_WH))


def test_a_size_between_cells_is_refused(taehv: TAEHV) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        taehv.new_decoder_state((20, 16))


def test_names_are_the_released_ones(taehv: TAEHV) -> None:
    mem_blocks = [f"encoder.{n}" for n in (4, 5, 6, 9, 10, 11, 14, 15, 16)]
    mem_blocks += [f"decoder.{n}" for n in (3, 4, 5, 9, 10, 11, 15, 16, 17)]
    expected = {f"{block}.conv.{n}.{kind}" for block in mem_blocks for n in (0, 2, 4) for kind in ("weight", "bias")}
    expected |= {f"{name}.{kind}" for name in ENDS for kind in ("weight", "bias")}
    expected |= {f"{name}.weight" for name in WITHOUT_BIAS}
    assert set(taehv.state_dict()) == expected
    assert sum(p.numel() for p in taehv.encoder.parameters()) == pytest.approx(1.47e6, abs=5e3)
    assert sum(p.numel() for p in taehv.decoder.parameters()) == pytest.approx(9.84e6, abs=5e3)


ENDS = ("encoder.0", "encoder.17", "decoder.1", "decoder.22")
WITHOUT_BIAS = (
    *("encoder.2.conv", "encoder.7.conv", "encoder.12.conv", "encoder.3", "encoder.8", "encoder.13"),
    *("decoder.7.conv", "decoder.13.conv", "decoder.19.conv", "decoder.8", "decoder.14", "decoder.20"),
)


def test_either_half_can_be_had_alone(taehv: TAEHV) -> None:
    with torch.device("meta"):
        encoder, decoder = TAEHV(has_decoder=False), TAEHV(has_encoder=False)
    assert set(encoder.state_dict()) | set(decoder.state_dict()) == set(taehv.state_dict())
    assert set(encoder.state_dict()).isdisjoint(decoder.state_dict())


def test_of_a_larger_grow_layer_the_last_rows_are_kept(taehv: TAEHV) -> None:
    name = "decoder.7.conv.weight"
    ours = taehv.state_dict()
    released = {**ours, name: torch.cat([torch.full_like(ours[name], torch.nan), ours[name]])}
    before = dict(released)
    fitted = patched_state_dict(released)
    assert torch.equal(fitted[name], ours[name])
    assert torch.equal(fitted["decoder.13.conv.weight"], ours["decoder.13.conv.weight"])
    assert released[name] is before[name], "the file's own tensors are left as they were"
    taehv.load_state_dict(fitted)
    assert patched_state_dict({}) == {}


def test_memory_is_foretold_to_the_byte(taehv: TAEHV) -> None:
    for state, which in (
        (taehv.new_encoder_state(SIZE_WH), {"decodes": False}),
        (taehv.new_decoder_state(SIZE_WH), {"encodes": False}),
    ):
        held = sum(past.numel() * past.element_size() for past in state.past)
        assert memory_bytes(SIZE_WH, torch.float32, **which) == held
        assert memory_bytes(SIZE_WH, torch.float16, **which) == held // 2


def test_memory_stays_where_it_is_and_is_wiped_by_a_reset(taehv: TAEHV) -> None:
    state, latents = taehv.new_decoder_state(SIZE_WH), drawn(1, 2, 16, 2, 3)
    addresses = [past.data_ptr() for past in state.past]
    first = taehv.decode(latents, state)
    taehv.decode(latents[:, :1] * torch.nan, state)
    state.reset()
    assert torch.equal(taehv.decode(latents, state), first)
    assert [past.data_ptr() for past in state.past] == addresses


def test_the_host_never_waits(taehv: TAEHV) -> None:
    encoder_state, decoder_state = taehv.new_encoder_state(SIZE_WH), taehv.new_decoder_state(SIZE_WH)
    frames = drawn(1, 8, 3, 16, 24)
    with NoWaiting():
        for _ in range(2):
            taehv.decode(taehv.encode(frames, encoder_state), decoder_state)
