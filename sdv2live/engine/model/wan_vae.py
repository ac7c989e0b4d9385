"""The Wan 2.1 VAE as a stream: pixels to latents and back, a few frames a call, with a memory that the caller keeps.

Owns: the networks under the released parameter names (engine.md, 6: 194 of them), the shapes of the memory, and the
latents' mean and deviation. Knows torch alone; nothing of chunks, noise or normalisation, which are wan_codec.py's.

Every call runs one of a few fixed shapes: the encoder takes frame 0 alone and then four frames at a time, the decoder
one latent frame at a time. A clip given at once is cut into the same calls, so however a stream is chunked, the
numbers are the same to the last bit. Which shape it is depends on a host boolean alone: nothing reads from the device.

Letters: T frames, H, W cells at that point of the network, C channels. Activations are [T, H, W, C], contiguous: that
is PyTorch's channels_last(_3d) order, which tensor cores want, and makes a range of frames one piece of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
TIME_FACTOR = 4
SPATIAL_FACTOR = 8
LARGE = 1 << 24  # values of a tensor from which on memory matters more than another launch
EPS = 1e-24  # under the root: keeps 0 / 0 away and is lost beside any other norm


@dataclass(frozen=True, slots=True)
class WanVaeConfig:
    """Sizes of the VAE; the released one is the default. A level is `res_blocks` blocks (one more in the decoder)."""

    base_dim: int = 96
    z_dim: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    halves_time: tuple[bool, ...] = (False, True, True)  # after each level but the last; the decoder's are reversed

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.base_dim * multiplier for multiplier in self.multipliers)


# Memory.


@dataclass(frozen=True, slots=True)
class Past:
    """What one convolution keeps between calls: its last input frames, where a cell is `cell` pixels wide and high."""

    frames: int
    channels: int
    cell: int

    def shape(self, size_wh: tuple[int, int]) -> tuple[int, int, int, int]:
        width, height = size_wh
        return self.frames, height // self.cell, width // self.cell, self.channels


@dataclass(slots=True)
class VaeState:
    """The memory of one encoder or decoder in one stream. Its tensors never move: they are written in place."""

    past: list[Tensor]
    is_first: bool = True

    def reset(self) -> None:
        """The next call is a stream's first. All past is wiped: NaN would outlive a weight of 0."""
        self.is_first = True
        for past in self.past:
            past.zero_()


# On a processor torch takes oneDNN for one volume from this size on, batch by channels by frames by rows (its own
# rule, in aten/src/ATen/native/Convolution.cpp), and a kernel several times slower below; for pictures it does not.
SMALLEST_FAST_VOLUME = 20_481


def _is_slow_as_one(joined: Tensor) -> bool:
    """[T, H, W, C]: small pictures, or few channels. On the meta device memory is counted, and so as on a processor."""
    return joined.device.type in ("cpu", "meta") and joined.numel() // joined.shape[2] < SMALLEST_FAST_VOLUME


