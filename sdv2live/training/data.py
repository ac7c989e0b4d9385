"""Training clips of the pocket model. Owns: where pictures come from, how they move, the pools on disk.

Sources are photos that the wheels of scikit-image, scikit-learn and matplotlib carry and that are free to use, read
from the installed packages (none is copied into the repository), and drawn scenes of overlapping shapes. A pool is a
folder of memory-mapped uint8 arrays: the clips [N, T, S, S, 3] and, beside them, each look of them. Clip i follows
from (seed, i) alone, so an interrupted run goes on where it stopped and gives the same pool. HELD_OUT pictures never
enter a pool.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sdv2live.training.effects import LOOKS, Effect

Picture = NDArray[Any]  # uint8 RGB throughout; cv2's own types say no more than that it is an array

# (package, path inside it, licence). The licences are what each package's own documentation says of the file.
PHOTOS: tuple[tuple[str, str, str], ...] = (
    ("skimage", "data/coffee.png", "CC0, Rachel Michetti"),
    ("skimage", "data/rocket.jpg", "public domain, SpaceX"),
    ("skimage", "data/retina.jpg", "CC0 / public domain, Mikael Haggstrom"),
    ("skimage", "data/ihc.png", "no known copyright restrictions, CMMI"),
    ("skimage", "data/hubble_deep_field.jpg", "public domain, NASA"),
    ("skimage", "data/camera.png", "CC0, Lav Varshney"),
    ("skimage", "data/brick.png", "CC0, CC0Textures"),
    ("skimage", "data/grass.png", "CC0, linolafett"),
    ("skimage", "data/gravel.png", "CC0, CC0Textures"),
    ("skimage", "data/coins.png", "no known copyright restrictions, Brooklyn Museum"),
    ("skimage", "data/clock_motion.png", "public domain, Stefan van der Walt"),
    ("sklearn", "datasets/images/china.jpg", "CC BY 2.0, danielbuechele"),
    ("sklearn", "datasets/images/flower.jpg", "CC BY 2.0, vultilion"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "public domain, US Navy"),
)
COLOUR_PHOTOS = ("coffee", "rocket", "china", "flower", "grace_hopper")
HELD_OUT = ("skimage data/astronaut.png", "skimage data/chelsea.png")


@dataclass(frozen=True)
class PoolSpec:
    """Clips of one size: how many, how many frames each, how many pixels a side (a multiple of 8)."""

    name: str
    clips: int
    frames: int
    side_px: int


SMALL = PoolSpec("small", 208, 16, 128)
LARGE = PoolSpec("large", 28, 8, 256)


def package_file(package: str, path: str) -> Path:
    """A file of an installed package, found without importing the package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"training reads pictures from {package}: install it, or pip install .[train]")
    return Path(spec.origin).parent / path


