"""The way of a micro-step through the stages. Owns: the contract of that way, and the way inside one process.

A stream sends micro-steps in at the first stage and takes them back behind the last, in order. Over several processes
the same contract is kept by `pipeline.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from sdv2live.engine.codec import Side
from sdv2live.engine.orders import StepOrder
from sdv2live.engine.stage_runner import StageRunner

Picture = tuple[Tensor, Tensor]  # frames [T, H, W, 3] uint8, and whether they are finite


@dataclass(slots=True)
class Landed:
    """What came back of a micro-step: latents [B, F, C, h, w] float32, row by row, on the first stage's device.

    pictures: by chunk, of what was decoded on the way.
    """

    latents: Tensor
    pictures: dict[int, Picture] = field(default_factory=dict)


class Pipe(Protocol):
    """depth: how many micro-steps are under way at full load, one a stage. first: the stage of this process.

    decodes_here: the first stage has the decoder, and the stream uses it; else orders say what is decoded.
    """

    depth: int
    first: StageRunner
    decodes_here: bool

    @property
    def reports(self) -> list[dict[str, Any]]:
        """How each of several ranks is doing (`report_of`); empty where all is in this process."""
        ...

    def ensure_rows(self, rows: int) -> int:
        """Have memory for at least so many rows in every stage; -> how many there are."""
        ...

    def add_prompt(self, number: int, embedding: Tensor) -> None:
        """Make a prompt known to every stage, before the first order that names it. embedding: on the host."""
        ...

    def set_strengths(self, strengths: tuple[float, ...]) -> None:
        """Give the LoRAs of every stage these strengths; waits for all. What is under way has been taken before."""
        ...

    def send(self, order: StepOrder, latents: Tensor, side: Side) -> None:
        """Begin a micro-step; waits for nothing but this process's own share. side: of the chunk that enters."""
        ...

    def is_ready(self) -> bool:
        """Whether `take` would give at once."""
        ...

    def take(self) -> Landed:
        """The oldest micro-step that was sent and not taken; waits for it."""
        ...

    def reset(self) -> None:
        """A new epoch in every stage; what is under way is thrown away."""
        ...

    def give_back_rows(self, kept: int) -> None:
        """Let go of all rows but the first `kept`, everywhere."""
        ...

    def better_split(self) -> tuple[int, ...] | None:
        """How many blocks each stage should have from now on, or None. Asked once a chunk."""
        ...

    def move_blocks(self, counts: tuple[int, ...]) -> None:
        """Split them so; waits for all. What is under way has been taken before."""
        ...

    def close(self) -> None: ...


class LocalPipe:
    """All stages in this process: a micro-step has run when `send` returns."""

    decodes_here = True

    def __init__(self, runners: Sequence[StageRunner]) -> None:
        """runners: one, or several that share out the blocks, of which the first has the codec."""
        self.runners, self.first, self.depth = tuple(runners), runners[0], len(runners)
        self.reports: list[dict[str, Any]] = []
        self._landed: deque[Landed] = deque()

    def ensure_rows(self, rows: int) -> int:
        for runner in self.runners:
            runner.cache.ensure_rows(rows)
        return min(runner.cache.rows for runner in self.runners)

    def add_prompt(self, number: int, embedding: Tensor) -> None:
        for runner in self.runners:
            runner.add_prompt(number, embedding)

    def set_strengths(self, strengths: tuple[float, ...]) -> None:
        for runner in self.runners:
            runner.set_strengths(strengths)

    def send(self, order: StepOrder, latents: Tensor, side: Side) -> None:
        x: Tensor | None = None
        for runner in self.runners:
            x, latents = runner.run(order, x, latents)
        self._landed.append(Landed(latents))

    def is_ready(self) -> bool:
        return bool(self._landed)

    def take(self) -> Landed:
        return self._landed.popleft()

    def reset(self) -> None:
        self._landed.clear()
        for runner in self.runners:
            runner.reset()

    def give_back_rows(self, kept: int) -> None:
        for runner in self.runners:
            runner.cache.give_back_rows(kept)

    def better_split(self) -> None:
        return None

    def move_blocks(self, counts: tuple[int, ...]) -> None:
        raise ValueError("in one process no stage is faster than another")

    def close(self) -> None:
        self._landed.clear()
