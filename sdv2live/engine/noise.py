"""Motion, the noise it asks for, and the draws. Owns: the motion controller and the random numbers of a stream.

Runs on the host: motion is read from the uint8 frames before they go up, so no device sync is needed for the
controller or for its trace. A draw is a pure function of its key: no generator whose order depends on the
schedule or on the device.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdv2live.engine.orders import NoiseKey, Seeds

UINT8_UNIT = 2.0 / 255.0  # one grey level, when 0..255 stands for -1..1


def largest_change(frames: Iterable[NDArray[Any]], previous: NDArray[Any] | None, *, unit: float = UINT8_UNIT) -> float:
    """Largest root-mean-square difference between neighbouring frames, times `unit`.

    frames: arrays of one shape, uint8 or float; previous: the frame before them (None: the first has no past).
    Source: engine.md, section 3; there on pixels in [-1, 1].
    """
    largest = 0.0
    for frame in frames:
        if previous is not None:
            difference = np.subtract(frame, previous, dtype=np.float32).ravel()
            largest = max(largest, math.sqrt(float(np.vdot(difference, difference)) / difference.size))
        previous = frame
    return largest * unit


class MotionController:
    """From motion to the noise of the next chunk: s = a (max - (max - min) m) + (1 - a) s_prev.

    m = clip(change / sensitivity, 0, 1). Opens at `max`. Source: engine.md, section 3 (paper, motion-aware noise).
    """

    def __init__(self) -> None:
        self._previous_scale: float | None = None

    def open(self, *, maximum: float) -> float:
        """The opening chunk's noise scale."""
        self._previous_scale = maximum
        return maximum

    def update(
        self, change: float, *, maximum: float, minimum: float, sensitivity: float, smoothing: float
    ) -> tuple[float, float]:
        """(noise scale, motion m) of the next chunk."""
        motion = min(max(change / sensitivity, 0.0), 1.0)
        before = maximum if self._previous_scale is None else self._previous_scale
        # In the reference's order, with its 0.1 where ours is a difference: in a picture that stands still its timestep
        # hangs on the last bit of s (int(1000 s) is 799 until s has come all the way back to 0.8).
        span, rest = round(maximum - minimum, 12), round(1.0 - smoothing, 12)
        scale = (maximum - span * motion) * smoothing + before * rest
        self._previous_scale = scale
        return scale, motion


MOST_SEEDS = 4


class SeedMixer:
    """Moves from one seed to the next, at once or over n chunks, on the sphere: the noise keeps its variance.

    Draws of different seeds are independent, so weights cos and sin of an angle are the spherical blend. A fader that
    changes the seed at every chunk keeps the MOST_SEEDS heaviest.
    """

    def __init__(self) -> None:
        self._seed: int | None = None
        self._start: Seeds = ()
        self._current: Seeds = ()
        self._done = self._length = 0

    def advance(self, seed: int, transition_chunks: int) -> Seeds:
        """The seeds of the next chunk, which asks for `seed`."""
        if seed != self._seed:
            is_first = self._seed is None
            self._seed, self._start = seed, self._current
            self._done, self._length = 0, 0 if is_first else transition_chunks
        if self._done < self._length:
            self._done += 1
        if self._done == self._length:
            self._current = ((seed, 1.0),)
        else:
            turn = self._done / self._length * math.pi / 2
            weights = {before: weight * math.cos(turn) for before, weight in self._start}
            weights[seed] = weights.get(seed, 0.0) + math.sin(turn)
            heaviest = sorted(weights.items(), key=lambda item: -item[1])[:MOST_SEEDS]
            length = math.sqrt(sum(weight**2 for _, weight in heaviest))
            self._current = tuple((each, weight / length) for each, weight in heaviest)
        return self._current


def draw(key: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers [shape], float32 on the CPU, that depend on `key` alone."""
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(shape, generator=generator)


class NoiseSource:
    """The draws of one stream: fresh each chunk, fixed for an epoch, or slowly turning.

    Every draw depends on (seed, epoch, place, step) alone, place being the chunk, nothing, or the phase.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def eps(
        self, *, mode: str, seed: int, epoch: int, chunk: int, phase: float, step: int, shape: tuple[int, ...]
    ) -> Tensor:
        """Noise for one step of one chunk. shape [1, F, C, h, w]; float32 on the CPU.

        phase: how far slow noise has come, in draws: the sum of noise.rate over the chunks so far.
        """
        if mode == "fresh":
            return draw((seed, epoch, step, chunk), shape)
        if mode == "fixed":
            return self._frame(seed, epoch, step, -1, shape).expand(shape)
        place = math.floor(phase)
        turn = (phase - place) * math.pi / 2
        before, after = (self._frame(seed, epoch, step, p, shape) for p in (place, place + 1))
        # A turn from one draw to the next keeps the variance at 1, which a linear blend would not.
        return (math.cos(turn) * before + math.sin(turn) * after).expand(shape)

    def of_chunk(self, key: NoiseKey, *, epoch: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """The noise of one step of a chunk: the draws of its seeds, added by their weights. float32 on the CPU."""
        draws = [
            weight
            * self.eps(mode=key.mode, seed=seed, epoch=epoch, chunk=key.number, phase=key.phase, step=step, shape=shape)
            for seed, weight in key.seeds
        ]
        return sum(draws[1:], start=draws[0])

    def _frame(self, seed: int, epoch: int, step: int, place: int, shape: tuple[int, ...]) -> Tensor:
        """One latent frame's draw [1, 1, C, h, w], kept: fixed noise is the same for every frame and chunk."""
        key = (seed, epoch, step, -1 if place < 0 else place, *shape[2:])
        if key not in self._kept:
            if len(self._kept) > 32:
                self._kept.clear()
            self._kept[key] = draw((*key[:3], place, 0), (1, 1, *shape[2:]))
        return self._kept[key]
