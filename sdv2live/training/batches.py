"""Batches for training. Owns: what is drawn from the clips and how look, colour, strength and prompt make a target.

Pixels leave here in [-1, 1]. The same (rng, clips) gives the same batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sdv2live.engine.model.pocket_text import FULL_NOISE, PocketTextEncoder, strength_of_noise
from sdv2live.training.clips import make_clip
from sdv2live.training.effects import COLOURS, LOOKS
from sdv2live.training.pools import LARGE, SMALL, Pool
from sdv2live.training.train_words import prompt_tokens

LOOK_NAMES, COLOUR_NAMES = tuple(LOOKS), tuple(COLOURS)
# Looks that need more room to be learned are drawn more often.
LOOK_SHARES = {
    "identity": 0.8,
    "oil": 2.2,
    "watercolour": 1.8,
    "pencil": 1.3,
    "ink": 1.0,
    "neon": 1.6,
    "thermal": 1.6,
    "pixel": 2.6,
    "cel": 2.4,
    "night": 1.0,
    "vintage": 0.5,
    "halftone": 2.0,
    "glass": 3.4,
}
PLAIN_SHARE = 0.55  # of the samples keep the look's own colours
MIX_SHARE = 0.08  # of the samples are between two looks, as a transition is
STILL_SHARE = 0.25  # of the samples are one frame held
MOST_WISHES = 8  # of a batch; each has kernels of its own in the decoder, and so its own convolutions


@dataclass(frozen=True)
class Batch:
    """source, target [B, T, 3, S, S] in [-1, 1]; tokens [B, 8, 128], as noise_scale [B] in 0..1 asks for them.

    alike: so many rows after each other share tokens and noise scale, and differ in their clips.
    """

    source: Tensor
    target: Tensor
    tokens: Tensor
    noise_scale: Tensor
    alike: int = 1


@dataclass(frozen=True)
class _Wish:
    """What a sample asks for: looks are the source's own 0, the look, and a second one where mix is above 0."""

    looks: list[int]
    mix: float
    colour: int
    noise_scale: float


class Clips(Protocol):
    """Where clips come from."""

    def draw(
        self, rng: np.random.Generator, looks: list[int], frames: int, side_px: int, *, of_large: bool
    ) -> list[Tensor]:
        """One clip in several looks (0 is the source), each [T, 3, S, S] float in [0, 1].

        of_large: where large clips are apart from small ones, one of those."""


