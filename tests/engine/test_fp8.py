"""FP8 products: how far off they are beside bfloat16, what they leave alone, and what is said where there are none."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sdv2live.engine import fp8
from sdv2live.engine.fp8 import Fp8Linear, quantise, quantise_blocks_, use_fp8
from sdv2live.engine.model.attention import BlockCausalAttention
from sdv2live.engine.model.wan_transformer import Part, WanConfig, WanTransformer
from tests.engine.compiled_stream import SCRIPT
from tests.engine.toy import CPU, drawn_, run_toy, toy_engine

GPU = torch.device("cuda")
CONFIG = WanConfig(dim=256, ffn_dim=1024, num_heads=4, num_layers=8, freq_dim=32, text_dim=32, text_len=8)


def relative_error(ours: Tensor, expected: Tensor) -> float:
    return float((ours.float() - expected.float()).norm() / expected.float().norm())


def flow_of(dit: WanTransformer, device: torch.device = CPU) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 2, 16, 8, 12, generator=generator).to(device)
    text = torch.randn(1, 8, CONFIG.text_dim, generator=generator).to(device)
    past = BlockCausalAttention(head_dim=CONFIG.head_dim, grid_hw=(4, 6), held=[(0,), (0, 1)], device=device)
    dtype = dit.head.head.weight.dtype
    with torch.no_grad():
        return dit(latents.to(dtype), torch.full((1, 2), 600.0, device=device), dit.encode_text(text.to(dtype)), past)


def test_the_error_of_a_product() -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((2, 64, 512), (256, 512)))
    bias = torch.randn(256, generator=generator)
    expected = torch.nn.functional.linear(x, weight, bias)
    error = relative_error(Fp8Linear(weight, bias)(x), expected)
    rounded = (each.bfloat16() for each in (x, weight, bias))
    usual = relative_error(torch.nn.functional.linear(*rounded), expected)
    print(f"a product of 512: {error:.1%} in FP8, {usual:.1%} in bfloat16")
    assert error < 0.04, "what assets/docs/wan.md says"


def test_rows_keep_their_own_scale_and_nothing_overflows() -> None:
    rows = torch.tensor([[1e-4, -2e-4, 0.0], [3e4, 1.0, -3e4], [0.0, 0.0, 0.0]])
    quantised, scale = quantise(rows)
    assert quantised.float().isfinite().all()
    back = quantised.float() * scale
    assert ((back - rows).abs().amax(1) <= rows.abs().amax(1) / 16).all()


def test_the_error_of_a_network() -> None:
    plain = drawn_(WanTransformer(CONFIG)).to(torch.bfloat16)
    coarse = copy.deepcopy(plain)
    quantise_blocks_(coarse)
    exact = flow_of(drawn_(WanTransformer(CONFIG)))
    usual, error = (relative_error(flow_of(dit), exact) for dit in (plain, coarse))
    print(f"the flow of {CONFIG.num_layers} blocks of {CONFIG.dim}: {error:.1%} in FP8, {usual:.1%} in bfloat16")
    assert usual < error < 0.035, "what assets/docs/wan.md says"


def test_the_ends_stay_and_the_weights_that_become_fp8_are_let_go() -> None:
    dit = drawn_(WanTransformer(CONFIG)).to(torch.bfloat16)
    dit.join_products_()
    before = sum(each.nbytes for name, each in dit.state_dict().items() if name.startswith("blocks.1."))
    names = set(dit.state_dict())
    quantise_blocks_(dit)
    state = dit.state_dict()
    assert {name for name in names if name.startswith(("blocks.0.", "blocks.7."))} <= set(state)
    assert all(state[f"blocks.{layer}.ffn.0.weight"].dtype is fp8.FORMAT for layer in range(1, 7))
    assert "blocks.1.self_attn.q.weight" not in state
    # Of a block's 16 dim^2 weights here, all but the two of the text's keys and values take half.
    assert sum(each.nbytes for name, each in state.items() if name.startswith("blocks.1.")) < 0.6 * before
    part = drawn_(WanTransformer(CONFIG, Part(4, 8, embeds=False)))
    quantise_blocks_(part)
    assert [isinstance(block.ffn[0], Fp8Linear) for block in part.own_blocks()] == [True, True, True, False]


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "reason"),
    [
        (CPU, None, torch.float32, "it needs an NVIDIA GPU: the stream goes on in float32."),
        (
            GPU,
            (8, 6),
            torch.bfloat16,
            "it needs a GPU of compute capability 8.9 or more, and this one has 8.6: the stream goes on in bfloat16.",
        ),
        (GPU, (9, 0), torch.float16, "it needs --precision bfloat16: the stream goes on in float16."),
    ],
)
def test_where_it_cannot_be_used_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: torch.device,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    reason: str,
) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with caplog.at_level(logging.WARNING):
        assert not use_fp8(drawn_(WanTransformer(CONFIG)), device, dtype)
    assert [record.getMessage() for record in caplog.records] == [f"FP8 is not used, since {reason}"]


def test_a_stream_runs_in_fp8() -> None:
    """The whole way of a chunk; with two blocks, both are ends, so that here the middle one is made by hand."""
    engine, plain = toy_engine(), toy_engine()
    dit = engine.pipe.first.dit
    dit.config = replace(dit.config, num_layers=3)
    quantise_blocks_(dit)
    assert dit.own_blocks()[1].self_attn.qkv is not None
    made, expected = run_toy(engine, SCRIPT[:10]), run_toy(plain, SCRIPT[:10])
    off = max(abs(made[number].astype(int) - expected[number].astype(int)).mean() for number in expected)
    print(f"mean difference of a toy stream: {off:.2f} grey levels")
    assert 0 < off < 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
def test_a_gpu_computes_what_the_cpu_says() -> None:
    if fp8.why_not(GPU, torch.bfloat16):
        pytest.skip("this GPU has no FP8")
    dit = drawn_(WanTransformer(CONFIG)).to(torch.bfloat16)
    quantise_blocks_(dit)
    expected = flow_of(dit)
    assert relative_error(flow_of(dit.to(GPU), GPU).cpu(), expected) < 0.03
