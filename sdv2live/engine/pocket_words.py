"""The pocket engine's text encoder by itself: from its files, and from a prompt to what is told of it.

Needs no other part of an engine. Runs on the thread that calls it, on the CPU; a prompt takes some milliseconds.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sdv2live.engine.model.pocket_text import PocketTextEncoder, Understanding
from sdv2live.engine.weights import load_strict
from sdv2live.understood import Understood

# Which looks are told: those with at least so much of the largest one's share. Less is what is left of a guess.
NAMED_SHARE = 0.4


def load_text_encoder(weights_dir: Path) -> PocketTextEncoder:
    """In full precision. Raises UserError for weights that do not fit."""
    config = json.loads((weights_dir / "config.json").read_text("utf-8"))["text"]
    text = PocketTextEncoder.from_config(config)
    load_strict(text, weights_dir / "text.safetensors", dtype=torch.float32, device=torch.device("cpu"))
    return text


def understood_of(text: str, read: Understanding) -> tuple[Understood, ...]:
    """The looks that a text asks for, the largest share first."""
    largest = max(read.looks.values())
    looks = {look: share for look, share in read.looks.items() if share >= NAMED_SHARE * largest}
    colour = max(read.colours, key=read.colours.__getitem__)
    return tuple(
        Understood(text, look, looks[look] / sum(looks.values()), colour, read.strength, read.unknown)
        for look in sorted(looks, key=looks.__getitem__, reverse=True)
    )
