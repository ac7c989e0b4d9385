"""One training stage as a loop that can be cut off anywhere. Owns: optimiser, learning rate, average, checkpoints.

Knows nothing of what is trained. All randomness of a step follows from (seed, stage, step), so a stage that goes on
from a checkpoint computes what it would have computed without the stop (exactly so with a budget in steps; with one in
minutes the learning rate follows the clock).
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]

from sdv2live.engine.checkpoint import is_memory_full
from sdv2live.errors import UserError, one_line

CHECKPOINT_PERIOD_S = 120.0
REPORT_PERIOD_S = 20.0
DAMAGED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Budget:
    """How long a stage runs: steps, or minutes of its own running time (stops between do not count)."""

    steps: int | None = None
    minutes: float | None = None

    def progress(self, step: int, elapsed_s: float) -> float:
        """0 at the start, 1 when the stage is over."""
        by_steps = step / self.steps if self.steps else 0.0
        by_clock = elapsed_s / 60 / self.minutes if self.minutes else 0.0
        return min(1.0, max(by_steps, by_clock))

    def place(self, step: int, elapsed_s: float) -> str:
        """In words."""
        if self.steps:
            return f"step {step} of {self.steps}"
        return f"step {step}, minute {elapsed_s / 60:.1f} of {self.minutes}"


class Loop:
    """`for rng in loop.steps(): loss = ...; loop.update(loss)`; `average` holds the averaged modules' weights.

    costs: what a stage measured of them at its end, in dB by look, kept in the checkpoint until the stage goes on.
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        modules: dict[str, nn.Module],
        parameters: Mapping[float, list[nn.Parameter]],
        *,
        budget: Budget,
        seed: int,
        start: str = "",
        run: Mapping[str, float] | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        decay: float = 0.997,
        on_checkpoint: Callable[[Loop], None] | None = None,
    ) -> None:
        """parameters: by the peak of their learning rate. start: what the weights came from, if not from stages before;
        a checkpoint that came from elsewhere is an earlier stretch: it is not gone on with, and at the first save of
        this one it gets another name. run: what else makes this run, beside the seed; what changed is said.
        on_checkpoint: called after each checkpoint that the steps leave.
        Raises UserError for a checkpoint that cannot be read or does not fit the modules.
        """
        self.stage, self.modules, self.budget, self.seed, self.start = stage, modules, budget, seed, start
        self.path = folder / f"stage-{stage}.pt"
        self.parameters = [parameter for group in parameters.values() for parameter in group]
        self.peaks = list(parameters)
        groups = [{"params": group, "lr": peak} for peak, group in parameters.items()]
        self.optimiser = torch.optim.AdamW(groups, betas=betas, weight_decay=0.01)
        self.decay, self._on_checkpoint = decay, on_checkpoint
        self.average = {name: _copy(module) for name, module in modules.items()}
        self.step, self.elapsed_s = 0, 0.0
        self.run = {"seed": seed, **(run or {})}
        self.costs: dict[str, float] = {}
        self._seen: dict[str, list[float]] = {}
        self._aside: Path | None = None
        if self.path.exists():
            state = read_checkpoint(self.path)
            if state.get("start", "") == start:
                self._go_on(state)
            else:
                name = hashlib.sha256(self.path.read_bytes()).hexdigest()[:8]
                self._aside = self.path.with_stem(f"{self.path.stem}.{name}")
                self._say(f"begins anew: {self.path} came from other weights, and is kept as {self._aside.name}")

    def _go_on(self, state: dict[str, Any]) -> None:
        """From where a checkpoint was saved."""
        try:
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
                self.average[name] = {
                    key: state["average"][name][key].to(value.device) for key, value in self.average[name].items()
                }
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, LookupError, ValueError) as error:
            raise UserError(
                f"{self.path} does not fit the present networks ({one_line(error)}): move it away to begin anew."
            ) from error
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        before = state.get("run", {})
        changes = [
            f"{key} {now:g}, until now {before[key]:g}" for key, now in self.run.items() if before.get(key, now) != now
        ]
        self._say("; ".join([f"goes on at {self.budget.place(self.step, self.elapsed_s)}", *changes]))

    def steps(self) -> Iterator[np.random.Generator]:
        """Yields the randomness of each step until the budget is spent; torch's own generator is seeded from it too."""
        last_save = last_report = last = time.monotonic()
        first_step = self.step
        started = last
        while (progress := self.budget.progress(self.step, self.elapsed_s)) < 1:
            rng = np.random.default_rng((self.seed, zlib.crc32(self.stage.encode()), self.step))
            torch.manual_seed(int(rng.integers(2**31)))
            warm = min(1.0, (self.step + 1) / 50)
            for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
                group["lr"] = peak * warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))
            yield rng
            self.step += 1
            now = time.monotonic()
            self.elapsed_s += now - last
            last = now
            if now - last_report > REPORT_PERIOD_S:
                rate = (self.step - first_step) / (now - started)
                left_s = self.elapsed_s * (1 - progress) / max(progress, 1e-6)
                self._report(f"{self.step} steps, {rate:.2f}/s, {100 * progress:.0f} %, {left_s:.0f} s left")
                last_report = now
            if now - last_save > CHECKPOINT_PERIOD_S:
                self._checkpoint()
                last_save = now
        self._checkpoint()
        self._report(f"done: {self.step} steps in {self.elapsed_s / 60:.1f} min")

    def update(self, loss: Tensor, **figures: float) -> None:
        """Backward and one optimiser step."""
        self.optimiser.zero_grad(set_to_none=True)
        self._check("loss", float(loss.detach()))
        loss.backward()
        self.apply(loss=float(loss.detach()), **figures)

    def apply(self, **figures: float) -> None:
        """Clip the gradients that are there, step, average. Raises FloatingPointError before anything is spoilt."""
        for key, figure in figures.items():
            self._check(key, figure)
            self._seen.setdefault(key, []).append(figure)
        self._check("gradients' norm", float(nn.utils.clip_grad_norm_(self.parameters, 1.0)))
        self.optimiser.step()
        rate = min(self.decay, (self.step + 1) / (self.step + 10))
        for name, module in self.modules.items():
            kept = self.average[name]
            for key, weight in module.state_dict().items():
                if weight.is_floating_point():
                    kept[key].lerp_(weight.detach(), 1 - rate)

    def _check(self, name: str, value: float) -> None:
        """What is not finite ends the run: going on would spoil the average in silence."""
        if not math.isfinite(value):
            raise FloatingPointError(
                f"stage {self.stage}, step {self.step}: the {name} is {value}; what was saved before is kept, and the "
                "same command goes on from there: a smaller --rate may get past it."
            )

    def _checkpoint(self) -> None:
        self.save()
        if self._on_checkpoint:
            self._on_checkpoint(self)

    def save(self) -> None:
        """Checkpoint, whole or not at all; one of an earlier stretch gives up its name."""
        state: dict[str, Any] = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "start": self.start,
            "run": self.run,
            "costs": self.costs,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        if self._aside:
            os.replace(self.path, self._aside)
            self._aside = None
        os.replace(part, self.path)

    def _report(self, text: str) -> None:
        figures = " ".join(f"{key} {sum(seen) / len(seen):.4f}" for key, seen in self._seen.items())
        self._seen.clear()
        self._say(f"{text} | {figures}")

    def _say(self, text: str) -> None:
        print(f"{self.stage}: {text}", file=sys.stderr, flush=True)


