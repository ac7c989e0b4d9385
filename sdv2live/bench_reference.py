"""The published StreamDiffusionV2 package beside our engine: same weights, size and steps, chunk by chunk in turn.

Owns: how its networks are built with our weights, which have the same names, and how its stream batch is driven. Where
it is not installed that is said; nothing else needs it. Its networks run in our number format, so that both do the same
arithmetic, and the counted work of a chunk is given for both.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdv2live.bench_floor import counted
from sdv2live.engine.base import STAGES, Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.catalogue import window_of
from sdv2live.engine.ceilings import finish
from sdv2live.engine.model.wan_transformer import WanConfig
from sdv2live.engine.model.wan_vae import LATENT_MEAN, LATENT_STD, WanVAE
from sdv2live.engine.schedule import first_timestep
from sdv2live.engine.stage_clock import StageClock
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.wan_codec import WanCodec
from sdv2live.errors import UserError, one_line
from sdv2live.frames import Pixels
from sdv2live.stats import percentile

DISTRIBUTION = "streamdiffusionv2"
HEAD_DIM, TEXT_LEN = 128, 512  # fixed in its caches
RESTART_FRAME = 50
_PIPELINE, _ATTENTION = "models.wan.causal_stream_inference", "models.wan.wan_base.modules.attention"
_MODEL, _WRAPPER, _VAE = "models.wan.causal_model", "models.wan.wan_wrapper", "models.wan.wan_base.modules.vae"
_STRANGE = (ImportError, AttributeError, TypeError, KeyError, ValueError, RuntimeError, AssertionError, OSError)


def check_reference(spec: EngineSpec) -> None:
    """Raise UserError, before anything is loaded, where there is nothing to compare or nothing alike."""
    if any(importlib.util.find_spec(name) is None for name in ("models", "streamv2v")):
        raise UserError(
            f"there is nothing to compare with: the reference's package {DISTRIBUTION} is not installed in this Python."
        )
    if spec.name == "pocket" or spec.vae != "wan" or spec.normalises_latents:
        raise UserError("the reference has no such engine: compare with --engine wan-1.3b or wan-14b and --vae wan.")


def compare(
    engine: StreamEngine, settings: ChunkSettings, spec: EngineSpec, *, dtype: torch.dtype, chunks: int
) -> dict[str, Any]:
    """{"ours", "reference"}: medians of chunk_ms and stage_ms, fps, gflop; "ratio": how many times as fast ours is.

    Both run the stream batch of settings.steps_count steps. Raises UserError where the package is another than is known
    here, ChunkError from our engine.
    """
    settings = replace(settings, schedule="throughput")
    warnings.simplefilter("ignore")  # it warns in every layer
    try:
        reference = _Reference(engine, spec, settings, dtype)
    except _STRANGE as error:
        raise UserError(f"the installed {DISTRIBUTION} cannot be built with our weights: {one_line(error)}.") from error
    engine.reset()
    width, height = spec.size_wh
    frames = np.random.default_rng(2).integers(0, 256, (engine.traits.largest_chunk + 8, height, width, 3), np.uint8)

    def ours(pixels: Pixels) -> dict[str, float]:
        engine.submit(Chunk(0, pixels), settings)
        results = engine.poll()
        return results[-1].stage_ms if results else {}

    settle = window_of(spec).capacity + settings.steps_count + 2
    turns: dict[str, Callable[[Pixels], dict[str, float]]] = {"ours": ours, "reference": reference}
    spent: dict[str, list[float]] = {name: [] for name in turns}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in turns}
    work: dict[str, float] = {}
    for number in range(settle + chunks):
        pixels = np.ascontiguousarray(frames[number % 8 :][: engine.frames_wanted])
        for name, run in turns.items():
            try:
                if number == settle - 1:
                    done = counted(partial(run, pixels))[1]
                    work[name] = done["conv"] + done["matmul"] + done["fp8"]
                    continue
                # Ours leaves a chunk's work under way on a GPU: what it began is its own time, not the other's.
                finish(engine.device)
                started_s = time.perf_counter()
                stage_ms = run(pixels)
                finish(engine.device)
                if number >= settle:
                    spent[name].append(time.perf_counter() - started_s)
                    stages[name].append(stage_ms)
            except _STRANGE as error:
                if name == "ours":
                    raise
                raise UserError(f"the installed {DISTRIBUTION} cannot be run: {one_line(error)}.") from error
    engine.reset()
    figures: dict[str, Any] = {name: _figures(spent[name], stages[name], work[name], engine) for name in spent}
    return {
        "package": f"{DISTRIBUTION} {_version()}",
        "reference_attention": reference.attention,
        "our_attention": engine.pipe.first.attention.name,
        "steps": settings.steps_count,
        "schedule": "stream batch",
        "chunks": chunks,
        "ratio": round(figures["reference"]["chunk_ms"] / figures["ours"]["chunk_ms"], 2),
        **figures,
    }


def _figures(
    seconds: list[float], stages: list[dict[str, float]], gflop: float, engine: StreamEngine
) -> dict[str, Any]:
    """stages: of each chunk, or nothing where its picture had not come yet."""
    median_s, known = percentile(seconds, 0.5) or 0.0, [each for each in stages if each]
    return {
        "stage_ms": {name: round(percentile([each[name] for each in known], 0.5) or 0.0, 1) for name in STAGES},
        "chunk_ms": round(median_s * 1000, 1),
        "fps": round(engine.traits.chunk_frames / median_s, 2),
        "gflop": round(gflop, 3),
    }


def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "of a checkout"


class _Reference:
    """Its single-device stream batch. Called with the next chunk's frames [T, H, W, 3] uint8, five and then four."""

    def __init__(self, engine: StreamEngine, spec: EngineSpec, settings: ChunkSettings, dtype: torch.dtype) -> None:
        dit, codec = engine.pipe.first.dit, engine.pipe.first.codec
        assert isinstance(codec, WanCodec) and isinstance(codec._encoder, WanVAE)
        config, vae_config = dit.config, codec._encoder.config
        if config.head_dim != HEAD_DIM or config.text_len != TEXT_LEN:
            raise ValueError(f"it has heads of {HEAD_DIM} channels and {TEXT_LEN} text tokens alone")
        pipeline, model, wrapper, vae, attention = map(_module, (_PIPELINE, _MODEL, _WRAPPER, _VAE, _ATTENTION))
        self.attention = _attention_of(model, attention, engine.device)
        self._device, self._dtype, self._settings = engine.device, dtype, settings
        self._vae = vae.WanVAE_(
            dim=vae_config.base_dim,
            z_dim=vae_config.z_dim,
            dim_mult=list(vae_config.multipliers),
            num_res_blocks=vae_config.res_blocks,
            temperal_downsample=list(vae_config.halves_time),
        )
        network = model.CausalWanModel(
            dim=config.dim,
            ffn_dim=config.ffn_dim,
            num_heads=config.num_heads,
            num_layers=config.num_layers,
            freq_dim=config.freq_dim,
            text_dim=config.text_dim,
        )
        for each, weights in ((network, dit.state_dict()), (self._vae, codec._encoder.state_dict())):
            each.load_state_dict(weights, strict=True)
            each.to(device=self._device, dtype=dtype).eval().requires_grad_(False)
        self._pipeline = self._assembled(pipeline, wrapper, network, spec, config)
        latent_mean, latent_std = (torch.tensor(each, device=self._device) for each in (LATENT_MEAN, LATENT_STD))
        self._scale = [latent_mean.to(dtype), (1 / latent_std).to(dtype)]
        self._start: int | None = None

    def _assembled(
        self, pipeline: ModuleType, wrapper: ModuleType, network: nn.Module, spec: EngineSpec, config: WanConfig
    ) -> Any:
        """Its classes without their constructors, which read files; everything that those would set is set here."""
        generator = _bare(wrapper.CausalWanDiffusionWrapper)
        generator.model, generator.uniform_timestep, generator.seq_len = network, False, 32760
        generator.scheduler = wrapper.FlowMatchScheduler(shift=8.0, sigma_min=0.0, extra_one_step=True)
        generator.scheduler.set_timesteps(1000, training=True)
        generator.post_init()
        window, (width, height) = window_of(spec), spec.size_wh
        tokens = (width // 16) * (height // 16)
        embedding = torch.randn(1, TEXT_LEN, config.text_dim, device=self._device, dtype=self._dtype)
        steps = self._settings.steps[: self._settings.steps_count]
        made = _bare(pipeline.CausalStreamInferencePipeline)
        for name, value in {
            "device": self._device,
            "generator": generator,
            "text_encoder": lambda text_prompts: {"prompt_embeds": embedding},
            "scheduler": generator.get_scheduler(),
            "denoising_step_list": torch.tensor(steps, dtype=torch.long, device=self._device),
            "num_transformer_blocks": config.num_layers,
            "num_heads": config.num_heads,
            "height": height // 8,
            "width": width // 8,
            "frame_seq_length": tokens,
            "num_kv_cache": window.capacity,
            "kv_cache_length": tokens * window.capacity,
            "num_sink_tokens": window.sinks,
            "adapt_sink_threshold": self._settings.sink_similarity,
            "conditional_dict": None,
            "kv_cache1": None,
            "kv_cache2": None,
            "hidden_states": None,
            "block_x": None,
            "num_frame_per_block": 1,
        }.items():
            setattr(made, name, value)
        return made

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> dict[str, float]:
        """One chunk, its pictures on the host; -> milliseconds by stage."""
        clock = StageClock(self._device)
        marks = [clock.mark()]
        frames = torch.from_numpy(pixels).to(self._device).permute(3, 0, 1, 2)[None].to(self._dtype) / 127.5 - 1
        latents = self._vae.stream_encode(frames, None).transpose(1, 2).contiguous()
        sigma = self._settings.noise_max
        noisy = torch.randn_like(latents) * sigma + latents * (1 - sigma)
        marks.append(clock.mark())
        clean = self._denoised(noisy, sigma)
        marks.append(clock.mark())
        video = self._vae.stream_decode(clean.transpose(1, 2), self._scale).float().clamp_(-1, 1)
        marks.append(clock.mark())
        (video * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 3, 0).contiguous().cpu().numpy()  # as it gives them
        return {name: clock.ms_between(*pair) for name, pair in zip(STAGES, itertools.pairwise(marks), strict=True)}

    def _denoised(self, noisy: Tensor, sigma: float) -> Tensor:
        """The opening at once; later a micro-step, and the row that is finished."""
        tokens = self._pipeline.frame_seq_length
        if self._start is None:
            self._start = 2 * tokens
            opening: Tensor = self._pipeline.prepare(
                text_prompts=[""],
                device=self._device,
                dtype=self._dtype,
                noise=noisy,
                current_start=0,
                current_end=self._start,
            )
            return opening
        if self._start // tokens >= RESTART_FRAME:
            self._start = self._pipeline.kv_cache_length - tokens
        rows: Tensor = self._pipeline.inference_stream(
            noise=noisy,
            current_start=self._start,
            current_end=self._start + tokens,
            current_step=first_timestep(sigma, self._settings.timestep_offset),
        )
        self._start += tokens
        return rows[-1:]


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _bare(kind: Any) -> Any:
    """An nn.Module of this class that its constructor has not seen."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    return made


def _attention_of(model: ModuleType, attention: ModuleType, device: torch.device) -> str:
    """The back-ends that its code takes here: on the KV cache, and for the text."""
    flash = "flash-attn 3" if importlib.util.find_spec("flash_attn_interface") else "flash-attn 2"
    sdpa = "torch scaled_dot_product_attention"
    on_cache = flash if model.FLASH_ATTN_AVAILABLE and device.type == "cuda" else sdpa
    if attention.FLASH_ATTN_3_AVAILABLE:
        on_text = "flash-attn 3"
    else:
        on_text = "flash-attn 2" if attention.FLASH_ATTN_2_AVAILABLE else f"{sdpa} with a mask"
    return f"{on_cache} on the cache, {on_text} on the text"
