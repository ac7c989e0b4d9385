"""The figures of the evaluation against what they must be on pictures made for it, and the tables that they end in."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdv2live.errors import UserError
from sdv2live.frames import Pixels
from sdv2live.measures import Picture
from sdv2live.paths import assets_dir
from sdv2live.training import evaluate as evaluation
from sdv2live.training.evaluate import Evaluation, Knobs, Progress, Row, Variant
from sdv2live.training.quality import (
    Figures,
    edge_distance,
    figures_of,
    flicker,
    missed,
    motions,
    palette_distance,
    psnr,
)
from sdv2live.training.report import guards, report
from sdv2live.training.sheets import BAND_GREY, BAND_PX, sheet

GOOD = Figures(30, 20, 0.9, 0.3, 1.0, 4, 10, 0.9, 1e-3, 1e-3)


def _noise(count: int = 1, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(40, 200, (count, 48, 64, 3)).astype(np.uint8)


def test_palettes_forget_places_and_count_levels() -> None:
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[::3, ::3] = _noise()[0, :16, :16]
    shuffled = np.zeros_like(picture)
    shuffled[::3, ::3] = picture[::3, ::3][::-1, ::-1]
    assert palette_distance(picture, shuffled) == pytest.approx(0, abs=1e-4)
    lighter = picture + np.uint8(9)
    # Grey moves by 9 along each direction's sum of signs over its length: by hand, the mean of the 13.
    signs = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)]
    expected = 9 * np.mean([abs(sum(s)) / np.sqrt(np.abs(s).sum()) for s in signs])
    assert palette_distance(lighter, picture) == pytest.approx(expected, rel=1e-4)


def test_edges_are_told_by_their_steepness() -> None:
    step = np.zeros((32, 32, 3), np.uint8)
    step[:, 16:] = 200
    half = step // 2
    assert edge_distance(Picture.of(step), Picture.of(step)) == 0
    assert edge_distance(Picture.of(half), Picture.of(step)) == pytest.approx(0.5, abs=0.01)
    assert edge_distance(Picture.of(np.zeros_like(step)), Picture.of(step)) == pytest.approx(1)


def test_flicker_is_in_grey_levels() -> None:
    frames = np.full((6, 16, 16, 3), 100, np.uint8)
    frames[1::2] += 3
    assert flicker(frames) == pytest.approx(3)


def test_a_clip_that_is_its_target_misses_nothing() -> None:
    source = np.repeat(_noise(), 3, 0)
    target = 255 - source
    figures = figures_of(target, target, source, motions(source))
    assert figures.psnr == 99 and figures.ssim == pytest.approx(1)
    assert figures.nothing_psnr == psnr(source, target) < 18
    found = (figures.edges, figures.palette, figures.sharpness, figures.warp)
    assert found == pytest.approx((0, 0, 1, 0), abs=1e-6)
    assert missed(figures, "oil") == []


@pytest.mark.parametrize(
    ("change", "short"),
    [
        ({"psnr": 21}, ["gain"]),
        ({"nothing_psnr": 17, "psnr": 20.9}, ["gain"]),
        ({"edges": 0.6}, ["edges"]),
        ({"palette": 6}, ["palette"]),
        ({"nothing_psnr": 17, "edges": 0.6, "palette": 6}, []),
        ({"sharpness": 0.6}, ["sharpness"]),
        ({"warp": 1.2e-3}, ["warp error"]),
        ({"warp": 1.2e-5, "target_warp": 1e-6}, []),
    ],
)
def test_aims(change: dict[str, float], short: list[str]) -> None:
    assert missed(replace(GOOD, **change), "cel") == short


def test_identity_has_an_aim_of_its_own() -> None:
    assert missed(replace(GOOD, psnr=29, nothing_psnr=99), "identity") == ["PSNR"]
    assert missed(replace(GOOD, psnr=29, nothing_psnr=99), "identity", is_video=True) == []


def _row(
    look: str = "oil", *, cost: float = 3.0, encoded: float = 0.6, latent: float = 0.9, spread: float = 0.4
) -> Row:
    return Row("a", (64, 64), look, {}, cost, encoded, latent, spread)


def test_a_sound_model_breaks_no_guard() -> None:
    assert all(guard.holds for guard in guards([_row(), _row("night", cost=0.1)]))


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (_row("cel", cost=0.5), "a latent of nought costs cel"),
        (_row("cel", cost=float("nan")), "a latent of nought costs cel"),
        (_row(encoded=0.1), "encoder"),
        (_row(latent=1.6), "transformer"),
        (_row(latent=float("nan")), "transformer"),
        (_row(spread=0.0), "flattest"),
    ],
)
def test_each_guard_is_broken_by_what_it_guards_against(broken: Row, named: str) -> None:
    (guard,) = [guard for guard in guards([_row(), broken]) if not guard.holds]
    assert named in guard.name


def test_what_was_found_is_written_whole_and_without_nan(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    found = Evaluation(0, [_row(cost=float("nan"))], knobs=[Knobs("oil", 0.1, [1], 0.1, 1.0, (30, 30), None)])
    found.write(path)
    found.write(path)
    read = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert read["rows"][0]["zero_cost_db"] is None and read["knobs"][0]["drift_db"] is None
    assert [each.name for each in tmp_path.iterdir()] == ["evaluation.json"]


def test_progress_tells_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    time_s = 100.0
    progress = Progress(10, lambda: time_s)
    time_s = 340.0
    progress.did(4, "oil")
    assert "oil: 40 % done, some 6 min left" in capsys.readouterr().err


@pytest.mark.parametrize("chunks", [-1, 1, 12, 17, 23])
def test_too_few_chunks_to_tell_drift_are_refused(chunks: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{chunks} chunks are too few .* 24 or more, or 0 to leave it out"):
        evaluation.evaluate(tmp_path / "none", tmp_path, video=None, looks=["night"], drift_chunks=chunks)


def test_a_sheet_shows_every_tile_in_its_place() -> None:
    tiles = [(f"{grey}", np.full((40, 48, 3), grey, np.uint8)) for grey in (50, 100, 150, 200, 250)]
    shown = sheet(tiles, 3)
    assert shown.shape == (2 * (40 + BAND_PX), 3 * 48, 3)
    places = [shown[row * (40 + BAND_PX) + BAND_PX + 20, column * 48 + 24, 0] for row in (0, 1) for column in range(3)]
    assert places == [50, 100, 150, 200, 250, BAND_GREY]
    assert shown[:BAND_PX, :48].max() > 100, "its name is written above it"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no file "),
        (b"figures, not pictures", "holds no picture that can be decoded"),
        (5, "has 5 frames and 12 are needed"),
    ],
)
def test_a_video_that_is_none_is_told_before_anything_is_loaded(
    content: bytes | int | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "clip.avi"
    if isinstance(content, int):
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
        for frame in _noise(content):
            video.write(frame)
        video.release()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{said}.*: give --video"):
        evaluation.evaluate(tmp_path / "no model", tmp_path, video=path, looks=["night"], drift_chunks=0)


def test_the_shipped_model_can_be_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, small: through the live engine, with figures, sheets and tables."""
    pytest.importorskip("skimage")
    monkeypatch.setattr(evaluation, "SIZES_WH", ((96, 64),))
    monkeypatch.setattr(evaluation, "DRIFT_SIZE_WH", (96, 64))
    monkeypatch.setattr(evaluation, "COLOURS", {name: evaluation.COLOURS[name] for name in ("none", "red")})
    for module in (evaluation, sys.modules[report.__module__]):
        monkeypatch.setattr(module, "NOISES", (0.5,))
    found = evaluation.evaluate(assets_dir() / "pocket", tmp_path, video=None, looks=["night"], drift_chunks=24)
    assert [row.clip for row in found.rows] == ["chelsea", "astronaut"]
    assert all(row.figures["0.5 / 1"].psnr > row.figures["0.5 / 1"].nothing_psnr + 4 for row in found.rows)
    strengths = found.knobs[0].strengths
    assert strengths[:-1] == sorted(strengths[:-1]), "up to 0.5 more noise is more of the look"
    assert strengths[-1] > 0.9 * max(strengths), "which it stays beyond that"
    assert json.loads((tmp_path / "evaluation.json").read_text())["rows"][0]["look"] == "night"
    assert (tmp_path / "looks-chelsea-96x64.jpg").is_file() and (tmp_path / "colours-astronaut.jpg").is_file()
    assert (tmp_path / "strip-astronaut-96x64.jpg").is_file()
    assert [each.variant for each in found.variants] == ["none", "red", "slightly"]
    assert all(each.psnr > each.nothing_psnr + 1.5 for each in found.variants)
    assert all(guard.holds for guard in guards(found.rows))
    text = report(found)
    assert "drift over 24 chunks" in text and "Not run, and so not tested with a latent of nought: oil," in text
    assert "| chelsea | night |" in text and "96x64, noise 0.5, one step" in text


