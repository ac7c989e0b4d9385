"""Short chains of picture filters before and after the engine. Owns: the steps there are, a chain as text, its pixels.

A chain is text, so that a preset, OSC, the command line and the window carry it alike: `blur:3, grey, mirror`. Pure
functions without state, for any thread. Knows no table, no registry, no engine, and not when a chain is applied.

cv2 and numpy are imported where pixels are touched: what only checks a text (the table, and with it the OSC bridge and
the command line) must not pay for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cv2.typing import MatLike

    from sdv2live.frames import Pixels

MAX_CHAIN_STEPS = 8
MAX_SIDE_PX = 4096  # upscale ends here: a large engine's picture times 4 would be hundreds of megabytes
LOOK_HEIGHT = 256  # amounts in pixels are meant at this height and follow the picture's, so that a look keeps its look
BT709 = (0.2126, 0.7152, 0.0722)

DETAIL_SIGMA = 1.0  # what sharpen and edges take for detail: finer than this, at LOOK_HEIGHT
MOST_DIRECT_SIGMA = 3.5  # a blur's work grows with its width; a wider one is made on a smaller picture
WARMTH = 0.3  # how much of red is gained and of blue lost at warm:1

BAND_ROWS = 32

Where = Literal["pre", "post", "both"]


@dataclass(frozen=True, slots=True)
class StepKind:
    """One step there is. minimum == maximum: it takes no number. is_geometric: it moves the picture's points."""

    doc: str
    default: float
    minimum: float
    maximum: float
    where: Where = "both"
    is_geometric: bool = False

    @property
    def has_amount(self) -> bool:
        return self.minimum < self.maximum


# fmt: off
STEPS: Mapping[str, StepKind] = MappingProxyType({
    "blur": StepKind("Soften; pixels at a height of 256, the same look at every size.", 2.0, 0.0, 32.0),
    "sharpen": StepKind("Add fine detail to itself; 0 leaves the picture as it is.", 0.5, 0.0, 3.0),
    "edges": StepKind("White outlines on black, mixed with the picture; 1 is outlines alone.", 1.0, 0.0, 1.0),
    "grey": StepKind("Take the colours away; 1 takes all.", 1.0, 0.0, 1.0),
    "colour": StepKind("Strength of the colours; 1 leaves them, 0 is grey.", 1.5, 0.0, 3.0),
    "warm": StepKind("Warmer above 0, cooler below.", 0.5, -1.0, 1.0),
    "brightness": StepKind("Added light; 1 makes black white.", 0.1, -1.0, 1.0),
    "contrast": StepKind("Distance from middle grey; 1 leaves it.", 1.3, 0.0, 3.0),
    "mirror": StepKind("Left and right exchanged.", 1.0, 1.0, 1.0, is_geometric=True),
    "upscale": StepKind(f"A picture this many times larger (bicubic), at most {MAX_SIDE_PX} pixels a side; once in a "
                        "chain.", 2.0, 1.0, 4.0, "post", is_geometric=True),
})
# fmt: on

OTHER_SPELLINGS = MappingProxyType({"gray": "grey", "color": "colour"})


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a chain. amount: in the step's range; the default where the step takes no number."""

    name: str
    amount: float

    def __str__(self) -> str:
        if not STEPS[self.name].has_amount:
            return self.name
        # repr gives back the very same number, which :g would not.
        return f"{self.name}:{repr(float(self.amount)).removesuffix('.0')}"


class Chain(tuple[Step, ...]):
    """Steps in the order in which they act; made by `parse_chain`, and its `str` is parsed to an equal one."""

    __slots__ = ()

    def __str__(self) -> str:
        return ", ".join(map(str, self))

    @property
    def geometry(self) -> Chain:
        """The steps that move the picture's points: what another picture needs to lie on top of this chain's."""
        return Chain(step for step in self if STEPS[step.name].is_geometric)


def steps_at(where: Literal["pre", "post"]) -> tuple[str, ...]:
    """The names that a chain may have there: pre is before the engine, post after it."""
    return tuple(name for name, kind in STEPS.items() if kind.where in ("both", where))


