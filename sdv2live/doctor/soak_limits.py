"""When a rehearsal has passed. Pure: figures in, findings out. Owns the limits, and why each is where it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sdv2live.doctor.finding import Finding, State

SHORTEST_S = 5.0
MB = 2**20
SETTLING_MB = 24  # so much more is no leak yet: caches that fill, a library that was not used before


@dataclass(frozen=True, slots=True)
class Limit:
    """Above `warn` it is to be known, above `fail` the rehearsal has failed. why: what an audience sees then."""

    warn: float
    fail: float
    unit: str
    why: str

    def state(self, value: float) -> State:
        return State.FAIL if value > self.fail else State.WARN if value > self.warn else State.OK

    @property
    def words(self) -> str:
        return f"warns above {self.warn:g}, fails above {self.fail:g} {self.unit}: {self.why}"


MISSED = Limit(3.0, 10.0, "%", "one picture in ten that is missing makes movement jerk")
AGE = Limit(600.0, 1500.0, "ms", "sound can be delayed to match half a second; beyond that a performer loses the beat")
GAP = Limit(250.0, 1000.0, "ms", "a quarter of a second is seen as a stutter, a second as a fault")
LATE = Limit(2.0, 10.0, "%", "late pictures are thrown away when they come")
SKIPPED = Limit(1.0, 5.0, "%", "an output that takes too long shows fewer pictures than the others")
TICKS = Limit(1.0, 5.0, "%", "the outputs' own clock was held up: the machine is too busy")
CHANGE = Limit(1500.0, 4000.0, "ms", "a knob that acts later than a bar of music cannot be played")
GROWTH = Limit(20.0, 100.0, "MB a minute", "100 MB a minute fill 48 GB in a show of eight hours")
SLOWER = Limit(20.0, 60.0, "%", "chunks that take longer and longer are heat, or another program")
STILL = Limit(1.0, 3.0, "s", "a picture that stands while the source moves is a fault to everybody")
BLACK = Limit(0.2, 1.0, "s", "a black picture is a fault to everybody")


@dataclass(frozen=True, slots=True)
class OutputFigures:
    """state, reason: at the end. offered: pictures that it was given or would have been, skipped: those it missed."""

    name: str
    state: str
    reason: str
    offered: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was measured; counts and shares are of the steady part of run_s seconds, after the start.

    wanted: source frames that could have been generated. osc_port: 0 where OSC is off. change_ms: None where no picture
    came with the change. memory_bytes: early and at the end, None where nobody knows. chunk_ms: of the first and of the
    last third. still_s, black_s: the longest time while the source moved, or was not black.
    """

    source: str
    engine: str
    run_s: float
    wanted_s: float
    wanted: float
    generated: int
    age_p50_ms: float | None
    age_p95_ms: float | None
    gap_p99_ms: float | None
    late: int
    missed_ticks: int
    ticks: int
    outputs: tuple[OutputFigures, ...]
    restarts: int
    bad_chunks: int
    memory_bytes: tuple[int, int] | None
    memory_over_s: float
    chunk_ms: tuple[float, float] | None
    osc_port: int
    is_change_heard: bool
    change_ms: float | None
    still_s: float
    black_s: float
    problems: tuple[str, ...]


def judged(run: Rehearsal) -> Iterator[Finding]:
    """The sheet, line by line."""
    yield _length(run)
    yield _frames(run)
    yield from _times(run)
    yield _share("late pictures", run.late, run.generated, LATE, "lower --steps or --size", "of what was made")
    yield _share("output clock", run.missed_ticks, run.ticks, TICKS, "close other programs", "of its ticks missed")
    yield from map(_output, run.outputs)
    yield _engine(run)
    if run.chunk_ms is not None:
        yield _slower(*run.chunk_ms)
    if run.memory_bytes is not None:
        yield _memory(*run.memory_bytes, run.memory_over_s)
    yield _osc(run)
    for name, longest_s, limit in (("still picture", run.still_s, STILL), ("black picture", run.black_s, BLACK)):
        text = f"{longest_s:.1f} s at the longest ({limit.words})"
        yield _limited(name, longest_s, limit, text, "see the log for what happened at that time")
    for problem in run.problems:
        yield Finding("while it ran", State.WARN, problem, "see to it before the show")


