"""The Engine contract. Owns: what goes into an engine, what comes out, and what an engine promises.

Imports no torch: the app's side of the process border stands on this file too. Settings cross that border as
strict JSON, frames never do (they lie in shared memory).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any

from sdv2live.frames import Pixels

STAGES = ("encode", "denoise", "decode")
TIMINGS = (*STAGES, "chunk")  # what `stage_ms` of a result names, in the order in which it crosses to the app


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to build: fixed while an engine lives. size_wh: multiples of 16. threads 0: all cores.

    precision and device: `auto` or a name of torch. profile: `default` or `reference` (kv_cache.py). steps_count: how
    many denoising steps it has to have memory for at the start. waits_for_text: see PromptMixer. compile: `auto`, `on`
    or `off` (compile.py). fp8: see fp8.py. gpus: how many ranks this machine has, world: how many there are on all
    machines (0: no others); they meet at master, HOST:PORT (empty: a free port of loopback). split: how many blocks
    each rank has, `auto`, `reference` or numbers with commas. The rest is for the Wan engines: vae as `--vae`, weights
    a folder ('': where fetched models lie), random_weights instead of files, window_frames 0 and sink_frames -1 the
    engine's own, normalises_latents as in WanCodec, lora ((path, weight), ...), lora_strengths those to begin with, as
    in ChunkSettings.
    """

    name: str
    size_wh: tuple[int, int]
    precision: str = "auto"
    threads: int = 0
    device: str = "auto"
    profile: str = "default"
    steps_count: int = 1
    waits_for_text: bool = False
    compile: str = "auto"
    fp8: bool = False
    vae: str = "wan"
    weights: str = ""
    random_weights: bool = False
    window_frames: int = 0
    sink_frames: int = -1
    normalises_latents: bool = False
    lora: tuple[tuple[str, float], ...] = ()
    lora_strengths: tuple[float, ...] = ()
    gpus: int = 1
    world: int = 0
    master: str = ""
    split: str = "auto"

    @property
    def ranks(self) -> int:
        return max(self.gpus, self.world)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> EngineSpec:
        """From `asdict` over JSON, which knows no tuples."""
        tuples = {
            "size_wh": tuple(fields["size_wh"]),
            "lora": tuple((path, weight) for path, weight in fields["lora"]),
            "lora_strengths": tuple(fields["lora_strengths"]),
        }
        return cls(**{**fields, **tuples})


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """What an engine brings: chunk sizes and its defaults for rows of the parameter table."""

    name: str
    size_wh: tuple[int, int]
    first_chunk_frames: int
    chunk_frames: int
    defaults: dict[str, Any]

    @property
    def largest_chunk(self) -> int:
        return max(self.first_chunk_frames, self.chunk_frames)


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """The settings that belong to one chunk and stay with it through all its steps.

    mix: ((text, weight), ...). transition_chunks: 0 is a cut. steps: timesteps, noisiest first; steps_count of them
    are taken. Noise bounds are sigmas, 0..1. schedule: auto, latency or throughput. sink_requests: how often the user
    has asked for new sinks; sink_similarity: -1..1, under it a sink is replaced (sinks.py).
    next_prompt: encoded ahead and not used. feedback: 0..1, how much of the last clean latent is mixed into the input.
    lora_strengths: of the engine's LoRAs, in their order; those beyond the end have the weight that they came with.
    """

    mix: tuple[tuple[str, float], ...] = (("", 1.0),)
    transition_chunks: int = 0
    steps: tuple[int, ...] = (600, 300)
    steps_count: int = 1
    noise_max: float = 0.6
    noise_min: float = 0.5
    sensitivity: float = 0.2
    smoothing: float = 0.9
    noise_mode: str = "fixed"
    noise_rate: float = 0.1
    timestep_offset: int = 0
    seed: int = 1
    schedule: str = "auto"
    sinks_follow_prompt: bool = True
    sink_similarity: float = -1.0
    sink_requests: int = 0
    next_prompt: str = ""
    seed_transition_chunks: int = 0
    feedback: float = 0.0
    lora_strengths: tuple[float, ...] = ()

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), allow_nan=False, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ChunkSettings:
        fields = json.loads(data)
        fields["mix"] = tuple((text, weight) for text, weight in fields["mix"])
        fields["steps"] = tuple(fields["steps"])
        fields["lora_strengths"] = tuple(fields["lora_strengths"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Chunk:
    """frames: [T, H, W, 3] uint8 RGB of the engine's size; T is what `frames_wanted` says.

    Whoever submits leaves them alone until the chunk's result is there.
    """

    chunk_id: int
    frames: Pixels


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """A finished chunk. frames: [T, H, W, 3] uint8 RGB, owned by the receiver.

    is_finite False: the picture is not fit to be shown. stage_ms: time by stage, and `chunk` for the whole.
    """

    chunk_id: int
    epoch: int
    frames: Pixels
    is_finite: bool
    noise_scale: float
    motion: float
    steps: int
    stage_ms: dict[str, float] = field(default_factory=dict)


class Engine(ABC):
    """Chunks in, pictures out. One thread calls it.

    frames_wanted: how many frames the next chunk must have (the first of an epoch may have another count).
    """

    traits: EngineTraits

    @abstractmethod
    def warm_up(self) -> None:
        """Run everything once, so that the first real chunk is not the slow one; leaves a fresh epoch."""

    @property
    @abstractmethod
    def frames_wanted(self) -> int: ...

    @property
    @abstractmethod
    def can_submit(self) -> bool:
        """Whether `submit` would be taken now: at most one chunk waits."""

    @abstractmethod
    def submit(self, chunk: Chunk, settings: ChunkSettings) -> None:
        """Hand over a chunk; blocks no longer than a copy. Raises ChunkError if `can_submit` is False."""

    @abstractmethod
    def poll(self) -> list[ChunkResult]:
        """What has been finished since the last call, oldest first. Raises ChunkError or EngineDead."""

    @abstractmethod
    def flush(self) -> list[ChunkResult]:
        """Finish what is in flight and return it; the stream goes on afterwards."""

    @abstractmethod
    def reset(self) -> int:
        """Begin a new epoch and return its number; results of older epochs are thrown away."""

    @abstractmethod
    def close(self) -> None:
        """Free everything. May be called twice."""
