"""The clips that the model is judged by, of pictures that it never saw. Owns: which they are and how they move."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sdv2live.errors import UserError
from sdv2live.frames import Pixels
from sdv2live.training.scenes import package_file, read_picture

FRAMES = 12
VIDEO = "video"
PICTURES = {"chelsea": 1.1, "astronaut": 1.8}  # a cat and a face, with how many of its pixels make one of ours


def still_with_motion(picture: Pixels, scale: float, size_wh: tuple[int, int]) -> Pixels:
    """A slow pan, zoom and turn over a picture, [T, H, W, 3]; scale is source pixels for an output pixel."""
    if scale > 1.3:
        picture = np.asarray(cv2.resize(picture, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA))
        scale = 1.0
    middle = np.array([picture.shape[1] / 2, picture.shape[0] / 2])
    out = np.empty((FRAMES, size_wh[1], size_wh[0], 3), np.uint8)
    for t in range(FRAMES):
        matrix = cv2.getRotationMatrix2D(middle.tolist(), 0.25 * t, (1 + 0.004 * t) / scale)
        matrix[:, 2] += np.array(size_wh) / 2 - middle + np.array([0.8, -0.5]) * t
        out[t] = cv2.warpAffine(picture, matrix, size_wh, borderMode=cv2.BORDER_REFLECT_101)
    return out


def video_frames(path: Path, size_wh: tuple[int, int]) -> Pixels:
    """The first FRAMES frames of a video, their middle cut to the size's shape and resized. Raises UserError."""
    if not path.is_file():
        raise UserError(f"There is no file {path}: give --video a video file.")
    video = cv2.VideoCapture(str(path))
    frames: list[Pixels] = []
    while len(frames) < FRAMES:
        is_read, frame = video.read()
        if not is_read:
            break
        scale = min(frame.shape[1] / size_wh[0], frame.shape[0] / size_wh[1])
        width, height = (int(side * scale) for side in size_wh)
        top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
        middle = frame[top : top + height, left : left + width]
        frames.append(np.asarray(cv2.resize(middle, size_wh, interpolation=cv2.INTER_AREA)[..., ::-1], np.uint8))
    video.release()
    if not frames:
        raise UserError(f"{path} holds no picture that can be decoded: give --video a video file.")
    if len(frames) < FRAMES:
        raise UserError(f"{path} has {len(frames)} frames and {FRAMES} are needed: give --video a longer one.")
    return np.stack(frames)


def held_out_clips(video: Path | None, size_wh: tuple[int, int]) -> dict[str, Pixels]:
    """A cat, a face, and a video if one is given: [T, H, W, 3] uint8. Raises UserError for a video that is none."""
    clips = {VIDEO: video_frames(video, size_wh)} if video is not None else {}
    pictures = {
        name: still_with_motion(read_picture(package_file("skimage", f"data/{name}.png")), scale, size_wh)
        for name, scale in PICTURES.items()
    }
    return {**pictures, **clips}
