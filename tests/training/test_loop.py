"""A stage that is cut off goes on as if it had not been; the guards stop what must not go on."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from sdv2live.engine.model.pocket_codec import PocketCodec
from sdv2live.training.data import make_clip
from sdv2live.training.loop import Budget, Loop, Workers, averaged
from sdv2live.training.losses import GuardError, check_latents, check_output, picture_loss


def _run(folder: Path, stops: list[int]) -> dict[str, torch.Tensor]:
    """Six steps at most of a small training, interrupted after each of `stops` steps."""
    for stop in stops:
        torch.manual_seed(0)
        codec = PocketCodec()
        loop = Loop(
            "t", folder, {"codec": codec}, codec.encoder_parameters(), budget=Budget(steps=6), seed=5, peak_lr=1e-3
        )
        for _ in loop.steps():
            frames = torch.rand(1, 4, 3, 32, 32) * 2 - 1
            loop.update(codec.raw_latent(frames)[0].square().mean())
            if loop.step + 1 == stop:
                loop.step += 1
                loop.save()
                break
    return averaged(folder, "t", "codec")


def test_resumes_bit_exactly(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    straight, broken = _run(tmp_path / "one", [6]), _run(tmp_path / "two", [3, 6])
    for key, value in straight.items():
        assert torch.equal(value, broken[key]), key


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    loop = Loop("t", tmp_path, {"layer": layer}, list(layer.parameters()), budget=Budget(steps=2), seed=0, peak_lr=1e-3)
    with pytest.raises(FloatingPointError, match="stage t"):
        for _ in loop.steps():
            loop.update(layer(torch.full((1, 2), float("nan"))).sum())


def test_guards() -> None:
    with pytest.raises(GuardError, match="standard deviation"):
        check_latents(torch.randn(1, 1, 16, 8, 8) * 0.02, 1000)
    with pytest.raises(GuardError, match="flat"):
        check_output(torch.zeros(1, 4, 3, 16, 16), 1000)
    check_latents(torch.randn(1, 1, 16, 8, 8) * 0.6, 1000)


def test_edges_of_the_target_weigh_more() -> None:
    target = torch.full((1, 1, 3, 16, 16), -1.0)
    target[..., 8] = 1.0
    black = torch.full_like(target, -1.0)
    missed = float(picture_loss(black, target))
    wrong = black.clone()
    wrong[..., 3] = 1.0
    assert missed > float(picture_loss(wrong, black))


def test_clips_repeat() -> None:
    for package in ("skimage", "sklearn", "matplotlib"):
        if find_spec(package) is None:
            pytest.skip(f"the training photos come with {package}")
    one, two = make_clip(1, 7, 4, 64), make_clip(1, 7, 4, 64)
    assert one.shape == (4, 64, 64, 3)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, make_clip(1, 8, 4, 64))


def test_workers_give_the_mean_gradient() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 1)
    inputs = torch.randn(2, 5, 3)
    with Workers({"layer": layer}, 2) as team:
        figures = team.gradients(lambda nets, worker: (nets["layer"](inputs[worker]).square().mean(), {}))
    gradient = layer.weight.grad
    assert gradient is not None
    (expected,) = torch.autograd.grad(layer(inputs).square().mean(), [layer.weight])
    torch.testing.assert_close(gradient, expected)
    assert figures["loss"] == pytest.approx(float(layer(inputs).square().mean().detach()))
    with torch.no_grad():
        layer.weight.add_(1)
    copied = team.copies[1]["layer"]
    assert isinstance(copied, torch.nn.Linear)
    assert torch.equal(copied.weight, layer.weight)
