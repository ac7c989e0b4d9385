"""The pools of training clips on disk, in every look: made once, for machines too slow to draw looks as they train.

A pool is a folder of memory-mapped uint8 arrays: the clips [N, T, S, S, 3] and, beside them, each look of them. Clip i
follows from (seed, i) alone, so an interrupted run goes on where it stopped and gives the same pool.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdv2live.errors import UserError, one_line
from sdv2live.training.clips import make_clip
from sdv2live.training.effects import LOOKS, Effect
from sdv2live.training.scenes import Picture, scene


@dataclass(frozen=True)
class PoolSpec:
    """Clips of one size: how many, how many frames each, how many pixels a side (a multiple of 8)."""

    name: str
    clips: int
    frames: int
    side_px: int


SMALL = PoolSpec("small", 208, 16, 128)
LARGE = PoolSpec("large", 28, 8, 256)


def _open(folder: Path, spec: PoolSpec, name: str, mode: str) -> Picture:
    path = folder / f"{spec.name}-{name}.npy"
    shape = (spec.clips, spec.frames, spec.side_px, spec.side_px, 3)
    if mode == "w+" and path.exists():
        mode = "r+"
    if mode == "w+":
        return np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    return np.lib.format.open_memmap(path, mode)


def _done_marks(folder: Path, spec: PoolSpec) -> NDArray[Any]:
    path = folder / f"{spec.name}-done.npy"
    if path.exists():
        return np.lib.format.open_memmap(path, "r+")
    return np.lib.format.open_memmap(path, "w+", np.uint8, (spec.clips,))


def _planar(clip: Picture) -> Tensor:
    return torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255


def _pixels(clip: Tensor) -> Picture:
    return np.asarray((clip.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())


def _styled(clip: Picture, look: Effect) -> Picture:
    return _pixels(look(_planar(clip)))


def _fill(job: tuple[Path, PoolSpec, int, int]) -> None:
    """One clip and all its looks, into the pool."""
    folder, spec, seed, index = job
    torch.set_num_threads(1)
    rng = np.random.default_rng((seed, index, spec.side_px))
    clip = _pixels(make_clip(lambda rng: torch.from_numpy(scene(rng)).permute(2, 0, 1), rng, spec.frames, spec.side_px))
    for name, look in LOOKS.items():
        _open(folder, spec, name, "r+")[index] = _styled(clip, look)
    _done_marks(folder, spec)[index] = 1


def _add_look(folder: Path, spec: PoolSpec, name: str) -> None:
    """A look that came after the pool was made, of the clips that lie in it; the file appears whole or not at all."""
    part = f"{name}.part"
    path, styled = folder / f"{spec.name}-{part}.npy", _open(folder, spec, part, "w+")
    clips = _open(folder, spec, "identity", "r")
    for index in np.flatnonzero(_done_marks(folder, spec)):
        styled[index] = _styled(np.array(clips[index]), LOOKS[name])
    print(f"data: {name} added to pool {spec.name}", file=sys.stderr, flush=True)
    path.rename(folder / f"{spec.name}-{name}.npy")


def make_pools(folder: Path, specs: tuple[PoolSpec, ...], *, seed: int, processes: int) -> None:
    """Fill the pools; clips that are already there are kept, and get the looks that they lack."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[Path, PoolSpec, int, int]] = []
    for spec in specs:
        is_begun = _done_marks(folder, spec).any()
        for name in LOOKS:
            if is_begun and not (folder / f"{spec.name}-{name}.npy").exists():
                _add_look(folder, spec, name)
            _open(folder, spec, name, "w+")
        jobs += [(folder, spec, seed, int(i)) for i in np.flatnonzero(_done_marks(folder, spec) == 0)]
    if not jobs:
        return
    # In an order that mixes the pools, so that a run cut short has some of each.
    jobs.sort(key=lambda job: job[3] / job[1].clips)
    start = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for count, _ in enumerate(pool.imap_unordered(_fill, jobs), 1):
            if count % 20 == 0 or count == len(jobs):
                left_s = (time.monotonic() - start) / count * (len(jobs) - count)
                print(f"data: {count}/{len(jobs)} clips, {left_s:.0f} s left", file=sys.stderr, flush=True)


class Pool:
    """A filled pool, read only. Clips that are not made yet are not drawn. Raises UserError where there is none."""

    def __init__(self, folder: Path, spec: PoolSpec) -> None:
        self.spec = spec
        try:
            self.looks = [_open(folder, spec, name, "r") for name in LOOKS]
            self._done = np.lib.format.open_memmap(folder / f"{spec.name}-done.npy", "r")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder} has no whole pool {spec.name} ({one_line(error)}): make it with "
                f"`python -m sdv2live.training data --work {folder.parent}`, or train with `run --fresh`."
            ) from error
        self.refresh()
        if not len(self.ready):
            raise UserError(f"no clip of the pool {spec.name} in {folder} is finished yet: wait for `data`.")

    def refresh(self) -> None:
        """Take in the clips that were finished since."""
        self.ready = np.flatnonzero(self._done)

    def crop(self, look: int, clip: int, start: int, frames: int, top: int, left: int, side_px: int) -> torch.Tensor:
        """Look number `look` (0 is the source) -> [T, 3, side, side] uint8."""
        piece = self.looks[look][clip, start : start + frames, top : top + side_px, left : left + side_px]
        return torch.from_numpy(np.array(piece)).permute(0, 3, 1, 2)
