"""How much memory an engine takes, before it is built. Owns: the count, and what is said when it is too much.

Counted, not estimated by a formula of its own: the very engine runs two chunks on torch's meta device, where tensors
have shapes and no numbers, and the bytes that are alive are added up. Not counted: what CUDA and its libraries keep for
themselves, for which there is a margin.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.catalogue import smaller_sizes, smallest_window, traits_of, window_of
from sdv2live.engine.compile import chooses_compile
from sdv2live.engine.host_memory import free_bytes
from sdv2live.engine.lane import Lane
from sdv2live.engine.micro_steps import InFlight
from sdv2live.engine.model.attention import SelfAttention
from sdv2live.engine.model.wan_transformer import Part, TextContext, TimeContext, WanConfig, WanTransformer
from sdv2live.engine.model.wan_vae import WanVaeConfig
from sdv2live.engine.pipe import LocalPipe
from sdv2live.engine.precision import DTYPES, choose_dtype
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.reference_profile import cache_of
from sdv2live.engine.stage_runner import KEPT_TIMESTEPS, StageRunner
from sdv2live.engine.stages import StageMap
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.wan_codec import VAE_MODES, WanCodec, empty_networks, state_bytes
from sdv2live.errors import UserError

log = logging.getLogger(__name__)

GPU_MARGIN_BYTES = 800 * 2**20  # CUDA's context, cuDNN's workspace and what an allocator cannot use
CPU_MARGIN_BYTES = 500 * 2**20
_GB = 1e9
SHORTEST_WINDOW = 4  # latent frames that are offered: fewer leave next to nothing to look back at


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of an engine: weights, caches (KV and the codec's, for as many rows as steps), and the most that was alive
    beside them inside a chunk."""

    weights: int
    caches: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.caches + self.working


def count_memory(
    spec: EngineSpec, dit: WanConfig, vae: WanVaeConfig, *, dtype: torch.dtype, overlaps: bool = False
) -> Footprint:
    """What the Wan engine of `spec` takes in `dtype`; the text encoder is not part of it: it goes before the stream.

    Counted at its fullest: the window full, a chunk on every row of a stream batch, each with a prompt of its own.
    overlaps: as on a GPU, encoder and decoder work beside the transformer, each in memory that only it reuses; and what
    is compiled is replayed from graphs, which hold each row's texts once more, and for encoding and decoding what those
    need, beside what the calls that open a stream took (compile.py).
    """
    meta = torch.device("meta")
    mode = VAE_MODES[spec.vae]
    with meta:
        network = _Alike(dit).to(dtype).requires_grad_(False)
    network.join_products_()
    codecs = [codec.to(dtype) for codec in empty_networks(mode, vae) if codec is not None]
    modules = dict.fromkeys((network, *codecs))
    weights = sum(each.numel() * each.element_size() for module in modules for each in module.state_dict().values())
    with Alive(kept=[each for module in modules for each in module.parameters()]) as alive:
        runner = StageRunner(
            dit=network,
            codec=WanCodec(codecs[0], codecs[-1], normalise=spec.normalises_latents),
            window=window_of(spec),
            size_wh=spec.size_wh,
            device=meta,
            dtype=dtype,
            new_cache=cache_of(spec.profile),
        )
        if overlaps:
            runner.encoding, runner.decoding = (_CountedLane(alive, name) for name in ("encoding", "decoding"))
        engine = _Unread(
            traits=traits_of(spec),
            pipe=LocalPipe([runner]),
            prompts=PromptMixer(Direct(lambda _: torch.empty(1, dit.text_len, dit.text_dim))),
            window=window_of(spec),
        )
        engine.run_fully(spec.steps_count)
    codec_bytes = state_bytes(mode, spec.size_wh, encoder_dtype=dtype, decoder_dtype=dtype, config=vae)
    caches = engine.cache_bytes + codec_bytes
    working = max(0, alive.most_bytes - alive.kept_bytes - caches)
    if overlaps and chooses_compile(spec.compile):
        working += spec.steps_count * 2 * dit.num_layers * dit.text_len * dit.dim * dtype.itemsize
        working += alive.most_in("encoding") + alive.most_in("decoding")
    return Footprint(weights, caches, working)


