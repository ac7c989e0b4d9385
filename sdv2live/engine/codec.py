"""The one contract of every autoencoder (pocket, Wan VAE, TAEHV). Owns: what the stream may ask of a codec."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Prepared = Any  # what a codec makes of a chunk's prompt and noise before decoding


@dataclass(frozen=True, slots=True)
class Form:
    """What a tensor looks like before it is there. channels_last: [N, C, H, W] with the channels last in memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


Side = tuple[Tensor, ...]  # what `decode` needs of a chunk beside its latents; travels with it through rows and ranks


class CodecState(Protocol):
    """A codec's memory of one stream. Its tensors never move, as what is captured knows them by their addresses."""

    def reset(self) -> None:
        """The next chunk is the first."""
        ...


class Codec(Protocol):
    """Pixels to latents and back, a chunk at a time, with a memory that belongs to the stream.

    One may be built without its encoder or its decoder, for a rank that has no use for it, and is not asked for that.

    spatial_factor: pixels per latent cell, each way. Frames are [1, T, 3, H, W] in [-1, 1]; latents
    [1, F, 16, H / factor, W / factor], normalised as the DiT wants them. Neither call reads from the device.
    """

    spatial_factor: int

    def new_state(self, size_wh: tuple[int, int]) -> CodecState | None:
        """A fresh memory: the next chunk is the first. None where nothing is to be remembered."""
        ...

    def prepare(self, embedding: Tensor, noise_scale: float) -> Prepared:
        """What `decode` needs to know of the prompt and the noise; None for a codec without style.

        embedding: [1, X, text_dim], on the stream's device and in its dtype.
        """
        ...

    def encode(self, frames: Tensor, state: Any) -> tuple[Tensor, Side]:
        """-> latents, and side data of this chunk, of the same shapes each time; () where `decode` needs none."""
        ...

    def side_forms(self, size_wh: tuple[int, int]) -> tuple[Form, ...]:
        """What the side data that `encode` gives looks like."""
        ...

    def as_encoded(self, latents: Tensor) -> Tensor:
        """Latents as the DiT gives them, in the units that `encode` gives: what is fed back into the input."""
        ...

    def decode(self, latents: Tensor, side: Side, prepared: Prepared, state: Any) -> Tensor:
        """-> frames, not clamped; chunks come in order."""
        ...
