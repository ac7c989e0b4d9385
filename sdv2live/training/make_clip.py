"""Makes assets/clip.mp4, the bundled source `clip`. Owns: its pictures, its camera moves, its encoding.

`python -m sdv2live.training.make_clip OUT` on any machine with scikit-image gives the same pictures; nothing
is downloaded. Only pictures that are free to use go in (assets/CLIP.md names them). Three shots, each moved as a
camera in a hand would move, with parallax from a depth map and, for the face, a cut-out in front of its
own filled-in background. The last frame leads into the first.

Knows nothing of the app; runs once, by hand, on one thread.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SIZE_WH = (640, 360)
RATE_FPS = 16
FRAME_COUNT = 160
FADE_FRAMES = 10
GRAIN_LEVELS = 1.3


@dataclass(frozen=True, slots=True)
class Camera:
    """Where a shot is looked at from. centre_xy: picture point in the middle of the view; zoom: view pixels a
    picture pixel; roll_rad: turn; parallax_xy: picture pixels by which the nearest depth (1) moves against 0."""

    centre_xy: tuple[float, float]
    zoom: float
    roll_rad: float
    parallax_xy: tuple[float, float]


def hand(time_s: float, phase: float) -> float:
    """The sway of a hand that holds a camera, about -1 to 1: slow drift, breath and a little tremor."""
    drift = 0.55 * math.sin(2 * math.pi * 0.17 * time_s + phase)
    breath = 0.30 * math.sin(2 * math.pi * 0.43 * time_s + 2.1 * phase + 0.7)
    tremor = 0.10 * math.sin(2 * math.pi * 1.27 * time_s + 3.7 * phase + 1.9)
    return drift + breath + tremor


def picture_coordinates(camera: Camera) -> tuple[Floats, Floats]:
    """For each view pixel [H, W] the picture point (x, y) seen there, parallax left out."""
    width, height = SIZE_WH
    x, y = np.meshgrid(
        np.arange(width, dtype=np.float32) - (width - 1) / 2, np.arange(height, dtype=np.float32) - (height - 1) / 2
    )
    cos, sin = math.cos(camera.roll_rad) / camera.zoom, math.sin(camera.roll_rad) / camera.zoom
    return cos * x - sin * y + camera.centre_xy[0], sin * x + cos * y + camera.centre_xy[1]


def look(picture: Floats, depth: Floats | None, camera: Camera) -> Floats:
    """The view [360, 640, C] of `picture` [H, W, C]; `depth` [H, W] from 0 (far) to 1 (near) moves by parallax."""
    x, y = picture_coordinates(camera)
    if depth is not None:
        near = cv2.remap(depth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        x, y = x + camera.parallax_xy[0] * near, y + camera.parallax_xy[1] * near
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.float32)


def blurred(picture: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)


def ellipse(shape_hw: tuple[int, int], centre_xy: tuple[int, int], axes_xy: tuple[int, int], turn: float = 0) -> Floats:
    mask = np.zeros(shape_hw, np.uint8)
    cv2.ellipse(mask, centre_xy, axes_xy, turn, 0, 360, 1, -1)
    return mask.astype(np.float32)


def filled_in(picture: Floats, unknown: NDArray[np.bool_]) -> Floats:
    """`picture` with its unknown part grown in from around it, coarse to fine."""
    known = (~unknown).astype(np.float32)
    result = np.broadcast_to(picture[~unknown].mean(axis=0), picture.shape).astype(np.float32)
    for sigma in (96.0, 48.0, 24.0, 12.0, 6.0, 3.0):
        weight = blurred(known, sigma)
        near = blurred(picture * known[..., None], sigma) / np.maximum(weight, 1e-6)[..., None]
        trust = np.clip(weight * 4, 0, 1)[..., None]
        result = near * trust + result * (1 - trust)
    return np.where(unknown[..., None], result, picture).astype(np.float32)


class Portrait:
    """The astronaut: a cut-out that turns its head, in front of its own background, out of focus."""

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        mask = self._cut_out(picture)
        colours = picture.astype(np.float32)
        around = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
        self._background = blurred(filled_in(colours, around), 3.0)
        # The edge is drawn in by a pixel and its colour taken from inside, so that no rim of the old
        # background goes along with the cut-out.
        inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        alpha = np.clip(blurred(inside.astype(np.float32), 1.1), 0, 1)
        core = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        edge = filled_in(colours, ~core)
        self._cut = np.dstack([np.where(core[..., None], colours, edge), alpha * 255]).astype(np.float32)

    @staticmethod
    def _cut_out(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """[512, 512]: where the person is. GrabCut from shapes drawn by hand on this one picture."""
        marks = np.full(picture.shape[:2], cv2.GC_PR_BGD, np.uint8)
        likely = [
            (150, 20),
            (300, 20),
            (305, 130),
            (310, 240),
            (365, 290),
            (372, 345),
            (511, 350),
            (511, 511),
            (8, 511),
        ]
        likely += [(20, 400), (40, 290), (60, 255), (108, 210), (112, 180), (150, 150)]
        cv2.fillPoly(marks, [np.array(likely, np.int32)], cv2.GC_PR_FGD)
        for centre, axes in (
            ((226, 75), (58, 48)),
            ((225, 120), (44, 60)),
            ((209, 222), (84, 62)),
            ((392, 448), (95, 85)),
        ):
            cv2.ellipse(marks, centre, axes, 0, 0, 360, cv2.GC_FGD, -1)
        body = [(75, 275), (125, 245), (300, 250), (345, 300), (350, 360), (300, 511), (60, 511), (40, 400), (60, 300)]
        cv2.fillPoly(marks, [np.array(body, np.int32)], cv2.GC_FGD)
        marks[:12] = cv2.GC_BGD
        marks[:200, :100] = marks[:235, :50] = marks[:240, 325:] = marks[:335, 372:] = cv2.GC_BGD
        flag = [(0, 180), (52, 232), (50, 262), (34, 288), (20, 400), (16, 511), (0, 511)]
        cv2.fillPoly(marks, [np.array(flag, np.int32)], cv2.GC_BGD)
        cv2.setRNGSeed(1)
        colour_models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(picture[..., ::-1].copy(), marks, (0, 0, 0, 0), *colour_models, 6, cv2.GC_INIT_WITH_MASK)
        found = ((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(found)
        person = (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)
        smooth = cv2.GaussianBlur(person.astype(np.float32), (0, 0), 1.5) > 0.5
        return np.asarray(smooth)

    def _turned_head(self, time_s: float) -> Floats:
        """The cut-out [512, 512, 4] with the head turned and nodded about the neck, and the chest breathing."""
        height, width = self._cut.shape[:2]
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        # 1 for the head, 0 for the shoulders; the black collar between them takes the stretch.
        head = 1 / (1 + np.exp((y - 186) / 9))
        angle = 0.035 * math.sin(2 * math.pi * 0.31 * time_s + 0.4) + 0.012 * math.sin(2 * math.pi * 0.77 * time_s)
        shift_x = 5.0 * math.sin(2 * math.pi * 0.23 * time_s + 1.2)
        nod = 2.2 * math.sin(2 * math.pi * 0.52 * time_s + 2.0)
        # A face that turns: its middle, being nearest, moves further than its rim.
        turn = 2.6 * math.sin(2 * math.pi * 0.23 * time_s + 1.2)
        middle = np.exp(-(((x - 224) / 34) ** 2) - ((y - 115) / 42) ** 2)
        dx, dy = x - 215, y - 190
        breath = 1.2 * math.sin(2 * math.pi * 0.27 * time_s) * np.exp(-(((y - 300) / 90) ** 2))
        map_x = x - head * (angle * -dy + shift_x) - turn * middle
        map_y = y - head * (angle * dx + nod) - breath
        return np.asarray(
            cv2.remap(self._cut, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_CUBIC), np.float32
        )

    def view(self, time_s: float) -> Floats:
        sway_x, sway_y, roll = hand(time_s, 0.3), hand(time_s, 1.7), 0.006 * hand(time_s, 4.1)
        push = 1.06 + 0.010 * time_s
        background = look(
            self._background,
            None,
            Camera((258 + 3 * sway_x, 152 + 2 * sway_y), 1.30 + 0.004 * time_s, roll, (0, 0)),
        )
        # The lens keeps the person at about one picture pixel a view pixel: nothing is blown up.
        cut = look(self._turned_head(time_s), None, Camera((208 + 9 * sway_x, 157 + 6 * sway_y), push, roll, (0, 0)))
        alpha = np.clip(cut[..., 3:] / 255, 0, 1)
        return (background * (1 - alpha) + cut[..., :3] * alpha).astype(np.float32)


class Coffee:
    """The cup on a table: the rim is nearest, the table's far corner farthest."""

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        self._picture = picture.astype(np.float32)
        shape = picture.shape[:2]
        rows = np.linspace(0, 0.35, shape[0], dtype=np.float32)[:, None] * np.ones(shape, np.float32)
        cup = blurred(ellipse(shape, (285, 150), (112, 150)), 26)
        self._depth = blurred(np.clip(rows + 0.65 * cup, 0, 1), 6)

    def view(self, time_s: float) -> Floats:
        sway_x, sway_y = hand(time_s, 2.2), hand(time_s, 0.9)
        centre = (296 + 6 * time_s + 5 * sway_x, 176 - 4 * time_s + 4 * sway_y)
        parallax = (-10 * (time_s - 1.2) - 5 * sway_x, 5 * (time_s - 1.2) - 3 * sway_y)
        zoom = 1.16 + 0.012 * time_s
        return look(self._picture, self._depth, Camera(centre, zoom, -0.01 + 0.007 * time_s, parallax))


