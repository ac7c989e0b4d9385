"""The composition root of a live run. Owns: what is built, in which order it starts and stops, and the exit code.

Order: registry, OSC (it answers `loading` before torch is imported), source, outputs, engine, output clock. Whatever
was started is stopped, in reverse, on every way out. With a window the same run is driven by Qt's loop instead of
`_watch`, and nothing that the user can put right ends it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from bridges.base import Output, OutputStatus
from bridges.osc_server import OscServer
from bridges.rack import OutputRack
from bridges.select import make_output
from bridges.virtual_camera import CameraChoice, camera_choices
from sdv2live.auto.measuring import check_after, choose_again, source_rate, wanted_rate, wants_auto
from sdv2live.capture.base import Source
from sdv2live.capture.cards import RANDOM_WEIGHTS_LABEL
from sdv2live.capture.select import SourceChoice, list_sources, open_source
from sdv2live.chunker import Chunker
from sdv2live.clock import Clock, MonotonicClock
from sdv2live.engine.base import EngineSpec
from sdv2live.engine.catalogue import traits_of
from sdv2live.engine.client import EngineClient
from sdv2live.errors import UserError, one_line
from sdv2live.filters import parse_chain, size_after
from sdv2live.frames import Shown
from sdv2live.parameters import TABLE, Kind, Value
from sdv2live.paths import assets_dir, recordings_dir
from sdv2live.presenter import Presenter
from sdv2live.presets import apply_preset
from sdv2live.process_memory import memory_bytes, peak_memory_bytes
from sdv2live.queues import LatestSlot
from sdv2live.registry import Change, Registry
from sdv2live.session import Session
from sdv2live.settings import engine_spec, settings_of
from sdv2live.source_switch import Playing, SourceSwitch
from sdv2live.status import LiveStatus, LoraLine, OutputLine, SourceLine, rank_lines
from sdv2live.supervisor import RestartPolicy, State, Supervisor
from sdv2live.understood import ReadPrompts, Understood, sentence_of_unknown

log = logging.getLogger(__name__)

WATCH_PERIOD_S = 0.05
STATUS_PERIOD_S = 1.0
DRAIN_LIMIT_S = 30.0
NO_PICTURE_GRACE_S = 20.0
REFUSAL_SAID_S = 20.0
RANKS_FAILURES = 2  # ends without a picture between them, after which several ranks become one
SAID_PROMPTS = 1000
KNOWN_AFTER_S = 10.0  # a run that is long enough to say how fast its engine is
ORIGIN = "app"


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What a live run needs beside the registry. seconds: from the first picture; None: until stopped.

    make_source: what a source's spelling means, given whether a file is played over and over. waits_for_source: the
    run ends where the first source cannot be opened; without it, the clip plays until it can. first_source: where
    nobody named one.
    """

    outputs: Sequence[Output]
    spec: EngineSpec
    seconds: float | None = None
    json_path: Path | None = None
    osc_port_is_asked: bool = False
    policy: RestartPolicy | None = None
    make_source: Callable[[str, bool], Source] = lambda spec, loop: open_source(spec, loop=loop)
    waits_for_source: bool = True
    first_source: str = "clip"