class PoolClips:
    """Pieces of the clips that lie in a folder of pools."""

    def __init__(self, folder: Path) -> None:
        self.pools = {spec.name: Pool(folder, spec) for spec in (SMALL, LARGE)}
        self._draws = 0

    def draw(
        self, rng: np.random.Generator, looks: list[int], frames: int, side_px: int, *, of_large: bool
    ) -> list[Tensor]:
        self._draws += 1
        if self._draws % 400 == 0:  # the pools may still be growing
            for each in self.pools.values():
                each.refresh()
        pool = self.pools["large" if of_large else "small"]
        spec = pool.spec
        clip = int(rng.choice(pool.ready))
        start = int(rng.integers(spec.frames - frames + 1))
        top, left = (8 * int(rng.integers((spec.side_px - side_px) // 8 + 1)) for _ in range(2))
        return [pool.crop(look, clip, start, frames, top, left, side_px).float() / 255 for look in looks]


class FreshClips:
    """Clips that nobody saw before, of scenes [M, 3, H, W] uint8 on the device that draws them and their looks."""

    def __init__(self, scenes: Tensor) -> None:
        self._scenes = scenes

    def draw(
        self, rng: np.random.Generator, looks: list[int], frames: int, side_px: int, *, of_large: bool
    ) -> list[Tensor]:
        clip = make_clip(lambda rng: self._scenes[int(rng.integers(len(self._scenes)))], rng, frames, side_px)
        clip = (255 * clip).round() / 255
        return [LOOKS[LOOK_NAMES[look]](clip) for look in looks]


class Batches:
    """Draws batches. text: the frozen encoder; its tokens of many prompts are drawn with `seed`."""

    def __init__(self, clips: Clips, text: PocketTextEncoder | None, device: torch.device, seed: int = 0) -> None:
        self.clips, self.text, self.device = clips, text, device
        # [looks, colours, wordings, 8, 128]
        self._tokens_of = prompt_tokens(text, seed=seed).to(device) if text else None
        shares = np.array([LOOK_SHARES.get(name, 1.0) for name in LOOK_NAMES])
        self._look_shares = shares / shares.sum()

    def plain(self, rng: np.random.Generator, clips: int, frames: int, side_px: int) -> Tensor:
        """Pictures for the autoencoder: half sources, half looks of them, some tinted."""
        rows = []
        for _ in range(clips):
            look = 0 if rng.random() < 0.5 else int(rng.integers(len(LOOK_NAMES)))
            piece = self.clips.draw(rng, [look], frames, side_px, of_large=rng.random() < 0.2)[0]
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
        of_large: bool | None = None,
        look: str | None = None,
    ) -> Batch:
        """Sources, their styled targets and what asks for them. look: this one at full strength, in its own colours.

        clips: at least so many rows, since each of MOST_WISHES and fewer wishes has as many as the others. of_large:
        all clips are of the large ones, or none; by chance if None."""
        alike = math.ceil(clips / MOST_WISHES)
        rows = []
        for _ in range(math.ceil(clips / alike)):
            wish = self._wish(rng) if look is None else _Wish([0, LOOK_NAMES.index(look)], 0.0, 0, FULL_NOISE)
            prompt = self._prompt(wish, rng)
            for _ in range(alike):
                is_large = bool(rng.random() < 0.25) if of_large is None else of_large
                pieces = self.clips.draw(rng, wish.looks, frames, side_px, of_large=is_large)
                if rng.random() < 0.5:  # the looks know no time, so a clip may run backwards
                    pieces = [piece.flip(0) for piece in pieces]
                if rng.random() < STILL_SHARE:
                    pieces = [piece[:1].expand_as(piece) for piece in pieces]
                rows.append((pieces[0], self._target(wish, pieces), prompt, wish.noise_scale))
        return self._batch(rows, alike)

    def variant(self, rng: np.random.Generator, pool: Pool, clip: int) -> Batch:
        """One whole clip of a pool with one wish, as a batch of one."""
        wish = self._wish(rng)
        spec = pool.spec
        pieces = [pool.crop(look, clip, 0, spec.frames, 0, 0, spec.side_px).float() / 255 for look in wish.looks]
        return self._batch([(pieces[0], self._target(wish, pieces), self._prompt(wish, rng), wish.noise_scale)])

    def _wish(self, rng: np.random.Generator) -> _Wish:
        looks = [0, int(rng.choice(len(LOOK_NAMES), p=self._look_shares))]
        mix = 0.0
        if rng.random() < MIX_SHARE:
            looks.append(int(rng.integers(len(LOOK_NAMES))))
            mix = float(rng.random())
        colour = 0 if rng.random() < PLAIN_SHARE else int(rng.integers(len(COLOUR_NAMES)))
        # Mostly from 0.5 on, the default bounds while running being 0.5 and 0.6.
        scale = 0.5 + 0.25 * rng.random() ** 1.3 if rng.random() < 0.6 else float(rng.uniform(0.05, 0.5))
        return _Wish(looks, mix, colour, scale)

    def _target(self, wish: _Wish, pieces: list[Tensor]) -> Tensor:
        """Of a wish; pieces are the clip in the wish's looks, the source first."""
        paint = COLOURS[COLOUR_NAMES[wish.colour]]
        target = paint(pieces[1])
        if wish.mix:
            target = torch.lerp(target, paint(pieces[2]), wish.mix)
        return torch.lerp(pieces[0], target, float(strength_of_noise(torch.tensor(wish.noise_scale))))

    def _prompt(self, wish: _Wish, rng: np.random.Generator) -> Tensor:
        """Tokens of one wording of a wish, all of it asked for."""
        prompt = self._tokens(wish.looks[1], wish.colour, rng)
        if wish.mix:
            prompt = torch.lerp(prompt, self._tokens(wish.looks[2], wish.colour, rng), wish.mix)
        return prompt

    def _batch(self, rows: list[tuple[Tensor, Tensor, Tensor, float]], alike: int = 1) -> Batch:
        sources, targets, tokens, scales = zip(*rows, strict=True)
        assert self.text is not None
        noise_scale = torch.tensor(scales).to(self.device)
        return Batch(
            (torch.stack(sources) * 2 - 1).to(self.device),
            (torch.stack(targets) * 2 - 1).to(self.device),
            self.text.weakened(torch.stack(tokens), noise_scale),
            noise_scale,
            alike,
        )

    def _tokens(self, look: int, colour: int, rng: np.random.Generator) -> Tensor:
        if self._tokens_of is None:
            raise ValueError("styled batches need the text encoder: run the words stage first")
        wordings = self._tokens_of[look, colour]
        return wordings[int(rng.integers(len(wordings)))]
