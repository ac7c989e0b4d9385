"""The stage that makes the text encoder, and its reading of prompts for the stages after it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdv2live.engine.model.pocket_text import PocketTextEncoder, split_words
from sdv2live.training import words
from sdv2live.training.loop import Budget, Loop
from sdv2live.training.setup import Setup


def new_text_encoder() -> PocketTextEncoder:
    """With the words of training and weights that were drawn."""
    return PocketTextEncoder(
        words.LOOK_NAMES,
        words.COLOUR_NAMES,
        asking=words.ASKING_WORDS,
        silent=words.SILENT_WORDS,
        strange=words.STRANGE_WORDS,
    )


def stage_words(setup: Setup, budget: Budget) -> None:
    """The text encoder as a classifier of prompts; frozen afterwards."""
    torch.manual_seed(setup.seed)
    text = new_text_encoder().to(setup.device)
    loop = Loop(
        "words",
        setup.work,
        {"text": text},
        {4e-3: list(text.parameters())},
        budget=budget,
        seed=setup.seed,
        betas=(0.9, 0.99),
    )
    asks = functools.cache(text.asks)
    for rng in loop.steps():
        drawn = [words.draw(rng) for _ in range(192)]
        read = text.scores([_asked(asks, reading.text) for reading in drawn])
        strengths = torch.tensor([(r.look_strength, r.colour_strength) for r in drawn], device=setup.device)
        loss = (
            F.cross_entropy(read.looks, _floats([r.looks for r in drawn], setup.device))
            + F.cross_entropy(read.colours, _floats([r.colours for r in drawn], setup.device))
            + F.cross_entropy(read.strengths.flatten(0, 1), strengths.flatten())
        )
        loop.update(loss)


def _asked(asks: Callable[[str], bool | None], prompt: str) -> str:
    """What the encoder will hear of a prompt, and strange words, so that it learns that they ask for nothing."""
    return " ".join(word for word in split_words(prompt) if asks(word) is not False)


def _floats(values: object, device: torch.device) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32, device=device)


def load_text(setup: Setup) -> PocketTextEncoder:
    """The frozen text encoder."""
    text = new_text_encoder()
    setup.load(text, "text", "words")
    return text.to(setup.device).eval().requires_grad_(False)


def prompt_tokens(text: PocketTextEncoder, *, seed: int, wordings: int = 8) -> Tensor:
    """Tokens of drawn prompts for every look and colour: [looks, colours, wordings, 8, 128], on the CPU."""
    rng = np.random.default_rng((seed, 77))
    rows = [
        text.encode([words.draw(rng, look, colour).text for _ in range(wordings)]).cpu()
        for look in range(len(words.LOOK_NAMES))
        for colour in range(len(words.COLOUR_NAMES))
    ]
    looks, colours = len(words.LOOK_NAMES), len(words.COLOUR_NAMES)
    return torch.stack(rows).view(looks, colours, wordings, *rows[0].shape[1:])