def count_share(
    whole: Footprint,
    spec: EngineSpec,
    dit: WanConfig,
    vae: WanVaeConfig,
    *,
    dtype: torch.dtype,
    stages: StageMap,
    rank: int,
) -> Footprint:
    """What `rank` takes of an engine that takes `whole` on one device. Weights and caches to the byte; beside them as
    much as on one device, which is the most that any of its parts needs."""
    part, halves = stages.part(rank), (rank == 0, stages.decodes(rank))
    mode = VAE_MODES[spec.vae]
    with torch.device("meta"):
        network = WanTransformer(dit, part).to(dtype)
    modules = dict.fromkeys([network, *(each.to(dtype) for each in empty_networks(mode, vae, halves) if each)])
    weights = sum(each.numel() * each.element_size() for module in modules for each in module.state_dict().values())
    state = partial(state_bytes, mode, spec.size_wh, encoder_dtype=dtype, decoder_dtype=dtype, config=vae)
    kv = whole.caches - state()
    caches = kv * part.blocks // dit.num_layers + state(halves=halves)
    return Footprint(weights, caches, whole.working)


@dataclass(frozen=True, slots=True)
class Fit:
    """needed: bytes that an engine takes; room: what it may take of what is free, None where nobody knows that.
    smaller: flags that would fit instead, the least loss first."""

    needed: int
    room: int | None
    smaller: tuple[str, ...] = ()

    @property
    def is_there(self) -> bool:
        return self.room is None or self.needed <= self.room

    @property
    def advice(self) -> str:
        words = " or ".join(self.smaller)
        return f"{words} would fit" if words else "nothing smaller of it fits: take a smaller engine"


def fit_of(
    spec: EngineSpec,
    dit: WanConfig,
    vae: WanVaeConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    stages: StageMap | None = None,
    rank: int = 0,
) -> Fit:
    """Whether the engine fits into what is free on `device` now, and what of it would.

    stages: of several ranks; then the share of `rank` is counted.
    """
    free = free_bytes(device)
    margin = GPU_MARGIN_BYTES if device.type == "cuda" else CPU_MARGIN_BYTES
    room = None if free is None else free - margin

    def need(candidate: EngineSpec) -> int:
        candidate_dtype = dtype if candidate.precision == spec.precision else DTYPES[candidate.precision]
        whole = count_memory(candidate, dit, vae, dtype=candidate_dtype, overlaps=device.type == "cuda")
        if stages is None or stages.ranks == 1:
            return whole.total
        return count_share(whole, candidate, dit, vae, dtype=candidate_dtype, stages=stages, rank=rank).total

    needed = need(spec)
    if room is None or needed <= room:
        return Fit(needed, room)
    native = choose_dtype("auto", device)
    fitting = (words for words, candidate in smaller_specs(spec, dtype, native) if need(candidate) <= room)
    return Fit(needed, room, tuple(islice(fitting, 2)))


def check_memory(
    spec: EngineSpec,
    dit: WanConfig,
    vae: WanVaeConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    stages: StageMap | None = None,
    rank: int = 0,
) -> None:
    """Raise UserError, with settings that fit, for an engine that is larger than what is free on `device`.

    stages, rank: as in `fit_of`.
    """
    if free_bytes(device) is None:
        return  # counting takes its time
    fit = fit_of(spec, dit, vae, device=device, dtype=dtype, stages=stages, rank=rank)
    log.info("memory: %s takes %.1f GB, %.1f GB may be taken", spec.name, fit.needed / _GB, (fit.room or 0) / _GB)
    if fit.is_there:
        return
    width, height = spec.size_wh
    raise UserError(
        f"{spec.name} at {width}x{height} with {spec.steps_count} steps"
        f"{', --compile on' if chooses_compile(spec.compile) else ''} and --vae {spec.vae} needs "
        f"{fit.needed / _GB:.1f} GB and {max(fit.room or 0, 0) / _GB:.1f} GB are free on {device}: {fit.advice}."
    )


