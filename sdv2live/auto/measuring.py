"""From a registry that says `auto` to a choice: what can run here, trials as far as they are needed, the words.

On the thread that calls it; each trial is the engine's own process. Imports no torch.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sdv2live.auto import kept
from sdv2live.auto.choice import (
    AUTO,
    DECODERS,
    HEADROOM,
    SHIPPED,
    Candidate,
    EngineChoice,
    Fixed,
    candidates,
    choose,
    disproved,
    next_trial,
    still_fits,
    unmeasured,
)
from sdv2live.capture.select import open_source
from sdv2live.clock import Clock, MonotonicClock
from sdv2live.devices import list_gpus
from sdv2live.engine.base import EngineSpec
from sdv2live.engine.catalogue import traits_of
from sdv2live.errors import EngineDead, UserError, one_line
from sdv2live.models.manifest import ENGINES, MODELS
from sdv2live.models.store import State, Store
from sdv2live.parameters import TABLE
from sdv2live.paths import models_dir
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec, settings_of
from sdv2live.trial import Trial, TrialStopped

log = logging.getLogger(__name__)

CHUNKS = 16
LONGEST_S = 240.0  # after which the best that is known is taken
# Which of an engine's files its decoder is in.
_FILES = {"wan": {"wan-vae"}, "wan-taehv": {"wan-vae", "taehv"}, "taehv": {"taehv"}}
_CHOSEN = ("engine.name", "engine.size", "engine.vae")

Say = Callable[[str], None]


def wants_auto(registry: Registry) -> bool:
    return bool(registry.get("engine.name") == AUTO)


def begin(registry: Registry) -> None:
    """Before anything is measured: the best engine there is stands for `auto`, so that the flags of any may be read."""
    if wants_auto(registry) and registry.engine_choice is None:
        order = candidates(engines_here(registry), Fixed())
        registry.engine_choice = EngineChoice(order[0], f"{AUTO}: nothing was measured yet")


def measure(
    registry: Registry,
    *,
    wanted_fps: float,
    say: Say = lambda _: None,
    stop: threading.Event | None = None,
    clock: Clock | None = None,
) -> EngineChoice:
    """Choose, measuring what is not known, and make it hold in the registry.

    stop: ends it, and what ships is taken. Raises UserError for flags that leave nothing to choose from.
    """
    _refuse_ranks(registry)
    here, fixed = engines_here(registry), fixed_in(registry)
    order, key = candidates(here, fixed), kept.key_of(flags_in(registry))
    if not order:
        raise UserError("no engine here can run what the flags ask for: leave --steps or --vae to --engine auto.")
    measured = kept.load(key)
    try:
        _Trials(registry, order, key, measured, wanted_fps, say, stop, clock or MonotonicClock()).run()
        choice = choose(order, measured, wanted_fps)
    except TrialStopped:
        choice = unmeasured(order, "measuring was stopped")
    registry.engine_choice = choice
    engine_spec(registry)  # the chosen engine's defaults
    log.info("%s", choice.words)
    return choice


def prepare(registry: Registry, *, source: str, say: Say, stop: threading.Event | None = None) -> None:
    """For a start: where the engine is left open, choose it for this source. Raises UserError."""
    if wants_auto(registry):
        measure(registry, wanted_fps=wanted_rate(registry, source_rate(source)), say=say, stop=stop)


def source_rate(spec: str) -> float | None:
    """The rate of a source that can be asked without waiting: a file; None for others. What is wrong with one, the
    run that follows says."""
    if spec.partition(":")[0] in ("camera", "screen", "window"):
        return None
    try:
        source = open_source(spec, loop=True)
        try:
            return float(source.open().rate_fps)
        finally:
            source.close()
    except UserError:
        return None


def choose_again(registry: Registry, *, wanted_fps: float) -> None:
    """For a restart while it runs, as the parameters are now: from what is known, with nothing measured."""
    if not wants_auto(registry):
        return
    _refuse_ranks(registry)
    order = candidates(engines_here(registry), fixed_in(registry))
    choice = choose(order, kept.load(kept.key_of(flags_in(registry))), wanted_fps)
    if choice.fps is None:
        choice = unmeasured(order, "nothing was measured for this here; a start with --engine auto does")
    registry.engine_choice = choice
    log.info("%s", choice.words)


def check_after(registry: Registry, chunk_p50_ms: float | None) -> None:
    """After a run: a measurement that did not come true is forgotten. chunk_p50_ms: of the run's chunks."""
    choice = registry.engine_choice
    if not wants_auto(registry) or choice is None or choice.fps is None or not chunk_p50_ms:
        return
    one = choice.candidate
    if one.schedule != "latency":
        return  # its chunks take longer than they keep the engine busy
    live_fps = 1000 * traits_of(spec_of(registry, one)).chunk_frames / chunk_p50_ms
    if not still_fits(choice.fps, live_fps):
        log.info("auto: %.1f fps were measured and this run could have made %.1f: measured again at the next start",
                 choice.fps, live_fps)  # fmt: skip
        kept.forget(kept.key_of(flags_in(registry)), one)


def wanted_rate(registry: Registry, source_fps: float | None) -> float:
    """Pictures a second that are worth making. source_fps: the source's own, None where it is not known."""
    most = float(registry.get("output.rate"))
    rate = registry.get("source.rate") or source_fps
    return min(most, float(rate)) if rate else most


