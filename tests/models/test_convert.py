"""What comes as .pt or .pth is safetensors afterwards, once, with the same numbers; and what goes wrong on the way."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdv2live import cli
from sdv2live.engine.convert import to_safetensors
from sdv2live.errors import UserError
from sdv2live.models.manifest import MODELS, find
from sdv2live.models.store import Entry, State, Store
from tests.models.hub import Hub

pytestmark = pytest.mark.usefixtures("naps")
NAME = "wan-1.3b"
PT, SAFETENSORS = "wan_causal_dmd_v2v/model.pt", "wan_causal_dmd_v2v/model.safetensors"


def tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    odd = torch.randn(3, 5, generator=draw)
    odd[1, 1], odd[2, 2] = torch.nan, -torch.inf
    return {
        "blocks.0.ffn.0.weight": torch.randn(300, 200, generator=draw),
        "blocks.0.ffn.0.bias": torch.randn(300, generator=draw).to(torch.bfloat16),
        "head.modulation": odd.to(torch.float16),
        "count": torch.arange(7),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
    }


def saved(checkpoint: object, *, old_format: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(checkpoint, file, _use_new_zipfile_serialization=not old_format)
    return file.getvalue()


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
        return tensor.dtype, tuple(tensor.shape), tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()

    return one.keys() == other.keys() and all(bits(one[name]) == bits(other[name]) for name in one)


@pytest.fixture
def get(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], int]:
    """Publish a file as the transformer and fetch it."""
    monkeypatch.setitem(MODELS, NAME, replace(MODELS[NAME], place=PT, path=PT))
    monkeypatch.setattr("sdv2live.models.command.ENGINES", {})  # without the others

    def get(content: bytes) -> int:
        hub.files[PT] = content
        return cli.main(["models", "get", NAME, "--folder", str(tmp_path / "models")])

    return get


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("table", ["generator", "state_dict", ""])
def test_a_torch_file_becomes_safetensors_once(
    get: Callable[[bytes], int], hub: Hub, tmp_path: Path, table: str, old_format: bool
) -> None:
    wrapped = {f"model.{name}": tensor for name, tensor in tensors().items()}
    content = saved({table: wrapped, "generator_ema": wrapped} if table else wrapped, old_format=old_format)
    assert get(content) == 0
    folder = tmp_path / "models"
    place = folder / SAFETENSORS
    assert find(MODELS[NAME], folder) == place and not (folder / PT).exists()
    assert same_bits(load_file(place), tensors()), "read by safetensors itself, without the prefixes"
    entry = Store(folder).entry(place)
    assert entry is not None and entry.made_from == "model.pt" and entry.revision == hub.commit
    assert entry.checksum.digest == hashlib.sha256(place.read_bytes()).hexdigest()
    hub.requests.clear()
    assert get(content) == 0 and not hub.requests, "nothing is fetched or converted again"
    if os.name == "posix":
        assert stat.S_IMODE(place.stat().st_mode) & 0o044 == 0o044 & ~_umask(), "as readable as what was fetched"
    for action, code in (("verify", 0), ("remove", 0), ("path", 2)):
        assert cli.main(["models", action, NAME, "--folder", str(folder)]) == code
    assert not place.exists()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _Gadget:
    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._target),)


def test_a_malicious_file_is_not_executed_and_not_converted(
    get: Callable[[bytes], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "executed"
    assert get(saved({"generator": tensors(), "more": _Gadget(target)})) == 2
    assert "was not executed" in capsys.readouterr().err.splitlines()[-1] and not target.exists()
    assert sorted(os.listdir(tmp_path / "models" / "wan_causal_dmd_v2v")) == ["model.pt"]


def test_without_room_the_torch_file_is_used_as_it_is(
    get: Callable[[bytes], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = saved(tensors())
    fetched = tmp_path / "models" / PT
    monkeypatch.setattr(Store, "free_bytes", lambda _: len(content) - 1 if fetched.exists() else 10**9)
    assert get(content) == 0
    assert "no room to convert" in capsys.readouterr().err
    assert find(MODELS[NAME], tmp_path / "models") == fetched


@pytest.mark.parametrize("reached", ["written", "named"])
def test_a_conversion_that_was_killed_is_made_good(
    get: Callable[[bytes], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: str
) -> None:
    class Killed(BaseException):
        """Nothing after it runs, as after SIGKILL."""

    def killed(*_: object) -> None:
        raise Killed

    def note(store: Store, path: Path, entry: Entry) -> None:
        if entry.made_from:
            raise Killed
        noted(store, path, entry)

    content, noted = saved(tensors()), Store.note
    with monkeypatch.context() as patched, pytest.raises(Killed):
        if reached == "written":
            patched.setattr(Store, "note", note)
        else:
            patched.setattr("sdv2live.models.command._drop", killed)
        get(content)
    folder = tmp_path / "models"
    if reached == "written":
        assert find(MODELS[NAME], folder) == folder / PT
        (folder / "wan_causal_dmd_v2v" / "converting-model.safetensors").write_bytes(b"half of it")
    assert get(content) == 0
    assert sorted(os.listdir(folder / "wan_causal_dmd_v2v")) == ["model.safetensors"]
    assert Store(folder).look(MODELS[NAME]).state == State.HERE


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    tied = {"a": whole, "b": whole, "c": whole[3:7], "d": whole.view(3, 4).T}
    source, target = tmp_path / "tied.pt", tmp_path / "tied.safetensors"
    torch.save(tied, source)
    to_safetensors(source, target)
    assert same_bits(load_file(target), tied)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"PK\x03\x04 and no more", b"\x80\x02}q\x00."])
def test_what_is_no_checkpoint_is_refused_and_nothing_written(tmp_path: Path, content: bytes) -> None:
    source, target = tmp_path / "model.pt", tmp_path / "model.safetensors"
    source.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt"):
        to_safetensors(source, target)
    assert not target.exists()
