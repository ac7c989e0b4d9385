"""The pocket engine: the small DiT, its codec and its text encoder, put together from the weights that ship.

Knows where each weight file goes; the networks themselves are in `engine/model`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sdv2live.engine.base import EngineSpec
from sdv2live.engine.catalogue import traits_of, window_of
from sdv2live.engine.codec import Form, Side
from sdv2live.engine.compile import chooses_compile
from sdv2live.engine.model import pocket_codec
from sdv2live.engine.model.pocket_codec import Memory, PocketCodec
from sdv2live.engine.model.pocket_text import FULL_NOISE, PocketTextEncoder
from sdv2live.engine.model.wan_transformer import POCKET
from sdv2live.engine.pipe import LocalPipe, Pipe
from sdv2live.engine.pocket_words import load_text_encoder, understood_of
from sdv2live.engine.precision import choose_device, choose_dtype
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.reference_profile import cache_of
from sdv2live.engine.stage_runner import StageRunner
from sdv2live.engine.stages import StageMap
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.weights import load_into, open_checkpoint, part_of_transformer
from sdv2live.understood import Understood


class Weakening:
    """A prompt as little noise asks for it, made anew only where the prompt or the noise has changed."""

    def __init__(self, text: PocketTextEncoder) -> None:
        self._text = text
        self._last: tuple[Tensor, float, Tensor] | None = None

    def __call__(self, embedding: Tensor, noise_scale: float) -> Tensor:
        if noise_scale >= FULL_NOISE:
            return embedding
        if self._last is None or self._last[0] is not embedding or self._last[1] != noise_scale:
            weak = self._text.weakened(embedding, torch.tensor([noise_scale]))
            self._last = (embedding, noise_scale, weak)
        return self._last[2]


class PocketStreamCodec:
    """PocketCodec under the contract of every codec: one stream, one memory."""

    spatial_factor = 8

    def __init__(self, codec: PocketCodec, *, decodes: bool = True) -> None:
        self._codec, self._decodes = codec, decodes
        self._device, self._dtype = codec.latent_mean.device, codec.latent_mean.dtype

    def new_state(self, size_wh: tuple[int, int]) -> Memory | None:
        width, height = size_wh
        return self._codec.new_memory(1, height, width, self._dtype, self._device) if self._decodes else None

    def prepare(self, embedding: Tensor, noise_scale: float) -> Tensor:
        scale = torch.full((1,), noise_scale, device=self._device, dtype=self._dtype)
        style: Tensor = self._codec.style(embedding, scale)
        return style

    def encode(self, frames: Tensor, state: Memory | None) -> tuple[Tensor, Side]:
        return self._codec.encode(frames)

    def side_forms(self, size_wh: tuple[int, int]) -> tuple[Form, ...]:
        return tuple(Form(shape, self._dtype, channels_last=True) for shape in pocket_codec.side_shapes(size_wh))

    def as_encoded(self, latents: Tensor) -> Tensor:
        return latents

    def decode(self, latents: Tensor, side: Side, prepared: Tensor, state: Memory) -> Tensor:
        return self._codec.decode(latents, pocket_codec.Side(*side), prepared, state)


def build_pocket(
    spec: EngineSpec,
    weights_dir: Path,
    *,
    first_epoch: int = 0,
    stages: StageMap | None = None,
    pipe_of: Callable[[StageRunner], Pipe] = lambda runner: LocalPipe([runner]),
    device: torch.device | None = None,
    on_landed: Callable[[], None] = lambda: None,
    on_read: Callable[[tuple[Understood, ...]], None] = lambda _: None,
) -> StreamEngine:
    """The engine, loaded and not yet warm. Raises UserError for weights that do not fit.

    stages: what the first rank has, all by default; pipe_of: the way to the other ranks; on_landed: as StreamEngine
    has it. on_read: told what each prompt
    is understood as, when it is encoded.
    """
    stages = stages or StageMap.on_one(POCKET.num_layers)
    runner = pocket_stage(spec, weights_dir, stages, 0, device or choose_device(spec.device))
    text = load_text_encoder(weights_dir)  # it runs once a prompt

    @torch.inference_mode()
    def encode(prompt: str) -> Tensor:
        tokens, read = text.read_prompt(prompt)
        on_read(understood_of(prompt, read))
        return tokens

    return StreamEngine(
        traits=traits_of(spec),
        pipe=pipe_of(runner),
        prompts=PromptMixer(Direct(encode)),
        at_noise=Weakening(text),
        window=window_of(spec),
        first_epoch=first_epoch,
        steps_count=max(spec.steps_count, 2),  # it is small: the second one has its row from the start
        on_landed=on_landed,
    )


def pocket_stage(spec: EngineSpec, weights_dir: Path, stages: StageMap, rank: int, device: torch.device) -> StageRunner:
    """What `rank` runs, loaded. Raises UserError for weights that do not fit."""
    dtype = choose_dtype(spec.precision, device)
    path = weights_dir / "dit.safetensors"
    dit = part_of_transformer(POCKET, stages.part(rank), open_checkpoint(path), path=path, dtype=dtype, device=device)
    codec = PocketCodec()
    elsewhere = set(codec.state_dict())
    codec.keep(encoder=rank == 0, decoder=stages.decodes(rank))
    elsewhere -= codec.state_dict().keys()
    path = weights_dir / "codec.safetensors"
    tensors = open_checkpoint(path)
    own = {name: tensors[name] for name in tensors if name not in elsewhere}
    load_into(codec, own, path=path, dtype=dtype, device=device)
    codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this form
    return StageRunner(
        dit=dit,
        codec=PocketStreamCodec(codec, decodes=stages.decodes(rank)),
        window=window_of(spec),
        size_wh=spec.size_wh,
        device=device,
        dtype=dtype,
        new_cache=cache_of(spec.profile),
        compiles=chooses_compile(spec.compile),
        fp8=spec.fp8,
    )
