"""What `export` takes from checkpoints, what it leaves as it lies, and what it refuses to write."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdv2live.engine.model.pocket_codec import PocketCodec
from sdv2live.engine.pocket_words import load_text_encoder
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir
from sdv2live.training.effects import STROKE_LOOKS
from sdv2live.training.export import export
from sdv2live.training.loop import Budget, Loop


def _stage(work: Path, stage: str, costs: dict[str, float]) -> PocketCodec:
    """Leave an untrained codec as a stage's."""
    codec = PocketCodec()
    loop = Loop(stage, work, {"codec": codec}, {1e-3: list(codec.parameters())}, budget=Budget(steps=1), seed=0)
    loop.costs = costs
    loop.save()
    return codec


def test_what_is_not_exported_keeps_its_weights_and_its_words(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(assets_dir() / "pocket", model)
    config = json.loads((model / "config.json").read_text("utf-8"))
    config["text"]["asking"] += " sgraffito"
    config["runtime"]["noise_max"] = 0.55
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    text = (model / "text.safetensors").read_bytes()
    codec = _stage(tmp_path, "b", {})
    export(tmp_path, model, ["codec"])
    assert json.loads((model / "config.json").read_text("utf-8")) == config
    assert (model / "text.safetensors").read_bytes() == text
    assert load_text_encoder(model).asks("sgraffito") is True
    written = load_file(model / "codec.safetensors")
    for key, value in codec.state_dict().items():
        torch.testing.assert_close(written[key].float(), value, atol=1e-3, rtol=1e-3)
    assert not list(model.glob("*.part"))


@pytest.mark.parametrize(
    ("costs", "why"),
    [
        ({}, "not measured for oil"),
        ({**dict.fromkeys(STROKE_LOOKS, 1.5), "ink": 0.4}, "costs less than 1.0 dB: ink 0.4 dB"),
    ],
    ids=["cut off", "too cheap"],
)
def test_a_stage_that_did_not_pass_its_guard_is_exported_only_if_asked(
    tmp_path: Path, costs: dict[str, float], why: str
) -> None:
    _stage(tmp_path, "d", costs)
    with pytest.raises(UserError, match=why):
        export(tmp_path, tmp_path / "model", ["codec"])
    assert not (tmp_path / "model").exists()
    assert export(tmp_path, tmp_path / "model", ["codec"], anyway=True) > 0


def test_a_stage_that_passed_its_guard_is_exported(tmp_path: Path) -> None:
    _stage(tmp_path, "d", dict.fromkeys(STROKE_LOOKS, 1.5))
    assert export(tmp_path, tmp_path / "model", ["codec"]) > 0