def fixed_in(registry: Registry) -> Fixed:
    """What somebody has set."""

    def set_value(name: str) -> object:
        return registry.get(name) if registry.is_user_set(name) else None

    return Fixed(
        size_wh=set_value("engine.size"),  # type: ignore[arg-type]
        vae=set_value("engine.vae"),  # type: ignore[arg-type]
        steps=set_value("steps.count"),  # type: ignore[arg-type]
        schedule=set_value("schedule"),  # type: ignore[arg-type]
    )


def flags_in(registry: Registry) -> dict[str, object]:
    """What else makes an engine faster or slower, as far as somebody has set it."""
    names = [name for name in TABLE if name.startswith("engine.") and name not in (*_CHOSEN, "engine.restart")]
    return {name: registry.get(name) for name in names if registry.is_user_set(name)}


def engines_here(registry: Registry) -> dict[str, tuple[str, ...]]:
    """The engines that could run live here, with the decoders that they have files for: the one that ships, and,
    where there is a GPU, those whose files are all there."""
    found: dict[str, tuple[str, ...]] = {SHIPPED: ()}
    device = str(registry.get("engine.device"))
    if device == "cpu" or (device == AUTO and not list_gpus({})):
        return found
    if registry.get("engine.random_weights"):
        return found | dict.fromkeys(ENGINES, DECODERS)
    with contextlib.suppress(RuntimeError):  # a user's folder that nobody knows: the engine says so where it is named
        folder = str(registry.get("engine.weights"))
        store = Store(Path(folder).expanduser() if folder else models_dir())
        for engine in ENGINES:
            here = {name for name in ENGINES[engine] if _is_here(store, name)}
            rest = set(ENGINES[engine]) - {"wan-vae", "taehv"}
            decoders = tuple(vae for vae in DECODERS if _FILES[vae] <= here)
            if rest <= here and decoders:
                found[engine] = decoders
    return found


def _is_here(store: Store, name: str) -> bool:
    try:
        return store.look(MODELS[name]).state in (State.HERE, State.BY_HAND)
    except UserError as error:
        log.warning("auto: %s", one_line(error))
        return False


def _refuse_ranks(registry: Registry) -> None:
    if int(registry.get("engine.gpus")) > 1 or int(registry.get("engine.world")) > 1:
        raise UserError("--engine auto chooses for one device: name an engine, or leave --gpus and --world away.")


def spec_of(registry: Registry, one: Candidate) -> EngineSpec:
    """The engine of a candidate, everything else as the registry has it."""
    return replace(engine_spec(_with(registry, one)), steps_count=one.steps)


def _with(registry: Registry, one: Candidate) -> Registry:
    """A copy in which `auto` means this one."""
    registry = registry.copy()
    registry.engine_choice = EngineChoice(one, "")
    engine_spec(registry)
    return registry


class _Trials:
    """One engine after another, each for as many candidates as it can serve."""

    def __init__(
        self,
        registry: Registry,
        order: list[Candidate],
        key: str,
        measured: dict[Candidate, float],
        wanted_fps: float,
        say: Say,
        stop: threading.Event | None,
        clock: Clock,
    ) -> None:
        self._registry, self._order, self._key, self._measured = registry, order, key, measured
        self._wanted_fps, self._say, self._stop, self._clock = wanted_fps, say, stop, clock
        self._trial: Trial | None = None
        self._served: Candidate | None = None
        self._tried_again: set[Candidate] = set()
        self._refused: dict[Candidate, float] = {}  # in this run alone: another program may have the memory

    def run(self) -> None:
        """Until the choice can be made. Raises TrialStopped."""
        until_s = self._clock.now_s() + LONGEST_S
        try:
            while one := self._next():
                if self._clock.now_s() > until_s:
                    log.warning("auto: measuring took longer than %.0f s: the best so far is taken", LONGEST_S)
                    return
                self._measure(one)
        finally:
            self._end()

    def _next(self) -> Candidate | None:
        """What a faster one disproves is tried again, once."""
        for slow in disproved(self._measured) - self._tried_again:
            self._tried_again.add(slow)
            del self._measured[slow]
        return next_trial(self._order, self._measured | self._refused, self._wanted_fps)

    def _measure(self, one: Candidate) -> None:
        words = f"auto: trying {one.words}, {self._wanted_fps:g} fps wanted"
        self._say(words)
        try:
            trial = self._trial_of(one, lambda stage: self._say(f"{words}: {stage}"))
            settings = settings_of(_with(self._registry, one).snapshot())
            speed = trial.speed(replace(settings, steps_count=one.steps, schedule=one.schedule), chunks=CHUNKS)
        except (UserError, EngineDead) as error:
            self._end()
            log.warning("auto: %s cannot be run here: %s", one.words, one_line(error))
            self._refused[one] = 0.0
            return
        self._measured[one] = speed.fps
        holds = "holds" if speed.fps >= HEADROOM * self._wanted_fps else "does not hold"
        log.info("auto: %s makes %.1f fps, which %s %g", one.words, speed.fps, holds, self._wanted_fps)
        kept.save(self._key, self._measured)

    def _trial_of(self, one: Candidate, say: Say) -> Trial:
        served = self._served
        is_other = served is None or (served.engine, served.size_wh, served.vae) != (one.engine, one.size_wh, one.vae)
        # One that has memory for more steps takes fewer as well.
        if self._trial is None or served is None or is_other or served.steps < one.steps:
            self._end()
            texts = [text for text, _ in settings_of(self._registry.snapshot()).mix]
            spec = spec_of(self._registry, one)
            self._trial, self._served = Trial(spec, texts=texts, say=say, stop=self._stop), one
        return self._trial

    def _end(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.close()
