"""From the table to what an engine takes: a spec at the start, settings for each chunk. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from sdv2live.auto.choice import AUTO, SHIPPED, EngineChoice, Fixed, candidates, unmeasured
from sdv2live.engine.base import ChunkSettings, EngineSpec
from sdv2live.engine.catalogue import default_size, traits_of, window_of
from sdv2live.errors import UserError
from sdv2live.frames import Framing
from sdv2live.parameters import TABLE
from sdv2live.registry import Registry, Snapshot


def engine_spec(registry: Registry) -> EngineSpec:
    """The start-up rows of the table as a spec; the engine's own defaults are filled in where the user chose none."""
    values = registry.snapshot()
    choice = _choice(registry)
    name = engine_name(registry)
    chosen_size = choice.candidate.size_wh if choice else default_size(name)
    size_wh = values["engine.size"] or chosen_size
    is_vae_open = choice is not None and choice.candidate.vae and not registry.is_user_set("engine.vae")
    spec = EngineSpec(
        name=name,
        size_wh=size_wh,
        precision=str(values["engine.precision"]),
        threads=int(values["engine.threads"]),
        compile=str(values["engine.compile"]),
        fp8=bool(values["engine.fp8"]),
        device=str(values["engine.device"]),
        profile=str(values["engine.profile"]),
        vae=choice.candidate.vae if choice and is_vae_open else str(values["engine.vae"]),
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
    if 0 < spec.world < spec.gpus:
        raise UserError(
            f"--world {spec.world} counts the ranks of all machines, and --gpus {spec.gpus} of them are on this one: "
            f"give --world {spec.gpus} or more, or leave it away."
        )
    if spec.world > spec.gpus and not spec.master:
        raise UserError(
            f"--world {spec.world} needs a place where the other machines find this one: add --master HOST:PORT."
        )
    brought = {"schedule": TABLE["schedule"].default, **traits_of(spec).defaults}
    registry.apply_engine_defaults(brought | (choice.brought if choice else {}))
    return replace(spec, steps_count=int(registry.get("steps.count") or 1))


def engine_name(registry: Registry) -> str:
    """The engine that runs, also where `auto` stands in the table."""
    choice = _choice(registry)
    return choice.candidate.engine if choice else str(registry.get("engine.name"))


def refuse_auto(registry: Registry, what: str) -> None:
    """Raise UserError where the engine is left open to something that has no rate to hold."""
    if registry.get("engine.name") == AUTO:
        raise UserError(f"{what} has no rate to hold, by which auto chooses: name an engine with --engine.")


def _choice(registry: Registry) -> EngineChoice | None:
    """What `auto` means now; None where an engine is named."""
    if registry.get("engine.name") != AUTO:
        return None
    return registry.engine_choice or unmeasured(candidates({SHIPPED: ()}, Fixed()), "nothing was measured yet")


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
