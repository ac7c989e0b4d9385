"""What a stage is told to do. Owns: orders, plain values that are decided on the host and cross to other ranks as JSON.

All that has to be known of a micro-step is in its order: which rows run, what they write, what is drawn, what is
copied afterwards. A stage decides nothing. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

Seeds = tuple[tuple[int, float], ...]  # seed and weight; the squares of the weights sum to 1

NO_CHUNK = -1  # the number of a row that computes without a chunk


@dataclass(frozen=True, slots=True)
class NoiseKey:
    """What the draws of a chunk depend on, beside the epoch and the step. number: of the chunk in its epoch.

    phase: how far slow noise has come. is_empty: the row carries no chunk (`reference` profile).
    """

    mode: str
    seeds: Seeds
    number: int
    phase: float
    is_empty: bool = False


@dataclass(frozen=True, slots=True)
class RowOrder:
    """One denoising step of one chunk on cache row `row`; it writes latent frames first_frame..newest_frame.

    chunk: its number, or NO_CHUNK. text: the number of its prompt. next_timestep: what it is noised to again, None
    for a last step, whose latents are clean. sink: takes the newest frame afterwards, if not None; then each row of
    copies_to becomes a copy of this one.
    """

    chunk: int
    row: int
    first_frame: int
    newest_frame: int
    text: int
    step: int
    timestep: int
    next_timestep: int | None
    noise: NoiseKey
    sink: int | None = None
    sink_threshold: float = -1.0
    copies_to: tuple[int, ...] = ()

    @property
    def frames(self) -> int:
        return self.newest_frame - self.first_frame + 1


@dataclass(frozen=True, slots=True)
class DecodeOrder:
    """The decoding of a chunk that is denoised; orders come in the order of the chunks. pictures: how many come out."""

    chunk: int
    text: int
    noise_scale: float
    pictures: int


@dataclass(frozen=True, slots=True)
class StepOrder:
    """A micro-step: one step of each row, in one batch, then what is to be decoded.

    enters: the chunk whose side data comes with this step, or NO_CHUNK. texts: the prompts that are still wanted;
    contexts: those of them whose keys and values are.
    """

    epoch: int
    rows: tuple[RowOrder, ...]
    decodes: tuple[DecodeOrder, ...] = ()
    enters: int = NO_CHUNK
    texts: tuple[int, ...] = ()
    contexts: tuple[int, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> StepOrder:
        fields: dict[str, Any] = json.loads(text)
        return cls(
            epoch=fields["epoch"],
            rows=tuple(_row_of(row) for row in fields["rows"]),
            decodes=tuple(DecodeOrder(**decode) for decode in fields["decodes"]),
            enters=fields["enters"],
            texts=tuple(fields["texts"]),
            contexts=tuple(fields["contexts"]),
        )


def _row_of(fields: dict[str, Any]) -> RowOrder:
    noise = fields["noise"]
    seeds = tuple((seed, weight) for seed, weight in noise["seeds"])
    return RowOrder(
        **{**fields, "noise": NoiseKey(**{**noise, "seeds": seeds}), "copies_to": tuple(fields["copies_to"])}
    )
