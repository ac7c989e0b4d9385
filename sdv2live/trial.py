"""A short run of an engine without source and outputs: how many pictures a second it makes here.

The very process that a live run has, fed with moving frames as fast as it takes them; on the thread that calls it,
with no torch in it. `bench` measures more, and in its own process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sdv2live.clock import Clock, MonotonicClock
from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.client import EngineClient
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir
from sdv2live.stats import percentile

WARM_CHUNKS = 3
WAIT_S = 0.05
SHOWN_SHIFTS = 8  # pictures that follow each other in turn
# A large engine on a slow device is known well enough when it has run for so long.
LONGEST_S, FEWEST_CHUNKS = 20.0, 2


class TrialStopped(Exception):
    """Somebody did not want to wait for its end."""


@dataclass(frozen=True, slots=True)
class Speed:
    """fps: pictures a second, of the middle chunk. chunk_ms: from one to the next, the middle and the slow end."""

    fps: float
    chunk_p50_ms: float
    chunk_p95_ms: float
    device: str


class Trial:
    """One engine of `spec`, started; `speed` may be asked for several times, with other steps. To be closed.

    texts: the prompts of the settings, encoded before anything is measured. say: told how far it is, a few words. stop:
    ends it with TrialStopped. Raises EngineDead, and UserError for an engine that cannot be had here.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        texts: Sequence[str] = ("",),
        say: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock, self._say = clock or MonotonicClock(), say
        self._stop = stop or threading.Event()
        self._arrived = threading.Event()
        self._number = 0
        self._client = EngineClient(spec, assets_dir(), self._clock, texts=texts, on_event=self._arrived.set)
        width, height = spec.size_wh
        count = self._client.traits.largest_chunk + SHOWN_SHIFTS
        self._frames = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        return self._client.pids

    def close(self) -> None:
        """End the engine's process at once."""
        self._client.kill()

    def speed(self, settings: ChunkSettings, *, chunks: int) -> Speed:
        """Of `chunks` chunks, after some to get going."""
        self._wait_until_ready()
        self._say("measuring")
        arrived_s: list[float] = []
        first = WARM_CHUNKS + settings.steps_count
        began_s = self._clock.now_s()
        while len(arrived_s) <= first + chunks:
            if self._client.can_submit:
                start = self._number % SHOWN_SHIFTS
                frames = self._frames[start : start + self._client.frames_wanted]
                self._client.submit(Chunk(self._number, np.ascontiguousarray(frames)), settings)
                self._number += 1
            if not self._poll(arrived_s):
                self._wait()
            if len(arrived_s) > FEWEST_CHUNKS and self._clock.now_s() - began_s > LONGEST_S:
                first = 0
                break
        self._drain()
        gaps_ms = [1000 * (later - one) for one, later in zip(arrived_s[first:], arrived_s[first + 1 :], strict=False)]
        # From chunk to chunk: what one chunk waits for in the pipe, another one has gained. Of the middle one, which
        # another program's moment does not change.
        p50, p95 = (percentile(gaps_ms, share) or 0.0 for share in (0.5, 0.95))
        fps = 1000 * self._client.traits.chunk_frames / p50
        return Speed(round(fps, 1), round(p50, 1), round(p95, 1), self._client.device)

    def _wait_until_ready(self) -> None:
        stage = ""
        while not self._client.is_ready:
            self._client.poll()
            if self._client.stage != stage:
                stage = self._client.stage
                self._say(stage)
            self._wait()

    def _poll(self, arrived_s: list[float]) -> bool:
        results = self._client.poll()
        if any(not result.is_finite for result in results):
            raise UserError("the engine's picture had values that are no numbers: fetch its files again.")
        now_s = self._clock.now_s()
        arrived_s.extend(now_s for _ in results)
        return bool(results)

    def _drain(self) -> None:
        """What is still under way belongs to these settings."""
        self._client.reset()
        while not self._client.can_submit:
            self._client.poll()
            self._wait()

    def _wait(self) -> None:
        self._arrived.wait(WAIT_S)
        self._arrived.clear()
        if self._stop.is_set():
            raise TrialStopped
