"""fit_into: geometry, colours, and that it writes where it is told."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sdv2live.capture.preprocess import FIT_MODES, fit_into, frame_into, letterbox_place
from sdv2live.frames import Framing, Pixels


def ramp(width: int, height: int) -> Pixels:
    """Red grows to the right, green downwards."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)[None, :]
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    picture[..., 2] = 128
    return picture


@pytest.mark.parametrize("mode", FIT_MODES)
def test_any_size_into_any_size_fills_the_target_and_nothing_else(mode: str) -> None:
    random = np.random.default_rng(5)
    for _ in range(150):
        width, height, out_width, out_height = (int(n) for n in random.integers(1, 90, 4))
        pixels = random.integers(1, 256, (height, width, 3), dtype=np.uint8)
        # The target is a view with neighbours on all sides, as in a ring of slots.
        memory = np.full((out_height + 2, out_width + 2, 3), 77, np.uint8)
        out = memory[1:-1, 1:-1]
        kept = pixels.copy()
        fit_into(pixels, out, mode)
        assert np.array_equal(pixels, kept)
        border = memory.copy()
        border[1:-1, 1:-1] = 77
        assert (border == 77).all()
        if mode == "letterbox":
            top, left, inner_height, inner_width = letterbox_place((width, height), (out_width, out_height))
            inner = out[top : top + inner_height, left : left + inner_width]
            assert inner_width == out_width or inner_height == out_height
            assert int((out.sum(axis=2) > 0).sum()) == int((inner.sum(axis=2) > 0).sum())
            assert (inner > 0).all()
        else:
            assert (out > 0).all()


@pytest.mark.parametrize("mode", FIT_MODES)
def test_the_same_size_is_the_same_picture(mode: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    out = np.zeros_like(pixels)
    fit_into(pixels, out, mode)
    assert np.array_equal(out, pixels)


def test_crop_takes_the_middle() -> None:
    out = np.zeros((64, 64, 3), np.uint8)
    fit_into(ramp(256, 64), out, "crop")
    assert np.abs(out[32, :, 0].astype(int) - np.linspace(96, 159, 64)).max() < 3


def test_letterbox_keeps_the_shape() -> None:
    out = np.full((64, 64, 3), 9, np.uint8)
    fit_into(np.full((64, 256, 3), 200, np.uint8), out, "letterbox")
    assert (out[:24] == 0).all() and (out[24:40] == 200).all() and (out[40:] == 0).all()
    out[:] = 9
    fit_into(np.full((256, 64, 3), 200, np.uint8), out, "letterbox")
    assert (out[:, :24] == 0).all() and (out[:, 24:40] == 200).all() and (out[:, 40:] == 0).all()


def test_stretch_shows_all_of_it() -> None:
    out = np.zeros((40, 90, 3), np.uint8)
    fit_into(ramp(200, 200), out, "stretch")
    assert np.abs(out.astype(int) - ramp(90, 40)).max() < 8


def test_pictures_that_are_not_contiguous() -> None:
    wide = ramp(200, 100)
    out, expected = np.zeros((48, 48, 3), np.uint8), np.zeros((48, 48, 3), np.uint8)
    for view in (wide[:, ::-1], wide[::2, ::3], wide[:, :, ::-1], np.asfortranarray(wide)):
        fit_into(view, out, "crop")
        fit_into(np.ascontiguousarray(view), expected, "crop")
        assert np.array_equal(out, expected)


def test_a_target_whose_rows_are_scattered_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        fit_into(ramp(200, 100), np.zeros((48, 96, 3), np.uint8)[:, ::2], "crop")


@pytest.mark.parametrize("shape", [(0, 0, 3), (4, 4), (4, 4, 4), (4, 0, 3)])
def test_what_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        fit_into(np.zeros(shape, np.uint8), np.zeros((8, 8, 3), np.uint8), "crop")


def test_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="crop, letterbox, stretch"):
        fit_into(ramp(8, 8), np.zeros((8, 8, 3), np.uint8), "zoom")


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("mode", FIT_MODES)
def test_a_turn_of_the_small_picture_is_a_turn_of_the_large_one(mode: str, turns: int, is_mirrored: bool) -> None:
    """Beside cv2's own turn and flip of the whole frame, fitted afterwards."""
    source = cv2.resize(np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8), (128, 96))
    upright = source if turns == 0 else cv2.rotate(source, turns - 1)
    if is_mirrored:
        upright = cv2.flip(upright, 1)
    expected, out = np.zeros((48, 128, 3), np.uint8), np.zeros((48, 128, 3), np.uint8)
    fit_into(np.ascontiguousarray(upright), expected, mode)
    frame_into(source, out, Framing(mode, turns, is_mirrored))
    assert np.abs(out.astype(int) - expected).max() <= 2


def area_mean(picture: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Each pixel the exact mean of the rectangle that it stands for, one axis after the other, slowly."""
    for axis, count in ((0, size_wh[1]), (1, size_wh[0])):
        edges = np.linspace(0, picture.shape[axis], count + 1)
        sums = np.concatenate([np.zeros_like(picture.take([0], axis), float), np.cumsum(picture, axis, float)], axis)
        whole = np.floor(edges).astype(int)
        inside = np.minimum(whole, picture.shape[axis] - 1)
        share = (edges - whole).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        at_edges = sums.take(whole, axis) + share * picture.take(inside, axis)
        picture = np.diff(at_edges, axis=axis) / (picture.shape[axis] / count)
    return picture


@pytest.mark.parametrize("ratio", [1.0, 1.2, 1.5, 1.9, 2.0, 2.25, 2.8, 4.0, 5.3, 8.0])
@pytest.mark.parametrize(("height", "most"), [(480, 1.5), (481, 3.5)])
def test_a_smaller_picture_is_about_the_mean_of_what_it_stands_for(ratio: float, height: int, most: float) -> None:
    """most: root mean square, of 255. Of an odd number of lines the last is left out, which moves the others a bit."""
    rows, columns = np.mgrid[0:height, 0:640]
    waves = [np.sin(rows / 9.0) * np.cos(columns / 13.0), np.sin((rows + columns) / 21.0), np.cos(columns / 8.0)]
    picture = np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)
    out = np.empty((round(height / ratio), round(640 / ratio), 3), np.uint8)
    fit_into(picture, out, "stretch")
    expected = area_mean(picture, (out.shape[1], out.shape[0]))
    error = out.astype(float) - expected
    assert np.sqrt(np.mean(error**2)) < most


def test_a_picture_that_is_much_smaller_misses_no_line() -> None:
    """Lines two pixels apart become their mean, and not one of them."""
    lines = np.zeros((512, 512, 3), np.uint8)
    lines[::2] = 255
    out = np.empty((60, 60, 3), np.uint8)
    fit_into(lines, out, "stretch")
    assert np.abs(out.astype(int) - 128).max() <= 2
