"""Brings a picture to the engine's size. Owns: crop, letterbox, stretch, mirror and quarter turns; knows nothing of
sources or engines.

One resize, straight into memory that the caller owns, and no full-size copy on the way. Pure functions; on the
session's thread, and the output clock's for a bypass.
"""

from __future__ import annotations

import cv2
import numpy as np

from sdv2live.frames import Framing, Pixels

FIT_MODES = ("crop", "letterbox", "stretch")


def frame_into(pixels: Pixels, out: Pixels, framing: Framing) -> None:
    """Write `pixels` [h, w, 3] into `out` [H, W, 3] as `framing` says; otherwise as `fit_into`.

    The turn comes last here, on the small picture, and gives what a turn of the large one would.
    """
    turns = framing.quarter_turns % 4
    if not turns and not framing.is_mirrored:
        fit_into(pixels, out, framing.fit)
        return
    upright = np.empty((out.shape[1], out.shape[0], 3) if turns % 2 else out.shape, np.uint8)
    fit_into(pixels, upright, framing.fit)
    turned = np.rot90(upright, -turns)
    np.copyto(out, turned[:, ::-1] if framing.is_mirrored else turned)


def fit_into(pixels: Pixels, out: Pixels, mode: str = "crop") -> None:
    """Write `pixels` [h, w, 3] into `out` [H, W, 3], both uint8 RGB, of any sizes from 1x1.

    crop keeps the shape and fills `out` (the overhang is cut evenly), letterbox keeps the shape and shows all of
    it between black bars, stretch fills `out` with all of it. `out` may be a view whose rows lie apart, as long as
    each row is contiguous: cv2 then writes in place, and refuses anything else.
    """
    for what, array in (("picture", pixels), ("target", out)):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
            raise ValueError(f"the {what} must be [H, W, 3] uint8 and not empty, not {array.dtype} {array.shape}")
    if out.strides[1:] != (3, 1):
        raise ValueError("the target's rows must be contiguous")
    height, width = pixels.shape[:2]
    out_height, out_width = out.shape[:2]
    if mode == "stretch":
        _resize_into(pixels, out)
    elif mode == "crop":
        kept_width = min(width, max(1, round(height * out_width / out_height)))
        kept_height = min(height, max(1, round(width * out_height / out_width)))
        left, top = (width - kept_width) // 2, (height - kept_height) // 2
        _resize_into(pixels[top : top + kept_height, left : left + kept_width], out)
    elif mode == "letterbox":
        top, left, inner_height, inner_width = letterbox_place((width, height), (out_width, out_height))
        bottom, right = top + inner_height, left + inner_width
        out[:top] = out[bottom:] = 0
        out[top:bottom, :left] = out[top:bottom, right:] = 0
        _resize_into(pixels, out[top:bottom, left:right])
    else:
        raise ValueError(f"fit is one of {', '.join(FIT_MODES)}, not {mode!r}")


def letterbox_place(size_wh: tuple[int, int], out_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a picture of `size_wh` that keeps its shape within `out_wh`."""
    (width, height), (out_width, out_height) = size_wh, out_wh
    inner_width = min(out_width, max(1, round(out_height * width / height)))
    inner_height = min(out_height, max(1, round(out_width * height / width)))
    return (out_height - inner_height) // 2, (out_width - inner_width) // 2, inner_height, inner_width


def _resize_into(pixels: Pixels, out: Pixels) -> None:
    """Halved as often as it goes, then the rest between neighbours.

    Under a half, two neighbours see nearly every pixel, and a mean over the exact area, which shows little else, takes
    five times as long: cv2 is fast at halves alone.
    """
    out_height, out_width = out.shape[:2]
    while True:
        height, width = pixels.shape[:2]
        down, across = 1 + (height >= 2 * out_height), 1 + (width >= 2 * out_width)
        if down == across == 1:
            break
        half_wh = width // across, height // down
        even = pixels[: half_wh[1] * down, : half_wh[0] * across]  # an odd line more would make it slow again
        if half_wh == (out_width, out_height):
            cv2.resize(even, half_wh, dst=out, interpolation=cv2.INTER_AREA)
            return
        pixels = np.asarray(cv2.resize(even, half_wh, interpolation=cv2.INTER_AREA), np.uint8)
    if (height, width) == (out_height, out_width):
        np.copyto(out, pixels)
        return
    cv2.resize(pixels, (out_width, out_height), dst=out, interpolation=cv2.INTER_LINEAR)