class Workers:
    """Copies of a loop's modules that share its weights, each run by a thread of its own.

    Two threads on halves of a batch beat two threads inside each operation where the cores are not free all the
    time: they wait for each other once a step. Gradients are summed into the loop's own modules.
    """

    def __init__(self, modules: dict[str, nn.Module], count: int) -> None:
        self.masters = modules
        self.copies = [modules] + [copy.deepcopy(modules) for _ in range(count - 1)]
        for copied in self.copies[1:]:
            for name, module in copied.items():
                for ours, theirs in zip(module.parameters(), modules[name].parameters(), strict=True):
                    ours.data = theirs.data
        self._pool = ThreadPoolExecutor(count)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def gradients(self, loss_of: Callable[[dict[str, Any], int], tuple[Tensor, dict[str, float]]]) -> dict[str, float]:
        """Run `loss_of(modules, worker)` in each worker, backward, leave the mean gradient; returns mean figures."""

        def run(index: int) -> dict[str, float]:
            for module in self.copies[index].values():
                module.zero_grad(set_to_none=True)
            loss, figures = loss_of(self.copies[index], index)
            (loss / len(self.copies)).backward()
            return {"loss": float(loss.detach()), **figures}

        results = list(self._pool.map(run, range(len(self.copies))))
        for copied in self.copies[1:]:
            for name, module in copied.items():
                for ours, theirs in zip(module.parameters(), self.masters[name].parameters(), strict=True):
                    if ours.grad is not None and theirs.grad is not None:
                        theirs.grad += ours.grad
        return {key: sum(r[key] for r in results) / len(results) for key in results[0]}


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def averaged(folder: Path, stage: str, name: str) -> dict[str, Tensor]:
    """The averaged weights of a module that a stage left, finished or not. Raises UserError where it left none."""
    path = folder / f"stage-{stage}.pt"
    if not path.exists():
        raise UserError(f"{path} is missing: run stage {stage} first.")
    weights: dict[str, Tensor] = read_checkpoint(path)["average"][name]
    return weights


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `Loop.save` wrote, on the CPU. Raises UserError for a file that is no such thing."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (*DAMAGED, EOFError, UnpicklingError, struct.error) as error:
        if is_memory_full(error):
            raise
        state = one_line(error).partition(". ")[0]
    if not isinstance(state, dict) or not {"modules", "average", "optimiser", "step", "elapsed_s"} <= state.keys():
        why = state if isinstance(state, str) else "it holds something else"
        raise UserError(f"{path} is no checkpoint of a stage ({why}): move it away, or run the stage again elsewhere.")
    return state
