"""The composition root of a live run. Owns: what is built, in which order it starts and stops, and the exit code.

Order: registry, OSC (it answers `loading` before torch is imported), source, outputs, engine, output clock. Whatever
was started is stopped, in reverse, on every way out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridges.base import Output, OutputThread
from bridges.osc_server import OscServer
from sdv2live.capture.base import Source
from sdv2live.capture.cards import RANDOM_WEIGHTS_LABEL
from sdv2live.capture.thread import CaptureThread
from sdv2live.chunker import Chunker
from sdv2live.clock import Clock, MonotonicClock
from sdv2live.engine.base import EngineSpec
from sdv2live.engine.client import EngineClient
from sdv2live.errors import UserError
from sdv2live.filters import parse_chain, size_after
from sdv2live.paths import assets_dir
from sdv2live.presenter import Presenter
from sdv2live.presets import apply_preset
from sdv2live.queues import FrameRing
from sdv2live.registry import Registry
from sdv2live.session import Session
from sdv2live.settings import settings_of
from sdv2live.supervisor import RestartPolicy, State, Supervisor

log = logging.getLogger(__name__)

WATCH_PERIOD_S = 0.05
STATUS_PERIOD_S = 1.0
DRAIN_LIMIT_S = 30.0
NO_PICTURE_GRACE_S = 20.0


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What a live run needs beside the registry. seconds: from the first picture; None: until stopped."""

    source: Source
    outputs: Sequence[Output]
    spec: EngineSpec
    seconds: float | None = None
    json_path: Path | None = None
    osc_port_is_asked: bool = False
    policy: RestartPolicy | None = None


