"""Pictures for when there is no picture, and the mix of camera and effect. Pure functions on arrays."""

from __future__ import annotations

import cv2
import numpy as np

from sdv2live.frames import Pixels

BACKGROUND = (24, 26, 32)
FOREGROUND = (214, 218, 226)
RANDOM_WEIGHTS_LABEL = "random weights"


def card(size_wh: tuple[int, int], title: str, detail: str = "") -> Pixels:
    """A still with a word on what is going on: [H, W, 3] uint8 RGB. Never black without a word."""
    width, height = size_wh
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = BACKGROUND
    lines = [title, *_wrapped(detail, 34)]
    scale = min(width / 420, height / 240)
    line_height = round(26 * scale)
    top = height // 2 - line_height * (len(lines) - 1) // 2
    for number, line in enumerate(lines):
        size = scale * (0.8 if number == 0 else 0.5)
        (line_width, _), _ = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        origin = (max((width - line_width) // 2, 2), top + number * line_height)
        cv2.putText(picture, line, origin, cv2.FONT_HERSHEY_SIMPLEX, size, FOREGROUND, 1, cv2.LINE_AA)
    return picture


def labelled(pixels: Pixels, words: str) -> Pixels:
    """A copy of the picture with `words` in a corner, on a ground of their own."""
    picture = pixels.copy()
    height, width = picture.shape[:2]
    scale = max(0.3, min(width / 640, height / 360) * 0.5)
    (text_width, text_height), base = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    cv2.rectangle(picture, (0, height - text_height - 2 * base), (text_width + 2 * base, height), BACKGROUND, -1)
    cv2.putText(picture, words, (base, height - base), cv2.FONT_HERSHEY_SIMPLEX, scale, FOREGROUND, 1, cv2.LINE_AA)
    return picture


def mixed(source: Pixels, effect: Pixels, wet: float) -> Pixels:
    """source * (1 - wet) + effect * wet; wet 0 and 1 return the one or the other as it is."""
    if wet >= 1.0:
        return effect
    if wet <= 0.0:
        return source
    return cv2.addWeighted(source, 1.0 - wet, effect, wet, 0.0)  # type: ignore[return-value]


def _wrapped(text: str, width: int) -> list[str]:
    """The text in at most four lines of plain characters: the built-in font has no others."""
    lines: list[str] = []
    for word in text.encode("ascii", "replace").decode().split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word[:width])
    return lines[:4]