def smaller_specs(spec: EngineSpec, dtype: torch.dtype, native: torch.dtype) -> list[tuple[str, EngineSpec]]:
    """What to try instead, the least loss first, each as the flags that ask for it.

    dtype: the spec's. native: the number format that the device is made for. Where that is smaller it costs next to
    nothing, and all else is tried with it. Half the width on a device that only imitates it comes last: it is slow.
    """
    if native.itemsize < dtype.itemsize:
        words = f"--precision {_name_of(native)}"
        narrow = replace(spec, precision=_name_of(native))
        return [(words, narrow), *((f"{words} {more}", each) for more, each in _less_of(narrow))]
    if dtype.itemsize > torch.bfloat16.itemsize:
        words, narrow = "--precision bfloat16", replace(spec, precision="bfloat16")
        return [*_less_of(spec), (words, narrow), *((f"{words} {more}", each) for more, each in _less_of(narrow))]
    return _less_of(spec)


def _less_of(spec: EngineSpec) -> list[tuple[str, EngineSpec]]:
    """In one number format: no graphs, the engine's own window, a smaller codec, one step, a short window, a smaller
    picture."""
    found = [("--compile off", replace(spec, compile="off"))] if chooses_compile(spec.compile) else []
    window, usual = window_of(spec).capacity, window_of(replace(spec, window_frames=0, sink_frames=0)).capacity
    shortest = max(smallest_window(spec), SHORTEST_WINDOW)
    if usual < window and usual >= shortest:
        found.append((f"--window-frames {usual}", replace(spec, window_frames=usual)))
    decoders = {"wan": ("wan-taehv", "taehv"), "wan-taehv": ("taehv",), "taehv": ()}[spec.vae]
    found += [(f"--vae {vae}", replace(spec, vae=vae)) for vae in decoders]
    smallest, words = spec, []
    if decoders:
        smallest, words = replace(smallest, vae="taehv"), ["--vae taehv"]
    if spec.steps_count > 1:
        found.append(("--steps 1", replace(spec, steps_count=1)))
        smallest, words = replace(smallest, steps_count=1), [*words, "--steps 1"]
        if decoders:
            found.append((" ".join(words), smallest))
    if shortest < window:
        short = f"--window-frames {shortest}"
        found.append((short, replace(spec, window_frames=shortest)))
        smallest = replace(smallest, window_frames=shortest)
        if words:
            found.append((" ".join([*words, short]), smallest))
        words.append(short)
    sizes = smaller_sizes(spec.size_wh)
    found += [(f"--size {w}x{h}", replace(spec, size_wh=(w, h))) for w, h in sizes]
    if words:
        found += [(" ".join([*words, f"--size {w}x{h}"]), replace(smallest, size_wh=(w, h))) for w, h in sizes]
    return found


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _Alike(WanTransformer):
    """A DiT whose blocks are one and the same, of which two run: the others would do it all over in the same memory."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__(replace(config, num_layers=1))
        self.config, self.part = config, Part(0, config.num_layers)
        self.blocks = nn.ModuleDict({str(layer): self.blocks["0"] for layer in range(config.num_layers)})

    def run_blocks(self, x: Tensor, time: TimeContext, text: TextContext, past: SelfAttention) -> Tensor:
        assert time.blocks is not None
        for layer in range(min(2, self.config.num_layers)):
            x = self.blocks["0"](x, time.blocks[layer], layer, past, (text.keys[layer], text.values[layer]))
        return x


class _Unread(StreamEngine):
    """The engine without the end of a chunk, where the host would read numbers that are not there."""

    def run_fully(self, steps: int) -> None:
        """As many chunks as lead to the most that is ever kept."""
        listed = tuple(range(900, 900 - 90 * steps, -90))
        settings = ChunkSettings(steps=listed, steps_count=steps, schedule="throughput")
        self._run_chunk(replace(settings, mix=(("of the epoch before", 1.0),)))
        for timestep in range(KEPT_TIMESTEPS):
            self.pipe.first.time_context(timestep)
        self.reset()
        for number in range(1 + steps):
            self._run_chunk(replace(settings, mix=((str(number), 1.0),)))
            self._state.latent_frames = max(self._state.latent_frames, self._window.capacity)

    def _run_chunk(self, settings: ChunkSettings) -> None:
        width, height = self.traits.size_wh
        self.submit(Chunk(0, np.zeros((self.frames_wanted, height, width, 3), np.uint8)), settings)
        self.poll()

    def _deliver(self, item: InFlight, pixels: Tensor, is_finite: Tensor) -> None:
        pass


class Alive(ExitStack):
    """Counts the bytes of tensors of `device` made within the block while they live; most_bytes: the most at once.

    lane: where what is made now belongs; each lane's most is counted by itself, since none reuses another's memory.
    kept: tensors that are there already and stay; they count throughout. is_fused: attention and norms are counted as
    kernels do them, and give no numbers.
    """

    def __init__(self, kept: Iterable[Tensor], *, device: str = "meta", is_fused: bool = True) -> None:
        super().__init__()
        storages = {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in kept)}
        self._kept = storages  # alive for as long as this is, so that no address is used twice
        self.kept_bytes = sum(storage.nbytes() for storage in storages.values())
        self.lane = ""
        self._most: Counter[str] = Counter()
        self._at_most: Counter[str] = Counter()
        self._made: dict[int, tuple[StorageWeakRef, int, str]] = {}
        self._device, self._is_fused = device, is_fused

    def __enter__(self) -> Alive:
        super().__enter__()
        if self._is_fused:
            self.enter_context(_Fused())
        self.enter_context(_Watch(self._note, self._device))
        return self

    @property
    def most_bytes(self) -> int:
        return self.kept_bytes + self._most.total()

    def most_in(self, lane: str) -> int:
        return self._most[lane]

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._kept or (key in self._made and not _is_gone(self._made[key][0])):
            return
        self._made[key] = (StorageWeakRef(storage), storage.nbytes(), self.lane)  # type: ignore[no-untyped-call]
        self._at_most[self.lane] += storage.nbytes()
        if self._at_most[self.lane] > self._most[self.lane]:  # only then does it matter what has gone meanwhile
            self._made = {key: known for key, known in self._made.items() if not _is_gone(known[0])}
            self._at_most.clear()
            for _, size, lane in self._made.values():
                self._at_most[lane] += size
            self._most |= self._at_most


class _CountedLane(Lane):
    """What is made in it is counted by itself."""

    def __init__(self, alive: Alive, name: str) -> None:
        super().__init__(torch.device("meta"))
        self._alive, self._name = alive, name

    @contextmanager
    def apart(self) -> Iterator[None]:
        before, self._alive.lane = self._alive.lane, self._name
        try:
            yield
        finally:
            self._alive.lane = before

    @contextmanager
    def after(self, *tensors: Tensor) -> Iterator[None]:
        with self.apart():
            yield


def _is_gone(ref: StorageWeakRef) -> bool:
    return bool(ref.expired())  # type: ignore[no-untyped-call]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, note: Callable[[Tensor], None], device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._note, self._device = note, device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.device.type == self._device:
                self._note(leaf)
        return made


class _Fused(TorchFunctionMode):
    """Attention and RMS norm as kernels do them in one piece, without what the meta device would make on the way."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.nn.functional.scaled_dot_product_attention, torch.nn.functional.rms_norm):
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
