"""Device and number format: the rule for each kind of processor, and what is said of a device that is not here."""

from __future__ import annotations

import pytest
import torch

from sdv2live.bench import BenchOptions, bench
from sdv2live.engine.base import EngineSpec
from sdv2live.engine.build import build_engine
from sdv2live.engine.cards import word_on_formats
from sdv2live.engine.precision import (
    choose_device,
    choose_dtype,
    common_format,
    device_name,
    dtype_for,
    formats_for,
)
from sdv2live.engine.rank_worker import run_rank
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir
from sdv2live.registry import Registry

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


AMPERE, TURING = ("bfloat16", "float16", "float32"), ("float16", "float32")
NEW_CPU, OLD_CPU = ("bfloat16", "float32"), ("float32",)


@pytest.mark.parametrize(
    ("device_type", "has_bfloat16", "formats"),
    [
        ("cuda", True, AMPERE),
        ("cuda", False, TURING),
        ("cpu", True, NEW_CPU),
        ("cpu", False, OLD_CPU),
        ("mps", False, OLD_CPU),
    ],
)
def test_the_rule(device_type: str, has_bfloat16: bool, formats: tuple[str, ...]) -> None:
    assert formats_for(device_type, has_bfloat16=has_bfloat16) == formats


@pytest.mark.parametrize(
    ("ranks", "taken"),
    [
        ((AMPERE, AMPERE), "bfloat16"),
        ((AMPERE, NEW_CPU), "bfloat16"),
        ((AMPERE, TURING, AMPERE), "float16"),
        ((TURING, AMPERE), "float16"),
        ((TURING, NEW_CPU), "float32"),
        ((NEW_CPU, OLD_CPU), "float32"),
        ((OLD_CPU, AMPERE), "float32"),
    ],
)
def test_several_devices_take_what_all_are_made_for(ranks: tuple[tuple[str, ...], ...], taken: str) -> None:
    assert common_format(ranks) == taken
    word = word_on_formats([(f"card {rank}", *formats) for rank, formats in enumerate(ranks)], taken)
    for rank, formats in enumerate(ranks):
        said = f"rank {rank} (card {rank}) alone would take {formats[0]}"
        assert (said in word) == (formats[0] != taken)
    assert bool(word) == (len({*(formats[0] for formats in ranks), taken}) > 1)


@pytest.mark.parametrize("wanted", ["float32", "float16", "bfloat16"])
def test_a_format_that_is_asked_for_is_taken(wanted: str) -> None:
    assert dtype_for(wanted, "cuda") == getattr(torch, wanted)


def test_float16_is_not_for_the_cpu() -> None:
    with pytest.raises(UserError, match=r"^--precision float16 cannot be used on the CPU, .* or take float32\.$"):
        choose_dtype("float16", CPU)


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_auto_asks_the_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype("auto", GPU) == dtype
    assert choose_dtype("float32", GPU) == torch.float32


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"avx2": True}, torch.float32), ({"amx_bf16": True}, torch.bfloat16), ({"bf16": True}, torch.bfloat16)],
)
def test_auto_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_dtype("auto", CPU) == dtype
    assert device_name(CPU).startswith("CPU, ")


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: str | None, gpus: int) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=None, gpus=0)
    assert choose_device("auto") == CPU and choose_device("cpu") == CPU
    pretend(monkeypatch, cuda="13.0", gpus=2)
    assert choose_device("auto") == choose_device("cuda") == GPU
    assert choose_device("cuda:1") == torch.device("cuda:1")


class DeviceSet(Exception):
    """In place of a GPU: as far as this the process was set up for one."""


@pytest.mark.parametrize(("wanted", "device"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
@pytest.mark.parametrize("start", ["engine", "rank", "bench"])
def test_whoever_runs_an_engine_works_on_its_gpu_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, start: str, wanted: str, device: str
) -> None:
    """With its number: torch sets no GPU without one. A rank that is alone on its machine is the first of one."""
    pretend(monkeypatch, cuda="13.0", gpus=2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")

    def set_device(chosen: torch.device) -> None:
        raise DeviceSet(str(chosen))

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    with pytest.raises(DeviceSet, match=f"^{device}$"):
        if start == "engine":
            build_engine(EngineSpec("pocket", (64, 64), device=wanted), assets_dir())
        elif start == "rank":
            run_rank(1, "127.0.0.1:9", device_name=wanted, on_lost=print)
        else:
            registry = Registry()
            registry.set_strictly([("engine.device", wanted)], origin="test")
            bench(registry, BenchOptions())


@pytest.mark.parametrize(
    ("cuda", "gpus", "wanted", "sentence"),
    [
        (None, 0, "cuda", "this torch was built without CUDA; leave --device away, or install a CUDA build of torch."),
        ("13.0", 0, "cuda", "no NVIDIA GPU with a working driver was found; leave --device away, or see what"),
        ("13.0", 2, "cuda:2", "there is no cuda:2, as this machine has 2; leave --device away, or take cuda:1."),
    ],
)
def test_a_gpu_that_is_not_here(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, gpus: int, wanted: str, sentence: str
) -> None:
    pretend(monkeypatch, cuda=cuda, gpus=gpus)
    with pytest.raises(UserError) as caught:
        choose_device(wanted)
    assert str(caught.value).startswith(f"no CUDA GPU can be used here: {sentence}")


@pytest.mark.parametrize("wanted", ["", "gpu", "cuda:x", "cuda:-1", "meta", "xla"])
def test_a_device_that_is_none(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^the device '.*' (is unknown|cannot be used here): take auto, cpu, cuda or"):
        choose_device(wanted)
