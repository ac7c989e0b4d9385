"""Which sink frame is made anew, and when: the default profile's rule. Owns: what is known of each sink on the host.

Decided once a chunk from the uint8 frames and the settings, before anything goes to the device: no sync, the same in
both schedules and on every rank. The copy itself is `KVCache.refresh_sink`. Not seen with the released weights.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sdv2live.engine.window import Window
from sdv2live.frames import Pixels

NEVER = -1.0
CELLS = 16  # a look is a picture of CELLS x CELLS cells; every engine's size is a multiple of 16
SAMPLES = 4  # pixels looked at across a cell: its mean needs no more

Look = NDArray[np.float32]


def look_of(frame: Pixels) -> Look:
    """[3 * CELLS^2] float32: a frame [H, W, 3], coarse and without its mean brightness."""
    height, width = frame.shape[0] // CELLS, frame.shape[1] // CELLS
    cells = frame[: CELLS * height, : CELLS * width].reshape(CELLS, height, CELLS, width, 3)
    sampled = cells[:, :: max(1, height // SAMPLES), :, :: max(1, width // SAMPLES)]
    look = sampled.mean(axis=(1, 3), dtype=np.float32)
    centred: Look = (look - look.mean()).ravel()
    return centred


def likeness(a: Look, b: Look) -> float:
    """Cosine of two looks, -1 to 1. Two flat pictures are alike, a flat one and a structured one are not."""
    lengths = math.sqrt(float(a @ a) * float(b @ b))
    if lengths < 1.0:
        return float(float(a @ a) < 1.0 and float(b @ b) < 1.0)
    return float(a @ b) / lengths


class SinkKeeper:
    """Chooses at most one sink a chunk that takes the chunk's newest frame. Frames are latent frames.

    A new prompt or a scene cut makes every sink stale, and they are replaced one a chunk, oldest first. Once no sink
    is stale, the one that is least like the picture is replaced if it is less alike than the threshold. A sink lives
    for a window at least, so that a fader that moves the prompt at every chunk leaves sinks older than the rolling
    frames; a request does not wait for that. Nothing is replaced until the window has filled.
    """

    def __init__(self, window: Window) -> None:
        self._capacity = window.capacity
        self._written = list(range(window.sinks))  # the frame that each sink was written at
        self._looks: list[Look | None] = [None] * window.sinks
        self._stale: set[int] = set()

    def choose(
        self, frame: Pixels, *, first: int, newest: int, outdated: bool, requested: bool, threshold: float
    ) -> int | None:
        """The sink that the chunk of latent frames first..newest replaces, or None.

        frame: the chunk's last picture, [H, W, 3] uint8. outdated: the prompt is new or the scene was cut.
        threshold: a likeness; at NEVER sinks are not replaced for being unlike.
        """
        if not self._written:
            return None
        look = look_of(frame)
        for sink in range(first, min(newest + 1, len(self._looks))):
            self._looks[sink] = look
        if outdated or requested:
            self._stale = set(range(len(self._written)))
        if requested:
            self._written = [written - self._capacity for written in self._written]
        if newest < self._capacity:
            return None
        grown = [sink for sink, written in enumerate(self._written) if newest - written >= self._capacity]
        picked = self._pick(grown, look, threshold)
        if picked is not None:
            self._written[picked], self._looks[picked] = newest, look
            self._stale.discard(picked)
        return picked

    def _pick(self, grown: list[int], look: Look, threshold: float) -> int | None:
        stale = [sink for sink in grown if sink in self._stale]
        if stale:
            return min(stale, key=self._written.__getitem__)
        if not grown or self._stale or threshold <= NEVER:
            return None
        likenesses = {sink: likeness(look, known) for sink in grown if (known := self._looks[sink]) is not None}
        least = min(likenesses, key=likenesses.__getitem__, default=None)
        return least if least is not None and likenesses[least] < threshold else None
