"""Filter chains: what a text means, and each step's pixels against a plain numpy way to the same picture."""

from __future__ import annotations

import itertools
import math
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sdv2live.filters import (
    _OPS,
    MAX_CHAIN_STEPS,
    MAX_SIDE_PX,
    STEPS,
    Chain,
    Step,
    apply_chain,
    parse_chain,
    range_words,
    size_after,
    steps_at,
)
from sdv2live.frames import Pixels

ROOT = Path(__file__).parents[2]
LONG = "blur:3, grey:0.5, colour:1.3, sharpen:0.5, mirror, edges:0.7, warm:-0.25, upscale:2"
CHANGING = [name if not kind.has_amount else f"{name}:{kind.default}" for name, kind in STEPS.items()]


def noise(height: int = 64, width: int = 96, seed: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def scene(height: int, width: int) -> Pixels:
    """The same smooth picture with one hard edge at any size."""
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    planes = [120 + 100 * np.sin(9 * x + 4 * y), 255 * (x > 0.4) * (y > 0.3), 128 + 90 * np.cos(7 * y)]
    return np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)


def run(text: str, pixels: Pixels) -> Pixels:
    return apply_chain(parse_chain(text), pixels)


def rounded(picture: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(picture.clip(0, 255)).astype(np.int64)


def apart(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """The largest difference."""
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


def luminance(pixels: Pixels) -> NDArray[np.float64]:
    return (pixels.astype(np.float64) @ np.array([0.2126, 0.7152, 0.0722]))[..., None]


def plain_blur(pixels: Pixels, sigma: float) -> NDArray[np.float64]:
    """A Gaussian by the book: each line times each weight, borders reflected."""
    reach = math.ceil(4 * sigma)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    picture = pixels.astype(np.float64)
    for axis in (0, 1):
        around = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(picture, around, mode="symmetric")
        length = picture.shape[axis]
        parts = (padded.take(range(at, at + length), axis=axis) * weight for at, weight in enumerate(weights))
        picture = sum(parts, start=np.zeros_like(picture))
    return picture


# ---- the text ----------------------------------------------------------------------------------------------------


def test_a_text_becomes_steps_in_its_order_with_defaults() -> None:
    chain = parse_chain("blur:3, grey | Mirror;colour : 1.30,")
    assert chain == (Step("blur", 3.0), Step("grey", 1.0), Step("mirror", 1.0), Step("colour", 1.3))
    assert str(chain) == "blur:3, grey:1, mirror, colour:1.3"


@pytest.mark.parametrize("text", ["", "  ", ",", " | ; ,"])
def test_an_empty_text_is_an_empty_chain(text: str) -> None:
    assert parse_chain(text) == Chain() and str(parse_chain(text)) == ""


def test_american_spellings_are_understood() -> None:
    assert str(parse_chain("color:2, gray")) == "colour:2, grey:1"


@pytest.mark.parametrize(
    "text", ["", LONG, ", ".join(CHANGING[2:]), "blur:0.1, blur:1e-7, warm:-0, colour:0.3333333333"]
)
def test_the_canonical_text_gives_the_same_chain(text: str) -> None:
    chain = parse_chain(text)
    assert parse_chain(str(chain)) == chain and str(parse_chain(str(chain))) == str(chain)


REFUSED = {
    "blr": "no step 'blr' here, the steps are blur, ",
    ":3": "no step ''",
    "blur 3": "no step 'blur 3'",
    "blur:0,5": "no step '5'",
    "x" * 5000: "no step 'xxx",
    "blur:nan": "range of blur is 0 to 32, and 'nan'",
    "blur:inf": "range of blur",
    "blur:-inf": "range of blur",
    "blur:1e999": "range of blur",
    "blur:": "range of blur is 0 to 32, and ''",
    "blur:-0.1": "range of blur",
    "blur:3:4": "'3:4' is not in it",
    "warm:1.01": "range of warm is -1 to 1, and '1.01'",
    "upscale:5": "range of upscale is 1 to 4",
    "mirror:1": "mirror takes no number",
    "upscale, upscale": "once",
    "grey," * 9: "at most 8 steps, not 9",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:12])
def test_what_is_refused_is_said_in_one_clause(text: str) -> None:
    with pytest.raises(ValueError) as refusal:
        parse_chain(text)
    message = str(refusal.value)
    assert REFUSED[text] in message and len(message) < 200 and message.isprintable() and not message.endswith(".")


def test_upscale_is_for_what_the_engine_made() -> None:
    assert set(steps_at("post")) - set(steps_at("pre")) == {"upscale"}
    assert parse_chain("grey, upscale", steps_at("post"))[1].amount == 2.0
    with pytest.raises(ValueError, match="no step 'upscale' here") as refusal:
        parse_chain("grey, upscale", steps_at("pre"))
    assert "upscale" not in str(refusal.value).partition("the steps are")[2]


def test_the_limits_of_every_step_are_themselves_allowed() -> None:
    for name, kind in STEPS.items():
        assert kind.minimum <= kind.default <= kind.maximum and kind.doc.endswith(".")
        assert name in range_words()
        for amount in (kind.minimum, kind.maximum) if kind.has_amount else ():
            assert parse_chain(f"{name}:{amount}") == (Step(name, amount),)
    assert set(_OPS) == set(STEPS)
    assert len(parse_chain("grey," * MAX_CHAIN_STEPS)) == MAX_CHAIN_STEPS


@pytest.mark.fuzz
def test_no_text_raises_anything_but_a_value_error() -> None:
    seed = int(os.environ.get("FUZZ_SEED", "1"))
    print("seed", seed)
    rng = random.Random(seed)
    words = [*STEPS, *CHANGING, "gray", "nan", "-inf", "1e400", "1_0", "٣", "\ud800", "\x00", "\n", "9" * 400, "0x10"]
    understood = 0
    for _ in range(6000):
        if rng.random() < 0.5:
            ends = ("", "", "", f":{rng.uniform(-2, 4)}", f" : {rng.random()}", ":", "::")
            pieces = [rng.choice(words) + rng.choice(ends) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 9, 40)))]
            text = rng.choice(",;| ").join(pieces)
        else:
            text = "".join(
                chr(rng.choice([rng.randrange(128), rng.randrange(0x11000)])) for _ in range(rng.randrange(40))
            )
        try:
            chain = parse_chain(text)
        except ValueError:
            continue
        understood += len(chain) > 0
        assert parse_chain(str(chain)) == chain and len(chain) <= MAX_CHAIN_STEPS
        assert all(STEPS[step.name].minimum <= step.amount <= STEPS[step.name].maximum for step in chain)
    assert understood > 100, "the fuzz reached nothing"


