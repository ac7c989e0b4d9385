"""The choice itself. Pure: what could be run, what was measured, what is wanted; no torch, no file, no clock.

Owns: the order in which quality is given up, which trials are worth while, and the words that say why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdv2live.engine.base import EngineSpec
from sdv2live.engine.catalogue import default_size, smaller_sizes, traits_of

AUTO = "auto"
ENGINES = ("wan-14b", "wan-1.3b", "pocket")  # the best first
DECODERS = ("wan", "wan-taehv", "taehv")  # the same, and the slowest first
SCHEDULES = ("latency", "throughput")
SHIPPED = "pocket"
SMALLEST_POCKET = 160 * 160
HEADROOM = 1.1  # capture, window and outputs want some of the machine, too
# A trial that another program held up, or that had a cool machine to itself, is made again.
STILL_FITS = (0.7, 1.4)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run. vae: '' for an engine that has one decoder."""

    engine: str
    size_wh: tuple[int, int]
    vae: str
    steps: int
    schedule: str

    @property
    def pixels(self) -> int:
        return self.size_wh[0] * self.size_wh[1]

    @property
    def words(self) -> str:
        """`pocket 256x256, 1 step, latency`."""
        width, height = self.size_wh
        decoder = f", {self.vae}" if self.vae else ""
        return f"{self.engine} {width}x{height}{decoder}, {self.steps} step{'s'[: self.steps > 1]}, {self.schedule}"


Measured = Mapping[Candidate, float]  # pictures a second


@dataclass(frozen=True, slots=True)
class Fixed:
    """What the user has chosen; None is open."""

    size_wh: tuple[int, int] | None = None
    vae: str | None = None
    steps: int | None = None
    schedule: str | None = None


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What `auto` means in a run, and why."""

    candidate: Candidate
    words: str
    fps: float | None = None

    @property
    def brought(self) -> dict[str, Any]:
        """For rows of the table that nobody has set."""
        return {"steps.count": self.candidate.steps, "schedule": self.candidate.schedule}


def candidates(decoders: Mapping[str, Sequence[str]], fixed: Fixed) -> list[Candidate]:
    """Everything that is considered, the best first. decoders: engine that can run here -> those it has files for.

    Given up first is what costs the picture least: the schedule (age alone), then the decoder, a step, the size, and
    last the engine.
    """
    return [one for engine in ENGINES if engine in decoders for one in _of(engine, decoders[engine], fixed)]


def _of(engine: str, decoders: Sequence[str], fixed: Fixed) -> Iterator[Candidate]:
    own = default_size(engine)
    brought = traits_of(EngineSpec(engine, own)).defaults
    if fixed.steps is not None and fixed.steps > len(brought["steps.list"]):
        return
    smaller = smaller_sizes(own, SMALLEST_POCKET) if engine == SHIPPED else smaller_sizes(own)
    sizes = [fixed.size_wh] if fixed.size_wh else [own, *smaller]
    counts = [fixed.steps] if fixed.steps else range(int(brought["steps.count"]), 0, -1)
    vaes = [""] if engine == SHIPPED else [vae for vae in DECODERS if vae in decoders and fixed.vae in (None, vae)]
    for size_wh in sizes:
        for steps in counts:
            for vae in vaes:
                # One step has nothing to be batched: both schedules are the same.
                schedules = SCHEDULES if steps > 1 else SCHEDULES[:1]
                for schedule in [fixed.schedule] if fixed.schedule not in (None, AUTO) else schedules:
                    yield Candidate(engine, size_wh, vae, steps, schedule)


def next_trial(order: Sequence[Candidate], measured: Measured, wanted_fps: float) -> Candidate | None:
    """What is to be measured now; None where the choice can be made."""
    for one in order:
        if one in measured:
            if measured[one] >= HEADROOM * wanted_fps:
                return None  # whatever comes behind it is worse
        elif most_fps(one, measured) >= HEADROOM * wanted_fps:
            return one
    return None


def most_fps(one: Candidate, measured: Measured) -> float:
    """What it could do at the very most, by what others did: the least of what follows from each.

    A smaller picture gains at most the square of its pixels (attention), fewer steps their share, and a batch no more
    than its rows; a lighter decoder may gain anything.
    """
    bounds = [fps * _gain(one, other) for other, fps in measured.items() if fps > 0 and _is_comparable(one, other)]
    return min(bounds, default=float("inf"))


def disproved(measured: Measured) -> set[Candidate]:
    """Those that were slower than another one's speed allows: something else held the machine up while they ran."""
    pairs = [(one, fps, other, slower) for one, fps in measured.items() for other, slower in measured.items()]
    return {
        other
        for one, fps, other, slower in pairs
        if slower > 0 and _is_comparable(one, other) and fps > STILL_FITS[1] * slower * _gain(one, other)
    }


def _is_comparable(one: Candidate, other: Candidate) -> bool:
    if one.engine != other.engine:
        return False
    return one.vae == other.vae or DECODERS.index(one.vae) < DECODERS.index(other.vae)


def _gain(one: Candidate, other: Candidate) -> float:
    by_size = max(1.0, (other.pixels / one.pixels) ** 2)
    by_steps = max(1.0, other.steps / one.steps)
    by_batch = one.steps if one.schedule != other.schedule else 1.0
    return by_size * by_steps * by_batch


def choose(order: Sequence[Candidate], measured: Measured, wanted_fps: float) -> EngineChoice:
    """The best that holds the rate; where none does, the fastest that was measured; else the least there is."""
    known = [one for one in order if measured.get(one, 0.0) > 0]
    for one in known:
        if measured[one] >= HEADROOM * wanted_fps:
            words = f"{AUTO}: {one.words}: {measured[one]:.1f} fps measured, {wanted_fps:g} wanted"
            return EngineChoice(one, words, measured[one])
    if known:
        one = max(known, key=lambda each: measured[each])
        is_tight = measured[one] >= wanted_fps
        why = "with little to spare" if is_tight else "nothing here holds it, and this is the fastest"
        words = f"{AUTO}: {one.words}: {measured[one]:.1f} fps measured, {wanted_fps:g} wanted; {why}"
        return EngineChoice(one, words, measured[one])
    return unmeasured(order, "nothing was measured")


def unmeasured(order: Sequence[Candidate], why: str) -> EngineChoice:
    """Without a measurement: the engine that ships, as it was made, where the user leaves that open."""
    shipped = [one for one in order if one.engine == SHIPPED] or list(order)
    one = shipped[0] if shipped else Candidate(SHIPPED, default_size(SHIPPED), "", 1, SCHEDULES[0])
    return EngineChoice(one, f"{AUTO}: {one.words}: {why}")


def still_fits(measured_fps: float, live_fps: float) -> bool:
    """Whether what a live run's chunks would have allowed is about what was measured."""
    low, high = STILL_FITS
    return low * measured_fps <= live_fps <= high * measured_fps
