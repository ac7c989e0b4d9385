"""The codec streams exactly, and its ports, style and memory do what they say."""

import math

import torch
import torch.nn.functional as F

from sdv2live.engine.model.pocket_codec import BANK, BankConv, PocketCodec, Side, depth_to_space, space_to_depth
from sdv2live.training.effects import gauss


def _codec() -> PocketCodec:
    torch.manual_seed(0)
    return PocketCodec().eval()


def _chunk(side: Side, first: int, end: int) -> Side:
    return Side(side.half[4 * first : 4 * end], side.quarter[4 * first : 4 * end])


def test_places_become_channels_and_pixels_again() -> None:
    """As the library's functions do, but with the places before the features, and frames before both."""
    picture = torch.randn(3, 5, 8, 6)
    channels = space_to_depth(picture)
    by_feature = F.pixel_unshuffle(picture, 2).unflatten(1, (5, 4))
    assert torch.equal(channels, by_feature.transpose(1, 2).flatten(1, 2))
    assert torch.equal(depth_to_space(channels), picture)
    frames = channels.flatten(0, 1)[None]
    assert torch.equal(depth_to_space(frames, 3), picture)
    assert depth_to_space(frames, 3).is_contiguous(memory_format=torch.channels_last)
    assert channels.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_statistics_are_of_the_pixels() -> None:
    codec = _codec()
    frames = torch.rand(1, 4, 3, 32, 24) * 2 - 1
    _, side = codec.encode(frames)
    assert side.quarter.is_contiguous(memory_format=torch.channels_last)
    features, colours, spreads, block, calm, far = side.quarter.split((32, 6, 2, 3, 3, 2), 1)
    torch.testing.assert_close(features, codec.raw_latent(frames)[1])
    grey = frames[0].mean(1, keepdim=True)
    for size, colour, spread in zip((4, 12), colours.chunk(2, 1), spreads.chunk(2, 1), strict=True):
        pad = (size - 4) // 2
        colour_of, grey_of, square_of = (
            F.avg_pool2d(x, size, 4, pad, count_include_pad=False) for x in (frames[0], grey, grey.square())
        )
        torch.testing.assert_close(colour, colour_of)
        torch.testing.assert_close(spread, 3 * (square_of - grey_of.square()).clamp_min(1e-5).sqrt())
    torch.testing.assert_close(block, F.avg_pool2d(frames[0], 8).repeat_interleave(2, 2).repeat_interleave(2, 3))
    near, spread = colours[0, :3], spreads[0, :1]
    weight = (0.01 / (spread.square() + 0.01)).square() + 1e-3
    for row, column in ((0, 0), (3, 2), (7, 5)):
        around = (slice(None), slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2))
        mean = (near * weight)[around].sum((1, 2)) / weight[around].sum()
        torch.testing.assert_close(calm[0, :, row, column], mean)
        around = (slice(None), slice(max(row - 3, 0), row + 4), slice(max(column - 3, 0), column + 4))
        torch.testing.assert_close(far[0, 0, row, column], spread[around].mean())
        torch.testing.assert_close(far[0, 1, row, column], near[around].mean())


@torch.no_grad()
def test_the_edge_keeping_mean_is_of_the_calm_places_around() -> None:
    """Pixel by pixel, from its definition: no product of many at once."""
    frames = torch.rand(1, 4, 3, 24, 16) * 2 - 1
    frames[..., 8:] += 3 * frames[..., 8:].sign()  # calm on the left, wild on the right
    _, side = _codec().encode(frames)
    assert side.half.is_contiguous(memory_format=torch.channels_last)
    source, kept = side.half.split(12, 1)
    assert torch.equal(source, space_to_depth(frames[0]))
    kept = kept.unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)  # the order of depth_to_space
    ours = depth_to_space(kept)

    def cell(row: int, column: int) -> torch.Tensor:
        """The mean over 3 x 3 cells around one, with weight 1 where calm: red, green, blue and weight, times weight."""
        rows = torch.tensor([min(max(row + k, 0), 11) for k in (-1, 0, 1)])
        columns = torch.tensor([min(max(column + k, 0), 7) for k in (-1, 0, 1)])
        block = torch.stack([frames[0, 0, :, 2 * rows + a][:, :, 2 * columns + b] for a in (0, 1) for b in (0, 1)])
        grey = 0.299 * block[:, 0] + 0.587 * block[:, 1] + 0.114 * block[:, 2]
        weight = (4e-4 / (grey.var(correction=0) + 4e-4)) ** 3
        return torch.cat([block.mean((0, 2, 3)), torch.ones(1)]) * weight

    for row, column in ((0, 0), (9, 6), (11, 9), (14, 7), (23, 15)):
        total = torch.zeros(4)
        for turn in range(8):
            y = (row + 2 * math.sin(turn * math.pi / 4) - 0.5) / 2
            x = (column + 2 * math.cos(turn * math.pi / 4) - 0.5) / 2
            for a in (math.floor(y), math.floor(y) + 1):
                for b in (math.floor(x), math.floor(x) + 1):
                    share = (1 - abs(y - a)) * (1 - abs(x - b))
                    total += share * cell(min(max(a, 0), 11), min(max(b, 0), 7))
        torch.testing.assert_close(ours[0, :, row, column], total[:3] / total[3], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_the_edge_keeping_mean_calms_and_keeps_edges() -> None:
    """Of a noisy step: nearer to the clean step than the noisy one and than any Gaussian blur of it."""
    torch.manual_seed(1)
    clean = torch.full((4, 3, 32, 32), -0.5)
    clean[..., 15:] = 0.5
    noisy = clean + 0.05 * torch.randn_like(clean)
    kept = _codec().encode(noisy[None])[1].half[:, 12:].unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)

    def error(picture: torch.Tensor) -> float:
        return float((picture - clean)[..., 4:-4, 4:-4].square().mean())

    blurred = [error(gauss(noisy, sigma)) for sigma in (0.3, 0.5, 0.7, 1.0, 2.0)]
    assert error(depth_to_space(kept)) < 0.5 * min(error(noisy), *blurred)


