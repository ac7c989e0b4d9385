"""A stage that is cut off goes on as if it had not been; the guards stop what must not go on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sdv2live.engine.model.pocket_codec import PocketCodec
from sdv2live.training.loop import Budget, Loop, Workers, averaged
from sdv2live.training.losses import (
    GuardError,
    check_cost,
    check_latents,
    check_output,
    picture_loss,
    steadiness_loss,
    texture_loss,
)
from sdv2live.training.noise import draw_noise, nearest


def _run(folder: Path, stops: list[int]) -> dict[str, torch.Tensor]:
    """Six steps at most of a small training, interrupted after each of `stops` steps."""
    for stop in stops:
        torch.manual_seed(0)
        codec = PocketCodec()
        parameters = {1e-3: codec.encoder_parameters()}
        loop = Loop("t", folder, {"codec": codec}, parameters, budget=Budget(steps=6), seed=5)
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
    parameters = {1e-3: list(layer.parameters())}
    loop = Loop("t", tmp_path, {"layer": layer}, parameters, budget=Budget(steps=2), seed=0)
    with pytest.raises(FloatingPointError, match="stage t"):
        for _ in loop.steps():
            loop.update(layer(torch.full((1, 2), float("nan"))).sum())


def test_gradients_that_are_not_finite_leave_the_weights_alone(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    parameters = {1e-3: list(layer.parameters())}
    loop = Loop("t", tmp_path, {"layer": layer}, parameters, budget=Budget(steps=2), seed=0)
    with pytest.raises(FloatingPointError, match="norm is inf"):
        for _ in loop.steps():
            # A finite loss with a slope that is not: the square root at nought.
            loop.update((layer.weight - layer.weight.detach()).sqrt().sum())
    assert all(bool(value.isfinite().all()) for value in (*layer.parameters(), *loop.average["layer"].values()))


def _two_steps(folder: Path, start: str = "", **run: float) -> int:
    """How many steps of a training of two were left."""
    layer = torch.nn.Linear(2, 2)
    parameters = {1e-3: list(layer.parameters())}
    loop = Loop("t", folder, {"layer": layer}, parameters, budget=Budget(steps=2), seed=0, start=start, run=run)
    return sum(1 for _ in loop.steps())


def test_a_stretch_from_other_weights_begins_anew_and_keeps_the_earlier_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [_two_steps(tmp_path, start) for start in ("one", "one")] == [2, 0]
    one = (tmp_path / "stage-t.pt").read_bytes()
    capsys.readouterr()
    assert [_two_steps(tmp_path, start) for start in ("two", "two")] == [2, 0]
    (kept,) = tmp_path.glob("stage-t.*.pt")
    said = capsys.readouterr().err
    assert kept.read_bytes() == one and f"begins anew: {tmp_path / 'stage-t.pt'}" in said and kept.name in said
    assert "goes on at step 2 of 2" in said


def test_what_changed_since_a_checkpoint_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _two_steps(tmp_path, batch=4, rate=0.5)
    _two_steps(tmp_path, batch=2, rate=0.5)
    assert "goes on at step 2 of 2; batch 2, until now 4\n" in capsys.readouterr().err


def test_each_group_has_its_own_learning_rate(tmp_path: Path) -> None:
    fast, slow = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    loop = Loop("t", tmp_path, {}, {1e-2: [fast], 1e-3: [slow]}, budget=Budget(steps=3), seed=0)
    for _ in loop.steps():
        loop.update((fast - 1).square().sum() + (slow - 1).square().sum())
    assert float(fast.detach().mean()) == pytest.approx(10 * float(slow.detach().mean()), rel=0.05)


def test_guards() -> None:
    with pytest.raises(GuardError, match="oil"):
        check_cost("oil", 0.9)
    check_cost("oil", 1.1)
    with pytest.raises(GuardError, match="standard deviation"):
        check_latents(torch.randn(1, 1, 16, 8, 8) * 0.02, 1000)
    with pytest.raises(GuardError, match=r"outside \(0.2, 1.0\)"):
        check_latents(torch.randn(1, 1, 16, 8, 8).sign() * 1.3, 1000)
    check_latents(torch.randn(1, 1, 16, 8, 8) * 0.6, 1000)
    frames = torch.randn(1, 4, 3, 16, 16)
    check_output(frames, 1000)
    frames[:, 2] = torch.tensor([0.9, -0.9, 0.1]).view(3, 1, 1)  # flat, in a colour that the others have not
    with pytest.raises(GuardError, match="flat"):
        check_output(frames, 1000)
    check_output(frames, 10)


def test_edges_of_the_target_weigh_more() -> None:
    target = torch.full((1, 1, 3, 16, 16), -1.0)
    target[..., 8] = 1.0
    black = torch.full_like(target, -1.0)
    missed = float(picture_loss(black, target))
    wrong = black.clone()
    wrong[..., 3] = 1.0
    assert missed > float(picture_loss(wrong, black))


def test_detail_in_the_wrong_place_is_better_than_none() -> None:
    target = torch.zeros(1, 1, 3, 32, 32)
    target[..., 4::8] = 1.0
    moved, none = target.roll(1, -1), torch.full_like(target, float(target.mean()))
    assert float(texture_loss(moved, target)) < 0.3 * float(texture_loss(none, target))
    assert float((moved - target).abs().mean()) > float((none - target).abs().mean())


def test_a_still_clip_must_stay_still() -> None:
    target = torch.rand(1, 1, 3, 8, 8).expand(-1, 4, -1, -1, -1)
    assert float(steadiness_loss(target + 0.1, target)) == pytest.approx(0, abs=1e-6)
    flickering = target + 0.1 * torch.tensor([1.0, -1, 1, -1]).view(1, 4, 1, 1, 1)
    assert float(steadiness_loss(flickering, target)) == pytest.approx(0.2, abs=1e-5)


def test_noise_is_dealt_to_the_nearest_latents() -> None:
    latents = torch.randn(6, 2, 3, 4, 4)
    shuffled = torch.randperm(6)
    torch.testing.assert_close(nearest((latents + 0.01)[shuffled], latents), latents + 0.01)


def test_noise_stands_still_in_as_many_rows_as_asked() -> None:
    latents = torch.zeros(40, 3, 2, 4, 4)
    still = [
        int((draw_noise(np.random.default_rng(1), latents, fixed_share=share).diff(dim=1) == 0).flatten(1).all(1).sum())
        for share in (0, 0.5, 1)
    ]
    assert still[0] == 0 and 10 < still[1] < 30 and still[2] == 40


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
