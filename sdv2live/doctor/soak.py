"""The rehearsal: a live run as it is, for a while, watched. Owns what is measured beside the run's own numbers.

Half way, another process turns a knob by OSC. Runs on the main thread in place of the status line.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from bridges.base import Output
from sdv2live.app import LiveApp, LiveOptions, run_live
from sdv2live.clock import Clock, MonotonicClock
from sdv2live.doctor.soak_limits import OutputFigures, Rehearsal
from sdv2live.engine.child import end_child, start_child
from sdv2live.frames import Pixels
from sdv2live.parameters import TABLE
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec

SAMPLE_S = 0.25
SETTLING_S = 2.0  # after the first picture: what a start costs is no part of the show
KNOB, NUDGE = "noise.max", 0.1
DARKEST = 6.0  # mean of 255
EYE_SIDE = 64
SENDER_LIMIT_S = 5.0


class Eye(Output):
    """An output that looks at the pictures. source(): the newest frame that came in, or None."""

    name = "doctor"

    def __init__(self, clock: Clock, source: Callable[[], Pixels | None] = lambda: None) -> None:
        self._clock, self.source = clock, source
        self.still_s = self.black_s = 0.0
        self._seen: Pixels | None = None
        self._source_then: Pixels | None = None
        self._changed_s = self._light_s = clock.now_s()

    def open(self, size_wh: tuple[int, int], rate_fps: int) -> None:
        self._seen = None

    def write(self, pixels: Pixels, tick: int) -> None:
        now_s = self._clock.now_s()
        source = self.source()
        small, small_source = _small(pixels), _small(source) if source is not None else None
        if self._seen is None or not np.array_equal(small, self._seen):
            self._seen, self._source_then, self._changed_s = small, small_source, now_s
        elif _differ(small_source, self._source_then):
            self.still_s = max(self.still_s, now_s - self._changed_s)
        if small.mean() > DARKEST or (small_source is not None and small_source.mean() <= DARKEST):
            self._light_s = now_s
        else:
            self.black_s = max(self.black_s, now_s - self._light_s)

    def close(self) -> None:
        """Nothing is held."""


def _differ(one: Pixels | None, other: Pixels | None) -> bool:
    return one is not None and other is not None and not np.array_equal(one, other)


def _small(pixels: Pixels) -> Pixels:
    """Every so many-th pixel: enough to tell a picture from the one before, and next to no work."""
    step = max(1, min(pixels.shape[:2]) // EYE_SIDE)
    return pixels[::step, ::step].copy()


@dataclass(slots=True)
class Watch:
    """What is noted while it runs; drives the run."""

    seconds: float
    say: Callable[[str], None]
    eye: Eye
    first: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)
    problems: dict[str, None] = field(default_factory=dict)
    heard: bool = False
    began_s: float = 0.0
    chunks_ms: list[float] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def drive(self, app: LiveApp) -> None:
        """Until the run is over; a change by OSC half way."""
        clock, said, said_s = app.clock, "", -1
        self.eye.source = lambda: frame.pixels if (frame := app.session.newest_frame) is not None else None
        with contextlib.closing(OtherProgram()) as other:
            while not clock.wait_until(clock.now_s() + SAMPLE_S, app.stop_requested):
                now_s, status, first_s = clock.now_s(), app.status(), app.presenter.first_picture_s
                if first_s is None:
                    if status.engine_words != said:
                        said = status.engine_words
                        self.say(said)
                else:
                    elapsed_s = now_s - first_s
                    if int(elapsed_s) != said_s:
                        said_s = int(elapsed_s)
                        self.say(f"{said_s} of {self.seconds:.0f} s, {status.new_fps:.1f} new fps")
                    self._sample(app, now_s, elapsed_s)
                    if not other.has_sent and app.osc is not None and elapsed_s >= self.seconds / 2:
                        other.turn_knob(app.osc.port, app.registry)
                if app.is_over():
                    break
            self._end(app)

    def _sample(self, app: LiveApp, now_s: float, elapsed_s: float) -> None:
        status = app.status()
        self.problems.update(dict.fromkeys(status.problems))
        self.heard = self.heard or app.registry.origin_of(KNOB) == "osc"
        if elapsed_s < SETTLING_S:
            self.eye.still_s = self.eye.black_s = 0.0
            return
        if not self.first:
            self.first, self.began_s = app.summary(), now_s
        if status.memory_bytes is not None:
            self.memory.append((now_s, status.memory_bytes))

    def _end(self, app: LiveApp) -> None:
        self.last = app.summary() | {"steady_s": app.clock.now_s() - self.began_s if self.first else 0.0}
        self.last["source_fps"] = app.sources.status.fps
        self.chunks_ms = app.session.chunk_ms.newest(sys.maxsize)
        self.reasons = {status.name: status.reason for status in app.rack.statuses}

    def rehearsal(self, cap_fps: float) -> Rehearsal:
        """The figures, once it is over. cap_fps: the most that is generated a second."""
        first, last = self.first or self.last, self.last
        steady_s = last["steady_s"]

        def steady(name: str) -> int:
            return int(last[name] - first[name])

        before = {output["name"]: output for output in first["outputs"]}
        outputs = [
            OutputFigures(
                name=one["name"],
                state=one["state"],
                reason=self.reasons.get(one["name"], ""),
                offered=steady("frames_out"),
                skipped=one["skipped"] - before.get(one["name"], one)["skipped"],
            )
            for one in last["outputs"]
            if one["name"] != self.eye.name
        ]
        width, height = last["size"]
        steps = last["settings"]["steps.count"]
        return Rehearsal(
            source=last["source"],
            engine=f"{last['engine']} {width}x{height}, {steps} step{'' if steps == 1 else 's'}, {last['device']}",
            run_s=last["run_s"],
            wanted_s=self.seconds,
            wanted=min(float(steady("frames_in")), cap_fps * steady_s),
            generated=steady("frames_generated"),
            age_p50_ms=last["age_ms"]["p50"],
            age_p95_ms=last["age_ms"]["p95"],
            gap_p99_ms=last["new_frame_interval_ms"]["p99"],
            late=steady("lagged"),
            missed_ticks=steady("missed_ticks"),
            ticks=steady("frames_out") + steady("missed_ticks"),
            outputs=tuple(outputs),
            restarts=last["restarts"],
            bad_chunks=last["bad_chunks"],
            memory_bytes=self._memory(),
            memory_over_s=steady_s / 2,
            chunk_ms=_thirds(self.chunks_ms),
            osc_port=last["osc_port"] or 0,
            is_change_heard=self.heard,
            change_ms=last["change_to_picture_ms"]["p50"],
            still_s=self.eye.still_s,
            black_s=self.eye.black_s,
            problems=tuple(self.problems),
        )

    def _memory(self) -> tuple[int, int] | None:
        """The middle of the first half, and of the second: one sample says little."""
        if len(self.memory) < 4:
            return None
        sizes, half = [size for _, size in self.memory], len(self.memory) // 2
        return int(median(sizes[:half])), int(median(sizes[half:]))


def _thirds(values: Sequence[float]) -> tuple[float, float] | None:
    third = len(values) // 3
    return (median(values[:third]), median(values[-third:])) if third >= 3 else None


def rehearse(
    registry: Registry,
    *,
    seconds: float,
    outputs: Sequence[Output],
    osc_port_is_asked: bool,
    say: Callable[[str], None],
) -> tuple[int, Watch]:
    """Run it; -> the exit code of the run (128 and the signal's number where it was stopped) and what was noted.

    Raises UserError where no picture comes.
    """
    watch = Watch(seconds, say, Eye(MonotonicClock()))
    options = LiveOptions(
        outputs=[watch.eye, *outputs],
        spec=engine_spec(registry),
        seconds=seconds,
        osc_port_is_asked=osc_port_is_asked,
    )
    return run_live(registry, options, watch.drive), watch


def cap_of(registry: Registry) -> float:
    """Pictures a second that are generated at most, as the app sets it."""
    return float(registry.get("source.rate") or registry.get("output.rate"))


# ---- the other program -------------------------------------------------------------------------------------------


class OtherProgram:
    """A process that sends by OSC. Started early: what that costs is no part of what is measured."""

    def __init__(self) -> None:
        self._process = start_child("sdv2live.doctor.soak_sender")
        self.has_sent = False

    def turn_knob(self, port: int, registry: Registry) -> None:
        """Have it send another value of the knob; once."""
        self.has_sent = True
        now = float(registry.get(KNOB))
        value = round(now - NUDGE if now > 0.5 else now + NUDGE, 3)
        wish = {"port": port, "address": TABLE[KNOB].osc_addresses[0], "value": value}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone, and the sheet says that nothing was heard
            self._process.stdin.write(json.dumps(wish).encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        end_child(self._process, grace_s=SENDER_LIMIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
