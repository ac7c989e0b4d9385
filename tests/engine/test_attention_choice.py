"""The attention kernel is chosen by its time, among those that run here and are right."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdv2live.engine import attention_choice, stage_runner
from sdv2live.engine.attention_choice import AttentionChoice, attend_by, candidates, choose_attention, fastest
from sdv2live.engine.base import ChunkSettings
from sdv2live.engine.kv_cache import KVCache
from sdv2live.engine.model.attention import attend
from sdv2live.engine.reference_profile import ReferenceKVCache
from sdv2live.engine.window import Window
from tests.engine.toy import CPU, run_toy, toy_engine


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, count, 2, 24, generator=generator) for count in (6, 30, 30))
    return q, k, v


def test_on_the_cpu_there_is_nothing_to_choose() -> None:
    choice = choose_attention(CPU, tokens=6, past_tokens=30, heads=2, head_dim=24, dtype=torch.float32)
    assert choice == AttentionChoice() and choice.attend is attend and not choice.times_ms


def test_the_fastest_that_is_right_is_taken(
    drawn: tuple[Tensor, Tensor, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    """One that does not run and one that is wrong are passed over, and it is said."""
    seconds: dict[Callable[..., object], float] = {}

    def named(ms: float, call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        seconds[call] = ms
        return call

    def absent(*_: Tensor) -> Tensor:
        raise RuntimeError("No available kernel. Aborting execution.")

    choices = {
        "sdpa": named(3.0, lambda *qkv: attend(*qkv)),
        "wrong": named(1.0, lambda *qkv: attend(*qkv) * 1.2),
        "no numbers": named(1.0, lambda *qkv: attend(*qkv) * torch.nan),
        "absent": named(1.0, absent),
        "quick": named(2.0, lambda *qkv: attend(*qkv) + 1e-4),
    }
    with caplog.at_level(logging.INFO):
        choice = fastest(choices, *drawn, timed_ms=lambda call: seconds[call.func])  # type: ignore[attr-defined]
    assert choice.name == "quick" and choice.times_ms == {"sdpa": 3.0, "quick": 2.0}
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("attention: wrong is not used, since it is off by 0.2")
    assert (
        said[1].startswith("attention: no numbers is not used")
        and "absent cannot be used here: No available" in said[2]
    )


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION])
def test_a_kernel_that_is_not_here_leaves_it_to_the_next(
    drawn: tuple[Tensor, Tensor, Tensor], backend: SDPBackend
) -> None:
    torch.testing.assert_close(attend_by(backend, *drawn), attend(*drawn))


@pytest.mark.parametrize("gives_sums", [False, True])
def test_flash_attention_is_a_candidate_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, drawn: tuple[Tensor, Tensor, Tensor], gives_sums: bool
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # an import of it fails
    package = types.ModuleType("flash_attn_interface")
    package.flash_attn_func = lambda q, k, v: (attend(q, k, v), q) if gives_sums else attend(q, k, v)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn_interface", package)
    found = candidates()
    assert list(found) == [attention_choice.PLAIN, *attention_choice.BACKENDS, "flash-attn 3"]
    torch.testing.assert_close(found["flash-attn 3"](*drawn), attend(*drawn))
    work = []
    for each in (found["flash-attn 3"], attend):  # the second as the products that it is made of
        with sdpa_kernel(SDPBackend.MATH), torch.inference_mode(), FlopCounterMode(display=False) as counter:
            each(*drawn)
        work.append(counter.get_total_flops())
    assert work[0] == work[1] > 0


@pytest.mark.parametrize("new_cache", [KVCache, ReferenceKVCache])
def test_an_engine_that_compiles_nothing_runs_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, new_cache: type[KVCache]
) -> None:
    """Here a kernel of another name, which is asked for the shapes of the stream."""
    asked: list[dict[str, object]] = []
    runs: list[torch.Size] = []

    def quick(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        runs.append(k.shape)
        return attend(q, k, v)

    def choose(device: torch.device, **shapes: object) -> AttentionChoice:
        asked.append(shapes)
        return AttentionChoice("quick", quick, {"quick": 1.0})

    monkeypatch.setattr(stage_runner, "choose_attention", choose)
    engine = toy_engine(new_cache=new_cache, window=Window(capacity=4, sinks=1))
    run_toy(engine, [ChunkSettings(mix=(("one", 1.0),), steps=(700,), steps_count=1)] * 6)
    assert engine.pipe.first.attention.name == "quick"
    assert runs[-1] == (1, 4 * 6, 2, 24), "the window, of six tokens a frame"
    assert asked == [{"tokens": 6, "past_tokens": 24, "heads": 2, "head_dim": 24, "dtype": torch.float32}]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
def test_a_gpu_chooses_at_lengths_that_are_no_multiples_of_128() -> None:
    choice = choose_attention(
        torch.device("cuda"), tokens=1560, past_tokens=9360, heads=12, head_dim=128, dtype=torch.bfloat16
    )
    print(choice.name, choice.times_ms)
    assert choice.times_ms[choice.name] == min(choice.times_ms.values())
