"""TAEHV for Wan 2.1 latents (taew2_1): the small autoencoder, as a stream whose every frame is computed once.

Owns: encoder and decoder under the released parameter names (engine.md, 6.1) and the shapes of their memory. Knows
torch alone. Latents are NORMALISED, as the DiT gives them; pictures are in [0, 1] (the Wan VAE's are in [-1, 1]).

A memory block sees its own input of the frame before; that is all that streaming needs, so each block keeps one frame
and nothing is decoded twice. The encoder's first frame is its own past, as if it had stood still until then
(contract.md); the decoder's past is zeros before the first latent, as in the published network. Four frames always
make one latent and a latent four frames.

Letters: T frames, H, W cells at that point of the network, C channels. Activations are [T, C, H, W] with channels last
in memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdv2live.engine.model.wan_vae import VaeState, spread

LATENT_CHANNELS = 16
TIME_FACTOR = 4
SPATIAL_FACTOR = 8
ENCODER_WIDTH = 64
DECODER_WIDTHS = (256, 128, 64, 64)
POOLED = (2, 2, 1)  # frames that become one at each level of the encoder
GROWN = (1, 2, 2)  # frames that one becomes at each level of the decoder
BLOCKS = 3  # memory blocks a level


def _conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class MemBlock(nn.Module):
    """A residual block over this frame's features and those of the frame before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.ModuleDict({"0": _conv(2 * width, width), "2": _conv(width, width), "4": _conv(width, width)})

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """x [T, C, H, W]; past [1, C, H, W] is overwritten with the last frame."""
        frames, width, height, columns = x.shape
        # Now and before are written straight to where the convolution reads them, instead of being joined twice.
        both = x.new_empty((frames, height, columns, 2 * width)).permute(0, 3, 1, 2)
        both[:, :width].copy_(x)
        both[:1, width:].copy_(past)
        both[1:, width:].copy_(x[:-1])
        past.copy_(x[-1:])
        y = F.relu_(self.conv["0"](both))
        y = F.relu_(self.conv["2"](y))
        return F.relu_(self.conv["4"](y).add_(x))


class Pool(nn.Module):
    """`stride` frames become one: their channels side by side, oldest first, and a convolution of size 1."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = torch.cat([x[first :: self.stride] for first in range(self.stride)], 1)
        return self.conv(x)


class Grow(nn.Module):
    """One frame becomes `stride` of twice the height and width.

    The published list enlarges first and then convolves. A convolution of size 1 sees one cell, so convolving first
    gives the same numbers at a quarter of the work.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return spread(self.conv(x).permute(0, 2, 3, 1), self.stride).permute(0, 3, 1, 2)


