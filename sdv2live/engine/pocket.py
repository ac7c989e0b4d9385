"""The pocket engine: the small DiT, its codec and its text encoder, put together from the weights that ship.

Knows where each weight file goes; the networks themselves are in `engine/model`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from sdv2live.engine.base import EngineSpec
from sdv2live.engine.catalogue import traits_of, window_of
from sdv2live.engine.codec import Side
from sdv2live.engine.compile import chooses_compile
from sdv2live.engine.model import pocket_codec
from sdv2live.engine.model.pocket_codec import Memory, PocketCodec
from sdv2live.engine.model.pocket_text import PocketTextEncoder
from sdv2live.engine.model.wan_transformer import POCKET, WanTransformer
from sdv2live.engine.pipe import LocalPipe
from sdv2live.engine.precision import choose_device, choose_dtype
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.reference_profile import cache_of
from sdv2live.engine.stage_runner import StageRunner
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.weights import load_strict


class PocketStreamCodec:
    """PocketCodec under the contract of every codec: one stream, one memory."""

    spatial_factor = 8

    def __init__(self, codec: PocketCodec) -> None:
        self._codec = codec
        parameter = next(codec.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype

    def new_state(self, size_wh: tuple[int, int]) -> Memory:
        width, height = size_wh
        return self._codec.new_memory(1, height, width, dtype=self._dtype, device=self._device)

    def prepare(self, embedding: Tensor, noise_scale: float) -> Tensor:
        scale = torch.full((1,), noise_scale, device=self._device, dtype=self._dtype)
        style: Tensor = self._codec.style(embedding, scale)
        return style

    def encode(self, frames: Tensor, state: Memory) -> tuple[Tensor, Side]:
        return self._codec.encode(frames)

    def as_encoded(self, latents: Tensor) -> Tensor:
        return latents

    def decode(self, latents: Tensor, side: Side, prepared: Tensor, state: Memory) -> Tensor:
        return self._codec.decode(latents, pocket_codec.Side(*side), prepared, state)


def build_pocket(spec: EngineSpec, weights_dir: Path, *, first_epoch: int = 0) -> StreamEngine:
    """The engine, loaded and not yet warm. Raises UserError for weights that do not fit."""
    device = choose_device(spec.device)
    dtype = choose_dtype(spec.precision, device)
    words = json.loads((weights_dir / "config.json").read_text("utf-8"))["text"]
    dit, codec = WanTransformer(POCKET), PocketCodec()
    text = PocketTextEncoder(tuple(words["looks"]), tuple(words["colours"]))
    load_strict(dit, weights_dir / "dit.safetensors", dtype=dtype, device=device)
    load_strict(codec, weights_dir / "codec.safetensors", dtype=dtype, device=device)
    # The text encoder runs once a prompt, on the CPU, in full precision.
    load_strict(text, weights_dir / "text.safetensors", dtype=torch.float32, device=torch.device("cpu"))
    codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this form

    @torch.inference_mode()
    def encode(prompt: str) -> Tensor:
        return text.encode([prompt])

    window = window_of(spec)
    runner = StageRunner(
        dit=dit,
        codec=PocketStreamCodec(codec),
        window=window,
        size_wh=spec.size_wh,
        device=device,
        dtype=dtype,
        new_cache=cache_of(spec.profile),
        compiles=chooses_compile(spec.compile, device),
        fp8=spec.fp8,
    )
    return StreamEngine(
        traits=traits_of(spec),
        pipe=LocalPipe([runner]),
        prompts=PromptMixer(Direct(encode)),
        window=window,
        first_epoch=first_epoch,
    )
