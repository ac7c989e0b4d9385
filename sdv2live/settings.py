"""From the table to what an engine takes: a spec at the start, settings for each chunk. Imports no torch."""

from __future__ import annotations

from sdv2live.engine.base import ChunkSettings, EngineSpec
from sdv2live.engine.catalogue import DEFAULT_SIZE, traits_of
from sdv2live.registry import Registry, Snapshot


def engine_spec(registry: Registry) -> EngineSpec:
    """The start-up rows of the table as a spec; the engine's own defaults are filled in where the user chose none."""
    values = registry.snapshot()
    name = str(values["engine.name"])
    size_wh = values["engine.size"] or DEFAULT_SIZE[name]
    spec = EngineSpec(
        name=name,
        size_wh=size_wh,
        precision=str(values["engine.precision"]),  # type: ignore[arg-type]
        threads=int(values["engine.threads"]),  # type: ignore[arg-type]
    )
    registry.apply_engine_defaults(traits_of(spec).defaults)
    return spec


def settings_of(values: Snapshot) -> ChunkSettings:
    """The part of the parameter table that goes with a chunk."""
    mix = values["prompt.mix"] or ((values["prompt.text"], 1.0),)
    return ChunkSettings(
        mix=mix,  # type: ignore[arg-type]
        transition_chunks=values["prompt.transition"],  # type: ignore[arg-type]
        steps=values["steps.list"],  # type: ignore[arg-type]
        steps_count=values["steps.count"],  # type: ignore[arg-type]
        noise_max=values["noise.max"],  # type: ignore[arg-type]
        noise_min=values["noise.min"],  # type: ignore[arg-type]
        sensitivity=values["noise.sensitivity"],  # type: ignore[arg-type]
        smoothing=values["noise.smoothing"],  # type: ignore[arg-type]
        noise_mode=values["noise.mode"],  # type: ignore[arg-type]
        noise_rate=values["noise.rate"],  # type: ignore[arg-type]
        timestep_offset=values["noise.timestep_offset"],  # type: ignore[arg-type]
        seed=values["seed"],  # type: ignore[arg-type]
        schedule=values["schedule"],  # type: ignore[arg-type]
    )
