"""From the table to what an engine takes: a spec at the start, settings for each chunk. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from sdv2live.engine.base import ChunkSettings, EngineSpec
from sdv2live.engine.catalogue import default_size, traits_of, window_of
from sdv2live.errors import UserError
from sdv2live.frames import Framing
from sdv2live.registry import Registry, Snapshot


def engine_spec(registry: Registry) -> EngineSpec:
    """The start-up rows of the table as a spec; the engine's own defaults are filled in where the user chose none."""
    values = registry.snapshot()
    name = str(values["engine.name"])
    size_wh = values["engine.size"] or default_size(name)
    spec = EngineSpec(
        name=name,
        size_wh=size_wh,
        precision=str(values["engine.precision"]),
        threads=int(values["engine.threads"]),
        compile=str(values["engine.compile"]),
        fp8=bool(values["engine.fp8"]),
        device=str(values["engine.device"]),
        profile=str(values["engine.profile"]),
        vae=str(values["engine.vae"]),
        weights=str(values["engine.weights"]),
        random_weights=bool(values["engine.random_weights"]),
        window_frames=int(values["engine.window_frames"] or 0),
        sink_frames=-1 if values["engine.sink_frames"] is None else int(values["engine.sink_frames"]),
        normalises_latents=bool(values["engine.normalise_latents"]),
        lora=values["engine.lora"],
        lora_strengths=values["lora.strengths"],
        gpus=int(values["engine.gpus"]),
        world=int(values["engine.world"]),
        master=str(values["engine.master"]),
        split=str(values["engine.split"]),
    )
    window_of(spec)  # refuses what cannot roll, before anything is loaded
    if spec.world > spec.gpus and not spec.master:
        raise UserError(
            f"--world {spec.world} needs a place where the other machines find this one: add --master HOST:PORT."
        )
    registry.apply_engine_defaults(traits_of(spec).defaults)
    return replace(spec, steps_count=int(registry.get("steps.count") or 1))


def framing_of(values: Snapshot) -> Framing:
    """How the source is seen: turned, mirrored, fitted."""
    return Framing(values["source.fit"], int(values["source.rotate"]) // 90, values["source.mirror"])


def settings_of(values: Snapshot) -> ChunkSettings:
    """The part of the parameter table that goes with a chunk."""
    mix = values["prompt.mix"] or ((values["prompt.text"], 1.0),)
    return ChunkSettings(
        mix=mix,
        transition_chunks=values["prompt.transition"],
        steps=values["steps.list"],
        steps_count=values["steps.count"],
        noise_max=values["noise.max"],
        noise_min=values["noise.min"],
        sensitivity=values["noise.sensitivity"],
        smoothing=values["noise.smoothing"],
        noise_mode=values["noise.mode"],
        noise_rate=values["noise.rate"],
        timestep_offset=values["noise.timestep_offset"],
        seed=values["seed"],
        schedule=values["schedule"],
        sinks_follow_prompt=values["sinks.follow_prompt"],
        sink_similarity=values["sinks.similarity"],
        sink_requests=values["sinks.refresh"],
        next_prompt=values["prompt.next"],
        seed_transition_chunks=values["seed.transition"],
        feedback=values["feedback.amount"],
        lora_strengths=values["lora.strengths"],
    )