# ---- the pixels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [1.0, 0.4])
def test_grey_is_the_luminance_of_bt709(amount: float) -> None:
    pixels = noise()
    wanted = pixels * (1 - amount) + luminance(pixels) * amount
    got = run(f"grey:{amount}", pixels)
    assert apart(got, rounded(wanted)) <= 1
    if amount == 1:
        assert (got == got[..., :1]).all()


@pytest.mark.parametrize("amount", [0.0, 0.5, 1.3, 3.0])
def test_colour_is_the_distance_from_the_luminance(amount: float) -> None:
    pixels = noise()
    grey = luminance(pixels)
    assert apart(run(f"colour:{amount}", pixels), rounded(grey + (pixels - grey) * amount)) <= 1


@pytest.mark.parametrize("name", ["colour:2.5", "grey:0.3", "sharpen:3", "blur:4"])
def test_a_plain_grey_stays_as_it_is(name: str) -> None:
    for value in (0, 1, 127, 254, 255):
        plain = np.full((32, 48, 3), value, np.uint8)
        assert (run(name, plain) == value).all()


@pytest.mark.parametrize("amount", [0.0, 0.7, 1.5, 3.0])
def test_contrast_is_the_distance_from_the_middle(amount: float) -> None:
    assert apart(run(f"contrast:{amount}", noise()), rounded((noise() - 127.5) * amount + 127.5)) <= 1


@pytest.mark.parametrize("amount", [-1.0, -0.2, 0.35, 1.0])
def test_brightness_adds_light(amount: float) -> None:
    assert apart(run(f"brightness:{amount}", noise()), rounded(noise() + 255.0 * amount)) <= 1


@pytest.mark.parametrize("amount", [-1.0, 0.5])
def test_warm_moves_red_and_blue_against_each_other(amount: float) -> None:
    wanted = noise() * np.array([1 + 0.3 * amount, 1, 1 - 0.3 * amount])
    assert apart(run(f"warm:{amount}", noise()), rounded(wanted)) <= 1