def test_tables_mark_what_falls_short() -> None:
    figures = {f"{noise} / {steps}": GOOD for noise in evaluation.NOISES for steps in evaluation.STEPS}
    figures["0.7 / 2"] = replace(GOOD, psnr=28)
    found = Evaluation(
        24,
        [replace(_row(cost=0.4), figures=figures)],
        [
            Variant("a", (64, 64), "oil", "red", 20.0, 19.0),
            Variant("a", (64, 64), "oil", "blue", 25.0, 19.0),
            Variant("a", (64, 64), "identity", "none", 40.0, 99.0),
        ],
        [Knobs("oil", 0.8, [1, 5, 4, 6, 7, 8, 9], 0.2, 1.0, (30, 30), -2.0)],
    )
    text = report(found)
    assert "2.0 dB worse" in text and "| a latent of nought costs oil, in dB | 0.4 | 1.0 or more | **NO** |" in text
    assert "Less than 1.5 dB better than doing nothing: oil red (+1.0)." in text
    # The floors and units that a reader would not guess stand beside the figures.
    assert "warp error over the target's (or over 2.55 grey levels of 255 where that is more)" in text
    assert "1.1 times that of the target's, or of 2.55 grey levels of 255 where that is more" in text
    assert "largest of ten steps of a blend, as a share of all ten" in text
    assert "**0.80**" in text and "(falls)" in text and "**-2.00**" in text
