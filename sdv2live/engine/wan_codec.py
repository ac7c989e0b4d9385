"""The Wan VAE and TAEHV under the contract of every codec. Owns: what is converted between them and the stream.

The encoder and the decoder are chosen one by one (`--vae`): `wan` both the Wan VAE, `taehv` both TAEHV, `wan-taehv`
Wan in and TAEHV out. Between them they differ in range (pictures in [-1, 1] or [0, 1]), in latents (as encoded, or
normalised) and in how many frames open a stream (five or four); none of that is seen outside. Loads no weights.
Memory: the encoder's and the decoder's, in a state that the stream keeps; two streams may share the networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdv2live.engine.codec import Form, Side
from sdv2live.engine.model import taehv, wan_vae
from sdv2live.engine.model.taehv import TAEHV
from sdv2live.engine.model.wan_vae import LATENT_MEAN, LATENT_STD, VaeState, WanVAE, WanVaeConfig

CHUNK_FRAMES = 4


@dataclass(frozen=True, slots=True)
class VaeMode:
    """Which network encodes and which decodes. TAEHV in and Wan out is not offered: the opening would lose frames."""

    encoder_is_wan: bool
    decoder_is_wan: bool

    @property
    def first_chunk_frames(self) -> int:
        """The Wan encoder makes a latent of one frame and then of four; TAEHV of four each time."""
        return 1 + CHUNK_FRAMES if self.encoder_is_wan else CHUNK_FRAMES


VAE_MODES = {
    "wan": VaeMode(encoder_is_wan=True, decoder_is_wan=True),
    "wan-taehv": VaeMode(encoder_is_wan=True, decoder_is_wan=False),
    "taehv": VaeMode(encoder_is_wan=False, decoder_is_wan=False),
}


@dataclass(slots=True)
class WanCodecState:
    """The memory of one stream; None of a half that there is not."""

    encoder: VaeState | None
    decoder: VaeState | None

    def reset(self) -> None:
        """The next chunk is the first, in the same memory."""
        for half in (self.encoder, self.decoder):
            if half is not None:
                half.reset()


class WanCodec:
    """A Codec (codec.py). Each network runs in the dtype and on the device of its own parameters.

    normalise: whether the Wan encoder's latents become (z - mean) / std before the DiT. The reference leaves them as
    they are, and that is what looks better there (engine.md, 2); TAEHV's, which are normalised, are then multiplied
    and shifted to be as strong. The decoder is always given what it was trained on.
    """

    spatial_factor = 8

    def __init__(
        self,
        encoder: WanVAE | TAEHV | None,
        decoder: WanVAE | TAEHV | None,
        *,
        normalise: bool = False,
        mode: VaeMode | None = None,
    ) -> None:
        """mode: has to be said where one of the networks, or both, are on another rank and None here."""
        self.mode = mode or VaeMode(isinstance(encoder, WanVAE), isinstance(decoder, WanVAE))
        if self.mode not in VAE_MODES.values():
            raise ValueError("TAEHV cannot encode for the Wan decoder: it makes one frame of the first latent.")
        self.normalise = normalise
        self._encoder, self._decoder = encoder, decoder
        # In float32 whatever the networks run in: latents are small, and the rounding would stay in every picture.
        # On the devices once and for all, since a copy to a device may wait for it.
        if encoder is not None:
            self._encoder_like = next(encoder.encoder.parameters())
            self._encode_mean, self._encode_std = _statistics(self._encoder_like.device)
        if decoder is not None:
            self._decoder_like = next(decoder.decoder.parameters())
            self._decode_mean, self._decode_std = _statistics(self._decoder_like.device)

    @property
    def first_chunk_frames(self) -> int:
        return self.mode.first_chunk_frames

    def new_state(self, size_wh: tuple[int, int]) -> WanCodecState:
        """Fresh memory, zeroed: see `state_bytes` for how much it is."""
        return WanCodecState(
            self._encoder.new_encoder_state(size_wh) if self._encoder is not None else None,
            self._decoder.new_decoder_state(size_wh) if self._decoder is not None else None,
        )

    def side_forms(self, size_wh: tuple[int, int]) -> tuple[Form, ...]:
        return ()

    def prepare(self, embedding: Tensor, noise_scale: float) -> None:
        """Neither decoder has a style."""
        return None

    def encode(self, frames: Tensor, state: WanCodecState) -> tuple[Tensor, Side]:
        """frames [1, T, 3, H, W] in [-1, 1] -> latents [1, F, 16, H/8, W/8] in the encoder's dtype, and no side data.

        Wan: T = 5 opens and gives two latents; TAEHV: T = 4 opens and gives one. Later four frames give one latent.
        """
        assert self._encoder is not None and state.encoder is not None, "this rank has no encoder"
        frames = frames.to(self._encoder_like)
        if isinstance(self._encoder, WanVAE):
            latents = self._encoder.encode(frames.transpose(1, 2), state.encoder).transpose(1, 2)
            if self.normalise:
                latents = ((latents - self._encode_mean) / self._encode_std).to(latents.dtype)
        else:
            latents = self._encoder.encode(frames * 0.5 + 0.5, state.encoder)
            if not self.normalise:
                latents = (latents * self._encode_std + self._encode_mean).to(latents.dtype)
        return latents, ()

    def as_encoded(self, latents: Tensor) -> Tensor:
        """What the DiT gives is normalised; what `encode` gives is so only where the switch says it."""
        if self.normalise:
            return latents
        return latents.to(self._encode_std.device) * self._encode_std + self._encode_mean

    def decode(self, latents: Tensor, side: Side, prepared: None, state: WanCodecState) -> Tensor:
        """Normalised latents [1, F, 16, h, w] -> as many frames as were encoded, in the decoder's dtype, not clamped.

        [1, T, 3, 8h, 8w], about [-1, 1]. The opening's two latents come together.
        """
        assert self._decoder is not None and state.decoder is not None, "this rank has no decoder"
        if isinstance(self._decoder, WanVAE):
            raw = latents.to(self._decode_std) * self._decode_std + self._decode_mean
            frames = self._decoder.decode(raw.to(self._decoder_like).transpose(1, 2), state.decoder)
            return frames.transpose(1, 2)
        opens = state.decoder.is_first
        frames = self._decoder.decode(latents.to(self._decoder_like), state.decoder) * 2.0 - 1.0
        # The Wan encoder's first latent is one frame, of which TAEHV makes four; the last of them is that frame.
        return frames[:, CHUNK_FRAMES - 1 :] if opens and self.mode.encoder_is_wan else frames


def empty_networks(
    mode: VaeMode, config: WanVaeConfig, halves: tuple[bool, bool] = (True, True)
) -> tuple[WanVAE | TAEHV | None, WanVAE | TAEHV | None]:
    """The network that encodes and the one that decodes, on the meta device; the same one where one does both.

    halves: which of the two are wanted; None for one that is not.
    """
    encodes, decodes = halves

    def network(is_wan: bool, *, has_encoder: bool, has_decoder: bool) -> WanVAE | TAEHV | None:
        if not has_encoder and not has_decoder:
            return None
        if is_wan:
            return WanVAE(config, has_encoder=has_encoder, has_decoder=has_decoder)
        return TAEHV(has_encoder=has_encoder, has_decoder=has_decoder)

    with torch.device("meta"):
        if mode.encoder_is_wan == mode.decoder_is_wan:
            both = network(mode.encoder_is_wan, has_encoder=encodes, has_decoder=decodes)
            return both if encodes else None, both if decodes else None
        return (
            network(mode.encoder_is_wan, has_encoder=encodes, has_decoder=False),
            network(mode.decoder_is_wan, has_encoder=False, has_decoder=decodes),
        )


def channels_last_(network: nn.Module) -> None:
    """Lay the convolutions' weights out as a GPU reads them beside activations that the networks lay out so.

    One by one: the Wan VAE has convolutions of volumes and of pictures, and either layout is refused by the other kind.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack this
        elif isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def state_bytes(
    mode: VaeMode,
    size_wh: tuple[int, int],
    *,
    encoder_dtype: torch.dtype,
    decoder_dtype: torch.dtype,
    config: WanVaeConfig | None = None,
    halves: tuple[bool, bool] = (True, True),
) -> int:
    """Bytes of what `new_state` allocates, from shapes alone."""
    config = config or WanVaeConfig()
    total = 0
    if halves[0]:
        if mode.encoder_is_wan:
            total += wan_vae.memory_bytes(config, size_wh, encoder_dtype, decodes=False)
        else:
            total += taehv.memory_bytes(size_wh, encoder_dtype, decodes=False)
    if halves[1]:
        if mode.decoder_is_wan:
            total += wan_vae.memory_bytes(config, size_wh, decoder_dtype, encodes=False)
        else:
            total += taehv.memory_bytes(size_wh, decoder_dtype, encodes=False)
    return total


def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each latent channel, [16, 1, 1]."""
    mean, std = torch.tensor(LATENT_MEAN), torch.tensor(LATENT_STD)
    return mean.view(-1, 1, 1).to(device), std.view(-1, 1, 1).to(device)
