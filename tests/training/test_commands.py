"""The training's command line says what it can do and refuses the rest."""

from pathlib import Path

import pytest

from sdv2live.training.__main__ import parser
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