class Rocket:
    """The launch pad at dusk: a slow tilt up; the towers at the sides stand nearer than the rocket."""

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        self._picture = picture.astype(np.float32)
        height, width = picture.shape[:2]
        across = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[None, :] ** 2
        self._depth = np.ascontiguousarray(np.broadcast_to(across, (height, width)))
        bright = np.clip((self._picture.max(axis=2) - 200) / 55, 0, 1) * (np.arange(height)[:, None] > 330)
        self._lights = np.clip(blurred(bright.astype(np.float32), 5) * 2.0, 0, 1)[..., None]

    def view(self, time_s: float) -> Floats:
        sway_x, sway_y = hand(time_s, 5.0), hand(time_s, 3.3)
        glow = 1 + 0.10 * math.sin(2 * math.pi * 1.1 * time_s) + 0.06 * math.sin(2 * math.pi * 2.3 * time_s + 1)
        picture = self._picture * (1 + self._lights * (glow - 1))
        centre = (318 + 5 * time_s + 4 * sway_x, 246 - 9 * time_s + 3 * sway_y)
        parallax = (7 * (time_s - 1.2) + 4 * sway_x, 0.0)
        return look(picture, self._depth, Camera(centre, 1.10 + 0.016 * time_s, 0.005 * sway_x, parallax))


