"""Writes the trained networks where the app finds them: three safetensors files and config.json. Knows no training."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sdv2live.engine.model.wan_transformer import POCKET
from sdv2live.engine.window import Window
from sdv2live.errors import UserError, one_line
from sdv2live.strict_files import read_json
from sdv2live.training import words
from sdv2live.training.effects import STROKE_LOOKS
from sdv2live.training.loop import read_checkpoint
from sdv2live.training.losses import LEAST_COST_DB

WINDOW = Window(capacity=2, sinks=1)
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
    "window_frames": WINDOW.capacity,
    "sink_frames": WINDOW.sinks,
    "sink_similarity": 0.2,
}
# Which stages leave a network, the last first.
NETWORKS = {"codec": ("d", "b"), "dit": ("d", "c"), "text": ("words",)}
# Whose section of config.json is whose: what a network was trained for goes with its weights.
SECTIONS = {"codec": ("codec",), "dit": ("dit", "runtime"), "text": ("text",)}


def newest(work: Path, name: str) -> dict[str, Any]:
    """The checkpoint of the last stage with a network that has run, finished or not."""
    for stage in NETWORKS[name]:
        path = work / f"stage-{stage}.pt"
        if path.exists():
            return read_checkpoint(path)
    named = " or ".join(NETWORKS[name])
    raise UserError(f"{work} holds no checkpoint of stage {named}, which leaves the {name} network: run {named} first.")


def check_costs(work: Path) -> None:
    """Raises UserError where stage d has run and did not show that its decoder needs the latents."""
    path = work / "stage-d.pt"
    if not path.exists():
        return
    costs: dict[str, float] = read_checkpoint(path).get("costs", {})
    if missing := [look for look in STROKE_LOOKS if look not in costs]:
        why = f"what a latent of nought costs was not measured for {', '.join(missing)}, as it is at the stage's end"
    elif cheap := [f"{look} {costs[look]:.1f} dB" for look in STROKE_LOOKS if not costs[look] >= LEAST_COST_DB]:
        why = f"a latent of nought costs less than {LEAST_COST_DB} dB: {', '.join(cheap)}"
    else:
        return
    raise UserError(f"{path} is not fit to ship ({why}): train on, or export it all the same with --anyway.")


def export(work: Path, folder: Path, names: Sequence[str] = tuple(NETWORKS), *, anyway: bool = False) -> int:
    """Write networks as 16-bit floats; each file appears whole or not at all. Returns the bytes written.

    What is not named stays as it lies in the folder, its part of config.json too. The tokens' codes are the same in
    every text encoder, so one of those can be exchanged without the others. anyway: without `check_costs`.
    Raises UserError, with nothing written, where something is missing or not fit.
    """
    if not anyway and {"codec", "dit"} & {*names}:
        check_costs(work)
    networks = {name: newest(work, name)["average"][name] for name in names}
    halves = {
        name: {key: value.to(torch.float16).contiguous() for key, value in weights.items()}
        for name, weights in networks.items()
    }
    for name, half in halves.items():
        if not all(bool(torch.isfinite(value).all()) for value in half.values()):
            raise UserError(f"the weights of {name} do not fit 16-bit floats: train on with a smaller --rate.")
    config = _config(folder / "config.json", names)
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for name, half in halves.items():
        part, path = folder / f"{name}.part", folder / f"{name}.safetensors"
        save_file(half, part)
        part.chmod(0o644)
        total += part.stat().st_size
        os.replace(part, path)
    part = folder / "config.part"
    part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(part, folder / "config.json")
    return total


def _config(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The present description of the networks that are named; of the others the one that lies there, if one does."""
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
    kept = [section for name in NETWORKS if name not in names for section in SECTIONS[name]]
    if kept and path.exists():
        try:
            old = read_json(path)
            config |= {section: old[section] for section in kept}
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path} cannot be kept for what is not exported ({one_line(error)}): export all networks."
            ) from error
    return config
