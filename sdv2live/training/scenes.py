"""Pictures that training clips look at. Owns: where they come from, and the bank of them for a GPU.

Photos that the wheels of scikit-image, scikit-learn and matplotlib carry and that are free to use, read from the
installed packages (none is copied into the repository), and drawn scenes of overlapping shapes. HELD_OUT pictures are
never among them. Made on the CPU with OpenCV; how they move is `clips`.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdv2live.training.processes import as_done

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
PHOTO_SHARE = 0.6
BANK_SCENES, BANK_SIDE_PX = 384, 576


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


def scene(rng: np.random.Generator) -> Picture:
    """A photo or a drawn scene, of any size."""
    return np.ascontiguousarray(photo(rng) if rng.random() < PHOTO_SHARE else dead_leaves(rng))


def _bank_scene(job: tuple[int, int]) -> Picture:
    rng = np.random.default_rng((*job, BANK_SIDE_PX))
    is_photo = rng.random() < PHOTO_SHARE
    picture = _photo_piece(rng, BANK_SIDE_PX) if is_photo else dead_leaves(rng, BANK_SIDE_PX)
    return np.asarray(picture, np.uint8)


def scene_bank(work: Path, *, seed: int, processes: int, scenes: int = BANK_SCENES) -> Tensor:
    """Scenes of one size [scenes, 3, S, S] uint8, made once and kept in the work folder: all fit a GPU's memory."""
    path = work / f"scenes-{seed}.npy"
    if not path.exists():
        print(f"data: {scenes} scenes", file=sys.stderr, flush=True)
        made = dict(as_done(_bank_scene, [(seed, index) for index in range(scenes)], processes=processes))
        part = path.with_suffix(".part.npy")
        np.save(part, np.stack([made[index] for index in range(scenes)]).transpose(0, 3, 1, 2))
        os.replace(part, path)
    return torch.from_numpy(np.load(path))