def test_mirror_exchanges_left_and_right() -> None:
    assert (run("mirror", noise()) == noise()[:, ::-1]).all()
    assert (run("mirror, mirror", noise()) == noise()).all()


@pytest.mark.parametrize("amount", [0.5, 1.5, 3.0, 6.0, 20.0])
def test_blur_is_a_gaussian_and_keeps_the_mean(amount: float) -> None:
    pixels = scene(256, 320)
    got, wanted = run(f"blur:{amount}", pixels), plain_blur(pixels, amount)
    assert apart(got, wanted) <= 4 and np.abs(got - wanted).mean() < 0.6
    assert apart(got.mean((0, 1)), pixels.mean((0, 1))) < 0.4


@pytest.mark.parametrize("text", ["blur:1", "blur:5", "blur:16", "sharpen:1.5", "edges:1"])
def test_a_look_is_the_same_at_every_size(text: str) -> None:
    """A picture twice as large, filtered and halved again, is the small one filtered."""
    small, large = run(text, scene(256, 320)), run(text, scene(512, 640))
    halved = large.reshape(256, 2, 320, 2, 3).mean((1, 3))
    assert np.abs(halved - small).mean() < 2.0
    unscaled = run(text, scene(512, 640)[:256, :320])  # the measure sees what is not scaled
    assert np.abs(unscaled - small).mean() > 4.0


def test_a_wide_blur_goes_over_into_the_exact_one_without_a_jump() -> None:
    pixels = scene(256, 256)
    amounts = np.arange(3.0, 4.2, 0.1)
    pictures = [run(f"blur:{amount:.2f}", pixels).astype(np.float64) for amount in amounts]
    moves = [np.abs(later - earlier).mean() for earlier, later in itertools.pairwise(pictures)]
    assert max(moves) < 0.5


@pytest.mark.parametrize("amount", [0.5, 3.0])
def test_sharpen_adds_what_a_blur_takes(amount: float) -> None:
    pixels = scene(256, 256)
    wanted = rounded(pixels + amount * (pixels - plain_blur(pixels, 1.0)))
    assert apart(run(f"sharpen:{amount}", pixels), wanted) <= 1 + 1.5 * amount


def test_edges_are_white_lines_on_black() -> None:
    pixels = np.full((256, 256, 3), 60, np.uint8)
    pixels[:, 128:] = 200
    lines = run("edges", pixels)
    assert (lines == lines[..., :1]).all()
    assert (lines[:, 127:129] == 255).all() and (lines[:, :120] == 0).all() and (lines[:, 136:] == 0).all()
    half = run("edges:0.5", pixels)
    assert apart(half, (lines.astype(float) + pixels) / 2) <= 1


@pytest.mark.parametrize("height", [256, 225, 193])
def test_edges_follow_the_slope_of_the_picture(height: int) -> None:
    pixels, scale = scene(256, 256)[:height], height / 256
    luma = plain_blur(rounded(pixels @ np.array([[0.299], [0.587], [0.114]])).astype(np.uint8), scale)[..., 0]
    padded = np.pad(luma, 1, mode="reflect")
    smooth_y = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_x = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    slope = np.hypot(smooth_y[:, 2:] - smooth_y[:, :-2], smooth_x[2:] - smooth_x[:-2])
    difference = np.abs(run("edges", pixels)[..., 0] - (slope * scale).clip(0, 255))
    assert difference.max() <= 8 and difference.mean() < 1.5


@pytest.mark.parametrize(("factor", "size_wh"), [(1, (96, 64)), (1.5, (144, 96)), (2, (192, 128)), (4, (384, 256))])
def test_upscale_makes_the_same_picture_larger(factor: float, size_wh: tuple[int, int]) -> None:
    pixels = plain_blur(noise(), 2.0).astype(np.uint8)
    chain = parse_chain(f"upscale:{factor}")
    large = apply_chain(chain, pixels)
    assert (large.shape[1], large.shape[0]) == size_wh == size_after(chain, (96, 64))
    if factor in (2, 4):
        n = int(factor)
        assert apart(large.reshape(64, n, 96, n, 3).mean((1, 3)), pixels) < 3


