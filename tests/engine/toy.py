"""A small real stream for engine tests: the one DiT at a small size with drawn weights, and a codec of plain sums."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdv2live.engine.base import Chunk, ChunkSettings, EngineTraits
from sdv2live.engine.kv_cache import KVCache
from sdv2live.engine.lora import Loras
from sdv2live.engine.model.wan_transformer import WanConfig, WanTransformer
from sdv2live.engine.noise import NoiseSource
from sdv2live.engine.pipe import LocalPipe
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.stage_runner import StageRunner
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.window import Window

SMALL = WanConfig(dim=48, ffn_dim=96, num_heads=2, num_layers=2, freq_dim=32, text_dim=12, text_len=4)
SIZE_WH = (48, 32)
CPU = torch.device("cpu")


class SumState:
    """The last picture; fresh is 1 where there was none."""

    def __init__(self, size_wh: tuple[int, int], device: torch.device) -> None:
        self.before = torch.zeros(1, 3, size_wh[1], size_wh[0], device=device)
        self.fresh = torch.ones(1, device=device)

    def reset(self) -> None:
        self.before.zero_()
        self.fresh.fill_(1)


class SumCodec:
    """Latents are pooled pixels, pictures are latents spread out again; each picture also carries a trace of the one
    before it, so that chunks decoded out of order show."""

    spatial_factor = 8

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self._mix = torch.randn(16, 3, generator=generator)

    def new_state(self, size_wh: tuple[int, int]) -> SumState:
        return SumState(size_wh, self._mix.device)

    def prepare(self, embedding: Tensor, noise_scale: float) -> Tensor:
        return embedding.mean() * 0.01 + noise_scale * 0.1

    def encode(self, frames: Tensor, state: object) -> tuple[Tensor, tuple[Tensor, ...]]:
        pooled = nn.functional.avg_pool2d(frames.mean(1), 8)
        return torch.einsum("oc,bchw->bohw", self._mix, pooled)[:, None], (torch.ones(frames.shape[1]),)

    def as_encoded(self, latents: Tensor) -> Tensor:
        return latents

    def decode(self, latents: Tensor, side: tuple[Tensor, ...], prepared: Tensor, state: SumState) -> Tensor:
        picture = torch.einsum("oc,bohw->bchw", self._mix, latents[:, -1]) * 0.05 + prepared
        picture = nn.functional.interpolate(picture, scale_factor=8, mode="nearest")
        before = torch.where(state.fresh > 0, picture, state.before.to(picture.dtype))
        state.before.copy_(picture)
        state.fresh.zero_()
        return (picture * 0.8 + before * 0.2)[:, None].expand(-1, len(side[0]), -1, -1, -1)


def drawn_(dit: WanTransformer, salt: str = "") -> WanTransformer:
    """Fill the DiT as the golden cases do: each parameter from a generator of its own, seeded by its name."""
    ones = ("norm_q.weight", "norm_k.weight", "norm3.weight", "gamma")
    with torch.no_grad():
        for name, parameter in dit.named_parameters():
            seed = zlib.crc32((salt + name).encode())
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.05)
            if name.endswith(ones):
                parameter.add_(1.0)
    return dit.eval().requires_grad_(False)


def toy_prompt(text: str) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    return torch.randn(1, SMALL.text_len, SMALL.text_dim, generator=generator)


def toy_engine(
    *,
    window: Window | None = None,
    first_epoch: int = 0,
    new_cache: Callable[..., KVCache] = KVCache,
    compiles: bool = False,
    codec: SumCodec | None = None,
    loras_of: Callable[[WanTransformer], Loras | None] = lambda _: None,
    steps_count: int = 2,
    prompt: Callable[[str], Tensor] = toy_prompt,
    at_noise: Callable[[Tensor, float], Tensor] = lambda embedding, _: embedding,
) -> StreamEngine:
    traits = EngineTraits("toy", SIZE_WH, first_chunk_frames=4, chunk_frames=4, defaults={})
    window = window or Window(capacity=4, sinks=1)
    dit = drawn_(WanTransformer(SMALL))
    return StreamEngine(
        traits=traits,
        pipe=one_stage(
            dit,
            codec or SumCodec(),
            window,
            SIZE_WH,
            new_cache=new_cache,
            compiles=compiles,
            loras=loras_of(dit),
        ),
        prompts=PromptMixer(Direct(prompt)),
        at_noise=at_noise,
        window=window,
        first_epoch=first_epoch,
        steps_count=steps_count,
    )


def one_stage(
    dit: WanTransformer,
    codec: Any,
    window: Window,
    size_wh: tuple[int, int],
    *,
    device: torch.device = CPU,
    new_cache: Callable[..., KVCache] = KVCache,
    noise: NoiseSource | None = None,
    compiles: bool = False,
    loras: Loras | None = None,
) -> LocalPipe:
    """The whole model in this process, in float32."""
    runner = StageRunner(
        dit=dit,
        codec=codec,
        window=window,
        size_wh=size_wh,
        device=device,
        dtype=torch.float32,
        new_cache=new_cache,
        noise=noise,
        compiles=compiles,
        loras=loras,
    )
    return LocalPipe([runner])


def toy_frames(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (4, SIZE_WH[1], SIZE_WH[0], 3), dtype=np.uint8)


def run_toy(engine: StreamEngine, settings: list[ChunkSettings]) -> dict[int, np.ndarray]:
    """Push one chunk for each entry of `settings`; -> frames by chunk id, the flushed ones included."""
    results = []
    for number, chunk_settings in enumerate(settings):
        engine.submit(Chunk(number, toy_frames(number)), chunk_settings)
        results += engine.poll()
    results += engine.flush()
    assert [result.chunk_id for result in results] == list(range(len(settings)))
    return {result.chunk_id: result.frames for result in results}