def read_picture(path: Path) -> Picture:
    """RGB uint8 [H, W, 3]."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise FileNotFoundError(f"no picture could be read from {path}")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


@cache
def photos() -> tuple[tuple[Picture, bool], ...]:
    """Every training photo with whether it is grey; colour pictures of everyday things appear three times."""
    found: list[tuple[Picture, bool]] = []
    for package, path, _ in PHOTOS:
        picture = read_picture(package_file(package, path))
        if min(picture.shape[:2]) > 600:
            picture = cv2.resize(picture, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        is_grey = bool((picture[..., 0] == picture[..., 1]).all())
        found += [(picture, is_grey)] * (3 if Path(path).stem in COLOUR_PHOTOS else 1)
    return tuple(found)


def duotone(grey: Picture, rng: np.random.Generator) -> Picture:
    """Paint a grey picture through three random colours that rise in brightness."""
    stops = rng.uniform(0, 255, (3, 3))
    stops = stops * (np.array([[30], [120], [225]]) / np.maximum(stops.mean(1, keepdims=True), 1))
    table = np.stack([np.interp(np.arange(256), [0, 128, 255], stops[:, c]) for c in range(3)], 1)
    return table.clip(0, 255).astype(np.uint8)[grey[..., 0]]


def _shade(size: int, rng: np.random.Generator) -> NDArray[Any]:
    """Light over a shape: a slope and some cloudy texture, around 1."""
    slope = rng.normal(0, 0.35, 2)
    grid = np.linspace(-1, 1, size, dtype=np.float32)
    light = 1 + slope[0] * grid[:, None] + slope[1] * grid[None, :]
    cells = int(2 ** rng.integers(2, 7))
    texture = cv2.resize(
        rng.normal(0, 1, (cells, cells)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    return np.asarray(light + rng.choice([0, 0.08, 0.2]) * texture, np.float32)


def dead_leaves(rng: np.random.Generator, side_px: int = 512) -> Picture:
    """Overlapping shapes of all sizes, some flat, some shaded or textured, some filled with pieces of photos."""
    palette = rng.uniform(0, 255, (int(rng.integers(4, 10)), 3))
    canvas = np.full((side_px, side_px, 3), palette[0], np.float32) * _shade(side_px, rng)[..., None]
    for _ in range(int(rng.integers(60, 160))):
        radius = float(np.clip(12 * (1 - rng.random()) ** -0.75, 12, 200))
        centre = rng.uniform(0, side_px, 2)
        mask: Picture = np.zeros((side_px, side_px), np.uint8)
        kind = rng.integers(4)
        if kind == 0:
            axes = (int(radius), int(max(3, radius * rng.uniform(0.3, 1))))
            cv2.ellipse(mask, centre.astype(int).tolist(), axes, rng.uniform(0, 360), 0, 360, 255, -1, cv2.LINE_AA)
        elif kind == 1:
            turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
            spread = radius * rng.uniform(0.5, 1, len(turns))
            corners = centre + np.stack([np.cos(turns), np.sin(turns)], 1) * spread[:, None]
            cv2.fillPoly(mask, [corners.astype(np.int32)], 255, cv2.LINE_AA)
        elif kind == 2:
            end = centre + rng.normal(0, 2 * radius, 2)
            cv2.line(
                mask, centre.astype(int).tolist(), end.astype(int).tolist(), 255, int(rng.integers(1, 9)), cv2.LINE_AA
            )
        else:
            cv2.circle(mask, centre.astype(int).tolist(), int(radius), 255, -1, cv2.LINE_AA)
            if rng.random() < 0.4:
                cv2.circle(mask, centre.astype(int).tolist(), int(radius * rng.uniform(0.4, 0.9)), 0, -1, cv2.LINE_AA)
        if rng.random() < 0.3:
            fill = _photo_piece(rng, side_px)
        else:
            colour = palette[rng.integers(len(palette))] + rng.normal(0, 12, 3)
            fill = np.broadcast_to(colour.astype(np.float32), canvas.shape)
            if rng.random() < 0.7:
                fill = fill * _shade(side_px, rng)[..., None]
        if rng.random() < 0.15:
            mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(1, 6))
        alpha = mask[..., None].astype(np.float32) / 255
        canvas = canvas + alpha * (fill - canvas)
    return np.asarray(canvas.clip(0, 255), np.uint8)


def _photo_piece(rng: np.random.Generator, side_px: int) -> NDArray[Any]:
    picture = photo(rng)
    factor = max(side_px / min(picture.shape[:2]), 0.5) * rng.uniform(1, 1.4)
    picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    top = int(rng.integers(picture.shape[0] - side_px + 1))
    left = int(rng.integers(picture.shape[1] - side_px + 1))
    return picture[top : top + side_px, left : left + side_px].astype(np.float32)


def photo(rng: np.random.Generator) -> Picture:
    """A random training photo, sometimes mirrored or with its colours changed."""
    choice = photos()
    picture, is_grey = choice[rng.integers(len(choice))]
    if is_grey and rng.random() < 0.7:
        picture = duotone(picture, rng)
    elif not is_grey and rng.random() < 0.35:
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(rng.integers(256))
        picture = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return picture[:, ::-1] if rng.random() < 0.5 else picture


def _moving_view(picture: Picture, frames: int, side_px: int, rng: np.random.Generator, speed: float) -> Picture:
    """A camera that pans, turns and zooms over a picture -> [T, S, S, 3]."""
    height, width = picture.shape[:2]
    # Source pixels for an output pixel: from a close-up to as much as fits a 256-pixel picture.
    scale = rng.uniform(0.55, max(0.8, min(height, width) / 256))
    while scale > 1.5:
        picture = cv2.pyrDown(picture)
        scale, height, width = scale / 2, picture.shape[0], picture.shape[1]
    half = scale * side_px / 2
    room = np.maximum(np.array([width, height]) / 2 - half, 1)
    centre = np.array([width, height]) / 2 + rng.uniform(-1, 1, 2) * room
    drift = rng.normal(0, 1.5, 2) * scale * speed
    turn, spin = rng.normal(0, 0.15), rng.normal(0, 0.008) * speed
    zoom = 1 + rng.normal(0, 0.006) * speed
    shake = rng.normal(0, 0.3, (frames, 2)) * scale * speed
    out = np.empty((frames, side_px, side_px, 3), np.uint8)
    for t in range(frames):
        c, s = np.cos(turn + spin * t) * scale * zoom**t, np.sin(turn + spin * t) * scale * zoom**t
        middle = centre + drift * t + shake[t]
        offset = middle - np.array([c - s, s + c]) * side_px / 2
        matrix = np.array([[c, -s, offset[0]], [s, c, offset[1]]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out[t] = cv2.warpAffine(picture, matrix, (side_px, side_px), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return out


def make_clip(seed: int, index: int, frames: int, side_px: int) -> Picture:
    """Clip `index` of a pool, [T, S, S, 3] uint8 RGB."""
    rng = np.random.default_rng((seed, index, side_px))
    scene = photo(rng) if rng.random() < 0.6 else dead_leaves(rng)
    speed = float(rng.choice([0.0, 0.5, 1.0, 2.0], p=[0.15, 0.25, 0.4, 0.2]))
    clip = _moving_view(np.ascontiguousarray(scene), frames, side_px, rng, speed).astype(np.float32)
    if rng.random() < 0.35:
        other = photo(rng) if rng.random() < 0.7 else dead_leaves(rng)
        front = _moving_view(np.ascontiguousarray(other), frames, side_px, rng, 0.3)
        place, pace = rng.uniform(0.2, 0.8, 2) * side_px, rng.normal(0, 3, 2)
        axes = (rng.uniform(0.12, 0.4, 2) * side_px).astype(int).tolist()
        tilt = rng.uniform(0, 180)
        for t in range(frames):
            mask: NDArray[Any] = np.zeros((side_px, side_px), np.float32)
            cv2.ellipse(mask, (place + pace * t).astype(int).tolist(), axes, tilt, 0, 360, 1.0, -1, cv2.LINE_AA)
            mask = cv2.GaussianBlur(mask, (0, 0), 0.8)[..., None]
            clip[t] += mask * (front[t] - clip[t])
    clip = 255 * (clip / 255).clip(0, 1) ** np.exp(rng.normal(0, 0.25))
    clip = (clip - 128) * rng.uniform(0.75, 1.25) + 128 + rng.normal(0, 10)
    clip = clip * (1 + rng.normal(0, 0.05, 3))
    if rng.random() < 0.6:
        clip = clip + rng.normal(0, rng.uniform(0.5, 5), clip.shape)
    return np.asarray(clip.clip(0, 255), np.uint8)


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


def _styled(clip: Picture, look: Effect) -> Picture:
    planar = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
    return np.asarray((look(planar).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())


def _fill(job: tuple[Path, PoolSpec, int, int]) -> None:
    """One clip and all its looks, into the pool."""
    folder, spec, seed, index = job
    torch.set_num_threads(1)
    clip = make_clip(seed, index, spec.frames, spec.side_px)
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
    """A filled pool, read only. Clips that are not made yet are not drawn."""

    def __init__(self, folder: Path, spec: PoolSpec) -> None:
        self.spec = spec
        self.looks = [_open(folder, spec, name, "r") for name in LOOKS]
        self._done = _done_marks(folder, spec)
        self.refresh()

    def refresh(self) -> None:
        """Take in the clips that were finished since."""
        self.ready = np.flatnonzero(self._done)

    def crop(self, look: int, clip: int, start: int, frames: int, top: int, left: int, side_px: int) -> torch.Tensor:
        """Look number `look` (0 is the source) -> [T, 3, side, side] uint8."""
        piece = self.looks[look][clip, start : start + frames, top : top + side_px, left : left + side_px]
        return torch.from_numpy(np.array(piece)).permute(0, 3, 1, 2)
