"""The Wan engines, 1.3B and 14B: the DiT, its codec and its text encoder, put together from files or drawn weights.

Knows which network a file fills; the networks are in `engine/model`, the places of the files in `wan_files.py`. Before
anything is loaded the memory it will need is counted and compared with what is free.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sdv2live.engine.base import EngineSpec
from sdv2live.engine.catalogue import traits_of, window_of
from sdv2live.engine.checkpoint import NotEnoughMemory, is_memory_full
from sdv2live.engine.compile import chooses_compile, speed_up_vae
from sdv2live.engine.embedding_cache import EmbeddingCache
from sdv2live.engine.lora import Loras, open_loras
from sdv2live.engine.memory import Fit, Footprint, check_memory, count_memory, fit_of
from sdv2live.engine.model.taehv import TAEHV, patched_state_dict
from sdv2live.engine.model.wan_transformer import WanConfig
from sdv2live.engine.model.wan_vae import WanVAE, WanVaeConfig
from sdv2live.engine.noise import draw
from sdv2live.engine.pipe import LocalPipe, Pipe
from sdv2live.engine.precision import choose_device, choose_dtype
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.reference_profile import cache_of
from sdv2live.engine.stage_runner import StageRunner
from sdv2live.engine.stages import StageMap
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct, TextAhead, Texts
from sdv2live.engine.umt5 import UMT5Encoder, UMT5Size, clean_text
from sdv2live.engine.wan_codec import VAE_MODES, WanCodec, channels_last_, empty_networks
from sdv2live.engine.wan_files import WanFiles, WanSizes, check_folder, find_files, sizes_of
from sdv2live.engine.weights import load_into, open_checkpoint, part_of_transformer, random_weights_
from sdv2live.errors import UserError
from sdv2live.paths import cache_dir, models_dir

log = logging.getLogger(__name__)

RANDOM_SEED = 1
Say = Callable[[str], None]


def build_wan(
    spec: EngineSpec,
    *,
    first_epoch: int = 0,
    say: Say = log.info,
    stages: StageMap | None = None,
    pipe_of: Callable[[StageRunner], Pipe] = lambda runner: LocalPipe([runner]),
    device: torch.device | None = None,
    on_landed: Callable[[], None] = lambda: None,
) -> StreamEngine:
    """The engine, loaded and not yet warm. say: told what is being loaded.

    stages: what the first rank has, all by default; pipe_of: the way to the other ranks; on_landed: as StreamEngine
    has it. Raises UserError for files
    that are missing or do not fit, and for an engine that is larger than the memory.
    """
    sizes = _sizes(spec)
    stages = stages or StageMap.on_one(sizes.dit.num_layers)
    device = device or choose_device(spec.device)
    runner = wan_stage(spec, stages, 0, device, first_epoch=first_epoch, say=say)
    pipe = pipe_of(runner)
    return StreamEngine(
        traits=traits_of(spec),
        pipe=pipe,
        prompts=PromptMixer(
            _texts(_files(spec, sizes), sizes.text, sizes.dit, device=device), waits=spec.waits_for_text
        ),
        window=window_of(spec),
        first_epoch=first_epoch,
        steps_count=spec.steps_count,
        on_landed=on_landed,
    )


def wan_blocks(spec: EngineSpec) -> int:
    """How many blocks the transformer of `spec` has. Raises UserError."""
    return _sizes(spec).dit.num_layers


def wan_stage(
    spec: EngineSpec,
    stages: StageMap,
    rank: int,
    device: torch.device,
    *,
    first_epoch: int = 0,
    say: Say = log.info,
) -> StageRunner:
    """What `rank` runs, loaded. Raises UserError as `build_wan` does."""
    sizes = _sizes(spec)
    files = _files(spec, sizes)
    dtype = choose_dtype(spec.precision, device)
    # A stream that is started again is to come back: steps that were asked for live and do not fit are found out there.
    counted = replace(spec, steps_count=1) if first_epoch else spec
    check_memory(counted, sizes.dit, sizes.vae, device=device, dtype=dtype, stages=stages, rank=rank)
    opened = open_loras(spec.lora, sizes.dit, engine=spec.name) if spec.lora else ()
    for lora in opened if rank == 0 else ():
        if lora.file.unused:
            log.warning("%s", lora.file.sentence_of_unused)
    try:
        say("loading the transformer")
        tensors = open_checkpoint(files.dit) if files else None
        path = files.dit if files else Path()
        part = stages.part(rank)
        dit = part_of_transformer(sizes.dit, part, tensors, path=path, dtype=dtype, device=device, seed=RANDOM_SEED)
        loras = Loras(opened, dit, tensors) if opened else None
        say("loading the autoencoder")
        halves = rank == 0, stages.decodes(rank)
        codec = _codec(spec, sizes.vae, files, halves, dtype=dtype, device=device)
        runner = StageRunner(
            dit=dit,
            codec=codec,
            window=window_of(spec),
            size_wh=spec.size_wh,
            device=device,
            dtype=dtype,
            new_cache=cache_of(spec.profile),
            compiles=chooses_compile(spec.compile),
            fp8=spec.fp8,
            loras=loras,
        )
        if loras is not None:
            say("merging LoRAs")
            runner.set_strengths(loras.resolved(spec.lora_strengths), checks=True)
        return runner
    except (RuntimeError, MemoryError) as error:
        if not is_memory_full(error):
            raise
        width, height = spec.size_wh
        raise NotEnoughMemory(
            f"{spec.name} at {width}x{height} does not fit into the memory of {device} beside what is there: close "
            "other programs, or take a smaller --size, --vae taehv or a smaller engine."
        ) from None


def footprint_of(spec: EngineSpec, *, dtype: torch.dtype) -> Footprint:
    """What the engine of `spec` takes in memory, counted. Raises UserError for a folder whose sizes cannot be used."""
    sizes, is_gpu = _sizes(spec), choose_device(spec.device).type == "cuda"
    return count_memory(spec, sizes.dit, sizes.vae, dtype=dtype, overlaps=is_gpu)


def fit_here(spec: EngineSpec) -> Fit:
    """Whether the engine of `spec` fits into what is free on its device now. Raises UserError as `footprint_of`."""
    sizes, device = _sizes(spec), choose_device(spec.device)
    return fit_of(spec, sizes.dit, sizes.vae, device=device, dtype=choose_dtype(spec.precision, device))


def _sizes(spec: EngineSpec) -> WanSizes:
    if not spec.weights:
        return sizes_of(spec.name, None if spec.random_weights else _folder(spec))
    check_folder(spec.name, _folder(spec))
    return sizes_of(spec.name, _folder(spec))


def _files(spec: EngineSpec, sizes: WanSizes) -> WanFiles | None:
    """None where weights are drawn. Raises UserError for files that are missing or belong to different models."""
    if spec.random_weights:
        return None
    files = find_files(spec.name, _folder(spec), spec.vae)
    if sizes.text.d_model != sizes.dit.text_dim:
        raise UserError(
            f"the text encoder {files.text} gives {sizes.text.d_model} values a token and the transformer {files.dit} "
            f"takes {sizes.dit.text_dim}: they do not belong together; give a folder with files of one model."
        )
    return files


def _folder(spec: EngineSpec) -> Path:
    """Where the files of the engine are to be."""
    if not spec.weights:
        return models_dir()
    try:
        return Path(spec.weights).expanduser()
    except RuntimeError:
        raise UserError(f"--weights {spec.weights} names the folder of a user who is not known here.") from None


def fill(
    network: nn.Module,
    path: Path | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
    prepared: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors,
) -> None:
    """Weights from the checkpoint at `path`, or drawn ones where there is none."""
    if path is None:
        random_weights_(network, seed=RANDOM_SEED, dtype=dtype, device=device)
    else:
        load_into(network, prepared(open_checkpoint(path)), path=path, dtype=dtype, device=device)


def _codec(
    spec: EngineSpec,
    config: WanVaeConfig,
    files: WanFiles | None,
    halves: tuple[bool, bool],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> WanCodec:
    """halves: whether the encoder is wanted, and whether the decoder."""
    encoder, decoder = empty_networks(VAE_MODES[spec.vae], config, halves)
    for network in {id(each): each for each in (encoder, decoder) if each is not None}.values():
        with torch.device("meta"):
            whole = WanVAE(config) if isinstance(network, WanVAE) else TAEHV()
        unused = whole.state_dict().keys() - network.state_dict().keys()
        prepared = partial(_half_of, unused=unused, is_taehv=isinstance(network, TAEHV))
        path = None if files is None else files.vae if isinstance(network, WanVAE) else files.taehv
        fill(network, path, dtype=dtype, device=device, prepared=prepared)
        if device.type == "cuda":
            channels_last_(network)
        if isinstance(network, WanVAE):
            speed_up_vae(network, device, compiles=chooses_compile(spec.compile))
    return WanCodec(encoder, decoder, normalise=spec.normalises_latents, mode=VAE_MODES[spec.vae])


def _half_of(tensors: Mapping[str, Tensor], *, unused: Set[str], is_taehv: bool) -> Mapping[str, Tensor]:
    """A file holds an encoder and a decoder, and a codec may want one of them: the rest must still fit strictly."""
    kept = {name: tensors[name] for name in tensors if name not in unused}
    return patched_state_dict(kept) if is_taehv else kept


def _texts(files: WanFiles | None, size: UMT5Size, dit: WanConfig, *, device: torch.device) -> Texts:
    if files is None:
        return Direct(lambda text: _drawn_embedding(text, dit))
    encoder = UMT5Encoder(files.text, files.tokenizer, device=device, size=size, text_len=dit.text_len)
    cache = EmbeddingCache(cache_dir() / "embeddings", encoder.fingerprint(), clean=clean_text)
    return TextAhead(lambda text: encoder.encode([text])[0], cache=cache)


def _drawn_embedding(text: str, dit: WanConfig) -> Tensor:
    """In place of an encoder's: as many rows as a short prompt has, the same for the same text."""
    rows = min(dit.text_len, 2 * len(text.split()) + 1)
    embedding = torch.zeros(1, dit.text_len, dit.text_dim)
    embedding[:, :rows] = 0.1 * draw((zlib.crc32(text.encode()),), (1, rows, dit.text_dim))
    return embedding
