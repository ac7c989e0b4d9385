"""How near a restyled clip comes to the drawn one. Owns: the figures of a clip and the aims that they are held to.

Pictures are [T, H, W, 3] uint8 RGB. Knows no model; the measures that are not of looks alone are `measures`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from sdv2live import measures
from sdv2live.frames import Pixels
from sdv2live.measures import Correspondence, DisFlow, Floats, Picture, correspond

BEST_PSNR_DB = 99.0  # what stands for infinity
# Aims. Where doing nothing is already near the target, decibels say little and edges and colours count too.
FAR_DB, GAIN_FAR_DB, GAIN_NEAR_DB, DISTANCE_SHARE = 18.0, 4.0, 1.5, 0.5
IDENTITY_DB, IDENTITY_MOVING_DB, SHARPNESS_SHARE, WARP_SHARE = 30.0, 27.0, 0.7, 1.1  # of a picture, of a real video
SMALLEST_WARP = 1e-4  # mean squared, 2.5 grey levels of 255: less is no motion error but rounding
# Directions in colour space along which palettes are compared: the axes, grey, and what lies between.
_DIRECTIONS = np.array(
    [d for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0)],
    np.float32,
)


def psnr(ours: Pixels, target: Pixels) -> float:
    """dB over the whole clip."""
    return min(measures.psnr_db(measures.mean_squared_error(ours, target)), BEST_PSNR_DB)


def _steepness(picture: Picture) -> Floats:
    """Length of the Sobel gradient, [H, W]."""
    across, down = (cv2.Sobel(picture.grey, cv2.CV_32F, x, 1 - x) for x in (1, 0))
    return np.asarray(cv2.magnitude(across, down), np.float32)


def edge_distance(ours: Picture, target: Picture) -> float:
    """Mean difference of the gradients' lengths over the target's mean: 0 is the same edges."""
    wanted = _steepness(target)
    return float(np.abs(_steepness(ours) - wanted).mean() / max(float(wanted.mean()), 1e-3))


def palette_distance(ours: Pixels, target: Pixels) -> float:
    """Sliced Wasserstein distance of the colours (Bonneel et al. 2015), of 255: how far colours must be moved at least,
    wherever they stand, in the mean of 13 directions."""
    directions = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)
    # Every third pixel each way: a ninth of the sorting, and no step of the 8 x 8 grids that looks have.
    taken = (picture[::3, ::3].reshape(-1, 3).astype(np.float32) for picture in (ours, target))
    sorted_along = [np.sort(directions @ colours.T) for colours in taken]
    return float(np.abs(sorted_along[0] - sorted_along[1]).mean())


def flicker(frames: Pixels) -> float:
    """Mean difference of following frames, in grey levels of 255."""
    return 255 * float(np.mean([measures.temporal_difference(a, b) for a, b in itertools.pairwise(frames)]))


def motions(source: Pixels) -> list[Correspondence]:
    """Where each pixel of a frame was in the frame before."""
    flow, pictures = DisFlow(), [Picture.of(frame) for frame in source]
    return [correspond(flow, a, b) for a, b in itertools.pairwise(pictures)]


@dataclass(frozen=True)
class Figures:
    """A clip against its target; `nothing_` is the source in its place. PSNR in dB, warp errors mean squared in 0..1.

    sharpness: the variance of the Laplacian over the target's. The warp errors are NaN where each frame is a cut.
    """

    psnr: float
    nothing_psnr: float
    ssim: float
    edges: float
    nothing_edges: float
    palette: float
    nothing_palette: float
    sharpness: float
    warp: float
    target_warp: float


def figures_of(ours: Pixels, target: Pixels, source: Pixels, found: list[Correspondence]) -> Figures:
    """All figures of a clip; found: the motions of the source."""
    pictures = [[Picture.of(frame) for frame in clip] for clip in (ours, target, source)]

    def mean_of(measure: Callable[[Picture, Picture], float], one: int, two: int = 1) -> float:
        return float(np.mean([measure(a, b) for a, b in zip(pictures[one], pictures[two], strict=True)]))

    def warp(clip: Pixels) -> float:
        steps = zip(found, itertools.pairwise(clip), strict=True)
        errors = [measures.warp_error(where, before, after) for where, (before, after) in steps]
        told = [error for error in errors if error is not None]
        return float(np.mean(told)) if told else math.nan

    sharp = [float(np.mean([measures.sharpness(picture.grey) for picture in clip])) for clip in pictures[:2]]
    return Figures(
        psnr=psnr(ours, target),
        nothing_psnr=psnr(source, target),
        ssim=mean_of(lambda a, b: measures.ssim(a.grey, b.grey), 0),
        edges=mean_of(edge_distance, 0),
        nothing_edges=mean_of(edge_distance, 2),
        palette=mean_of(lambda a, b: palette_distance(a.rgb, b.rgb), 0),
        nothing_palette=mean_of(lambda a, b: palette_distance(a.rgb, b.rgb), 2),
        sharpness=sharp[0] / max(sharp[1], 1e-9),
        warp=warp(ours),
        target_warp=warp(target),
    )


def missed(figures: Figures, look: str, *, is_video: bool = False) -> list[str]:
    """The aims that a clip at full strength does not reach, in words. is_video: it is no moved picture."""
    short = []
    if look == "identity":
        if figures.psnr < (IDENTITY_MOVING_DB if is_video else IDENTITY_DB):
            short.append("PSNR")
    else:
        gain = figures.psnr - figures.nothing_psnr
        is_far = figures.nothing_psnr < FAR_DB
        if gain < (GAIN_FAR_DB if is_far else GAIN_NEAR_DB):
            short.append("gain")
        if not is_far and figures.edges > DISTANCE_SHARE * figures.nothing_edges:
            short.append("edges")
        if not is_far and figures.palette > DISTANCE_SHARE * figures.nothing_palette:
            short.append("palette")
    if figures.sharpness < SHARPNESS_SHARE:
        short.append("sharpness")
    if figures.warp > WARP_SHARE * max(figures.target_warp, SMALLEST_WARP):
        short.append("warp error")
    return short
