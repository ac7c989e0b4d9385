"""The work of a chunk in the Wan engines, counted on paper, and what it takes on a card. Imports no torch.

The counts of the DiT follow from its shapes; those of the codecs were taken from the networks at 832x480, steady state
(multiply and add are two operations; bytes with norms and activations fused into the convolutions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdv2live.engine.balance import RankCosts

TEXT_TOKENS = 512
ACTIVATION_PASSES = 14  # of a block over its tokens, each bfloat16 read or written once
BF16_BYTES, FLOAT32_BYTES = 2, 4
LATENT_CHANNELS = 16
CHUNK_FRAMES, COLOURS = 4, 3
COUNTED_PIXELS = 832 * 480


@dataclass(frozen=True, slots=True)
class DitShape:
    """width and ffn: channels; blocks: how many."""

    width: int
    ffn: int
    blocks: int


DITS = {"wan-1.3b": DitShape(1536, 8960, 30), "wan-14b": DitShape(5120, 13824, 40)}

# encode, decode: (operations, bytes) of a chunk at 832x480.
_WAN_ENCODE, _WAN_DECODE = (8052e9, 6.6e9), (13550e9, 10.1e9)
_TAEHV_ENCODE, _TAEHV_DECODE = (242e9, 1.3e9), (544e9, 1.9e9)
CODECS = {
    "wan": (_WAN_ENCODE, _WAN_DECODE),
    "wan-taehv": (_WAN_ENCODE, _TAEHV_DECODE),
    "taehv": (_TAEHV_ENCODE, _TAEHV_DECODE),
}


@dataclass(frozen=True, slots=True)
class Card:
    """Dense matrix products (the DiT), convolutions (the codec), copies within the memory, and the link to the next
    card of the ring, one way; all above 0."""

    name: str
    product_tflop_per_s: float
    convolution_tflop_per_s: float
    memory_gb_per_s: float
    link_gb_per_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """Of one micro-step: (operations, bytes of memory) of a block with all its rows, of one chunk's encoding and
    decoding; bytes that cross from rank to rank: all rows' latents, their tokens within the DiT, decoded pictures."""

    block: tuple[float, float]
    encode: tuple[float, float]
    decode: tuple[float, float]
    latent_bytes: float
    token_bytes: float
    picture_bytes: float


def work_of(name: str, size_wh: tuple[int, int], *, steps: int, vae: str, window_frames: int = 6) -> Work:
    """Counts for a stream batch of `steps` rows in bfloat16. name: of DITS; vae: of CODECS; size_wh: multiples of 16.

    With T tokens a latent frame, K of the window and X of the text, d channels and f in the FFN, a block takes
    T (12 d^2 + 4 d f) + 4 T (K + X) d operations a row, and moves its weights once and keys, values and activations
    once a row (engine.md, 1 and 10). A codec's work grows with the pixels; its one attention is left out. Latents hop
    as float32, tokens as bfloat16 and pictures as bytes (`Parcels`).
    """
    width, height = size_wh
    dit = DITS[name]
    d, tokens = dit.width, (width // 16) * (height // 16)
    seen = window_frames * tokens + TEXT_TOKENS
    block_flop = steps * (tokens * (12 * d * d + 4 * d * dit.ffn) + 4 * tokens * seen * d)
    weights = 6 * d * d + 2 * d * dit.ffn
    moved = weights + steps * (2 * seen * d + ACTIVATION_PASSES * tokens * d)
    scale = width * height / COUNTED_PIXELS
    encode, decode = CODECS[vae]
    return Work(
        block=(block_flop, BF16_BYTES * moved),
        encode=(encode[0] * scale, encode[1] * scale),
        decode=(decode[0] * scale, decode[1] * scale),
        latent_bytes=steps * 4 * tokens * LATENT_CHANNELS * FLOAT32_BYTES,
        token_bytes=steps * tokens * d * BF16_BYTES,
        picture_bytes=CHUNK_FRAMES * width * height * COLOURS,
    )


def costs_on(cards: Sequence[Card], work: Work, *, fraction: float = 1.0) -> list[RankCosts]:
    """What each card of a ring takes, in seconds, where it reaches `fraction` (above 0, at most 1) of its rates.

    A piece of work takes the longer of its operations and its bytes.
    """

    def seconds(card: Card, tflop_per_s: float, pair: tuple[float, float]) -> float:
        flop, moved = pair
        return max(flop / (tflop_per_s * 1e12), moved / (card.memory_gb_per_s * 1e9)) / fraction

    def hop(card: Card, size_bytes: float) -> float:
        return size_bytes / (card.link_gb_per_s * 1e9 * fraction)

    return [
        RankCosts(
            block_s=seconds(card, card.product_tflop_per_s, work.block),
            encode_s=seconds(card, card.convolution_tflop_per_s, work.encode),
            decode_s=seconds(card, card.convolution_tflop_per_s, work.decode),
            hop_s=hop(card, work.latent_bytes),
            tokens_s=hop(card, work.token_bytes),
            pictures_s=hop(card, work.picture_bytes),
        )
        for card in cards
    ]
