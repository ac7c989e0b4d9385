"""Keeps an engine alive. Owns: the engine's process, when it is replaced, and when that is given up.

Runs on the session's thread. Two kinds of failure: a chunk that failed (the engine lives: reset and go on; three in
a row count as a death) and an engine that is dead (its process is replaced, with the same settings and a new epoch).
Outputs know nothing of it and go on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sdv2live.clock import Clock
from sdv2live.engine.base import ChunkResult
from sdv2live.engine.client import EngineClient, EngineRefused
from sdv2live.errors import ChunkError, EngineDead, one_line

log = logging.getLogger(__name__)


class State(StrEnum):
    LOADING = "loading"
    RUNNING = "running"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Pauses before the first, second, ... restart; the breaker: so many failures within so long, and it is over.

    healthy_s seconds of new pictures set the count to nought.
    """

    delays_s: tuple[float, ...] = (1.0, 2.0, 5.0, 15.0)
    most_failures: int = 5
    within_s: float = 300.0
    healthy_s: float = 10.0
    bad_chunks_in_row: int = 3


class Breaker:
    """Decides after each failure how long to wait, or that it is over. Pure: the time is passed in."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._failures_s: deque[float] = deque()
        self._healthy_since_s: float | None = None

    def failed(self, now_s: float) -> float | None:
        """Seconds to wait before the next start; None: too many failures, give up."""
        self._healthy_since_s = None
        while self._failures_s and now_s - self._failures_s[0] > self._policy.within_s:
            self._failures_s.popleft()
        self._failures_s.append(now_s)
        if len(self._failures_s) >= self._policy.most_failures:
            return None
        return self._policy.delays_s[min(len(self._failures_s), len(self._policy.delays_s)) - 1]

    def picture(self, now_s: float) -> None:
        """A new picture came."""
        if self._healthy_since_s is None:
            self._healthy_since_s = now_s
        elif now_s - self._healthy_since_s >= self._policy.healthy_s:
            self._failures_s.clear()

    def forget(self) -> None:
        self._failures_s.clear()


class Supervisor:
    """One engine at a time. `start_engine(first_epoch)` makes a new client.

    has_other(reason): the engine says that it cannot be; whether `start_engine` makes another one than that now.
    """

    def __init__(
        self,
        start_engine: Callable[[int], EngineClient],
        clock: Clock,
        policy: RestartPolicy | None = None,
        *,
        has_other: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._start_engine, self._has_other = start_engine, has_other
        self._clock = clock
        self._policy = policy or RestartPolicy()
        self._breaker = Breaker(self._policy)
        self._epoch = 0
        self._bad_in_row = 0
        self.failures_in_row = 0  # ends of an engine since there was a picture
        self._restart_at_s = 0.0
        self.engine: EngineClient | None = None
        self.state = State.LOADING
        self.reason = ""
        self.restarts = 0
        self.bad_chunks = 0
        self.device = ""

    def start(self) -> None:
        try:
            self.engine = self._start_engine(self._epoch)
        except EngineRefused as error:
            self._refused(one_line(error))
        except EngineDead as error:
            self._failed(one_line(error))

    @property
    def stage(self) -> str:
        """State in words, with how far a start has come."""
        if self.engine is not None and not self.engine.is_ready:
            return f"{self.state}: {self.engine.stage}"
        return f"{self.state}: {self.reason}" if self.reason and self.state is not State.RUNNING else str(self.state)

    @property
    def engine_pids(self) -> list[int]:
        engine = self.engine
        return engine.pids if engine is not None else []

    @property
    def reports(self) -> list[dict[str, Any]]:
        """How each of several ranks is doing; empty for one."""
        engine = self.engine
        return engine.reports if engine is not None else []

    @property
    def loras(self) -> list[dict[str, Any]]:
        """What is merged into the engine's weights."""
        engine = self.engine
        return engine.loras if engine is not None else []

    def poll(self) -> list[ChunkResult]:
        """Results fit to be shown; looks after the engine. Call it often, whatever the state."""
        if self.engine is None:
            self._start_again_when_due()
            return []
        was_ready = self.engine.is_ready
        try:
            results = self.engine.poll()
        except ChunkError as error:
            self._bad_chunk(one_line(error))
            return []
        except EngineRefused as error:
            self._refused(one_line(error))
            return []
        except EngineDead as error:
            self._died(one_line(error))
            return []
        if self.engine.is_ready and not was_ready:
            self.state, self.reason, self.device = State.RUNNING, "", self.engine.device
            log.info("engine: ready on %s", self.device)
        return self._checked(results)

    def reset(self) -> None:
        """A new epoch; after the breaker opened, another try."""
        if self.state is State.FAILED:
            log.info("engine: tried again on request")
            self._breaker.forget()
            self.state, self._restart_at_s = State.RESTARTING, self._clock.now_s()
        elif self.engine is not None and self.engine.is_ready:
            self.engine.reset()

    def stop(self) -> None:
        if self.engine is not None:
            self._epoch = self.engine.epoch + 1
            self.engine.close()
            self.engine = None
        self.state, self.reason = State.STOPPED, ""

    def start_anew(self) -> None:
        """After `stop`: what went wrong before does not count."""
        self._breaker.forget()
        self._bad_in_row = self.failures_in_row = 0
        self.state, self.reason = State.LOADING, ""
        self.start()

    def refuse(self, reason: str) -> None:
        """No engine can be started as things are."""
        self._give_up(reason)

    def _checked(self, results: list[ChunkResult]) -> list[ChunkResult]:
        good = [result for result in results if result.is_finite]
        if good:
            self._bad_in_row = self.failures_in_row = 0
            self._breaker.picture(self._clock.now_s())
        if len(good) < len(results):
            self._bad_chunk("the picture had values that are no numbers")
        return good

    def _bad_chunk(self, reason: str) -> None:
        assert self.engine is not None
        self.bad_chunks += 1
        self._bad_in_row += 1
        log.error("engine: a chunk was thrown away: %s", reason)
        if self._bad_in_row >= self._policy.bad_chunks_in_row:
            self._died(f"{self._bad_in_row} chunks in a row failed: {reason}")
        else:
            self.engine.reset()

    def _died(self, reason: str) -> None:
        self._end_engine()
        self._bad_in_row = 0
        self._failed(reason)

    def _failed(self, reason: str) -> None:
        """Wait for the next try, or give up."""
        self.failures_in_row += 1
        delay_s = self._breaker.failed(self._clock.now_s())
        if delay_s is None:
            self._give_up(f"{reason}; it failed {self._policy.most_failures} times and is not started again by itself")
            return
        self.state, self.reason = State.RESTARTING, reason
        self._restart_at_s = self._clock.now_s() + delay_s
        log.error("engine: %s; started again in %.1f s", reason, delay_s)

    def _refused(self, reason: str) -> None:
        """Give up, or have another one started at once, which is no failure of that."""
        if not self._has_other(reason):
            self._give_up(reason)
            return
        self._end_engine()
        self.state, self.reason = State.RESTARTING, reason
        self._restart_at_s = self._clock.now_s()

    def _end_engine(self) -> None:
        if self.engine is not None:
            self._epoch = self.engine.epoch + 1
            self.engine.kill()
            self.engine = None

    def _give_up(self, reason: str) -> None:
        self._end_engine()
        self.state, self.reason = State.FAILED, reason
        log.error("engine: %s", reason)

    def _start_again_when_due(self) -> None:
        if self.state is State.RESTARTING and self._clock.now_s() >= self._restart_at_s:
            self.restarts += 1
            self.start()
