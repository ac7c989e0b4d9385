"""The looks against plain versions of themselves and against what they promise."""

import pytest
import torch
import torch.nn.functional as F

from sdv2live.training.effects import (
    COLOURS,
    LOOKS,
    gauss,
    kuwahara,
    luma,
    pixel,
    soft_posterise,
)


def _picture(side: int = 64, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    rough = torch.rand(count, 3, side, side, generator=generator)
    return (gauss(rough, 2.0) - 0.5).mul(3).add(0.5).clamp(0, 1)


@pytest.mark.parametrize("name", [*LOOKS, *COLOURS])
def test_shape_range_and_frames_apart(name: str) -> None:
    effect = {**LOOKS, **COLOURS}[name]
    x = _picture(count=2)
    y = effect(x)
    assert y.shape == x.shape
    assert y.min() >= -1e-6
    assert y.max() <= 1 + 1e-6
    torch.testing.assert_close(y[1:], effect(x[1:]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", list(LOOKS))
def test_a_look_moves_with_the_picture(name: str) -> None:
    """A shift by 8 pixels shifts the result, away from the borders."""
    x = _picture(128)
    whole, shifted = LOOKS[name](x), LOOKS[name](x.roll((8, 8), (2, 3)))
    torch.testing.assert_close(
        whole.roll((8, 8), (2, 3))[..., 48:-40, 48:-40], shifted[..., 48:-40, 48:-40], atol=0.02, rtol=0
    )


def test_pixel_blocks_are_flat_and_follow_the_mean() -> None:
    x = torch.full((1, 3, 16, 16), 0.4)
    x[..., 8:, :] = 0.8
    y = pixel(x)
    for top in (0, 8):
        block = y[..., top : top + 8, :8]
        assert float(block.std()) < 1e-6
    assert y[0, 0, 0, 0] < y[0, 0, 8, 0]


def test_posterise_keeps_the_ends_and_steps_between() -> None:
    x = torch.linspace(0, 1, 501)
    y = soft_posterise(x, 5)
    assert y[0] == pytest.approx(0.0, abs=1e-6)
    assert y[-1] == pytest.approx(1.0, abs=1e-5)
    assert bool((y.diff() >= -1e-6).all())
    plateau = y[((y - 0.5).abs() < 0.05)]
    assert len(plateau) > 75


def test_kuwahara_is_the_plain_weighted_choice() -> None:
    x = _picture(24)
    fast = kuwahara(x, reach_px=2, blob_px=1.0)
    grey = luma(x)
    moments = gauss(torch.cat([x, grey, grey * grey], 1), 1.0)[0]
    for row, column in ((10, 12), (5, 5), (15, 9)):
        total, weights = torch.zeros(3), 0.0
        for dx, dy in ((2, 0), (1, 1), (0, 2), (-1, 1), (-2, 0), (-1, -1), (0, -2), (1, -1)):
            blob = moments[:, row + dy, column + dx]
            weight = float((blob[4] - blob[3] ** 2).clamp_min(0) + 1e-4) ** -3
            total, weights = total + weight * blob[:3], weights + weight
        torch.testing.assert_close(fast[0, :, row, column], total / weights, atol=1e-3, rtol=0)


def test_flat_pictures_stay_flat() -> None:
    """But for the dots of halftone, which are flat from block to block."""
    x = torch.full((1, 3, 64, 64), 0.5)
    for name, look in LOOKS.items():
        drawn = F.avg_pool2d(look(x), 8) if name == "halftone" else look(x)
        assert float(drawn.std(dim=(2, 3)).max()) < 1e-3, name


def test_dots_grow_with_the_shade() -> None:
    """Of an even grey, the share of paper that is covered; two dots to a block."""
    covered = []
    for grey in (0.7, 0.6, 0.5, 0.4):
        drawn = luma(LOOKS["halftone"](torch.full((1, 3, 64, 64), grey)))[0, 0]
        assert float(drawn[:8, :8].max() - drawn[:8, :8].min()) > 0.03
        torch.testing.assert_close(drawn[:56, :56], drawn[4:60, 4:60], atol=1e-4, rtol=0)
        covered.append(float(drawn.mean()))
    assert covered == sorted(covered, reverse=True)


def test_glass_has_dark_lead_between_its_panes() -> None:
    x = torch.zeros(1, 3, 64, 64)
    x[:, 0, :, :32], x[:, 2, :, 32:] = 0.9, 0.9
    drawn = LOOKS["glass"](x)[0]
    assert float(drawn[:, 32, 31:33].max()) < 0.25
    assert float(drawn[0, 32, 12]) > 0.6 and float(drawn[2, 32, 52]) > 0.6