def test_upscale_ends_at_its_largest_side() -> None:
    assert size_after(parse_chain("upscale:4"), (2048, 1024)) == (MAX_SIDE_PX, MAX_SIDE_PX // 2)
    assert size_after(parse_chain("upscale:4"), (5000, 10)) == (5000, 10)
    pixels = np.zeros((2, MAX_SIDE_PX // 2, 3), np.uint8)
    assert run("upscale:4", pixels).shape == (4, MAX_SIDE_PX, 3)


def test_order_matters() -> None:
    pixels = scene(128, 128)
    assert apart(run("edges, blur:4", pixels), run("blur:4, edges", pixels)) > 20
    assert apart(run("brightness:0.5, contrast:0.2", pixels), run("contrast:0.2, brightness:0.5", pixels)) > 50


@pytest.mark.parametrize("text", [*CHANGING, LONG])
def test_the_input_is_left_alone_and_the_same_comes_out_each_time(text: str) -> None:
    pixels, before = noise(), noise()
    pixels.flags.writeable = False  # as the frames of a source are
    first, second = run(text, pixels), run(text, pixels)
    assert (pixels == before).all() and (first == second).all()
    assert not np.shares_memory(first, pixels) and apart(first[:64, :96], before) > 0
    assert first.dtype == np.uint8 and first.flags.c_contiguous and first.flags.writeable and first.shape[2] == 3


@pytest.mark.parametrize("text", [*CHANGING, "edges:0.7", LONG])
def test_where_a_picture_lies_in_memory_does_not_show(text: str) -> None:
    """cv2 has functions whose last bit depends on it."""
    rng = random.Random(1)
    pictures = [noise(seed=seed) for seed in range(4)]
    first = [run(text, picture) for picture in pictures]
    clutter: list[NDArray[np.uint8]] = []
    for number in range(80):
        clutter.append(np.empty(rng.randrange(1, 200_000), np.uint8))
        clutter = rng.sample(clutter, min(10, len(clutter)))
        assert (run(text, pictures[number % 4]) == first[number % 4]).all()


@pytest.mark.parametrize(
    "text", ["", "blur:0", "sharpen:0, edges:0, grey:0, colour:1, warm:0, brightness:0, contrast:1, upscale:1"]
)
def test_what_changes_nothing_costs_no_copy(text: str) -> None:
    pixels = noise()
    assert run(text, pixels) is pixels


@pytest.mark.parametrize("text", ["blur:0", "mirror", LONG])
def test_views_with_rows_apart_or_backwards_are_read_as_they_are(text: str) -> None:
    whole = noise(80, 200)
    for view in (whole[3:67, 5:101], whole[:, ::-1], whole[::-1, ::2], np.asfortranarray(whole)):
        got = run(text, view)
        assert (got == run(text, view.copy())).all() and got.flags.c_contiguous


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 7), (17, 33)])
def test_every_step_takes_the_smallest_pictures(shape: tuple[int, int]) -> None:
    for name, kind in STEPS.items():
        chain = Chain([Step(name, kind.maximum)])
        got = apply_chain(chain, noise(*shape))
        assert got.shape[1::-1] == size_after(chain, shape[::-1])


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_another_kind_of_array_is_refused(bad: Pixels) -> None:
    for text in ("", "grey"):
        with pytest.raises(ValueError, match=r"\[H, W, 3\] uint8"):
            run(text, bad)
    with pytest.raises(ValueError, match="not empty"):
        run("grey", np.zeros((0, 4, 3), np.uint8))


def test_threads_do_not_disturb_each_other() -> None:
    pictures = [noise(seed=seed) for seed in range(8)]
    alone = [run(LONG, picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda number: run(LONG, pictures[number % 8]), range(64)))
    assert all((got == alone[number % 8]).all() for number, got in enumerate(together))


def test_the_geometry_lays_another_picture_on_top() -> None:
    chain = parse_chain("blur:3, mirror, colour:2, upscale:2, sharpen")
    assert str(chain.geometry) == "mirror, upscale:2"
    assert apply_chain(chain.geometry, noise()).shape == apply_chain(chain, noise()).shape


def test_checking_a_text_loads_no_pixels() -> None:
    code = (
        "import sys; from sdv2live.filters import parse_chain; str(parse_chain('blur:3, grey'));"
        "print([name for name in ('numpy', 'cv2', 'torch') if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