def parse_chain(text: str, names: Iterable[str] = tuple(STEPS)) -> Chain:
    """`blur:3, grey | mirror` as a chain of steps out of `names`; a number left out is the step's default.

    Commas, semicolons and bars part the steps; what is empty between them is passed over, so that a text can be
    typed live. Raises ValueError with one clause.
    """
    pieces = [piece for piece in map(str.strip, re.split("[,;|]", text)) if piece]
    if len(pieces) > MAX_CHAIN_STEPS:
        raise ValueError(f"a chain has at most {MAX_CHAIN_STEPS} steps, not {len(pieces)}")
    names = tuple(names)
    chain = Chain(_step(piece, names) for piece in pieces)
    if sum(step.name == "upscale" for step in chain) > 1:
        raise ValueError("upscale can stand in a chain once")
    return chain


def range_words(names: Iterable[str] = tuple(STEPS)) -> str:
    """What may stand in a chain, for messages and the reference page."""
    return f"up to {MAX_CHAIN_STEPS} steps out of {', '.join(f'{name}{_range_of(name)}' for name in names)}"


def size_after(chain: Chain, size_wh: tuple[int, int]) -> tuple[int, int]:
    """The size of a picture of `size_wh` after the chain; the product of `apply_chain` has exactly this one."""
    for step in chain:
        if step.name == "upscale":
            size_wh = _grown(size_wh, step.amount)
    return size_wh


def apply_chain(chain: Chain, pixels: Pixels) -> Pixels:
    """[H, W, 3] uint8 RGB through the chain: the same kind, C-contiguous, of the size that `size_after` says.

    The input is never written to. What changes nothing (an empty chain, blur:0) returns the input itself, so the
    result is not to be written to either. Raises ValueError for an array of another kind.
    """
    if pixels.dtype != "uint8" or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"the picture must be [H, W, 3] uint8 and not empty, not {pixels.dtype} {pixels.shape}")
    if not chain:
        return pixels
    import numpy as np

    picture: MatLike = pixels
    for step in chain:
        picture = _OPS[step.name](picture, step.amount)
    return np.ascontiguousarray(picture, np.uint8)


def _step(piece: str, names: tuple[str, ...]) -> Step:
    word, colon, number = (part.strip() for part in piece.partition(":"))
    name = word.lower()
    name = OTHER_SPELLINGS.get(name, name)
    if name not in names:
        raise ValueError(f"there is no step {word[:40]!r} here, the steps are {', '.join(names)}")
    kind = STEPS[name]
    if not colon:
        return Step(name, kind.default)
    if not kind.has_amount:
        raise ValueError(f"{name} takes no number")
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    if not kind.minimum <= amount <= kind.maximum:  # NaN is in no range
        raise ValueError(f"the range of {name} is{_range_of(name)}, and {number[:40]!r} is not in it")
    return Step(name, amount + 0.0)  # no -0.0


def _range_of(name: str) -> str:
    kind = STEPS[name]
    return f" {kind.minimum:g} to {kind.maximum:g}" if kind.has_amount else ""


def _grown(size_wh: tuple[int, int], factor: float) -> tuple[int, int]:
    width, height = size_wh
    factor = max(1.0, min(factor, MAX_SIDE_PX / max(width, height)))
    return round(width * factor), round(height * factor)


# ---- pixels: [H, W, 3] uint8 in, a new array of that kind out, or the input where nothing changes ----------------


def _scale(picture: MatLike) -> float:
    """Pixels here for one at LOOK_HEIGHT."""
    return float(picture.shape[0]) / LOOK_HEIGHT


def _detail_sigma(picture: MatLike) -> float:
    # A blur narrower than half a pixel is none, and a small picture would have no detail at all.
    return max(DETAIL_SIGMA * _scale(picture), 0.5)


