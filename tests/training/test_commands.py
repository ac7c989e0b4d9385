"""The training's command line says what it can do and refuses the rest."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdv2live.paths import assets_dir
from sdv2live.training import batches
from sdv2live.training.__main__ import main, parser
from sdv2live.training.effects import LOOKS
from sdv2live.training.loop import averaged
from sdv2live.training.pools import PoolSpec, make_pools
from sdv2live.training.train import STAGES


def test_all_stages_by_default(tmp_path: Path) -> None:
    args = parser().parse_args(["run", "--work", str(tmp_path)])
    assert args.stages == list(STAGES) == ["words", "a", "b", "c", "d"]


def test_some_stages_with_a_length(tmp_path: Path) -> None:
    args = parser().parse_args(["run", "b", "c", "--minutes", "2", "--work", str(tmp_path)])
    assert (args.stages, args.minutes, args.steps) == (["b", "c"], 2.0, None)


def test_unknown_stage_names_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "z", "--work", str(tmp_path)])
    assert "words, a, b, c, d" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["words", "a"])
def test_what_starts_from_nothing_takes_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    with pytest.raises(SystemExit):
        main(["run", stage, "--from", str(assets_dir() / "pocket"), "--work", str(tmp_path)])
    assert f"stage {stage} starts from nothing" in capsys.readouterr().err


def test_one_stage_at_a_time_goes_on_from_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "c", "d", "--from", str(assets_dir() / "pocket"), "--work", str(tmp_path)])
    assert "run one, export it, and start the next from that" in capsys.readouterr().err


def _small_pool(folder: Path, spec: PoolSpec) -> None:
    """One clip of soft noise, and nothing but it in every look."""
    folder.mkdir(exist_ok=True)
    coarse = np.random.default_rng(0).integers(0, 255, (1, spec.frames, 12, 12, 3))
    clip = coarse.repeat(spec.side_px // 12, 2).repeat(spec.side_px // 12, 3).astype(np.uint8)
    for name in LOOKS:
        np.save(folder / f"{spec.name}-{name}.npy", clip)
    np.save(folder / f"{spec.name}-done.npy", np.ones(1, np.uint8))


def test_a_stretch_goes_on_from_the_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = assets_dir() / "pocket"
    for name in ("SMALL", "LARGE"):
        spec = PoolSpec(name.lower(), 1, 8, 96)
        monkeypatch.setattr(batches, name, spec)
        _small_pool(tmp_path / "pools", spec)
    command = ["run", "b", "--from", str(shipped), "--steps", "1", "--work", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--threads", "1"]) == 0
    before = load_file(shipped / "codec.safetensors")
    state = torch.load(tmp_path / "stage-b.pt", weights_only=True)
    assert state["step"] == 1
    moved = {key: float((state["modules"]["codec"][key] - value.float()).abs().max()) for key, value in before.items()}
    assert all(moved[key] == 0 for key in moved if key.startswith(("enc_", "latent_")))
    assert 0 < moved["dec_mem.0.now.weight"] < 1e-3 and 0 < moved["dec_out.bank"] < 1e-3
    assert averaged(tmp_path, "b", "codec").keys() == before.keys()


def test_a_pool_gets_the_looks_that_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = PoolSpec("tiny", 1, 2, 24)
    _small_pool(tmp_path, spec)
    (tmp_path / "tiny-night.npy").unlink()
    make_pools(tmp_path, (spec,), seed=0, processes=1)
    clip = np.load(tmp_path / "tiny-identity.npy")[0]
    night = LOOKS["night"](torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255).permute(0, 2, 3, 1)
    assert np.abs(np.load(tmp_path / "tiny-night.npy")[0] - 255 * night.numpy()).max() <= 0.51
    assert not list(tmp_path.glob("*.part*"))