def smooth_step(value: float) -> float:
    held = min(max(value, 0.0), 1.0)
    return held * held * (3 - 2 * held)


def render_clip() -> list[NDArray[np.uint8]]:
    """All frames, [360, 640, 3] uint8 RGB. The clip begins and ends in the middle of the portrait."""
    from skimage import data

    # (first frame, one past the last, shot); the portrait wraps round the seam.
    shots: tuple[tuple[int, int, Callable[[float], Floats]], ...] = (
        (-44, 48, Portrait(data.astronaut()).view),
        (38, 84, Coffee(data.coffee()).view),
        (74, 126, Rocket(data.rocket()).view),
    )
    random = np.random.default_rng(7)
    frames = []
    for index in range(FRAME_COUNT):
        mixed = np.zeros((SIZE_WH[1], SIZE_WH[0], 3), np.float32)
        for first, end, view in shots:
            local = index if index < end else index - FRAME_COUNT
            if not first <= local < end:
                continue
            weight = smooth_step((local - first + 0.5) / FADE_FRAMES) * smooth_step((end - local - 0.5) / FADE_FRAMES)
            mixed += weight * view((local - max(first, 0)) / RATE_FPS)
        grain = blurred(random.standard_normal(mixed.shape[:2]).astype(np.float32), 0.7) * GRAIN_LEVELS * 2
        frames.append(np.clip(mixed + grain[..., None] + 0.5, 0, 255).astype(np.uint8))
    return frames


def write_clip(frames: list[NDArray[np.uint8]], path: Path) -> None:
    """H.264 in MP4, BT.709, an index at the front."""
    with av.open(str(path), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=RATE_FPS)
        stream.width, stream.height = SIZE_WH
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, RATE_FPS)
        stream.options = {"crf": "19", "preset": "slow", "threads": "1"}
        codec = stream.codec_context
        codec.color_range, codec.colorspace = ColorRange.MPEG, Colorspace.ITU709
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts, frame.time_base = index, Fraction(1, RATE_FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="make the bundled clip from free pictures")
    parser.add_argument("out", type=Path, help="the MP4 file to write")
    out: Path = parser.parse_args().out
    write_clip(render_clip(), out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {FRAME_COUNT} frames at {RATE_FPS} fps")


if __name__ == "__main__":
    main()