def _gaussian(picture: MatLike, sigma: float) -> MatLike:
    """A Gaussian of `sigma` pixels here. A wide one is made on a smaller picture, within 4 of 255 of the exact one."""
    import cv2

    height, width = picture.shape[:2]
    shrink = 1
    while sigma / shrink > MOST_DIRECT_SIGMA and 2 * shrink <= min(height, width):
        shrink *= 2
    if shrink > 1:
        small = cv2.resize(picture, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
        # Averaging and interpolating blur a little themselves: their variances, in small pixels.
        own_variance = (1 - shrink**-2) / 12 + (1 - shrink**-2) / 6
        blurred = _direct_gaussian(small, math.sqrt((sigma / shrink) ** 2 - own_variance))
        return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    return _direct_gaussian(picture, sigma)


def _direct_gaussian(picture: MatLike, sigma: float) -> MatLike:
    import cv2

    # REFLECT repeats the border pixel: no light is lost or gained at the border.
    return cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def _blur(picture: MatLike, amount: float) -> MatLike:
    return _gaussian(picture, amount * _scale(picture)) if amount > 0 else picture


def _sharpen(picture: MatLike, amount: float) -> MatLike:
    import cv2

    if amount == 0:
        return picture
    soft = _gaussian(picture, _detail_sigma(picture))
    return cv2.addWeighted(picture, 1 + amount, soft, -amount, 0, dst=soft)  # fresh memory costs more than the sum


def _slope(luma: MatLike, gain: float) -> MatLike:
    """The length of the Sobel gradient times `gain`, [H, W] uint8. In bands of rows: fresh memory costs most of it."""
    import cv2
    import numpy as np

    out = np.empty_like(luma)
    for top in range(0, len(luma), BAND_ROWS):
        above = min(top, 1)
        band = luma[top - above : top + BAND_ROWS + 1]
        rows = out[top : top + BAND_ROWS]
        slope_x, slope_y = cv2.Sobel(band, cv2.CV_32F, 1, 0), cv2.Sobel(band, cv2.CV_32F, 0, 1)
        # Not cv2.magnitude: its last bit depends on where its memory lies, and a still picture would flicker.
        slope = np.sqrt(slope_x * slope_x + slope_y * slope_y)
        rows[:] = cv2.convertScaleAbs(slope[above : above + len(rows)], alpha=gain)
    return out


def _edges(picture: MatLike, amount: float) -> MatLike:
    import cv2

    if amount == 0:
        return picture
    scale = _scale(picture)
    # The weights of BT.601 here: cv2 has them six times faster, and an outline does not show the difference.
    luma = _gaussian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), _detail_sigma(picture))
    # In a larger picture the same edge is less steep; a step of 80 levels comes out white.
    lines = cv2.cvtColor(_slope(luma, scale), cv2.COLOR_GRAY2RGB)
    return lines if amount == 1 else cv2.addWeighted(picture, 1 - amount, lines, amount, 0, dst=lines)


def _colour(picture: MatLike, amount: float) -> MatLike:
    import cv2
    import numpy as np

    if amount == 1:
        return picture
    # Each colour's distance from the luminance, times amount.
    weights = np.eye(3) * amount + np.array(BT709) * (1 - amount)
    return cv2.transform(picture, weights.astype(np.float32))


def _grey(picture: MatLike, amount: float) -> MatLike:
    return _colour(picture, 1 - amount)


def _warm(picture: MatLike, amount: float) -> MatLike:
    import cv2
    import numpy as np

    if amount == 0:
        return picture
    return cv2.transform(picture, np.diag([1 + WARMTH * amount, 1, 1 - WARMTH * amount]).astype(np.float32))


def _brightness(picture: MatLike, amount: float) -> MatLike:
    import cv2

    return picture if amount == 0 else cv2.addWeighted(picture, 1, picture, 0, 255 * amount)


def _contrast(picture: MatLike, amount: float) -> MatLike:
    import cv2

    return picture if amount == 1 else cv2.addWeighted(picture, amount, picture, 0, 127.5 * (1 - amount))


def _mirror(picture: MatLike, _: float) -> MatLike:
    import cv2

    return cv2.flip(picture, 1)


def _upscale(picture: MatLike, amount: float) -> MatLike:
    import cv2

    height, width = picture.shape[:2]
    size_wh = _grown((width, height), amount)
    # Cubic and not Lanczos: a twelfth of the time, and hardly another picture.
    return picture if size_wh == (width, height) else cv2.resize(picture, size_wh, interpolation=cv2.INTER_CUBIC)


_OPS: Mapping[str, Callable[[MatLike, float], MatLike]] = MappingProxyType(
    {
        "blur": _blur,
        "sharpen": _sharpen,
        "edges": _edges,
        "grey": _grey,
        "colour": _colour,
        "warm": _warm,
        "brightness": _brightness,
        "contrast": _contrast,
        "mirror": _mirror,
        "upscale": _upscale,
    }
)
