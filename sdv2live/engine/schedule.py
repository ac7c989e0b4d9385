"""Which timesteps a chunk visits and how much noise each means. Pure numbers, no torch, no state.

sigma is the noise's share, 0 to 1; a timestep is what the network is told, 0 to 1000. The table is Wan's flow
schedule with shift 8 (engine.md, section 2): sigma_i = 8x / (1 + 7x) with x = 1 - i/1000.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

SHIFT = 8.0
TRAIN_STEPS = 1000
SMALLEST_FIRST = 50
SMALLEST_GAP = 50
SMALLEST_LATER = 25


def flow_sigmas(shift: float = SHIFT, steps: int = TRAIN_STEPS) -> list[float]:
    """The schedule's sigmas, noisiest first."""
    fractions = [1.0 - index / steps for index in range(steps)]
    return [shift * x / (1.0 + (shift - 1.0) * x) for x in fractions]


_RISING_SIGMAS = flow_sigmas()[::-1]


def sigma_of(timestep: float) -> float:
    """The sigma of the table's entry nearest to `timestep` (0..1000)."""
    wanted = timestep / TRAIN_STEPS
    after = bisect.bisect_left(_RISING_SIGMAS, wanted)
    near = _RISING_SIGMAS[max(after - 1, 0) : after + 1]
    return min(near, key=lambda sigma: abs(sigma - wanted))


def first_timestep(noise_scale: float, offset: int) -> int:
    """What the network is told for a source with `noise_scale` (a sigma) on it: int(1000 s) + offset, at least 50."""
    return max(int(1000 * noise_scale) + offset, SMALLEST_FIRST)


def chunk_timesteps(steps: Sequence[int], count: int, *, noise_scale: float, offset: int) -> tuple[int, ...]:
    """The timesteps of one chunk, noisiest first: t_0 from its noise, t_k = min(steps[k], t_(k-1) - 50).

    A step that would fall under 25 is left out, so noise never rises again and no step is wasted (contract.md).
    """
    return _falling_from(first_timestep(noise_scale, offset), steps, count)


def opening_timesteps(steps: Sequence[int], count: int) -> tuple[int, ...]:
    """The opening chunk's timesteps: steps[0] itself, then as `chunk_timesteps` goes on (contract.md)."""
    return _falling_from(steps[0], steps, count)


def _falling_from(first: int, steps: Sequence[int], count: int) -> tuple[int, ...]:
    timesteps = [first]
    for listed in steps[1 : max(count, 1)]:
        timestep = min(listed, timesteps[-1] - SMALLEST_GAP)
        if timestep < SMALLEST_LATER:
            break
        timesteps.append(timestep)
    return tuple(timesteps)