class CausalConv(nn.Conv3d):
    """A convolution over the frames given and the last ones before them; none before the first are zeros.

    With a kernel of 3, two frames of past give an output for each frame, and one frame of past and a stride of 2 an
    output for every second one. way: chooses between `whole` and `by_taps`, which give the same; without one it is
    `whole`, but where torch has no fast kernel for that.
    """

    way: Callable[[CausalConv, Tensor], Tensor] | None = None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int, int],
        *,
        memory: list[Past],
        cell: int,
        time_stride: int = 1,
    ) -> None:
        super().__init__(
            inputs, outputs, kernel, stride=(time_stride, 1, 1), padding=(0, kernel[1] // 2, kernel[2] // 2)
        )
        self.past_frames = kernel[0] - time_stride
        self.slot = len(memory)
        memory.append(Past(self.past_frames, inputs, cell))

    def forward(  # type: ignore[override]  # a convolution by its parameters, a stream's by its call
        self, x: Tensor, state: VaeState, norm: RMSNorm | None = None
    ) -> Tensor:
        """[T, H, W, C] -> [T / stride, H, W, outputs], of x or of silu(norm(x))."""
        return self.convolved(self.joined(x, state, norm))

    def joined(self, x: Tensor, state: VaeState, norm: RMSNorm | None = None) -> Tensor:
        """Past and present written straight to where the convolution reads them. x is not needed after it."""
        past = state.past[self.slot]
        joined = x.new_empty((self.past_frames + x.shape[0], *x.shape[1:]))
        joined[: self.past_frames].copy_(past)
        if norm is None:
            joined[self.past_frames :].copy_(x)
        else:
            norm.silu_into(x, joined[self.past_frames :])
        past.copy_(joined[-self.past_frames :])
        return joined

    def convolved(self, joined: Tensor) -> Tensor:
        if self.way is not None:
            return self.way(self, joined)
        return self.by_taps(joined) if _is_slow_as_one(joined) else self.whole(joined)

    def whole(self, joined: Tensor) -> Tensor:
        y = super().forward(joined.permute(3, 0, 1, 2)[None])
        return y[0].permute(1, 2, 3, 0)

    def by_taps(self, joined: Tensor) -> Tensor:
        """The same as one convolution of pictures for each step of the kernel in time, added up."""
        steps, stride = self.kernel_size[0], self.stride[0]
        frames, last = joined.permute(0, 3, 1, 2), joined.shape[0] - steps
        y: Tensor | None = None
        for tap in range(steps):
            part = F.conv2d(
                frames[tap : tap + last + 1 : stride],
                self.weight[:, :, tap],
                self.bias if tap == 0 else None,
                padding=(self.kernel_size[1] // 2, self.kernel_size[2] // 2),
            )
            y = part if y is None else y.add_(part)
        assert y is not None
        return y.permute(0, 2, 3, 1)

    def remember(self, x: Tensor, state: VaeState) -> None:
        """Keep the last frames of x [T, H, W, C], and run nothing."""
        state.past[self.slot].copy_(x[-self.past_frames :])


def new_state(memory: list[Past], size_wh: tuple[int, int], parameter: Tensor) -> VaeState:
    """Empty memory for pictures of this size, in the parameter's dtype and on its device."""
    if size_wh[0] % SPATIAL_FACTOR or size_wh[1] % SPATIAL_FACTOR:
        raise ValueError(f"The Wan VAE takes sizes that are multiples of {SPATIAL_FACTOR}, not {size_wh}.")
    return VaeState([parameter.new_zeros(past.shape(size_wh)) for past in memory])


# Layers.


def normed(x: Tensor, gamma: Tensor) -> Tensor:
    """x [..., C] / |x| * sqrt(C) * gamma [C]."""
    return F.rms_norm(x, x.shape[-1:], gamma, EPS)


class RMSNorm(nn.Module):
    """x / |x| * sqrt(C) * gamma, the length taken over a cell's channels.

    fused: (x, gamma, out), of [N, C], [C] and [N, C]: writes silu of the norm, in one kernel.
    """

    fused: Callable[[Tensor, Tensor, Tensor], None] | None = None

    def __init__(self, channels: int, dims: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        return normed(x, self.gamma.flatten())

    def silu_into(self, x: Tensor, out: Tensor) -> None:
        """silu(norm(x)) written to `out`, both [T, H, W, C]."""
        if self.fused is not None:
            self.fused(x.flatten(0, -2), self.gamma.flatten(), out.flatten(0, -2))
            return
        # A large picture frame by frame: what the norm needs meanwhile is then a frame's worth.
        frames = 1 if x.numel() > LARGE else x.shape[0]
        for part, place in zip(x.split(frames), out.split(frames), strict=True):
            torch.ops.aten.silu.out(self(part), out=place)


def _pointwise(conv: nn.Conv2d | nn.Conv3d, x: Tensor, outputs: int | None = None) -> Tensor:
    """A convolution of size 1 as the matrix product that it is; `outputs`: of the first ones alone."""
    assert conv.bias is not None
    return F.linear(x, conv.weight.flatten(1)[:outputs], conv.bias[:outputs])


def _by_frame(conv: nn.Module, x: Tensor) -> Tensor:
    """conv of each frame, [T, H, W, C]."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ResBlock(nn.Module):
    """Twice norm, SiLU and convolution, and the input added."""

    def __init__(self, inputs: int, outputs: int, memory: list[Past], cell: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {
                "0": RMSNorm(inputs),
                "2": CausalConv(inputs, outputs, (3, 3, 3), memory=memory, cell=cell),
                "3": RMSNorm(outputs),
                "6": CausalConv(outputs, outputs, (3, 3, 3), memory=memory, cell=cell),
            }
        )
        self.shortcut = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        norm1, conv1, norm2, conv2 = (self.residual[name] for name in ("0", "2", "3", "6"))
        assert isinstance(conv1, CausalConv) and isinstance(conv2, CausalConv)
        assert isinstance(norm1, RMSNorm) and isinstance(norm2, RMSNorm)
        # Step by step, so that at full size no more than three large tensors are alive at once.
        joined = conv1.joined(x, state, norm1)
        y = conv1.convolved(joined)
        del joined
        joined = conv2.joined(y, state, norm2)
        del y
        y = conv2.convolved(joined)
        del joined
        return y.add_(x if self.shortcut is None else _pointwise(self.shortcut, x))


class FrameAttention(nn.Module):
    """Single-head attention among the cells of each frame, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, dims=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        cells = self.norm(x).flatten(1, 2)[:, None]  # [T, one head, H*W, C]
        q, k, v = _pointwise(self.to_qkv, cells).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return _pointwise(self.proj, mixed).view(x.shape).add_(x)


class Downsample(nn.Module):
    """Half the height and width and, where it has a time_conv, half the frames."""

    def __init__(self, channels: int, memory: list[Past], cell: int, *, halves_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels, 3, stride=2)})
        self.time_conv = (
            CausalConv(channels, channels, (3, 1, 1), memory=memory, cell=2 * cell, time_stride=2)
            if halves_time
            else None
        )

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        y = _by_frame(self.resample["1"], F.pad(x, (0, 0, 0, 1, 0, 1)))  # right and below alone
        if self.time_conv is None:
            return y
        if state.is_first:  # frame 0 is a latent frame of its own
            self.time_conv.remember(y, state)
            return y
        return self.time_conv(y, state)


class Upsample(nn.Module):
    """Twice the height and width and, where it has a time_conv, twice the frames; half the channels."""

    def __init__(self, channels: int, memory: list[Past], cell: int, *, doubles_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels // 2, 3, padding=1)})
        self.time_conv = (
            CausalConv(channels, 2 * channels, (3, 1, 1), memory=memory, cell=cell) if doubles_time else None
        )

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        """The first latent stays one frame and is not remembered here: the second finds an empty past."""
        frames = 1
        if self.time_conv is not None and not state.is_first:
            x, frames = self.time_conv(x, state), 2
        return _by_frame(self.resample["1"], spread(x, frames))


def spread(x: Tensor, frames: int) -> Tensor:
    """[T, H, W, frames*C] -> [T*frames, 2H, 2W, C] in one copy: channels become frames, each cell four equal ones."""
    times, height, width, channels = x.shape
    channels //= frames
    parts = x.unflatten(-1, (frames, channels)).permute(0, 3, 1, 2, 4)[:, :, :, None, :, None]
    parts = parts.expand(times, frames, height, 2, width, 2, channels)
    return parts.reshape(times * frames, 2 * height, 2 * width, channels)


def _middle(width: int, memory: list[Past]) -> nn.ModuleList:
    first = ResBlock(width, width, memory, SPATIAL_FACTOR)
    return nn.ModuleList([first, FrameAttention(width), ResBlock(width, width, memory, SPATIAL_FACTOR)])


def _head(width: int, outputs: int, memory: list[Past], cell: int) -> nn.ModuleDict:
    return nn.ModuleDict({"0": RMSNorm(width), "2": CausalConv(width, outputs, (3, 3, 3), memory=memory, cell=cell)})


# The two networks.


class Encoder(nn.Module):
    """Frames [T, H, W, 3] -> mean and log-variance [F, H/8, W/8, 2 z]: 1 frame first, then 4 a call, 1 latent each."""

    def __init__(self, config: WanVaeConfig) -> None:
        super().__init__()
        self.memory: list[Past] = []
        widths = config.widths
        cell, width = 1, widths[0]
        self.conv1 = CausalConv(3, width, (3, 3, 3), memory=self.memory, cell=cell)
        layers: list[nn.Module] = []
        for level, outputs in enumerate(widths):
            for _ in range(config.res_blocks):
                layers.append(ResBlock(width, outputs, self.memory, cell))
                width = outputs
            if level < len(widths) - 1:
                layers.append(Downsample(width, self.memory, cell, halves_time=config.halves_time[level]))
                cell *= 2
        self.downsamples = nn.ModuleList(layers)
        self.middle = _middle(width, self.memory)
        self.head = _head(width, 2 * config.z_dim, self.memory, cell)

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        x = self.conv1(x, state)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, state)
        return self.head["2"](x, state, self.head["0"])


class Decoder(nn.Module):
    """One latent frame [1, H, W, z] -> frames [T, 8H, 8W, 3]: 1 for a stream's first latent, then 4 a call."""

    def __init__(self, config: WanVaeConfig) -> None:
        super().__init__()
        self.memory: list[Past] = []
        widths = config.widths[::-1]
        cell, width = SPATIAL_FACTOR, widths[0]
        self.conv1 = CausalConv(config.z_dim, width, (3, 3, 3), memory=self.memory, cell=cell)
        self.middle = _middle(width, self.memory)
        layers: list[nn.Module] = []
        for level, outputs in enumerate(widths):
            for _ in range(config.res_blocks + 1):
                layers.append(ResBlock(width, outputs, self.memory, cell))
                width = outputs
            if level < len(widths) - 1:
                doubles_time = config.halves_time[::-1][level]
                layers.append(Upsample(width, self.memory, cell, doubles_time=doubles_time))
                cell, width = cell // 2, width // 2
        self.upsamples = nn.ModuleList(layers)
        self.head = _head(width, 3, self.memory, cell)

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        x = self.conv1(x, state)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, state)
        return self.head["2"](x, state, self.head["0"])


