"""Which engines there are and what each brings. Imports no torch: the app reads it before the engine exists.

What an engine brings stands once, in the `runtime` of the config.json that lies with its weights.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from sdv2live.engine.base import EngineSpec, EngineTraits
from sdv2live.engine.window import Window
from sdv2live.engine.work_counts import DITS
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir, models_dir

ENGINES = ("pocket", "wan-1.3b", "wan-14b")
SIZES_FILE = "sdv2live.json"  # in a folder of weights: other sizes than the released ones
SMALLEST_PIXELS = 384 * 224  # of a Wan engine's picture that is offered
SIZE_THIRTEENTHS = (10, 8, 6, 5, 4, 3)


def default_size(name: str) -> tuple[int, int]:
    """(width, height) that the engine was made for."""
    runtime = _runtime(name)
    return runtime["width"], runtime["height"]


def smaller_sizes(size_wh: tuple[int, int], smallest_pixels: int = SMALLEST_PIXELS) -> list[tuple[int, int]]:
    """Sizes of about the same shape, in falling order: 640x368, 512x288 and 384x224 for 832x480."""
    sizes: list[tuple[int, int]] = []
    for thirteenths in SIZE_THIRTEENTHS:
        width, height = (max(1, round(side * thirteenths / 13 / 16)) * 16 for side in size_wh)
        if width * height >= smallest_pixels and (width, height) not in sizes:
            sizes.append((width, height))
    return sizes


def traits_of(spec: EngineSpec) -> EngineTraits:
    """Chunk sizes and defaults of the engine that `spec` names. Raises UserError for one that there is not."""
    runtime = _runtime(spec.name)
    first = runtime["first_chunk_frames"]
    return EngineTraits(
        name=spec.name,
        size_wh=spec.size_wh,
        first_chunk_frames=first[spec.vae] if isinstance(first, dict) else first,
        chunk_frames=runtime["chunk_frames"],
        defaults={
            "steps.list": runtime["steps"],
            "steps.count": runtime["steps_count"],
            "noise.max": runtime["noise_max"],
            "noise.min": runtime["noise_min"],
            "noise.mode": runtime["noise_mode"],
            "noise.timestep_offset": runtime["timestep_offset"],
            "sinks.similarity": runtime["sink_similarity"],
        },
    )


def known_blocks(spec: EngineSpec) -> int | None:
    """How many blocks the engine's transformer has; None where a folder of one's own may say something else."""
    if spec.name not in DITS:
        return int(_config(spec.name)["dit"]["num_layers"])
    has_own_sizes = bool(spec.weights) or (not spec.random_weights and (models_dir() / SIZES_FILE).exists())
    return None if has_own_sizes else DITS[spec.name].blocks


def window_of(spec: EngineSpec) -> Window:
    """The rolling window that the spec asks for, or that the engine was trained with. Raises UserError."""
    runtime = _runtime(spec.name)
    capacity = spec.window_frames or max(runtime["window_frames"], _kept_at_least(spec) + 1)
    sinks = spec.sink_frames if spec.sink_frames >= 0 else runtime["sink_frames"]
    if max(sinks, _kept_at_least(spec)) >= capacity:
        needed = smallest_window(replace(spec, sink_frames=sinks))
        if _kept_at_least(spec) >= capacity:
            raise UserError(
                f"a window of {capacity} frames has no room beside {_kept_at_least(spec)} that stay in the reference "
                f"profile, whatever --sink-frames is: raise --window-frames to {needed} or more."
            )
        raise UserError(
            f"a window of {capacity} frames has no room beside {sinks} that stay: raise --window-frames to {needed} or "
            f"more, or lower --sink-frames to {capacity - 1} or less."
        )
    return Window(capacity, sinks)


def smallest_window(spec: EngineSpec) -> int:
    """The fewest frames with which the spec's sinks leave one that rolls."""
    sinks = spec.sink_frames if spec.sink_frames >= 0 else _runtime(spec.name)["sink_frames"]
    return max(int(sinks), _kept_at_least(spec)) + 1


def _kept_at_least(spec: EngineSpec) -> int:
    """The reference never rolls its first three slots, whatever its sinks."""
    return 3 if spec.profile == "reference" else 0


def _runtime(name: str) -> dict[str, Any]:
    runtime: dict[str, Any] = _config(name)["runtime"]
    return runtime


def _config(name: str) -> dict[str, Any]:
    if name not in ENGINES:
        raise UserError(f"there is no engine {name!r}: choose one of {', '.join(ENGINES)}.")
    path = assets_dir() / name / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
        config["runtime"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be used ({error}): reinstall sdv2live, or fetch the file again.") from error
    return config
