"""Nothing between a chunk's start and its end makes the host wait for the device: what crosses to it and how.

On the CPU a stream runs on the meta device, which sees every copy from the host as a GPU would; on a GPU CUDA itself
watches. test_long_run.py has the guard against reading values back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdv2live.engine.base import Chunk, ChunkSettings, EngineTraits
from sdv2live.engine.micro_steps import InFlight
from sdv2live.engine.model.pocket_codec import PocketCodec
from sdv2live.engine.model.wan_transformer import POCKET, WanConfig, WanTransformer
from sdv2live.engine.model.wan_vae import WanVAE, WanVaeConfig
from sdv2live.engine.pocket import PocketStreamCodec
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.wan_codec import WanCodec
from sdv2live.engine.window import Window
from tests.engine.toy import drawn_, one_stage

SIZE_WH = (64, 32)
WAN = WanConfig(dim=24, ffn_dim=24, num_heads=1, num_layers=2, freq_dim=8, text_dim=8, text_len=3)
STEADY = ChunkSettings(
    mix=(("one", 1.0),), steps=(800, 400), steps_count=2, noise_max=0.8, noise_min=0.7, noise_mode="fresh", feedback=0.2
)
# From the chunk named on: cuts there and back, a blend, a mix, seeds, a sink.
CHANGES: dict[int, dict[str, Any]] = {
    4: {"mix": (("other", 1.0),)},
    5: {"mix": (("one", 1.0),)},
    6: {"mix": (("third", 1.0),), "transition_chunks": 3},
    9: {"mix": (("one", 1.0), ("other", 2.0)), "seed": 7, "seed_transition_chunks": 2, "transition_chunks": 0},
    10: {"sink_requests": 1, "noise_mode": "slow"},
}
CHUNKS = 12


class WaitsNowhereButAtTheEnd(StreamEngine):
    """What a chunk ends with, where the host waits for it, is left to whoever watches."""

    def _deliver(self, item: InFlight, pixels: Tensor, is_finite: Tensor) -> None:
        if pixels.device.type == "cuda":
            super()._deliver(item, pixels, is_finite)

    def _arrive(self, *, most_left: int = 0) -> None:
        if self._state.leaving:
            with unwatched():
                super()._arrive(most_left=most_left)


def engine_on(device: torch.device, name: str, *, compiles: bool = False) -> StreamEngine:
    """The Wan engine at a small size, or the pocket's networks; drawn on the CPU, then moved."""
    config = WAN if name == "wan" else POCKET
    dit = drawn_(WanTransformer(config)).to(device)
    if name == "wan":
        vae = drawn_(WanVAE(WanVaeConfig(base_dim=4))).to(device)
        codec: Any = WanCodec(vae, vae)
    else:
        codec = PocketStreamCodec(PocketCodec().eval().requires_grad_(False).to(device))
    return WaitsNowhereButAtTheEnd(
        traits=EngineTraits(name, SIZE_WH, first_chunk_frames=5 if name == "wan" else 4, chunk_frames=4, defaults={}),
        pipe=one_stage(dit, codec, Window(6, 3), SIZE_WH, device=device, compiles=compiles),
        prompts=PromptMixer(Direct(lambda text: torch.full((1, config.text_len, config.text_dim), len(text) / 9))),
        window=Window(6, 3),
    )


def run(engine: StreamEngine, first: int, end: int, schedule: str) -> None:
    settings = replace(STEADY, schedule=schedule)
    for number in range(end):
        settings = replace(settings, **CHANGES.get(number, {}))
        if number >= first:
            frames = np.full((engine.frames_wanted, SIZE_WH[1], SIZE_WH[0], 3), 11 * number, np.uint8)
            engine.submit(Chunk(number, frames), settings)
            engine.poll()


class Crossings(TorchDispatchMode):
    """Counts what crosses to the device by its shape, and refuses what the host would wait for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("to", "_to_copy", "copy_"):  # in inference mode `to` comes here whole
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], made)
            if source.device != target.device:
                names = [argument.name for argument in func._schema.arguments]
                given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
                assert source.device.type == "cpu", "nothing is read back"
                assert given.get("non_blocking"), f"a blocking copy of {tuple(source.shape)} to the device"
                self.shapes[tuple(source.shape)] += 1
        return made


@pytest.mark.parametrize("schedule", ["latency", "throughput"])
@pytest.mark.parametrize("name", ["wan", "pocket"])
def test_no_copy_to_the_device_blocks_and_a_prompt_crosses_once(name: str, schedule: str) -> None:
    engine = engine_on(torch.device("meta"), name)
    config = WAN if name == "wan" else POCKET
    with Crossings() as crossings:
        run(engine, 0, CHUNKS, schedule)
    assert crossings.shapes[(4, SIZE_WH[1], SIZE_WH[0], 3)] >= CHUNKS - 1, "frames are seen to cross"
    # One and other once each though one came back; the three chunks of a blend, the last of which is its target; a mix.
    assert crossings.shapes[(1, config.text_len, config.text_dim)] == 2 + 3 + 1


@contextmanager
def unwatched() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("schedule", ["latency", "throughput"])
@pytest.mark.parametrize("name", ["wan", "pocket"])
def test_cuda_sees_no_sync_inside_a_chunk(name: str, schedule: str, compiles: bool) -> None:
    """The start is let go: libraries set themselves up and tables are made. Then steady chunks and every change."""
    engine = engine_on(torch.device("cuda", 0), name, compiles=compiles)
    if compiles:
        engine.warm_up()
    run(engine, 0, 3, schedule)
    torch.cuda.synchronize()
    with unwatched():  # which puts back what was there
        torch.cuda.set_sync_debug_mode("error")
        run(engine, 3, CHUNKS, schedule)
