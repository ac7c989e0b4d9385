"""Batches for training. Owns: what is drawn from the pools and how look, colour, strength and prompt make a target.

Pixels leave here in [-1, 1]. The same (rng, pools) gives the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdv2live.training.data import LARGE, SMALL, Pool
from sdv2live.training.effects import COLOURS, LOOKS, strength_of_noise

LOOK_NAMES, COLOUR_NAMES = tuple(LOOKS), tuple(COLOURS)
# Looks that need more room to be learned are drawn more often.
LOOK_SHARES = {
    "identity": 0.8,
    "oil": 2.2,
    "watercolour": 1.8,
    "pencil": 0.6,
    "ink": 0.6,
    "neon": 1.6,
    "thermal": 0.8,
    "pixel": 2.6,
    "cel": 2.4,
    "night": 0.6,
    "vintage": 0.4,
    "halftone": 2.0,
    "glass": 2.8,
}
PLAIN_SHARE = 0.55  # of the samples keep the look's own colours
MIX_SHARE = 0.08  # of the samples are between two looks, as a transition is
SIGMA_FULL = 0.5  # the noise scale from which on all of a look is asked for
STILL_SHARE = 0.2  # of the samples are one frame held


@dataclass(frozen=True)
class Batch:
    """source, target [B, T, 3, S, S] in [-1, 1]; tokens [B, 8, 128]; noise_scale [B] in 0..1."""

    source: Tensor
    target: Tensor
    tokens: Tensor
    noise_scale: Tensor


@dataclass(frozen=True)
class _Wish:
    """What a sample asks for: looks are the source's own 0, the look, and a second one where mix is above 0."""

    looks: list[int]
    mix: float
    colour: int
    noise_scale: float


class Batches:
    """Draws batches. tokens: [looks, colours, wordings, 8, 128], the frozen encoder's reading of many prompts."""

    def __init__(self, folder: Path, tokens: Tensor | None, device: torch.device) -> None:
        self.pools = {spec.name: Pool(folder, spec) for spec in (SMALL, LARGE)}
        self.tokens = tokens
        self.device = device
        shares = np.array([LOOK_SHARES.get(name, 1.0) for name in LOOK_NAMES])
        self._look_shares = shares / shares.sum()

    def _crop(self, pool: Pool, rng: np.random.Generator, looks: list[int], frames: int, side_px: int) -> list[Tensor]:
        """The same piece of one random clip in several looks, each [T, 3, S, S] float in [0, 1]."""
        spec = pool.spec
        clip = int(rng.choice(pool.ready))
        start = int(rng.integers(spec.frames - frames + 1))
        top, left = (8 * int(rng.integers((spec.side_px - side_px) // 8 + 1)) for _ in range(2))
        pieces = [pool.crop(look, clip, start, frames, top, left, side_px).float() / 255 for look in looks]
        # The looks know no time, so a clip may run backwards.
        return [piece.flip(0) for piece in pieces] if rng.random() < 0.5 else pieces

    def plain(self, rng: np.random.Generator, clips: int, frames: int, side_px: int) -> Tensor:
        """Pictures for the autoencoder: half sources, half looks of them, some tinted."""
        rows = []
        for _ in range(clips):
            pool = self.pools["large" if rng.random() < 0.2 else "small"]
            look = 0 if rng.random() < 0.5 else int(rng.integers(len(LOOK_NAMES)))
            piece = self._crop(pool, rng, [look], frames, side_px)[0]
            colour = COLOUR_NAMES[0 if rng.random() < PLAIN_SHARE else int(rng.integers(len(COLOUR_NAMES)))]
            rows.append(COLOURS[colour](piece))
        return (torch.stack(rows) * 2 - 1).to(self.device)

    def styled(
        self,
        rng: np.random.Generator,
        clips: int,
        frames: int,
        side_px: int,
        *,
        pool_name: str | None = None,
        look: str | None = None,
    ) -> Batch:
        """Sources, their styled targets and what asks for them; look: this one at full strength, in its own colours."""
        rows = []
        for _ in range(clips):
            pool = self.pools[pool_name or ("large" if rng.random() < 0.25 else "small")]
            wish = self._wish(rng) if look is None else _Wish([0, LOOK_NAMES.index(look)], 0.0, 0, SIGMA_FULL)
            pieces = self._crop(pool, rng, wish.looks, frames, side_px)
            if rng.random() < STILL_SHARE:
                pieces = [piece[:1].expand_as(piece) for piece in pieces]
            rows.append((pieces[0], *self._styled(wish, pieces, rng), wish.noise_scale))
        return self._batch(rows)

    def variant(self, rng: np.random.Generator, pool_name: str, clip: int) -> Batch:
        """One whole clip with one wish, as a batch of one."""
        pool = self.pools[pool_name]
        wish = self._wish(rng)
        spec = pool.spec
        pieces = [pool.crop(look, clip, 0, spec.frames, 0, 0, spec.side_px).float() / 255 for look in wish.looks]
        return self._batch([(pieces[0], *self._styled(wish, pieces, rng), wish.noise_scale)])

    def _wish(self, rng: np.random.Generator) -> _Wish:
        looks = [0, int(rng.choice(len(LOOK_NAMES), p=self._look_shares))]
        mix = 0.0
        if rng.random() < MIX_SHARE:
            looks.append(int(rng.integers(len(LOOK_NAMES))))
            mix = float(rng.random())
        colour = 0 if rng.random() < PLAIN_SHARE else int(rng.integers(len(COLOUR_NAMES)))
        # Mostly near 0.5 to 0.6, the default bounds while running.
        scale = 0.5 + 0.25 * rng.random() ** 2 if rng.random() < 0.7 else float(rng.uniform(0.05, 0.5))
        return _Wish(looks, mix, colour, scale)

    def _styled(self, wish: _Wish, pieces: list[Tensor], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Target pictures and prompt tokens of a wish; pieces are the clip in the wish's looks, the source first."""
        paint = COLOURS[COLOUR_NAMES[wish.colour]]
        target, prompt = paint(pieces[1]), self._tokens(wish.looks[1], wish.colour, rng)
        if wish.mix:
            target = torch.lerp(target, paint(pieces[2]), wish.mix)
            prompt = torch.lerp(prompt, self._tokens(wish.looks[2], wish.colour, rng), wish.mix)
        strength = float(strength_of_noise(torch.tensor(wish.noise_scale)))
        return torch.lerp(pieces[0], target, strength), prompt

    def _batch(self, rows: list[tuple[Tensor, Tensor, Tensor, float]]) -> Batch:
        sources, targets, tokens, scales = zip(*rows, strict=True)
        return Batch(
            (torch.stack(sources) * 2 - 1).to(self.device),
            (torch.stack(targets) * 2 - 1).to(self.device),
            torch.stack(tokens).to(self.device),
            torch.tensor(scales, device=self.device),
        )

    def _tokens(self, look: int, colour: int, rng: np.random.Generator) -> Tensor:
        if self.tokens is None:
            raise ValueError("styled batches need the text encoder's tokens: run the words stage first")
        wordings = self.tokens[look, colour]
        return wordings[int(rng.integers(len(wordings)))]