class LiveApp:
    """One live run. `run` is for the main thread; all else may be called from any."""

    def __init__(self, registry: Registry, options: LiveOptions, clock: Clock | None = None) -> None:
        self.registry, self.options = registry, options
        self.clock = clock or MonotonicClock()
        self.stop_requested = threading.Event()
        self._signal: int | None = None
        self._started_s = self.clock.now_s()
        self._stack = contextlib.ExitStack()
        self._finished_s: float | None = None
        self._ready_s: float | None = None
        self._drained_by_s: float | None = None

        values = registry.snapshot()
        self._rate_fps = int(values["output.rate"])
        self.spec = options.spec
        self._plays, self._wake = threading.Event(), threading.Event()
        self._source_problem, self._source_problem_s = "", 0.0
        self._last_source: str | None = None
        self._good_values: dict[str, Value] = {}
        self._read = ReadPrompts()
        self._said: set[tuple[str, ...]] = set()  # prompts whose unknown words were told
        self._said_lock = threading.Lock()
        self.sources = SourceSwitch(
            self._make_source,
            self.clock,
            plays=self._plays,
            wake=self._wake,
            on_playing=self._on_playing,
            on_refused=self._on_refused,
            fallback="" if options.waits_for_source else "clip",
        )
        self._is_one_for_several = False  # one device runs in place of the ranks that were asked for
        self._why_not_one = ""  # why it cannot, since the ranks failed
        self.supervisor = Supervisor(self._start_engine, self.clock, options.policy, has_other=self._go_on_with_ranks)
        self.presenter = Presenter(
            registry=registry,
            outlets=(),
            size_wh=self._picture_size(),
            rate_fps=self._rate_fps,
            clock=self.clock,
            newest_frame=lambda: self.session.newest_frame,
            words=self._words,
            label=self._label(),
        )
        self.rack = OutputRack(rate_fps=self._rate_fps, clock=self.clock, on_change=self.presenter.feed)
        cap_fps = values["source.rate"] or float(self._rate_fps)
        self.session = Session(
            registry=registry,
            playing=lambda: self.sources.playing,
            supervisor=self.supervisor,
            presenter=self.presenter,
            chunker=Chunker(source_rate_fps=cap_fps, cap_fps=cap_fps),
            clock=self.clock,
            wake=self._wake,
            has_source_ended=self._has_source_ended,
            before_start=self._before_engine_start,
            go_back=self._go_back,
            on_ready=self._on_ready,
        )
        self.osc: OscServer | None = None

    def run(self, drive: Callable[[], None] | None = None) -> int:
        """Run until it is over; -> exit code. Raises UserError for what the user can put right.

        drive: a loop of somebody else's, in place of the status line; it calls `is_over` now and then.
        """
        with self._stack:
            self._start()
            (drive or self._watch)()
            self._finished_s = self._finished_s or self.clock.now_s()
            self.presenter.stop()  # no tick between the numbers and the end of the files
            # The numbers of a run are those of its end, not of what is left once everything is closed.
            summary, end_source = self.summary(), self.sources.status
            engine_failure = self.supervisor.reason if self.supervisor.state is State.FAILED else ""
            peak_bytes = peak_memory_bytes([os.getpid(), *self.supervisor.engine_pids])
        self._report(summary | {"peak_memory_bytes": peak_bytes})
        if summary["run_s"] >= KNOWN_AFTER_S:
            check_after(self.registry, summary["chunk_ms"]["p50"])
        failure = self.session.failure or self.presenter.failure
        if failure is not None:
            raise RuntimeError("the stream ended with an error; see the log") from failure
        is_silent = self.presenter.first_picture_s is None and end_source.name != "none"
        if is_silent and self._signal is None and self.options.waits_for_source:
            reason = engine_failure or end_source.reason
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
                ranks=lambda: rank_lines(self.supervisor.reports),
                understood=self._understood,
                apply_preset=lambda name: apply_preset(self.registry, name, origin="osc"),
            )
            self.osc.start(fall_back=not self.options.osc_port_is_asked)
            self._stack.callback(self.osc.stop)
        # The source before the outputs: a mistyped source must not have touched a file that is written to.
        self._stack.callback(self.sources.stop)
        source = self._wanted_source()
        if self.options.waits_for_source:
            self.sources.open(source)
        else:
            self.sources.request(source)
        self.sources.start()
        self._stack.callback(self.rack.close)
        for output in self.options.outputs:
            self.rack.add(output.name, output, self._picture_size())
        self._stack.callback(self.registry.subscribe(self._follow))
        for name in ("output.camera", "output.record"):
            self._switch_output(name)
        self._stack.callback(self.session.stop)
        self.session.start()
        self._stack.callback(self.presenter.stop)
        self.presenter.start()

    def _follow(self, change: Change) -> None:
        """From whichever thread set something: have it done, and never wait for it."""
        names = set(change.values)
        if change.origin != ORIGIN and names & {"source.name", "source.loop", "stream.running"}:
            self.sources.request(self._wanted_source() if self.registry.get("stream.running") else None)
        for name in names & {"output.camera", "output.record"}:
            self._switch_output(name)
        for name, output in (("camera.device", "output.camera"), ("record.folder", "output.record")):
            if name in names and self.registry.get(output):
                self._switch_output(output)
        if names & {"prompt.text", "prompt.mix"}:
            self._say_unknown()
        self._wake.set()

    def _wanted_source(self) -> str:
        return str(self.registry.get("source.name") or self.options.first_source)

    def _switch_output(self, name: str) -> None:
        make = {"output.camera": self._make_camera, "output.record": self._make_recorder}[name]
        self.rack.switch(name, make if self.registry.get(name) else None, self._picture_size())

    def _make_camera(self) -> Output:
        device = str(self.registry.get("camera.device"))
        return make_output(f"camera:{device}" if device else "camera")

    def _make_recorder(self) -> Output:
        folder = Path(str(self.registry.get("record.folder")) or recordings_dir())
        try:
            folder = folder.expanduser()
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"Recordings cannot go to {folder} ({one_line(error)}): set record.folder to another folder."
            ) from error
        return make_output(f"file:{folder / time.strftime('sdv2live %Y-%m-%d %H.%M.%S.mp4')}")

    def _make_source(self, spec: str) -> Source:
        return self.options.make_source(spec, bool(self.registry.get("source.loop")))

    def _on_playing(self, playing: Playing) -> None:
        self._source_problem, self._last_source = "", playing.spec

    def _on_refused(self, spec: str, sentence: str) -> None:
        """What plays goes on, and the table says so again; where nothing did, the clip plays meanwhile."""
        self._source_problem, self._source_problem_s = sentence, self.clock.now_s()
        if self.sources.is_on_fallback:
            self._source_problem += " The clip plays meanwhile."
        elif self.registry.get("source.name") == spec:
            if self._last_source is None:
                self.registry.reset(["source.name"], origin=ORIGIN)
            else:
                self.registry.set("source.name", self._last_source, origin=ORIGIN)

    def _picture_size(self) -> tuple[int, int]:
        # Larger where the picture is enlarged from the start; a chain that is set later keeps the size.
        return size_after(parse_chain(str(self.registry.get("output.filters"))), self.spec.size_wh)

    def _label(self) -> str:
        return RANDOM_WEIGHTS_LABEL if self.spec.random_weights else ""

    def _words(self) -> str:
        """What a card says: why there is no picture, from the source on."""
        source = self.sources.status
        if source.state in ("stalled", "failed") and source.reason:
            return source.reason
        return "the source has ended" if source.state == "ended" else self.supervisor.stage

    def _before_engine_start(self) -> None:
        playing = self.sources.playing
        if wants_auto(self.registry):
            rate_fps = float(playing.info.rate_fps) if playing is not None else source_rate(self._wanted_source())
            choose_again(self.registry, wanted_fps=wanted_rate(self.registry, rate_fps))
        self.spec = engine_spec(self.registry)
        self.presenter.show_at(self._picture_size(), self._label())

    def _go_back(self, reason: str) -> bool:
        """From the session's thread: the engine that was asked for cannot be; -> whether the one before can."""
        if not self._good_values:
            return False
        self._source_problem = f"The engine: {reason} The one before goes on."
        self._source_problem_s = self.clock.now_s()
        self.registry.set_many(self._good_values.items(), origin=ORIGIN)
        return True

    def _start_engine(self, first_epoch: int) -> EngineClient:
        texts = [text for text, weight in settings_of(self.registry.snapshot()).mix if weight > 0]
        spec = self.spec
        if self.supervisor.failures_in_row < RANKS_FAILURES:
            self._why_not_one = ""  # there may be room another time
        self._is_one_for_several = (
            spec.ranks > 1 and self.supervisor.failures_in_row >= RANKS_FAILURES and not self._why_not_one
        )
        if self._is_one_for_several:
            spec = replace(spec, gpus=1, world=0, master="")
            self._say_problem(
                f"{self.spec.ranks} ranks could not go on ({self.supervisor.reason}): the engine is started on one "
                "device; engine.restart tries all of them again."
            )
        self._read = ReadPrompts()  # another engine may read them otherwise
        return EngineClient(
            spec,
            assets_dir(),
            self.clock,
            first_epoch=first_epoch,
            texts=texts,
            on_event=self._wake.set,
            on_read=self._on_read,
        )

    def _go_on_with_ranks(self, reason: str) -> bool:
        """From the session's thread: an engine counts what it takes before it loads anything, and refuses what does not
        fit; where that was one device in place of several, these are tried on."""
        if self._is_one_for_several:
            self._why_not_one = reason
            self._say_problem(f"one device cannot take over: {reason} All {self.spec.ranks} ranks are tried again.")
        return self._is_one_for_several

    def _say_problem(self, sentence: str) -> None:
        self._source_problem, self._source_problem_s = sentence, self.clock.now_s()
        log.error("%s", sentence)

    def _on_read(self, entries: tuple[Understood, ...]) -> None:
        """From the session's thread: what the engine reads a prompt as."""
        self._read.note(entries)
        self._say_unknown()

    def _understood(self) -> tuple[Understood, ...]:
        """What the engine reads the prompts of now as; nothing where it does not tell."""
        return self._read.of_mix(settings_of(self.registry.snapshot()).mix)

    def _say_unknown(self) -> None:
        """Once for each prompt, from whichever thread set it or learned of it: OSC may go to and fro between two."""
        entries = self._understood()
        sentence = sentence_of_unknown(self.spec.name, entries)
        texts = tuple(entry.text for entry in entries)
        with self._said_lock:
            if not sentence or texts in self._said:
                return
            if len(self._said) >= SAID_PROMPTS:
                self._said.clear()
            self._said.add(texts)
        log.warning("%s", sentence)

    def _on_ready(self) -> None:
        """From the session's thread: an engine can take chunks, so a file may begin to play."""
        self._ready_s = self._ready_s or self.clock.now_s()
        brought = traits_of(self.spec).defaults
        values = self.registry.snapshot().values
        names = [name for name in values if name.startswith("engine.") or name in brought]
        self._good_values = {n: values[n] for n in names if values[n] is not None and TABLE[n].kind is not Kind.TRIGGER}
        self._plays.set()

    def _has_source_ended(self) -> bool:
        """A file that is over, or that cannot be read any further; a live source comes back."""
        playing = self.sources.playing
        return playing is not None and not playing.is_live and playing.capture.status.state in ("ended", "failed")

    def _watch(self) -> None:
        """The main thread's part: time, the end of the source, failures, the status line."""
        next_status_s = self.clock.now_s() + STATUS_PERIOD_S
        while not self.clock.wait_until(self.clock.now_s() + WATCH_PERIOD_S, self.stop_requested):
            now_s = self.clock.now_s()
            if now_s >= next_status_s:
                self._print_status(now_s)
                next_status_s = now_s + STATUS_PERIOD_S
            if self.is_over():
                break

    @property
    def choice(self) -> str:
        """Why this engine at this size, where that was left open; '' where it was named."""
        choice = self.registry.engine_choice
        return choice.words if wants_auto(self.registry) and choice is not None else ""

    @property
    def preview(self) -> LatestSlot[Shown]:
        return self.presenter.preview

    def list_sources(self) -> list[SourceChoice]:
        return list_sources()

    def list_virtual_cameras(self) -> list[CameraChoice]:
        return camera_choices()

    def is_over(self) -> bool:
        """Whether there is nothing left to run for; from the main thread."""
        now_s = self.clock.now_s()
        if self.stop_requested.is_set():
            return True
        first_s = self.presenter.first_picture_s
        if self.session.failure or self.presenter.failure:
            return True
        if self.options.seconds is not None and first_s is not None and now_s - first_s >= self.options.seconds:
            return True
        if not self.options.waits_for_source:
            return False
        # Once there was a picture, outputs go on with a card and `stream.reset` tries again; before, it is over.
        has_never_run = self.supervisor.state is State.FAILED and first_s is None
        if has_never_run or (first_s is None and self._is_waiting_in_vain(now_s)):
            return True
        if not self._has_source_ended():
            return False
        self._drained_by_s = self._drained_by_s or now_s + DRAIN_LIMIT_S
        playing = self.sources.playing
        waits = playing is not None and bool(playing.ring.peek())
        return now_s > self._drained_by_s or not (self.session.has_unfinished or self.presenter.has_waiting or waits)

    def _is_waiting_in_vain(self, now_s: float) -> bool:
        """With `seconds` given: the engine has been ready for that long and more, and nothing has come of it."""
        if self.options.seconds is None or self._ready_s is None:
            return False
        grace_s = 0.0 if self.sources.status.name == "none" else NO_PICTURE_GRACE_S
        return now_s - self._ready_s >= self.options.seconds + grace_s

    def _print_status(self, now_s: float) -> None:
        summary = self.presenter
        ages = summary.age_ms.newest(64)
        age = f"{sum(ages) / len(ages):.0f} ms" if ages else "-"
        line = (
            f"{self.supervisor.stage} | {summary.new_frame_rate.per_second(now_s):.1f} new fps | age {age} | "
            f"dropped {self.sources.dropped} lagged {summary.lagged} | noise {self.session.noise_scale:.2f} "
            f"motion {self.session.motion:.2f} | {self.sources.status.state}"
        ) + (f" | {self.choice}" if self.choice else "")
        try:
            if sys.stderr.isatty():
                columns = max(40, shutil.get_terminal_size().columns - 1)
                sys.stderr.write(f"\r{line:<{columns}.{columns}}")
            elif int(now_s - self._started_s) % 5 == 0:
                sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except OSError:
            log.debug("nobody reads the status line")

    def summary(self) -> dict[str, Any]:
        """The run in numbers; the keys carry their units."""
        session, presenter = self.session, self.presenter
        first_s = presenter.first_picture_s
        end_s = self._finished_s or self.clock.now_s()
        run_s = end_s - first_s if first_s is not None else 0.0
        per_second = 1.0 / run_s if run_s > 0 else 0.0
        values = self.registry.snapshot().values
        statuses = self.rack.statuses
        return {
            "source": self.sources.status.name,
            "frames_in": self.sources.frames_in,
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
            "change_to_picture_ms": presenter.change_to_picture_ms.summary(),
            "ttff_ms": _ms_between(presenter.first_captured_s, first_s),
            "start_to_picture_ms": _ms_between(self._started_s, first_s),
            "dropped": self.sources.dropped,
            "lagged": presenter.lagged,
            "passed_over": presenter.passed_over,
            "repeated": presenter.repeated,
            "missed_ticks": presenter.missed_ticks,
            "skipped": sum(status.skipped for status in statuses),
            "restarts": self.supervisor.restarts,
            "bad_chunks": self.supervisor.bad_chunks,
            "engine": self.spec.name,
            "choice": self.choice,
            "device": self.supervisor.device,
            "ranks": self.supervisor.reports,
            "loras": self.supervisor.loras,
            "understood": [entry.as_fields() for entry in self._understood()],
            "size": list(self.spec.size_wh),
            "outputs": [
                {"name": s.name, "state": s.state, "written": s.written, "skipped": s.skipped} for s in statuses
            ],
            "osc_port": self.osc.port if self.osc is not None else None,
            "settings": {name: value for name, value in values.items() if TABLE[name].kind is not Kind.TRIGGER},
        }

    def status(self) -> LiveStatus:
        """How it is doing now; from any thread, as often as one likes."""
        now_s = self.clock.now_s()
        session, presenter, supervisor = self.session, self.presenter, self.supervisor
        source, ages, chunks = self.sources.status, presenter.age_ms.newest(16), session.chunk_ms.newest(8)
        outputs = [_line(status) for status in self.rack.statuses]
        understood = self._understood()
        # Another source plays on: what was refused is said for a while and not for ever.
        is_refusal_new = now_s - self._source_problem_s < REFUSAL_SAID_S or self.sources.is_on_fallback
        problems = [
            self._source_problem if is_refusal_new else "",
            source.reason if source.state in ("stalled", "failed") else "",
        ]
        problems += [supervisor.reason and f"The engine: {supervisor.reason}"]
        problems += [output.reason for output in outputs]
        return LiveStatus(
            engine_state=str(supervisor.state),
            engine_words=supervisor.stage,
            engine_name=self.spec.name,
            device=supervisor.device,
            size_wh=self.spec.size_wh,
            source=SourceLine(
                self.sources.playing.spec if self.sources.playing is not None else self._wanted_source(),
                source.name,
                source.state,
                source.reason,
                source.fps,
                source.size_wh,
                self.sources.details,
            ),
            outputs=tuple(outputs),
            camera=_line(self.rack.status("output.camera")),
            recording=_line(self.rack.status("output.record")),
            new_fps=presenter.new_frame_rate.per_second(now_s),
            engine_fps=4000.0 * len(chunks) / sum(chunks) if sum(chunks) else 0.0,
            age_ms=sum(ages) / len(ages) if ages else None,
            change_to_picture_ms=presenter.change_to_picture_ms.summary()["p50"],
            dropped=self.sources.dropped,
            lagged=presenter.lagged,
            repeated=presenter.repeated,
            skipped=sum(output.skipped for output in outputs),
            restarts=supervisor.restarts,
            noise_scale=session.noise_scale,
            motion=session.motion,
            memory_bytes=memory_bytes([os.getpid(), *supervisor.engine_pids]),
            osc_port=self.osc.port if self.osc is not None else None,
            ranks=rank_lines(supervisor.reports),
            loras=tuple(LoraLine(**line) for line in supervisor.loras),
            understood=understood,
            not_understood=sentence_of_unknown(self.spec.name, understood),
            problems=tuple(dict.fromkeys(problem for problem in problems if problem)),
            choice=self.choice,
        )

    def _report(self, summary: dict[str, Any]) -> None:
        if self.presenter.first_picture_s is not None:
            print(f"\n{_in_words(summary)}", file=sys.stderr)
        if self.options.json_path is not None:
            text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
            try:
                self.options.json_path.write_text(text, "utf-8")
            except OSError as error:
                log.error("the summary could not be written to %s: %s", self.options.json_path, error.strerror)


