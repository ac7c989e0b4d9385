"""A compiled stream beside its plain twin, in a process of its own: what torch compiles with outlives a test.

`python -m tests.engine.compiled_stream DEVICE` prints what it found as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdv2live.engine.base import ChunkSettings, EngineTraits
from sdv2live.engine.compile import speed_up_vae
from sdv2live.engine.model.wan_transformer import WanTransformer
from sdv2live.engine.model.wan_vae import RMSNorm, WanVAE, WanVaeConfig
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.window import Window
from tests.engine.toy import SIZE_WH, SMALL, SumCodec, drawn_, one_stage, run_toy, toy_prompt

BASE = ChunkSettings(mix=(("one", 1.0),), steps=(800, 600, 400, 200), steps_count=2, noise_mode="fresh")
SCRIPT = [
    *[BASE] * 8,
    *[replace(BASE, mix=(("two", 1.0),), seed=4)] * 6,
    *[replace(BASE, mix=(("three", 1.0),), transition_chunks=3, steps_count=3, sink_requests=1)] * 8,
    *[replace(BASE, steps=(700, 300), noise_max=0.5, noise_min=0.4, steps_count=1)] * 8,
]


def kept_latents(engine: StreamEngine) -> list[Tensor]:
    """What the engine decodes from now on, newest last; beside the codec, whose calls a graph replays unseen."""
    kept: list[Tensor] = []
    coder = engine.pipe.first.coder
    decode = coder.decode

    def keeping(latents: Tensor, *rest: Any) -> Tensor:
        kept.append(latents.clone())
        return decode(latents, *rest)

    coder.decode = keeping  # type: ignore[method-assign]
    return kept


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest one of the newest pictures of a script, as a share of the largest value."""
    pairs = zip(ours[-len(SCRIPT) :], theirs[-len(SCRIPT) :], strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


class Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def engine_on(device: torch.device, *, compiles: bool) -> StreamEngine:
    codec = SumCodec()
    codec._mix = codec._mix.to(device)
    window = Window(4, 1)
    return StreamEngine(
        traits=EngineTraits("toy", SIZE_WH, first_chunk_frames=4, chunk_frames=4, defaults={}),
        pipe=one_stage(
            drawn_(WanTransformer(SMALL)).to(device), codec, window, SIZE_WH, device=device, compiles=compiles
        ),
        prompts=PromptMixer(Direct(toy_prompt)),
        window=window,
    )


def norm_difference(device: torch.device) -> float:
    """Of the autoencoder's fused norm, written into a part of another tensor, as a share of the largest value."""
    norm = RMSNorm(8).to(device).requires_grad_(False)
    x = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1)).to(device)
    plain, joined = torch.empty_like(x), x.new_zeros(4, 4, 6, 8)
    norm.silu_into(x, plain)
    vae = WanVAE(WanVaeConfig(base_dim=4), has_decoder=False)
    speed_up_vae(vae, device, compiles=True)
    norm.fused = next(each for each in vae.modules() if isinstance(each, RMSNorm)).fused
    norm.silu_into(x, joined[2:])
    assert not joined[:2].any()
    return float((joined[2:] - plain).abs().max() / plain.abs().max())


def main(device: torch.device) -> None:
    said = Said()
    logging.getLogger("sdv2live").addHandler(said)
    engine, twin = engine_on(device, compiles=True), engine_on(device, compiles=False)
    ours, theirs = kept_latents(engine), kept_latents(twin)
    engine.warm_up()
    counts = torch._dynamo.utils.counters["stats"]
    compiled = counts["unique_graphs"]
    # Live, what would have to be compiled runs plainly; here that is to fail.
    stance = torch.compiler.set_stance
    torch.compiler.set_stance = lambda _: stance("fail_on_recompile")  # type: ignore[assignment,misc]
    run_toy(engine, SCRIPT)
    twin.reset()
    run_toy(twin, SCRIPT)
    found = {
        "said": said.messages,
        "compiled": compiled,
        "compiled_live": counts["unique_graphs"] - compiled,
        "difference": difference(ours, theirs),
        "norm_difference": norm_difference(device),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(torch.device(sys.argv[1]))