class LiveApp:
    """One live run, headless."""

    def __init__(self, registry: Registry, options: LiveOptions, clock: Clock | None = None) -> None:
        self.registry, self.options = registry, options
        self.clock = clock or MonotonicClock()
        self.stop_requested = threading.Event()
        self._signal: int | None = None
        self._started_s = self.clock.now_s()
        self._stack = contextlib.ExitStack()
        self._finished_s: float | None = None
        self._ready_s: float | None = None

        values = registry.snapshot()
        self._rate_fps = int(values["output.rate"])
        fit = str(values["source.fit"])
        # Larger where the picture is enlarged from the start; outputs keep the size that they were opened with.
        size_wh = size_after(parse_chain(values["output.filters"]), options.spec.size_wh)
        self.ring = FrameRing()
        self._plays = threading.Event()
        self.capture = CaptureThread(options.source, self.ring, self.clock, plays=self._plays)
        self.outputs = [
            OutputThread(output, size_wh=size_wh, rate_fps=self._rate_fps, clock=self.clock)
            for output in options.outputs
        ]
        self.supervisor = Supervisor(self._start_engine, self.clock, options.policy)
        self.presenter = Presenter(
            registry=registry,
            outlets=self.outputs,
            size_wh=size_wh,
            rate_fps=self._rate_fps,
            fit=fit,
            clock=self.clock,
            newest_frame=lambda: self.session.newest_frame,
            engine_words=lambda: self.supervisor.stage,
            label=RANDOM_WEIGHTS_LABEL if options.spec.random_weights else "",
        )
        self._fit = fit
        self.osc: OscServer | None = None
        self.session: Session

    def run(self) -> int:
        """Run until it is over; -> exit code. Raises UserError for what the user can put right."""
        with self._stack:
            self._start()
            self._watch()
            self.presenter.stop()  # no tick between the numbers and the end of the files
            # The numbers of a run are those of its end, not of what is left once everything is closed.
            summary, end_state, end_source = self.summary(), self.supervisor.state, self.capture.status
        self._report(summary | {"peak_memory_bytes": _peak_memory_bytes()})
        failure = self.session.failure or self.presenter.failure
        if failure is not None:
            raise RuntimeError("the stream ended with an error; see the log") from failure
        if self.presenter.first_picture_s is None and self._signal is None and end_source.name != "none":
            reason = self.supervisor.reason if end_state is State.FAILED else end_source.reason
            raise UserError(reason or f"the source {end_source.name} gave no picture: choose another one.")
        return 128 + self._signal if self._signal else 0

    def request_stop(self, number: int | None = None) -> None:
        """Stop soon and in order. Safe from a signal handler and from any thread."""
        self._signal = number
        self.stop_requested.set()

    def _start(self) -> None:
        port = int(self.registry.get("osc.port"))
        if port:
            self.osc = OscServer(
                self.registry,
                port=port,
                clock=self.clock,
                state=lambda: str(self.supervisor.state),
                apply_preset=lambda name: apply_preset(self.registry, name, origin="osc"),
            )
            self.osc.start(fall_back=not self.options.osc_port_is_asked)
            self._stack.callback(self.osc.stop)
        # The source before the outputs: a mistyped source must not have touched a file that is written to.
        self._stack.callback(self.capture.stop)
        info = self.capture.start()
        for output in self.outputs:
            output.start()
            self._stack.callback(output.stop)
        self.presenter.expect(period_s=1.0 / float(info.rate_fps))
        log.info("source: %s, %dx%d at %.5g fps", info.name, *info.size_wh, float(info.rate_fps))
        if self.options.source.is_live:
            self._plays.set()
        cap_fps = self.registry.get("source.rate") or float(self._rate_fps)
        self.session = Session(
            registry=self.registry,
            ring=self.ring,
            supervisor=self.supervisor,
            presenter=self.presenter,
            chunker=Chunker(source_rate_fps=float(info.rate_fps), cap_fps=float(cap_fps)),
            fit=self._fit,
            clock=self.clock,
            wake=self.ring.arrived,
            has_source_ended=self._has_source_ended,
            on_ready=self._on_ready,
        )
        self.session.start()
        self._stack.callback(self.session.stop)
        self.presenter.start()
        self._stack.callback(self.presenter.stop)

    def _start_engine(self, first_epoch: int) -> EngineClient:
        texts = [text for text, weight in settings_of(self.registry.snapshot()).mix if weight > 0]
        return EngineClient(
            self.options.spec,
            assets_dir(),
            self.clock,
            first_epoch=first_epoch,
            texts=texts,
            on_event=self.ring.arrived.set,
        )

    def _on_ready(self) -> None:
        """From the session's thread: an engine can take chunks, so a file may begin to play."""
        self._ready_s = self._ready_s or self.clock.now_s()
        self._plays.set()

    def _has_source_ended(self) -> bool:
        """A file that is over, or that cannot be read any further; a live source comes back."""
        return self.capture.status.state in ("ended", "failed") and not self.options.source.is_live

    def _watch(self) -> None:
        """The main thread's part: time, the end of the source, failures, the status line."""
        next_status_s = self.clock.now_s() + STATUS_PERIOD_S
        drained_by_s: float | None = None
        while not self.clock.wait_until(self.clock.now_s() + WATCH_PERIOD_S, self.stop_requested):
            now_s = self.clock.now_s()
            if now_s >= next_status_s:
                self._print_status(now_s)
                next_status_s = now_s + STATUS_PERIOD_S
            first_s = self.presenter.first_picture_s
            # Once there was a picture, outputs go on with a card and `stream.reset` tries again; before, it is over.
            has_never_run = self.supervisor.state is State.FAILED and first_s is None
            if self.session.failure or self.presenter.failure or has_never_run:
                break
            if first_s is None and self._is_waiting_in_vain(now_s):
                break
            if self.options.seconds is not None and first_s is not None and now_s - first_s >= self.options.seconds:
                break
            if self._has_source_ended():
                drained_by_s = drained_by_s or now_s + DRAIN_LIMIT_S
                is_drained = not (self.session.has_unfinished or self.presenter.has_waiting or self.ring.peek())
                if now_s > drained_by_s or is_drained:
                    break
        self._finished_s = self.clock.now_s()

    def _is_waiting_in_vain(self, now_s: float) -> bool:
        """With `seconds` given: the engine has been ready for that long and more, and nothing has come of it."""
        if self.options.seconds is None or self._ready_s is None:
            return False
        grace_s = 0.0 if self.capture.status.name == "none" else NO_PICTURE_GRACE_S
        return now_s - self._ready_s >= self.options.seconds + grace_s

    def _print_status(self, now_s: float) -> None:
        summary = self.presenter
        ages = summary.age_ms.newest(64)
        age = f"{sum(ages) / len(ages):.0f} ms" if ages else "-"
        line = (
            f"{self.supervisor.stage} | {summary.new_frame_rate.per_second(now_s):.1f} new fps | age {age} | "
            f"dropped {self.ring.dropped} lagged {summary.lagged} | noise {self.session.noise_scale:.2f} "
            f"motion {self.session.motion:.2f} | {self.capture.status.state}"
        )
        try:
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{line:<110.110}")
            elif int(now_s - self._started_s) % 5 == 0:
                sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except OSError:
            log.debug("nobody reads the status line")

    def summary(self) -> dict[str, Any]:
        """The run in numbers; the keys carry their units."""
        session, presenter, capture = self.session, self.presenter, self.capture.status
        first_s = presenter.first_picture_s
        end_s = self._finished_s or self.clock.now_s()
        run_s = end_s - first_s if first_s is not None else 0.0
        per_second = 1.0 / run_s if run_s > 0 else 0.0
        values = self.registry.snapshot().values
        statuses = [output.status for output in self.outputs]
        return {
            "source": capture.name,
            "frames_in": capture.frames_in,
            "frames_used": session.frames_used,
            "frames_generated": session.frames_generated,
            "frames_lost": session.frames_lost,
            "frames_out": presenter.frames_out,
            "run_s": round(run_s, 3),
            "engine_fps": round(session.frames_generated * per_second, 2),
            "output_fps": round(presenter.frames_out * per_second, 2),
            "new_frame_interval_ms": presenter.new_frame_interval_ms.summary(),
            "chunk_ms": session.chunk_ms.summary(),
            "stage_ms": {stage: series.summary() for stage, series in session.stage_ms.items()},
            "age_ms": presenter.age_ms.summary(),
            "ttff_ms": _ms_between(presenter.first_captured_s, first_s),
            "start_to_picture_ms": _ms_between(self._started_s, first_s),
            "dropped": self.ring.dropped + len(self.ring.peek()),
            "lagged": presenter.lagged,
            "passed_over": presenter.passed_over,
            "repeated": presenter.repeated,
            "missed_ticks": presenter.missed_ticks,
            "skipped": sum(status.skipped for status in statuses),
            "restarts": self.supervisor.restarts,
            "bad_chunks": self.supervisor.bad_chunks,
            "engine": self.options.spec.name,
            "device": self.supervisor.device,
            "size": list(self.options.spec.size_wh),
            "outputs": [
                {"name": s.name, "state": s.state, "written": s.written, "skipped": s.skipped} for s in statuses
            ],
            "osc_port": self.osc.port if self.osc is not None else None,
            "settings": {name: value for name, value in values.items() if name != "stream.reset"},
        }

    def _report(self, summary: dict[str, Any]) -> None:
        age, interval = summary["age_ms"], summary["new_frame_interval_ms"]
        print(
            f"\n{summary['run_s']:.1f} s, {summary['frames_generated']} frames generated "
            f"({summary['engine_fps']:.1f} fps), "
            f"{_share(summary)} of the source, age p95 {age['p95']} ms, new frames every {interval['p50']} ms "
            f"(p99 {interval['p99']}), first picture {summary['ttff_ms']} ms after its frame and "
            f"{summary['start_to_picture_ms']} ms after the start, dropped {summary['dropped']}, "
            f"lagged {summary['lagged']}, restarts {summary['restarts']}, memory {_megabytes(summary)}",
            file=sys.stderr,
        )
        if self.options.json_path is not None:
            text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
            try:
                self.options.json_path.write_text(text, "utf-8")
            except OSError as error:
                log.error("the summary could not be written to %s: %s", self.options.json_path, error.strerror)


def run_live(registry: Registry, options: LiveOptions) -> int:
    """A live run with this process's signals: the first asks it to end, the second ends it."""
    app = LiveApp(registry, options)

    def on_signal(number: int, _frame: object) -> None:
        if app.stop_requested.is_set():
            raise SystemExit(128 + number)
        app.request_stop(number)

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return app.run()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _share(summary: dict[str, Any]) -> str:
    """How much of what the source gave was generated."""
    frames_in = summary["frames_in"]
    return f"{100 * summary['frames_generated'] / frames_in:.1f} %" if frames_in else "0 %"


def _megabytes(summary: dict[str, Any]) -> str:
    peak = summary["peak_memory_bytes"]
    return f"{peak / 2**20:.0f} MB" if peak else "unknown"


def _ms_between(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else round((end_s - start_s) * 1000, 1)


def _peak_memory_bytes() -> int | None:
    """Largest resident sizes of the app and of its engine, added; the engine has ended. None where unknown."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
