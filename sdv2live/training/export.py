"""Writes the trained networks where the app finds them: three safetensors files and config.json. Knows no training."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sdv2live.engine.model.wan_transformer import POCKET
from sdv2live.errors import UserError
from sdv2live.training import words
from sdv2live.training.loop import averaged

RUNTIME = {
    "width": 256,
    "height": 256,
    "chunk_frames": 4,
    "first_chunk_frames": 4,
    "steps": [600, 100],
    "steps_count": 1,
    "noise_max": 0.6,
    "noise_min": 0.5,
    "noise_mode": "fixed",
    "timestep_offset": 0,
    "window_frames": 2,
    "sink_frames": 1,
    "sink_similarity": 0.2,
}


# Which stages leave a network, the last first.
NETWORKS = {"codec": ("d", "b"), "dit": ("d", "c"), "text": ("words",)}


def newest(work: Path, name: str, stages: tuple[str, ...]) -> dict[str, Tensor]:
    """The averaged weights of a network from the last of the stages that has run."""
    for stage in stages:
        if (work / f"stage-{stage}.pt").exists():
            return averaged(work, stage, name)
    named = " or ".join(stages)
    raise UserError(f"{work} holds no checkpoint of stage {named}, which leaves the {name} network: run {named} first.")


def export(work: Path, folder: Path, names: Sequence[str] = tuple(NETWORKS)) -> int:
    """Write networks as 16-bit floats; each file appears whole or not at all. Returns the bytes written.

    What is not named stays as it lies in the folder. The tokens' codes are the same in every text encoder, so one of
    those can be exchanged without the others.
    """
    networks = {name: newest(work, name, NETWORKS[name]) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for name, weights in networks.items():
        half = {key: value.to(torch.float16).contiguous() for key, value in weights.items()}
        if not all(bool(torch.isfinite(value).all()) for value in half.values()):
            raise UserError(f"the weights of {name} do not fit 16-bit floats: train on with a smaller --rate.")
        part, path = folder / f"{name}.part", folder / f"{name}.safetensors"
        save_file(half, part)
        part.chmod(0o644)
        total += part.stat().st_size
        os.replace(part, path)
    config = {
        "format": 1,
        "codec": {"text_dim": POCKET.text_dim},
        "text": {
            "looks": list(words.LOOK_NAMES),
            "colours": list(words.COLOUR_NAMES),
            "asking": " ".join(words.ASKING_WORDS),
            "silent": " ".join(words.SILENT_WORDS),
            "strange": " ".join(words.STRANGE_WORDS),
        },
        "dit": asdict(POCKET),
        "runtime": RUNTIME,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return total