def _limited(name: str, value: float, limit: Limit, text: str, remedy: str) -> Finding:
    state = limit.state(value)
    return Finding(name, state, text, "" if state is State.OK else remedy)


def _length(run: Rehearsal) -> Finding:
    text = f"{run.run_s:.0f} s of {run.engine} on {run.source}"
    if run.run_s < 0.9 * run.wanted_s:
        remedy = "use a source that does not end, such as the camera of the show"
        return Finding("rehearsal", State.FAIL, f"{text}, and {run.wanted_s:.0f} s were wanted", remedy)
    return Finding("rehearsal", State.OK, text)


def _frames(run: Rehearsal) -> Finding:
    if run.wanted <= 0:
        return Finding("frames made", State.FAIL, "the source gave no frames", "choose another source")
    missed = max(0.0, 100 * (1 - run.generated / run.wanted))
    text = f"{run.generated} of {run.wanted:.0f} source frames, {missed:.1f} % missed ({MISSED.words})"
    return _limited("frames made", missed, MISSED, text, "lower --size or --steps, or start with --engine auto")


def _times(run: Rehearsal) -> Iterator[Finding]:
    if run.age_p50_ms is None or run.age_p95_ms is None:
        yield Finding("age", State.FAIL, "no picture was shown", "see the lines above")
        return
    text = f"{run.age_p50_ms:.0f} ms in the middle, {run.age_p95_ms:.0f} ms p95 ({AGE.words})"
    yield _limited("age", run.age_p95_ms, AGE, text, "lower --size or --steps, or take --schedule latency")
    if run.gap_p99_ms is not None:
        text = f"{run.gap_p99_ms:.0f} ms between new pictures, p99 ({GAP.words})"
        yield _limited("gaps", run.gap_p99_ms, GAP, text, "close other programs, or lower --size")


def _share(name: str, count: int, whole: int, limit: Limit, remedy: str, words: str) -> Finding:
    share = 100 * count / whole if whole else 0.0
    return _limited(name, share, limit, f"{count}, {share:.1f} % {words} ({limit.words})", remedy)


def _output(output: OutputFigures) -> Finding:
    name = f"output {output.name}"
    if output.state != "running":
        return Finding(
            name, State.FAIL, f"it has {output.state}: {output.reason or 'without a word'}", "see its sentence"
        )
    return _share(
        name, output.skipped, output.offered, SKIPPED, "take a faster drive or device", "of its pictures skipped"
    )


def _engine(run: Rehearsal) -> Finding:
    text = f"{run.restarts} restarts, {run.bad_chunks} chunks thrown away (fails above 0: each is seen as a stop)"
    is_good = not run.restarts and not run.bad_chunks
    return Finding("engine", State.OK if is_good else State.FAIL, text, "" if is_good else "see the log for why")


def _slower(early_ms: float, late_ms: float) -> Finding:
    growth = max(0.0, 100 * (late_ms / early_ms - 1)) if early_ms else 0.0
    text = (
        f"chunks of {early_ms:.0f} ms at first and {late_ms:.0f} ms at the end, {growth:.0f} % slower ({SLOWER.words})"
    )
    return _limited("pace", growth, SLOWER, text, "let the machine cool, plug it in, close other programs")


def _memory(early: int, late: int, over_s: float) -> Finding:
    grown = (late - early) / MB
    rate = grown * 60 / over_s if over_s > 0 and grown > SETTLING_MB else 0.0
    text = f"{early / MB:.0f} MB at first, {late / MB:.0f} MB at the end ({GROWTH.words})"
    return _limited("memory", rate, GROWTH, text, "rehearse longer to see whether it goes on, and please report it")


def _osc(run: Rehearsal) -> Finding:
    if not run.osc_port:
        return Finding("OSC change", State.WARN, "OSC is off, so no knob was turned", "leave --osc-port away")
    if not run.is_change_heard:
        text = f"what another program sent to port {run.osc_port} was not heard"
        return Finding("OSC change", State.FAIL, text, "let this program through the firewall for UDP on loopback")
    if run.change_ms is None:
        return Finding("OSC change", State.FAIL, "it was heard, and no picture came with it", "see the lines above")
    text = f"seen {run.change_ms:.0f} ms after another program sent it to port {run.osc_port} ({CHANGE.words})"
    return _limited("OSC change", run.change_ms, CHANGE, text, "lower --size or --steps, or take --schedule latency")
