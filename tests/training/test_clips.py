"""Clips are what the camera is said to do, and fresh ones are drawn as those of the pools are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sdv2live.engine.model.pocket_codec import PocketCodec
from sdv2live.paths import assets_dir
from sdv2live.training.__main__ import main
from sdv2live.training.batches import MOST_WISHES, Batches, FreshClips
from sdv2live.training.clips import cut_out, make_clip, moving_view
from sdv2live.training.effects import LOOKS, STROKE_LOOKS
from sdv2live.training.setup import Setup
from sdv2live.training.train import decode_clip, load_text, style_of

CPU = torch.device("cpu")


def _scenes(count: int = 3, side: int = 160) -> torch.Tensor:
    coarse = np.random.default_rng(1).integers(0, 255, (count, 20, 20, 3)).astype(np.uint8)
    smooth = [cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC) for each in coarse]
    return torch.from_numpy(np.stack(smooth)).permute(0, 3, 1, 2).contiguous()


def _batches() -> Batches:
    text = load_text(Setup(Path("unused"), CPU, model=assets_dir() / "pocket"))
    return Batches(FreshClips(_scenes()), text, CPU)


def test_the_camera_sees_a_plane_as_a_plane_that_is_turned_and_shrunk() -> None:
    """A scene that is as bright as it is far to the right, and as green as it is far down."""
    side = 240
    ramp = torch.arange(side, dtype=torch.uint8)
    red, green = ramp[None, :].expand(side, -1), ramp[:, None].expand(-1, side)
    scene = torch.stack([red, green, torch.zeros_like(red)])
    clip = 255 * moving_view(scene, np.random.default_rng(3), 5, 32, 1.0)
    for frame in clip:
        (red_across, red_down), (green_across, green_down) = (
            (float(plane.diff(dim=1).median()), float(plane.diff(dim=0).median())) for plane in frame[:2]
        )
        assert 0.5 < np.hypot(red_across, green_across) < 1.0  # source pixels for one of ours
        assert red_across == pytest.approx(green_down, abs=0.01) and red_down == pytest.approx(-green_across, abs=0.01)
        assert float(frame[2].max()) == 0
    middle = clip[:, :2, 15:17, 15:17].mean((2, 3))
    assert 0 < float(middle.diff(dim=0).norm(dim=1).max()) < 20, "it moves, and not by jumps"


def test_a_camera_that_stands_still_sees_the_same() -> None:
    clip = moving_view(_scenes()[0], np.random.default_rng(0), 4, 64, 0.0)
    assert clip.shape == (4, 3, 64, 64)
    torch.testing.assert_close(clip, clip[:1].expand_as(clip))


def test_what_moves_in_front_is_an_ellipse_on_a_straight_way() -> None:
    """A seed whose ellipse is well inside the picture, much longer than wide, and on its way across and down."""
    mask = cut_out(np.random.default_rng(16), 6, 256, CPU)
    rng = np.random.default_rng(16)
    place, pace, axes = rng.uniform(0.2, 0.8, 2) * 256, rng.normal(0, 3, 2), rng.uniform(0.12, 0.4, 2) * 256
    tilt = rng.uniform(0, np.pi)
    found = [cv2.moments((frame[0] > 0.5).numpy().astype(np.uint8), binaryImage=True) for frame in mask]
    for number, m in enumerate(found):
        assert m["m00"] == pytest.approx(np.pi * axes.prod(), rel=0.02)
        middle = np.array([m["m10"], m["m01"]]) / m["m00"] + 0.5  # moments count pixels from their corners
        assert np.abs(middle - place - number * pace).max() < 0.3
        turned = 0.5 * np.arctan2(2 * m["mu11"], m["mu20"] - m["mu02"])
        assert abs((turned - tilt + np.pi / 2) % np.pi - np.pi / 2) < 0.03


def test_clips_follow_from_the_generator() -> None:
    def clip(seed: int) -> torch.Tensor:
        return make_clip(lambda rng: _scenes()[int(rng.integers(3))], np.random.default_rng(seed), 4, 64)

    one = clip(7)
    assert one.shape == (4, 3, 64, 64) and float(one.min()) >= 0 and float(one.max()) <= 1
    assert torch.equal(one, clip(7)) and not torch.equal(one, clip(8))


def test_a_fresh_clip_comes_with_its_own_looks() -> None:
    source, night = FreshClips(_scenes()).draw(np.random.default_rng(2), [0, 9], 4, 64, of_large=False)
    assert list(LOOKS)[9] == "night"
    torch.testing.assert_close(night, LOOKS["night"](source))


@torch.no_grad()
def test_many_clips_share_few_wishes_and_are_decoded_as_each_alone() -> None:
    batch = _batches().styled(np.random.default_rng(4), 2 * MOST_WISHES, 4, 32)
    assert batch.alike == 2 and len(batch.source) == 2 * MOST_WISHES
    assert torch.equal(batch.tokens[::2], batch.tokens[1::2]) and len(batch.noise_scale.unique()) == MOST_WISHES
    assert not torch.equal(batch.source[0], batch.source[1])
    torch.manual_seed(0)
    codec = PocketCodec().eval()
    for bank in (module.bank for module in codec.modules() if hasattr(module, "bank")):
        bank.normal_(std=0.05)
    latent, side = codec.encode(batch.source)
    together = decode_clip(codec, latent, side, style_of(codec, batch))
    for row in (0, 3, 15):
        alone, side_alone = codec.encode(batch.source[row : row + 1])
        style = codec.style(batch.tokens[row : row + 1], batch.noise_scale[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], decode_clip(codec, alone, side_alone, style))


@pytest.mark.parametrize("clips", [1, 20, 31])
def test_no_clip_is_lost_and_no_wish_too_many_is_made(clips: int) -> None:
    batch = _batches().styled(np.random.default_rng(4), clips, 4, 32)
    wishes = len(batch.source) // batch.alike
    assert wishes * batch.alike == len(batch.source) == len(batch.tokens) >= clips
    assert wishes <= MOST_WISHES and len(batch.source) - clips < batch.alike


@pytest.mark.parametrize("stage", ["b", "c", "d"])
def test_a_stretch_on_fresh_clips(tmp_path: Path, stage: str) -> None:
    np.save(tmp_path / "scenes-0.npy", _scenes().numpy())  # otherwise made first, which takes minutes
    command = ["run", stage, "--from", str(assets_dir() / "pocket"), "--fresh", "--batch", "2", "--steps", "1"]
    code = main([*command, "--work", str(tmp_path), "--device", "cpu", "--threads", "1"])
    # Stage d ends with asking what the latents are worth, which is little for soft noise.
    assert code == (2 if stage == "d" else 0)
    state = torch.load(tmp_path / f"stage-{stage}.pt", weights_only=True)
    assert state["step"] == 1
    assert (tmp_path / f"sheet-{stage}.jpg").exists() == (stage != "c")
    if stage != "c":  # a fourth row of two, whose second is the night: a band of 22 pixels above source, target, ours
        shown = cv2.imread(str(tmp_path / f"sheet-{stage}.jpg"))[..., ::-1]
        assert shown.shape == (7 * 150, 6 * 128, 3)
        source, target, ours = (shown[4 * 150 + 22 : 5 * 150, side : side + 128] for side in (384, 512, 640))
        night = LOOKS["night"](torch.from_numpy(source.copy()).permute(2, 0, 1)[None].float() / 255)[0].permute(1, 2, 0)
        assert np.abs(255 * night.numpy() - target).mean() < 6 < np.abs(source.astype(float) - target).mean()
        assert np.abs(ours.astype(float) - target).mean() < 20
    assert tuple(state["costs"]) == (STROKE_LOOKS if stage == "d" else ())
