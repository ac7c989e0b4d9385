"""The pools of training clips on disk, in every look: made once, for machines too slow to draw looks as they train.

A pool is a folder of memory-mapped uint8 arrays: the clips [N, T, S, S, 3] and, beside them, each look of them. Clip i
follows from (seed, i) alone, so an interrupted run goes on where it stopped and gives the same pool. What made a pool
is asked of its pixels: some are drawn again, by the present effects and the given seed, and must be the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
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
from sdv2live.training.processes import as_done
from sdv2live.training.scenes import Picture, scene


@dataclass(frozen=True)
class PoolSpec:
    """Clips of one size: how many, how many frames each, how many pixels a side (a multiple of 8)."""

    name: str
    clips: int
    frames: int
    side_px: int

    @property
    def clip_bytes(self) -> int:
        """Of one clip in one look."""
        return 3 * self.frames * self.side_px**2


SMALL = PoolSpec("small", 208, 16, 128)
LARGE = PoolSpec("large", 28, 8, 256)
CHECKED_CLIPS = 4
# Grey levels of 255, in the mean. What threads round differently is a hundredth of it (measured); an edit is far more.
MOST_APART = 0.01


def _open(folder: Path, spec: PoolSpec, name: str, mode: str) -> Picture:
    path = folder / f"{spec.name}-{name}.npy"
    shape = (spec.clips, spec.frames, spec.side_px, spec.side_px, 3)
    if mode == "w+" and path.exists():
        mode = "r+"
    pixels: Picture = np.lib.format.open_memmap(path, mode, np.uint8, shape)
    if pixels.shape != shape:
        raise UserError(f"{path} holds clips of {pixels.shape}, and {shape} are wanted: move it away.")
    return pixels


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


def _clip(spec: PoolSpec, seed: int, index: int) -> Picture:
    rng = np.random.default_rng((seed, index, spec.side_px))
    return _pixels(make_clip(lambda rng: torch.from_numpy(scene(rng)).permute(2, 0, 1), rng, spec.frames, spec.side_px))


def _fill(job: tuple[Path, PoolSpec, int, int]) -> None:
    """One clip and all its looks, into the pool."""
    folder, spec, seed, index = job
    clip = _clip(spec, seed, index)
    for name, look in LOOKS.items():
        _open(folder, spec, name, "r+")[index] = _styled(clip, look)
    _done_marks(folder, spec)[index] = 1


def _add_look(folder: Path, spec: PoolSpec, name: str) -> None:
    """A look of the clips that lie in a pool, new or drawn again; the file appears whole or not at all."""
    print(f"data: draws {name} for the clips of the pool {spec.name}", file=sys.stderr, flush=True)
    part = f"{name}.part"
    path, styled = folder / f"{spec.name}-{part}.npy", _open(folder, spec, part, "w+")
    clips = _open(folder, spec, "identity", "r")
    for index in np.flatnonzero(_done_marks(folder, spec)):
        styled[index] = _styled(np.array(clips[index]), LOOKS[name])
    os.replace(path, folder / f"{spec.name}-{name}.npy")


def _is_same(ours: Picture, theirs: Picture) -> bool:
    return float(np.abs(ours.astype(np.float32) - theirs).mean()) < MOST_APART


def _some(clips: NDArray[Any]) -> list[int]:
    """A few of them, from first to last."""
    return [int(clips[k]) for k in np.linspace(0, len(clips) - 1, CHECKED_CLIPS).astype(int)]


def _is_of_now(look: Picture, source: Picture, effect: Effect, clips: list[int]) -> bool:
    """Whether the first frames of these clips are what the effect draws now."""
    return _is_same(_styled(source[clips, 0], effect), look[clips, 0])


def make_pools(folder: Path, specs: tuple[PoolSpec, ...], *, seed: int, processes: int) -> None:
    """Fill the pools; clips that are already there are kept, and get the looks that they lack or that were changed.

    Raises UserError where that needs more room than the drive has, and for a pool that was begun with another seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[Path, PoolSpec, int, int]] = []
    looks: list[tuple[PoolSpec, str]] = []
    for spec in specs:
        done = _done_marks(folder, spec)
        made, left = np.flatnonzero(done), np.flatnonzero(done == 0)
        jobs += [(folder, spec, seed, int(i)) for i in left]
        if len(made):
            source, clips = _open(folder, spec, "identity", "r"), _some(made)
            if len(left) and not _is_same(_clip(spec, seed, clips[0]), source[clips[0]]):
                raise UserError(
                    f"the pool {spec.name} in {folder} was begun with another --seed than {seed}, or before scenes or "
                    "camera were changed: give the seed that it was begun with, or another --work."
                )
            for name, effect in LOOKS.items():
                is_there = (folder / f"{spec.name}-{name}.npy").exists()
                if not is_there or not _is_of_now(_open(folder, spec, name, "r"), source, effect, clips):
                    looks.append((spec, name))
    _check_room(folder, [job[1] for job in jobs], looks)
    for spec, name in looks:
        _add_look(folder, spec, name)
    for spec in specs:
        for name in LOOKS:
            _open(folder, spec, name, "w+")
    # In an order that mixes the pools, so that a run cut short has some of each.
    jobs.sort(key=lambda job: job[3] / job[1].clips)
    if not jobs:
        return
    start = time.monotonic()
    for count, _ in enumerate(as_done(_fill, jobs, processes=processes), 1):
        if count % 20 == 0 or count == len(jobs):
            left_s = (time.monotonic() - start) / count * (len(jobs) - count)
            print(f"data: {count}/{len(jobs)} clips, {left_s:.0f} s left", file=sys.stderr, flush=True)


def _check_room(folder: Path, clips: list[PoolSpec], looks: list[tuple[PoolSpec, str]]) -> None:
    """The files are sparse until they are filled, and one that a full drive cannot fill kills who writes to it."""
    needed = len(LOOKS) * sum(spec.clip_bytes for spec in clips)
    needed += sum(spec.clip_bytes * spec.clips for spec, _ in looks)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the pools in {folder} need {needed / 1e9:.1f} GB more, and the drive has {free / 1e9:.1f} GB free: make "
            "room, or name a --work elsewhere."
        )


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
        clips = _some(self.ready)
        looks = zip(LOOKS.items(), self.looks, strict=True)
        if old := [name for (name, effect), look in looks if not _is_of_now(look, self.looks[0], effect, clips)]:
            raise UserError(
                f"the pool {spec.name} in {folder} has {', '.join(old)} as drawn before the effect was changed: "
                f"`python -m sdv2live.training data --work {folder.parent}` draws them again."
            )

    def refresh(self) -> None:
        """Take in the clips that were finished since."""
        self.ready = np.flatnonzero(self._done)

    def digest(self) -> str:
        """Of which clips there are, and of what some of them look like."""
        digest = hashlib.sha256(repr((self.spec, self.ready.tolist())).encode())
        for look in self.looks:
            digest.update(look[_some(self.ready), 0].tobytes())
        return digest.hexdigest()

    def crop(self, look: int, clip: int, start: int, frames: int, top: int, left: int, side_px: int) -> torch.Tensor:
        """Look number `look` (0 is the source) -> [T, 3, side, side] uint8."""
        piece = self.looks[look][clip, start : start + frames, top : top + side_px, left : left + side_px]
        return torch.from_numpy(np.array(piece)).permute(0, 3, 1, 2)
