"""The training's command line says what it can do and refuses the rest."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdv2live.paths import assets_dir
from sdv2live.training import batches
from sdv2live.training.__main__ import main, parser
from sdv2live.training.loop import averaged
from sdv2live.training.pools import PoolSpec
from sdv2live.training.train import STAGES
from tests.training.test_pools import small_pool


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


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["run", "--device", "cudo"], "cudo is no device"),
        (["run", "--device", "cuda:99"], "cuda:99 is no device"),
        (["run", "--threads", "0"], "0 is no whole number of at least 1"),
        (["run", "--steps", "-3"], "-3 is no whole number of at least 1"),
        (["run", "--steps", "0"], "0 is no whole number"),
        (["run", "--minutes", "0"], "0 is no number above 0"),
        (["run", "--rate", "nan"], "nan is no number above 0"),
        (["run", "--seed", "-1"], "-1 is no whole number of at least 0"),
        (["data", "--seed", str(2**70)], "is no whole number of at least 0 and at most"),
        (["data", "--processes", "0"], "0 is no whole number"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_numbers_and_devices_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        main([*flags, "--work", str(tmp_path / "new")])
    assert refused.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def _said(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What a command that is refused says: one sentence."""
    assert main([*command]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    return said


def test_what_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, new, shipped = tmp_path / "file", tmp_path / "new", str(assets_dir() / "pocket")
    file.write_text("no checkpoint")
    on_cpu = ["--device", "cpu", "--threads", "1", "--steps", "1"]
    assert f"{file} is a file" in _said(capsys, "data", "--work", str(file))
    assert f"{file} is a file" in _said(capsys, "evaluate", "--out", str(file))
    assert f"{new} holds no exported model" in _said(capsys, "words", "--model", str(new))
    assert "run d or b first" in _said(capsys, "export", "--work", str(tmp_path), "--model", str(new))
    assert not new.exists()
    work = ["--work", str(new), *on_cpu]
    assert "codec.safetensors" in _said(capsys, "run", "b", "--from", str(tmp_path / "nowhere"), *work)
    assert "run stage a first" in _said(capsys, "run", "b", *work)
    said = _said(capsys, "run", "b", "--from", shipped, *work)
    assert f"python -m sdv2live.training data --work {new}" in said and "--fresh" in said
    (new / "stage-a.pt").write_bytes(b"\x80")
    assert "stage-a.pt is no checkpoint" in _said(capsys, "run", "b", *work)


def test_a_stage_makes_the_folder_that_it_writes_to(tmp_path: Path) -> None:
    work = tmp_path / "not" / "there"
    assert main(["run", "words", "--steps", "1", "--work", str(work), "--device", "cpu", "--threads", "1"]) == 0
    assert torch.load(work / "stage-words.pt", weights_only=True)["step"] == 1


def test_an_interrupt_says_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(STAGES, "d", stop)
    command = ["run", "d", "--device", "cpu", "--threads", "1", "--work", str(tmp_path)]
    assert main(command) == 130
    assert "Nothing was kept" in capsys.readouterr().err
    (tmp_path / "stage-d.pt").touch()
    assert main(command) == 130
    assert "keeps stage-d.pt" in capsys.readouterr().err


def test_a_stretch_goes_on_from_the_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = assets_dir() / "pocket"
    for name in ("SMALL", "LARGE"):
        spec = PoolSpec(name.lower(), 2, 8, 144)
        monkeypatch.setattr(batches, name, spec)
        small_pool(tmp_path / "pools", spec)
    command = ["run", "b", "--from", str(shipped), "--steps", "1", "--work", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--threads", "1"]) == 0
    before = load_file(shipped / "codec.safetensors")
    state = torch.load(tmp_path / "stage-b.pt", weights_only=True)
    assert state["step"] == 1
    moved = {key: float((state["modules"]["codec"][key] - value.float()).abs().max()) for key, value in before.items()}
    assert all(moved[key] == 0 for key in moved if key.startswith(("enc_", "latent_")))
    assert 0 < moved["dec_mem.0.now.weight"] < 1e-3 and 0 < moved["dec_out.bank"] < 1e-3
    assert averaged(tmp_path, "b", "codec").keys() == before.keys()