@torch.no_grad()
def test_a_bank_mixes_kernels_and_its_sum_is_the_sum_of_the_pictures() -> None:
    """Convolution is linear in its kernel, so mixing kernels is mixing what each of them draws."""
    torch.manual_seed(0)
    conv = BankConv(5, 7, 3, dilation=2)
    conv.bank.normal_()
    x, shares = torch.randn(2, 5, 9, 8), torch.randn(BANK)
    kernels = conv.bank.view(BANK, 7, 3, 3, 5).permute(0, 1, 4, 2, 3)
    drawn = [F.conv2d(x, kernel, padding=2, dilation=2) for kernel in (conv.weight, *kernels)]
    mixed = F.conv2d(x, conv.kernel(shares), padding=2, dilation=2)
    torch.testing.assert_close(mixed, drawn[0] + sum(s * d for s, d in zip(shares, drawn[1:], strict=True)))


@torch.no_grad()
def test_streaming_equals_the_whole_clip() -> None:
    codec = _codec()
    frames = torch.rand(1, 12, 3, 64, 48) * 2 - 1
    style = codec.style(torch.randn(1, 8, 128), torch.tensor([0.6]))
    latent, side = codec.encode(frames)
    whole = codec.decode(latent, side, style, codec.new_memory(1, 64, 48))
    memory = codec.new_memory(1, 64, 48)
    chunks = []
    for i in range(3):
        z, s = codec.encode(frames[:, 4 * i : 4 * i + 4])
        torch.testing.assert_close(z, latent[:, i : i + 1])
        torch.testing.assert_close(s.half, _chunk(side, i, i + 1).half)
        chunks.append(codec.decode(z, s, style, memory))
    torch.testing.assert_close(torch.cat(chunks, 1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_reset_forgets_and_keeps_the_same_memory() -> None:
    codec = _codec()
    frames = torch.rand(1, 4, 3, 32, 32) * 2 - 1
    style = codec.style(torch.randn(1, 8, 128), torch.tensor([0.6]))
    memory = codec.new_memory(1, 32, 32)
    places = [past.data_ptr() for past in memory.past]
    latent, side = codec.encode(frames)
    first = codec.decode(latent, side, style, memory)
    second = codec.decode(latent, side, style, memory)
    memory.reset()
    third = codec.decode(latent, side, style, memory)
    assert not torch.equal(first, second)
    assert torch.equal(first, third)
    assert places == [past.data_ptr() for past in memory.past]


@torch.no_grad()
def test_rows_are_independent() -> None:
    codec = _codec()
    frames = torch.rand(2, 4, 3, 32, 32) * 2 - 1
    style = codec.style(torch.randn(2, 8, 128), torch.tensor([0.2, 0.7]))
    latent, side = codec.encode(frames)
    both = codec.decode(latent, side, style, codec.new_memory(2, 32, 32))
    z, s = codec.encode(frames[1:])
    alone = codec.decode(z, s, style[1:], codec.new_memory(1, 32, 32))
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_closed_ports_hide_the_source() -> None:
    codec = _codec()
    style = codec.style(torch.randn(1, 8, 128), torch.tensor([0.6]))
    latent = torch.randn(1, 1, 16, 4, 4)
    sides = [codec.encode(torch.rand(1, 4, 3, 32, 32) * 2 - 1)[1] for _ in range(2)]
    closed = torch.zeros(1)
    one, two = (codec.decode(latent, side, style, codec.new_memory(1, 32, 32), closed) for side in sides)
    torch.testing.assert_close(one, two)


@torch.no_grad()
def test_noise_from_half_on_asks_for_the_same() -> None:
    codec = _codec()
    tokens = torch.randn(1, 8, 128)
    assert torch.equal(codec.style(tokens, torch.tensor([0.5])), codec.style(tokens, torch.tensor([0.9])))
    assert not torch.equal(codec.style(tokens, torch.tensor([0.2])), codec.style(tokens, torch.tensor([0.5])))


def test_new_latents_have_a_real_size() -> None:
    """Default initialisation gave 0.02 and a decoder that never looked at them."""
    latent, _ = _codec().raw_latent(torch.rand(2, 4, 3, 64, 64) * 2 - 1)
    assert 0.1 < float(latent.detach().std()) < 2
