"""The DiT beside diffusers' own, an independent reading of the same network: one chunk, the past empty."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from sdv2live.engine.kv_cache import KVCache, RowWrite
from sdv2live.engine.model.wan_transformer import WanConfig, WanTransformer
from sdv2live.engine.window import Window
from tests.engine.toy import CPU, drawn_
from tests.engine.wan_cases import assert_close

# A head of 20 channels: 4 of its pairs are time's, and 3 each of height and width.
SMALL = WanConfig(dim=60, ffn_dim=88, num_heads=3, num_layers=3, freq_dim=32, text_dim=20, text_len=12)
GRID_HW = (3, 5)
FRAMES, WORDS = 2, 7

_THEIR_NAMES = {
    r"text_embedding\.(0|2)": lambda m: f"condition_embedder.text_embedder.linear_{int(m[1]) // 2 + 1}",
    r"time_embedding\.(0|2)": lambda m: f"condition_embedder.time_embedder.linear_{int(m[1]) // 2 + 1}",
    r"time_projection\.1": lambda m: "condition_embedder.time_proj",
    r"(blocks\.\d+)\.modulation": lambda m: f"{m[1]}.scale_shift_table",
    r"(blocks\.\d+)\.(self|cross)_attn\.(q|k|v|o)": lambda m: (
        f"{m[1]}.attn{1 if m[2] == 'self' else 2}." + ("to_out.0" if m[3] == "o" else f"to_{m[3]}")
    ),
    r"(blocks\.\d+)\.(self|cross)_attn\.norm_(q|k)": lambda m: f"{m[1]}.attn{1 if m[2] == 'self' else 2}.norm_{m[3]}",
    r"(blocks\.\d+)\.norm3": lambda m: f"{m[1]}.norm2",
    r"(blocks\.\d+)\.ffn\.0": lambda m: f"{m[1]}.ffn.net.0.proj",
    r"(blocks\.\d+)\.ffn\.2": lambda m: f"{m[1]}.ffn.net.2",
    r"head\.modulation": lambda m: "scale_shift_table",
    r"head\.head": lambda m: "proj_out",
    r"patch_embedding": lambda m: m[0],
}


def their_names(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under diffusers' names."""
    found = {}
    for name, tensor in ours.items():
        stem, leaf = (name, "") if name.endswith("modulation") else name.rsplit(".", 1)
        pattern = next(pattern for pattern in _THEIR_NAMES if re.fullmatch(pattern, stem))
        their_stem = re.sub(pattern, _THEIR_NAMES[pattern], stem)
        found[f"{their_stem}.{leaf}" if leaf else their_stem] = tensor
    return found


def strong(dit: WanTransformer) -> WanTransformer:
    """Every parameter drawn, and matrices large enough for text, position and time to show in the result."""
    drawn_(dit)
    for parameter in dit.parameters():
        parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return dit


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("timestep", [700.0, 123.0])
def test_one_chunk_equals_diffusers(timestep: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not ours to mend
        module = pytest.importorskip("diffusers.models.transformers.transformer_wan")
        theirs = module.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=SMALL.num_heads,
            attention_head_dim=SMALL.head_dim,
            in_channels=SMALL.in_dim,
            out_channels=SMALL.out_dim,
            text_dim=SMALL.text_dim,
            freq_dim=SMALL.freq_dim,
            ffn_dim=SMALL.ffn_dim,
            num_layers=SMALL.num_layers,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            eps=1e-6,
        ).eval()
    ours = strong(WanTransformer(SMALL))
    theirs.load_state_dict(their_names(ours.state_dict()))

    latents = drawn(1, FRAMES, SMALL.in_dim, 2 * GRID_HW[0], 2 * GRID_HW[1], seed=1)
    embedding = torch.zeros(1, SMALL.text_len, SMALL.text_dim)  # the rows past the words take part as well
    embedding[:, :WORDS] = drawn(1, WORDS, SMALL.text_dim, seed=2)
    with torch.no_grad():
        expected = theirs(latents.transpose(1, 2), torch.tensor([timestep]), embedding, return_dict=False)[0]

    cache = KVCache(
        Window(capacity=6, sinks=3),
        layers=SMALL.num_layers,
        heads=SMALL.num_heads,
        head_dim=SMALL.head_dim,
        grid_hw=GRID_HW,
        device=CPU,
        dtype=torch.float32,
    )
    cache.ensure_rows(1)
    with torch.no_grad():
        text = ours.encode_text(embedding[:, :WORDS])
        assert all(keys.shape[1] == SMALL.text_len for keys in (*text.keys, *text.values)), "every position is seen"
        past = cache.attention([RowWrite(0, first=0, newest=FRAMES - 1)])
        flow = ours(latents, torch.full((1, FRAMES), timestep), text, past)
    assert_close(flow.transpose(1, 2), expected)