class Clamp(nn.Module):
    """Latents softly kept within -3 and 3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def _encoder() -> nn.ModuleList:
    width = ENCODER_WIDTH
    layers: list[nn.Module] = [_conv(3, width), nn.ReLU(inplace=True)]
    for stride in POOLED:
        layers += [Pool(width, stride), _conv(width, width, stride=2, bias=False)]
        layers += [MemBlock(width) for _ in range(BLOCKS)]
    return nn.ModuleList([*layers, _conv(width, LATENT_CHANNELS)])


def _decoder() -> nn.ModuleList:
    layers: list[nn.Module] = [Clamp(), _conv(LATENT_CHANNELS, DECODER_WIDTHS[0]), nn.ReLU(inplace=True)]
    for stride, width, outputs in zip(GROWN, DECODER_WIDTHS, DECODER_WIDTHS[1:], strict=False):
        layers += [MemBlock(width) for _ in range(BLOCKS)]
        # The Identity holds the place of the enlarging, which Grow does.
        layers += [nn.Identity(), Grow(width, stride), _conv(width, outputs, bias=False)]
    return nn.ModuleList([*layers, nn.ReLU(inplace=True), _conv(DECODER_WIDTHS[-1], 3)])


class TAEHV(nn.Module):
    """Encoder and decoder, or one of them where the other half of the file is not wanted."""

    def __init__(self, *, has_encoder: bool = True, has_decoder: bool = True) -> None:
        super().__init__()
        if has_encoder:
            self.encoder = _encoder()
        if has_decoder:
            self.decoder = _decoder()

    def new_encoder_state(self, size_wh: tuple[int, int]) -> VaeState:
        return _new_state(encoder_memory(size_wh), next(self.encoder.parameters()))

    def new_decoder_state(self, size_wh: tuple[int, int]) -> VaeState:
        """size_wh is that of the pictures, not of the latents."""
        return _new_state(decoder_memory(size_wh), next(self.decoder.parameters()))

    @torch.no_grad()
    def encode(self, frames: Tensor, state: VaeState) -> Tensor:
        """frames [1, 4n, 3, H, W] in [0, 1] -> normalised latents [1, n, 16, H/8, W/8]. `state` is updated.

        Raises ValueError for another number of frames.
        """
        if frames.shape[0] != 1 or frames.shape[1] < 1 or frames.shape[1] % TIME_FACTOR:
            raise ValueError(f"TAEHV takes groups of {TIME_FACTOR} frames of one stream, not {tuple(frames.shape)}.")
        groups = frames[0].split(TIME_FACTOR)
        return _joined([_run(self.encoder, group, state, opens_as_still=True) for group in groups])

    @torch.no_grad()
    def decode(self, latents: Tensor, state: VaeState) -> Tensor:
        """Normalised latents [1, F, 16, h, w] -> frames [1, 4F, 3, 8h, 8w], about [0, 1], not clamped.

        `state` is updated. A latent that the Wan encoder made of frame 0 alone gives four frames like any other, of
        which the last is frame 0: its caller cuts the first three.
        """
        if latents.shape[0] != 1 or latents.shape[1] < 1:
            raise ValueError(f"TAEHV takes latents of one stream, not {tuple(latents.shape)}.")
        return _joined([_run(self.decoder, latent, state) for latent in latents[0].split(1)])


def _run(layers: nn.ModuleList, x: Tensor, state: VaeState, *, opens_as_still: bool = False) -> Tensor:
    """One call of a fixed shape: four frames in, or one latent. opens_as_still: a stream's first is its own past."""
    memory = iter(state.past)
    x = x.contiguous(memory_format=torch.channels_last)
    for layer in layers:
        if isinstance(layer, MemBlock):
            past = next(memory)
            if opens_as_still and state.is_first:
                past.copy_(x[:1])
            x = layer(x, past)
        else:
            x = layer(x)
    state.is_first = False
    return x


def _joined(parts: list[Tensor]) -> Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None]


def encoder_memory(size_wh: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(C, H, W) of the frame that each memory block keeps, for pictures of this size."""
    return [_frame(ENCODER_WIDTH, size_wh, cell) for cell in (2, 4, 8) for _ in range(BLOCKS)]


def decoder_memory(size_wh: tuple[int, int]) -> list[tuple[int, int, int]]:
    levels = zip(DECODER_WIDTHS, (8, 4, 2), strict=False)
    return [_frame(channels, size_wh, cell) for channels, cell in levels for _ in range(BLOCKS)]


def _frame(channels: int, size_wh: tuple[int, int], cell: int) -> tuple[int, int, int]:
    width, height = size_wh
    if width % SPATIAL_FACTOR or height % SPATIAL_FACTOR:
        raise ValueError(f"TAEHV takes sizes that are multiples of {SPATIAL_FACTOR}, not {size_wh}.")
    return channels, height // cell, width // cell


def memory_bytes(size_wh: tuple[int, int], dtype: torch.dtype, *, encodes: bool = True, decodes: bool = True) -> int:
    """Bytes of the streaming memory of an encoder and a decoder: nothing is allocated."""
    shapes = (encoder_memory(size_wh) if encodes else []) + (decoder_memory(size_wh) if decodes else [])
    return sum(channels * height * width for channels, height, width in shapes) * dtype.itemsize


def _new_state(memory: list[tuple[int, int, int]], parameter: Tensor) -> VaeState:
    """Empty memory in the parameter's dtype and on its device."""
    past = [parameter.new_zeros((1, *shape)).contiguous(memory_format=torch.channels_last) for shape in memory]
    return VaeState(past)


def patched_state_dict(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released file's tensors, fitted to this network: where its grow layers make more frames, the last are kept.

    The file's grow layers may have room for two frames even where one stays one. The result is another dict; names
    and all other tensors are the file's.
    """
    fitted = dict(tensors)
    with torch.device("meta"):
        layers = _decoder()
    for index, layer in enumerate(layers):
        name = f"decoder.{index}.conv.weight"
        if isinstance(layer, Grow) and name in fitted and fitted[name].ndim:  # what else does not fit, the load says
            fitted[name] = fitted[name][-layer.conv.out_channels :]
    return fitted
