"""The pocket model's codec: four frames to one latent and back, with the look put on while decoding.

Owns: the encoder, the styled decoder, the style vector and the decoder's streaming memory. Knows torch alone; knows
nothing of prompts (it is given text tokens), of noise schedules or of the DiT. The latent says what is where, the
style vector how it is drawn, and the source frames come along as side data for fine detail. Letters: B rows, T frames,
4 a chunk; H, W pixels, multiples of 8; h = H/8, w = W/8. Channels are last in memory. Where they hold frames f and the
places (i, j) of a 2x2 block besides features c, their order is (f i j c): what lies side by side stays so when places
become pixels and back, and moves in long runs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdv2live.engine.model.pocket_text import strength_of_noise

FRAMES = 4
LATENT_CHANNELS = 16
STYLE_DIM = 64
ENC4, ENC8 = 32, 64
DEC8, DEC4, DEC2, HIDDEN2 = 96, 48, 16, 32
MEM_BLOCKS = 3
STATISTICS = 16
HALF = 12 + 12  # a 2x2 block of the source, and of its edge-keeping mean
BANK = 12
CALM = 0.01  # square of the spread up to which a cell is calm
CALM_PX = 4e-4  # variance of brightness up to which a few pixels are calm
REACH_PX = 2.0
LUMA = (0.299, 0.587, 0.114)


class Side(NamedTuple):
    """What decode needs of a chunk besides its latent. N = B*4 frames, row by row, in time order."""

    half: Tensor  # source and its edge-keeping mean, 2x2 pixels a place: [N, HALF, H/2, W/2]
    quarter: Tensor  # encoder features and local statistics of each frame: [N, ENC4 + STATISTICS, H/4, W/4]


@dataclass(slots=True)
class Memory:
    """The last frame's features before each memory block, [B, DEC4, H/4, W/4], updated in place.

    fresh is 1 where no frame came before: the next frame is then its own past. A tensor, so that neither reading nor
    resetting it waits for the device.
    """

    past: list[Tensor]
    fresh: Tensor

    def reset(self) -> None:
        """The next frame is its own past. The old past is wiped: NaN would outlive a weight of 0."""
        self.fresh.fill_(1)
        for past in self.past:
            past.zero_()


def _conv(
    inputs: int, outputs: int, size: int = 3, *, stride: int = 1, gain: float = 1.0, dilation: int = 1
) -> nn.Conv2d:
    """A convolution whose output has about the variance of its input: the default shrinks latents to nothing."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=dilation * (size // 2), dilation=dilation)
    _draw(conv, gain)
    return conv