class WanVAE(nn.Module):
    """Encoder and decoder, or one of them where the other half of the file is not wanted (conv1 is the encoder's)."""

    def __init__(
        self, config: WanVaeConfig | None = None, *, has_encoder: bool = True, has_decoder: bool = True
    ) -> None:
        super().__init__()
        self.config = config = config or WanVaeConfig()
        if has_encoder:
            self.encoder = Encoder(config)
            self.conv1 = nn.Conv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        if has_decoder:
            self.conv2 = nn.Conv3d(config.z_dim, config.z_dim, 1)
            self.decoder = Decoder(config)

    def new_encoder_state(self, size_wh: tuple[int, int]) -> VaeState:
        return new_state(self.encoder.memory, size_wh, self.conv1.weight)

    def new_decoder_state(self, size_wh: tuple[int, int]) -> VaeState:
        """size_wh is that of the pictures, not of the latents."""
        return new_state(self.decoder.memory, size_wh, self.conv2.weight)

    @torch.no_grad()
    def encode(self, frames: Tensor, state: VaeState) -> Tensor:
        """frames [1, 3, T, H, W] in [-1, 1] -> mean of the latents [1, 16, F, H/8, W/8], not normalised.

        T is 1 + 4n in a stream's first call, F = 1 + n; later T is 4n and F = n. `state` is updated.
        Raises ValueError for another T.
        """
        video = frames[0].permute(1, 2, 3, 0)
        opening = 1 if state.is_first else 0
        count = video.shape[0]
        if frames.shape[0] != 1 or count < 1 or (count - opening) % TIME_FACTOR:
            expected = "1 and then groups of 4" if opening else "groups of 4"
            raise ValueError(f"The Wan encoder takes {expected} frames of one stream, not {tuple(frames.shape)}.")
        groups = list(video[opening:].split(TIME_FACTOR)) if count > opening else []
        parts = [self._encode_group(group, state) for group in [video[:opening]] * opening + groups]
        return _joined(parts).permute(3, 0, 1, 2)[None]

    @torch.no_grad()
    def decode(self, latents: Tensor, state: VaeState) -> Tensor:
        """latents [1, 16, F, h, w], not normalised -> frames [1, 3, T, 8h, 8w], about [-1, 1], not clamped.

        A stream's first latent gives one frame, each later one four. `state` is updated.
        """
        if latents.shape[0] != 1 or latents.shape[2] < 1:
            raise ValueError(f"The Wan decoder takes latents of one stream, not {tuple(latents.shape)}.")
        parts = [self._decode_frame(latent, state) for latent in latents[0].permute(1, 2, 3, 0).split(1)]
        return _joined(parts).permute(3, 0, 1, 2)[None]

    # One call of a fixed shape each: all of it, since a product over more rows may be summed in another order. What
    # changes on the host changes here, outside of what a graph can capture.

    def _encode_group(self, frames: Tensor, state: VaeState) -> Tensor:
        mean = _pointwise(self.conv1, self.encoder(frames, state), self.config.z_dim)
        state.is_first = False
        return mean

    def _decode_frame(self, latent: Tensor, state: VaeState) -> Tensor:
        frames = self.decoder(_pointwise(self.conv2, latent), state)
        state.is_first = False
        return frames


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def memory_bytes(
    config: WanVaeConfig, size_wh: tuple[int, int], dtype: torch.dtype, *, encodes: bool = True, decodes: bool = True
) -> int:
    """Bytes of the streaming memory of an encoder and a decoder, from shapes alone: nothing is allocated."""
    with torch.device("meta"):
        networks = [Encoder(config)] if encodes else []
        memories = [network.memory for network in networks] + ([Decoder(config).memory] if decodes else [])
    shapes = [torch.Size(past.shape(size_wh)) for memory in memories for past in memory]
    return sum(shape.numel() for shape in shapes) * dtype.itemsize