def run_live(registry: Registry, options: LiveOptions, drive: Callable[[LiveApp], None] | None = None) -> int:
    """A live run with this process's signals: the first asks it to end, the second ends it. drive: as in `run`."""
    app = LiveApp(registry, options)

    def on_signal(number: int, _frame: object) -> None:
        if app.stop_requested.is_set():
            raise SystemExit(128 + number)
        app.request_stop(number)

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return app.run(None if drive is None else lambda: drive(app))
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@overload
def _line(status: OutputStatus) -> OutputLine: ...
@overload
def _line(status: None) -> None: ...
def _line(status: OutputStatus | None) -> OutputLine | None:
    if status is None:
        return None
    return OutputLine(status.name, status.state, status.reason, status.written, status.skipped, status.path)


def _in_words(summary: dict[str, Any]) -> str:
    """A run that has shown something, in a line."""
    age, interval = summary["age_ms"], summary["new_frame_interval_ms"]
    pace = f"new frames every {interval['p50']} ms (p99 {interval['p99']}), " if interval["p50"] is not None else ""
    return (
        f"{summary['run_s']:.1f} s, {summary['frames_generated']} frames generated ({summary['engine_fps']:.1f} fps), "
        f"{_share(summary)} of the source, age p95 {age['p95']} ms, {pace}first picture {summary['ttff_ms']} ms after "
        f"its frame and {summary['start_to_picture_ms']} ms after the start, dropped {summary['dropped']}, "
        f"lagged {summary['lagged']}, restarts {summary['restarts']}, memory {_megabytes(summary)}"
    )


def _share(summary: dict[str, Any]) -> str:
    """How much of what the source gave was generated."""
    frames_in = summary["frames_in"]
    return f"{100 * summary['frames_generated'] / frames_in:.1f} %" if frames_in else "0 %"


def _megabytes(summary: dict[str, Any]) -> str:
    peak = summary["peak_memory_bytes"]
    return f"{peak / 2**20:.0f} MB" if peak else "unknown"


def _ms_between(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else round((end_s - start_s) * 1000, 1)