def _draw(conv: nn.Conv2d, gain: float) -> None:
    nn.init.normal_(conv.weight, std=gain / math.sqrt(conv.weight[0].numel()))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class BankConv(nn.Conv2d):
    """A convolution whose kernel is its own plus a mixture of BANK others, as the style asks.

    So each look has kernels of its own, mixed once a chunk, and a picture costs what it costs with one kernel
    (conditional convolution, Yang et al. 2019). bank [BANK, out * kh * kw * in], in the memory order of channels last.
    """

    def __init__(self, inputs: int, outputs: int, size: int = 3, *, gain: float = 1.0, dilation: int = 1) -> None:
        super().__init__(inputs, outputs, size, padding=dilation * (size // 2), dilation=dilation)
        _draw(self, gain)
        self.bank = nn.Parameter(torch.zeros(BANK, self.weight.numel()))

    def kernel(self, shares: Tensor) -> Tensor:
        """shares [BANK] -> [out, in, kh, kw]."""
        outputs, inputs, height, width = self.weight.shape
        mixed = (shares @ self.bank).view(outputs, height, width, inputs)
        return self.weight + mixed.permute(0, 3, 1, 2)


def _silu(x: Tensor) -> Tensor:
    """SiLU, in place where no gradient needs what was there before."""
    return F.silu(x, inplace=not x.requires_grad)


class Film(nn.Module):
    """Scale and shift of each channel from the style."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affine = nn.Linear(STYLE_DIM, 2 * width)
        nn.init.normal_(self.affine.weight, std=0.3 / math.sqrt(STYLE_DIM))
        nn.init.zeros_(self.affine.bias)

    def forward(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """style [S, STYLE_DIM] -> scale, shift [S, C]."""
        scale, shift = self.affine(style).chunk(2, 1)
        return scale, shift


class Look(NamedTuple):
    """What the decoder's layers need of styles: style [S, STYLE_DIM] and its shares of the banks [S, BANK].

    The B rows of a batch are in S groups of B / S that follow each other, each drawn in one style.
    """

    style: Tensor
    shares: Tensor

    def rows(self) -> list[Look]:
        return [Look(*row) for row in zip(self.style.split(1), self.shares.split(1), strict=True)]


def _styled(conv: nn.Conv2d, x: Tensor, look: Look, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """conv(x) * scale + shift, [N, C, ., .], with scale and shift [S, C] of each of the S styles in N.

    All that a style asks for goes into the kernel: no pass over the picture of its own. A live stream has one.
    """
    if len(look.style) > 1:
        parts = [part.split(1) if part is not None else [None] * len(look.style) for part in (scale, shift)]
        rows = zip(x.chunk(len(look.style)), look.rows(), *parts, strict=True)
        return torch.cat([_styled(conv, *row) for row in rows])
    assert conv.bias is not None
    weight, bias = conv.kernel(look.shares[0]) if isinstance(conv, BankConv) else conv.weight, conv.bias
    if scale is not None:
        weight, bias = weight * scale[0].view(-1, 1, 1, 1), bias * scale[0]
    if shift is not None:
        bias = bias + shift[0]
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation)


class Res(nn.Module):
    """x + c2(silu(c1(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c1, self.c2 = _conv(width, width, gain=1.4), _conv(width, width, gain=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.c2(_silu(self.c1(x))).add_(x)


class StyledRes(nn.Module):
    """x + c2(silu(film(c1(x)))); no activation on the trunk, which would die under a style's scale and shift."""

    def __init__(self, width: int, hidden: int, conv: Callable[..., nn.Conv2d]) -> None:
        super().__init__()
        self.c1, self.c2 = conv(width, hidden, gain=1.4), conv(hidden, width, gain=0.5)
        self.film = Film(hidden)

    def forward(self, x: Tensor, look: Look) -> Tensor:
        scale, shift = self.film(look.style)
        return _styled(self.c2, _silu(_styled(self.c1, x, look, 1 + scale, shift)), look).add_(x)


class Port(nn.Module):
    """A way for source detail into the decoder: a convolution with a gate and a shift from the style."""

    def __init__(self, inputs: int, width: int, size: int) -> None:
        super().__init__()
        self.conv = BankConv(inputs, width, size, gain=0.7)
        self.affine = nn.Linear(STYLE_DIM, 2 * width)
        nn.init.normal_(self.affine.weight, std=0.5 / math.sqrt(STYLE_DIM))
        nn.init.zeros_(self.affine.bias)

    def forward(self, trunk: Tensor, source: Tensor, look: Look, keep: Tensor | None) -> Tensor:
        """trunk + gate * conv(source) + shift. keep [S]: 0 closes the port of a style's rows (training only)."""
        gate, shift = self.affine(look.style).chunk(2, 1)
        gate = gate.sigmoid()
        if keep is not None:
            gate = gate * keep.view(-1, 1)
        return _styled(self.conv, source, look, gate, shift).add_(trunk)


class MemBlock(nn.Module):
    """A residual block that also sees what the previous frame looked like at this point."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.now = BankConv(width, width, gain=1.2, dilation=dilation)
        self.before = _conv(width, width, 1, gain=0.5)
        self.film = Film(width)
        self.out = BankConv(width, width, gain=0.5)

    def forward(self, x: Tensor, look: Look, memory: Tensor, fresh: Tensor) -> Tensor:
        """x [B*T, C, h, w]; memory [B, C, h, w] is overwritten with the last frame; fresh [B]."""
        frames = x.shape[0] // memory.shape[0]
        scale, shift = self.film(look.style)
        y = _styled(self.now, x, look, 1 + scale, shift)
        # The projection of the past is taken of this frame and moved on by one, which is the same and saves putting
        # the frames together anew; 4-D throughout, so that channels stay last in memory.
        projected = _styled(self.before, x, look, 1 + scale)
        first = torch.lerp(memory, x[::frames].to(memory.dtype), fresh.view(-1, 1, 1, 1).to(memory.dtype))
        y[::frames] += _styled(self.before, first.to(x.dtype), look, 1 + scale)
        for frame in range(1, frames):
            y[frame::frames] += projected[frame - 1 :: frames]
        memory.copy_(x[frames - 1 :: frames].detach())
        return _styled(self.out, _silu(y), look).add_(x)


class Style(nn.Module):
    """Style vector from pooled text tokens and the strength that the noise scale asks for."""

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.text = nn.Linear(text_dim, 2 * STYLE_DIM)
        self.strength = nn.Linear(8, 2 * STYLE_DIM)
        self.out = nn.Sequential(
            nn.SiLU(), nn.Linear(2 * STYLE_DIM, 2 * STYLE_DIM), nn.SiLU(), nn.Linear(2 * STYLE_DIM, STYLE_DIM)
        )

    def forward(self, tokens: Tensor, noise_scale: Tensor) -> Tensor:
        strength = strength_of_noise(noise_scale)[:, None]
        waves = torch.arange(1, 4, device=tokens.device, dtype=strength.dtype) * math.pi
        places = torch.cat([strength, 1 - strength, (strength * waves).cos(), (strength * waves).sin()], 1)
        pooled = tokens.mean(1) * math.sqrt(tokens.shape[1])
        style: Tensor = self.out(self.text(pooled) + self.strength(places.to(pooled.dtype)))
        return style


class PocketCodec(nn.Module):
    """Encoder and styled decoder. Latents that leave `encode` are normalised with stored per-channel statistics."""

    latent_mean: Tensor
    latent_std: Tensor
    pooling: Tensor
    ring: Tensor

    def __init__(self, text_dim: int = 128) -> None:
        super().__init__()
        self.enc_in, self.enc_res4 = _conv(48, ENC4), Res(ENC4)
        self.enc_down = _conv(ENC4, ENC8, stride=2)
        self.enc_pool = _conv(FRAMES * ENC8, ENC8, 1)
        self.enc_res8 = nn.ModuleList(Res(ENC8) for _ in range(2))
        self.enc_out = _conv(ENC8, LATENT_CHANNELS, 1)
        self.register_buffer("latent_mean", torch.zeros(LATENT_CHANNELS))
        self.register_buffer("latent_std", torch.ones(LATENT_CHANNELS))
        self.register_buffer("pooling", _pooling(), persistent=False)
        self.register_buffer("ring", _ring(), persistent=False)

        self.style = Style(text_dim)
        self.shares = nn.Linear(STYLE_DIM, BANK)
        self.dec_in = _conv(LATENT_CHANNELS, DEC8)
        self.dec_res8 = nn.ModuleList(StyledRes(DEC8, DEC8, _conv) for _ in range(2))
        self.dec_grow = _conv(DEC8, FRAMES * 4 * DEC4, 1)
        self.port4 = Port(ENC4 + STATISTICS, DEC4, 1)
        self.dec_mem = nn.ModuleList(MemBlock(DEC4, dilation) for dilation in (1, 2, 1)[:MEM_BLOCKS])
        self.dec_up = BankConv(DEC4, 4 * DEC2, 1)
        self.port2 = Port(HALF, DEC2, 3)
        self.dec_res2 = StyledRes(DEC2, HIDDEN2, BankConv)
        self.dec_out = BankConv(DEC2, 12, gain=0.3)
        # Straight from the source's pixels to ours: what a look leaves as it is need not pass the narrow trunk.
        self.dec_pass = BankConv(HALF, 12, gain=0.0)

    def raw_latent(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """frames [B, 4n, 3, H, W] in [-1, 1] -> latent before normalisation [B, n, 16, h, w], features [B*4n, ...]."""
        half = space_to_depth(frames.flatten(0, 1))
        return self._latent_of(space_to_depth(half), frames.shape[0])

    def _latent_of(self, cells: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        features = self.enc_res4(self.enc_in(cells))
        x = _silu(self.enc_down(features))
        x = self.enc_pool(torch.cat([x[frame::FRAMES] for frame in range(FRAMES)], 1))
        for block in self.enc_res8:
            x = block(x)
        return self.enc_out(_silu(x)).unflatten(0, (rows, -1)), features

    def normalise(self, latent: Tensor) -> Tensor:
        return (latent - self.latent_mean.view(-1, 1, 1)) / self.latent_std.view(-1, 1, 1)

    def encode(self, frames: Tensor) -> tuple[Tensor, Side]:
        """frames [B, 4n, 3, H, W] in [-1, 1] -> normalised latent [B, n, 16, h, w] and the side data for decode."""
        half = space_to_depth(frames.flatten(0, 1))
        cells = space_to_depth(half)
        latent, features = self._latent_of(cells, frames.shape[0])
        half = _with_edges_kept(half, self.ring)
        return self.normalise(latent), Side(half, _with_statistics(features, cells, self.pooling))

    def decode(self, latent: Tensor, side: Side, style: Tensor, memory: Memory, keep: Tensor | None = None) -> Tensor:
        """Normalised latent [B, n, 16, h, w], style [S, 64] -> frames [B, 4n, 3, H, W], about [-1, 1], not clamped.

        memory is updated in place. keep [S] of 0 and 1 closes the source's ways in for the rows of some styles
        (training only).
        """
        rows = latent.shape[0]
        look = Look(style, self.shares(style))
        x = self.dec_in(latent.flatten(0, 1))
        for block in self.dec_res8:
            x = block(x, look)
        x = depth_to_space(self.dec_grow(x), FRAMES)
        x = self.port4(x, side.quarter, look, keep)
        fresh = memory.fresh.clone()  # autograd keeps it, and the original changes below
        for block, past in zip(self.dec_mem, memory.past, strict=True):
            x = block(x, look, past, fresh)
        memory.fresh.zero_()
        x = depth_to_space(_styled(self.dec_up, x, look))
        x = self.dec_res2(self.port2(x, side.half, look, keep), look)
        cells = _styled(self.dec_out, _silu(x), look)
        cells += _styled(self.dec_pass, side.half, look, None if keep is None else keep.view(-1, 1).expand(-1, 12))
        return depth_to_space(cells).unflatten(0, (rows, -1))

    def keep(self, *, encoder: bool, decoder: bool) -> None:
        """Let go of the half that is not wanted; the latents' statistics stay."""
        for name in [name for name, _ in self.named_children()]:
            if not (encoder if name.startswith("enc_") else decoder):
                delattr(self, name)

    def new_memory(
        self,
        batch: int,
        height: int,
        width: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Memory:
        """A memory for `batch` streams of height x width pixels, as after a reset."""
        shape = (batch, DEC4, height // 4, width // 4)
        past = [
            torch.zeros(shape, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
            for _ in self.dec_mem
        ]
        return Memory(past, torch.ones(batch, dtype=dtype, device=device))

    def encoder_parameters(self) -> list[nn.Parameter]:
        """What stage A trains and the later stages leave alone."""
        return [p for name, p in self.named_parameters() if name.startswith("enc_")]

    def decoder_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if not name.startswith("enc_")]


def side_shapes(size_wh: tuple[int, int]) -> tuple[tuple[int, int, int, int], ...]:
    """Of the side data of one chunk, for pictures of this size."""
    width, height = size_wh
    return (FRAMES, HALF, height // 2, width // 2), (FRAMES, ENC4 + STATISTICS, height // 4, width // 4)


def space_to_depth(x: Tensor) -> Tensor:
    """[N, C, 2h, 2w] -> [N, (i j C), h, w]; channels last in memory, as the convolutions want them."""
    batch, channels, height, width = x.shape
    lines = x.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2 * channels)
    return torch.cat(lines.unbind(2), -1).permute(0, 3, 1, 2)  # twice as fast as permuting i inwards


def depth_to_space(x: Tensor, frames: int = 1) -> Tensor:
    """[N, (f i j C), h, w] -> [N*f, C, 2h, 2w] in one copy; channels last in memory before and after."""
    batch, channels, height, width = x.shape
    lines = x.permute(0, 2, 3, 1).reshape(batch, height, width, frames, 2, channels // frames // 2)
    pixels = lines.permute(0, 3, 1, 4, 2, 5).reshape(batch * frames, 2 * height, 2 * width, -1)
    return pixels.permute(0, 3, 1, 2)


def _pooling() -> Tensor:
    """[3 + 16, 48]: from the 48 values of a 4x4 cell (place, then colour) its mean colour and each place's grey."""
    colour = torch.eye(3).repeat(1, 16) / 16
    place = torch.eye(16).repeat_interleave(3, 1) / 3
    return torch.cat([colour, place])


def _ring() -> Tensor:
    """[16, 4, 5, 5]: from four features of 2x2 cells each one's sum over eight places REACH_PX around each pixel.

    Between the cells' middles it is bilinear. Order of the 16: feature, then the pixel's place in its cell.
    """
    kernel = torch.zeros(4, 5, 5)
    for place in range(4):
        for turn in range(8):
            y, x = (
                2 + (at + REACH_PX * wave(turn * math.pi / 4) - 0.5) / 2
                for at, wave in zip(divmod(place, 2), (math.sin, math.cos), strict=True)
            )
            for row in range(5):
                for column in range(5):
                    kernel[place, row, column] += max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
    return torch.einsum("ab,pyx->apbyx", torch.eye(4), kernel).flatten(0, 1)


def _with_edges_kept(half: Tensor, ring: Tensor) -> Tensor:
    """half [N, 12, h, w] -> [N, HALF, h, w], channels last in memory.

    Behind it an edge-keeping mean of the same pixels, colour before place: of eight means over 6 x 6 pixels around a
    pixel the calm ones win (Kuwahara's filter with soft weights, as Papari et al. 2007 have it). Flat paint with sharp
    rims is what painterly looks are made of, and more than the decoder's few layers find. In 32-bit floats: a variance
    is a small difference of large numbers.
    """
    pixels = half.float().contiguous().unflatten(1, (4, 3))  # planes: sums of slices are fast there
    red, green, blue = pixels.unbind(2)
    grey = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    x = torch.cat([pixels.mean(1), grey.mean(1, keepdim=True), grey.square().mean(1, keepdim=True)], 1)
    # No convolution: some devices round what it multiplies.
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    x = (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 9
    variance = (x[:, 4:] - x[:, 3:4].square()).clamp_min(0)
    calm = CALM_PX / (variance + CALM_PX)
    calm = calm * calm * calm
    weighted = F.pad(torch.cat([x[:, :3] * calm, calm], 1), (2, 2, 2, 2), mode="replicate")
    sums = F.conv2d(weighted, ring.float()).permute(0, 2, 3, 1).unflatten(-1, (4, 4))
    kept = (sums[..., :3, :] / sums[..., 3:, :]).flatten(-2)
    return torch.cat([half.permute(0, 2, 3, 1), kept.to(half.dtype)], -1).permute(0, 3, 1, 2)


def _with_statistics(features: Tensor, cells: Tensor, pooling: Tensor) -> Tensor:
    """features [N, C, h, w], cells [N, 48, h, w] -> [N, C + 16, h, w], channels last in memory.

    Behind the features: mean colour over 4 and over 12 pixels; spread of brightness over 4 and over 12; mean colour of
    the 8 x 8 block; mean colour of the 3 x 3 cells around, the calm ones counting most; spread and brightness over 28
    pixels. With them the decoder can choose the calmest neighbourhood, as painterly filters do, instead of finding it.
    In 32-bit floats always: a spread is a small difference of large numbers.
    """
    pooled = F.linear(cells.permute(0, 2, 3, 1).float(), pooling.float())
    colour, grey = pooled[..., :3], pooled[..., 3:]
    near = torch.cat([colour, grey.square().mean(-1, keepdim=True)], -1)
    spread = _spread(near)
    # Floored, so that the sum of weights stays above nought.
    calm = (CALM / (spread.square() + CALM)).square() + 1e-3
    around = _mean_around(torch.cat([near, colour * calm, calm], -1), 3)
    wide, calmest = around[..., :4], around[..., 4:7] / around[..., 7:]
    block = F.avg_pool2d(colour.permute(0, 3, 1, 2), 2)
    block = F.interpolate(block, scale_factor=2.0).permute(0, 2, 3, 1)
    far = _mean_around(torch.cat([spread, colour.mean(-1, keepdim=True)], -1), 7)
    statistics = torch.cat([colour, wide[..., :3], spread, _spread(wide), block, calmest, far], -1)
    return torch.cat([features.permute(0, 2, 3, 1), statistics.to(features.dtype)], -1).permute(0, 3, 1, 2)


def _mean_around(x: Tensor, side: int) -> Tensor:
    """Mean over side x side places, [N, h, w, C]; what lies outside does not count. Lines first, then columns."""
    pool = functools.partial(F.avg_pool2d, stride=1, count_include_pad=False)
    lines = pool(x.permute(0, 3, 1, 2), (1, side), padding=(0, side // 2))
    return pool(lines, (side, 1), padding=(side // 2, 0)).permute(0, 2, 3, 1)


def _spread(moments: Tensor) -> Tensor:
    """Three times the standard deviation, of mean red, green, blue and mean square of grey: [N, h, w, 4] -> [..., 1]"""
    mean = moments[..., :3].mean(-1, keepdim=True)
    return 3 * (moments[..., 3:] - mean.square()).clamp_min(1e-5).sqrt()
