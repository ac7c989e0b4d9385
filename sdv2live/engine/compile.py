"""Where fast paths are chosen and built: the one place. Owns: compiled regions, CUDA graphs, the way back from both.

A steady step, in which every row writes one frame into a full window, always has the same shapes. Its blocks and its
head are compiled, each block by the same code; on a CUDA GPU the whole is then captured for its rows and replayed, and
so are encoding and decoding. What is not steady (the opening, the filling) runs plainly, and so does everything where a
fast path could not be built.
Compiling happens before the stream is live and never in it. Runs on the thread of its rank.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdv2live.engine.attention_choice import Attend, cuda_ms
from sdv2live.engine.captures import Capture, CapturedCall, CudaCapture, copy_all
from sdv2live.engine.checkpoint import is_memory_full
from sdv2live.engine.codec import Codec, Side
from sdv2live.engine.coder import Coder
from sdv2live.engine.kv_cache import CachedAttention, Place, write_and_attend
from sdv2live.engine.model import wan_vae
from sdv2live.engine.model.attention import SelfAttention
from sdv2live.engine.model.wan_transformer import Block, TextContext, TimeContext, WanTransformer
from sdv2live.engine.model.wan_vae import CausalConv, WanVAE
from sdv2live.errors import one_line

log = logging.getLogger(__name__)

NOT_REPLAYED = "%s not replayed as a CUDA graph, and take longer: %s"
MOST_SHAPES = 64  # of one region: the autoencoder's norms have about twenty


def chooses_compile(wanted: str) -> bool:
    """wanted: auto, on or off. auto is off: on a processor it costs a minute and gains little, and on a GPU nobody has
    seen it run yet."""
    return wanted == "on"


_is_plain_alone = False
_say: Callable[[str], None] = log.debug


@contextmanager
def plainly() -> Iterator[None]:
    """Within the block everything runs plainly, whatever was compiled or captured; afterwards that is used again.

    For who looks at the single calls, of which compiled code and a graph make none. Of one thread, while no other
    computes.
    """
    global _is_plain_alone
    before, _is_plain_alone = _is_plain_alone, True
    try:
        yield
    finally:
        _is_plain_alone = before


@contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
    """Within the block `say` is told before each code is compiled: one may take a minute, and a chunk needs many.

    Of one thread, as `plainly`.
    """
    global _say
    before, _say = _say, say
    try:
        yield
    finally:
        _say = before


@dataclass(frozen=True, slots=True)
class PartStep:
    """What a part of the DiT computes a forward from. x: tokens [B, N, dim], or latents [B, F, C, h, w] if it embeds.

    texts: the numbers of the rows' prompts, the same for the same text context.
    """

    x: Tensor
    time: TimeContext
    text: TextContext
    past: SelfAttention
    grid_hw: tuple[int, int]
    texts: tuple[int, ...]


def part_of(dit: WanTransformer, device: torch.device, *, compiles: bool) -> PlainPart:
    """What runs a part of the DiT."""
    if not compiles:
        return PlainPart(dit)
    return FastPart(dit, capture=CudaCapture(device) if device.type == "cuda" else None)


def coder_of(codec: Codec, size_wh: tuple[int, int], device: torch.device, *, compiles: bool) -> Coder:
    """What runs a codec."""
    if compiles and device.type == "cuda":
        # Each in memory of its own: the two may run at the same time.
        return CapturedCoder(codec, size_wh, encoding=CudaCapture(device), decoding=CudaCapture(device))
    return Coder(codec, size_wh)


class Region:
    """A function that is compiled when it is first called; as it stands where that fails, which is said once.

    Once it is_warm, shapes that are new run as they stand. The function may be called again where it broke off.
    """

    def __init__(self, function: Callable[..., Any], subject: str, verb: str = "are") -> None:
        """subject: what it is, for messages, and whether that `is` or `are`."""
        # One code for each shape: sizes are fixed while an engine lives, and kernels for any size are slower.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
        self._plain, self._subject, self._verb = function, subject, verb
        self._shapes: set[tuple[torch.Size, ...]] = set()  # one code for each
        self._run: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=True)
        self.is_warm = False

    def __call__(self, *arguments: Any) -> Any:
        if _is_plain_alone:
            return self._plain(*arguments)
        if not self.is_warm and self._run is not self._plain:
            self._tell_of(tuple(each.shape for each in arguments if isinstance(each, Tensor)))
        try:
            with torch.compiler.set_stance("eager_on_recompile") if self.is_warm else nullcontext():
                return self._run(*arguments)
        except (RuntimeError, OSError) as error:
            if is_memory_full(error) or self._run is self._plain:
                raise
            self._run = self._plain
            log.warning("%s %s not compiled, and slower: %s", self._subject, self._verb, one_line(error))
        return self._plain(*arguments)

    def _tell_of(self, shapes: tuple[torch.Size, ...]) -> None:
        if shapes not in self._shapes:
            self._shapes.add(shapes)
            _say(f"compiling {self._subject} ({len(self._shapes)})")


class PlainPart:
    """A part of the DiT as it stands: the twin of every faster one."""

    def __init__(self, dit: WanTransformer) -> None:
        self.dit = dit

    def __call__(self, step: PartStep) -> Tensor:
        """-> tokens [B, N, dim] for the next part, or the flow [B, F, C, h, w] of the one that has the head."""
        part, x = self.dit.part, step.x
        if part.embeds:
            x = self.dit.embed(x)
        if part.blocks:
            x = self.dit.run_blocks(x, step.time, step.text, step.past)
        return self.dit.finish(x, step.time, step.grid_hw) if part.finishes else x

    def end_warm_up(self) -> None:
        """Nothing is built from now on."""

    def weights_changed(self) -> None:
        """The weights have other values in the same memory; texts that are known by number have other keys."""


class FastPart(PlainPart):
    """Steady steps compiled, and captured where the device has graphs. Two streams may share the compiled code."""

    def __init__(self, dit: WanTransformer, *, capture: Capture | None) -> None:
        """capture: what makes graphs of steps; None where the device has none."""
        super().__init__(dit)
        self._block = Region(_block, "the transformer's blocks")
        self._head = Region(_head, "the transformer's head", "is")
        self._capture = capture
        self._graphs: dict[tuple[int, ...], CapturedStep] = {}  # by their rows
        self._texts: HeldTexts | None = None
        self._generation = 0
        self._has_run = False

    def __call__(self, step: PartStep) -> Tensor:
        if _is_plain_alone or not (isinstance(step.past, CachedAttention) and step.past.is_steady):
            return super().__call__(step)
        self._has_run = True
        if self._capture is not None:
            try:
                return self._replayed(step, step.past, self._capture)
            except RuntimeError as error:
                self._capture = self._texts = None
                self._graphs.clear()
                log.warning(NOT_REPLAYED, "the steps are", one_line(error))
        return self._steady(step, step.past)

    def end_warm_up(self) -> None:
        """What is compiled by now is used; other shapes run plainly. Before a first steady step: nothing."""
        self._block.is_warm = self._head.is_warm = self._has_run

    def weights_changed(self) -> None:
        for graph in self._graphs.values():
            graph.texts.forget()

    def _steady(self, step: PartStep, past: CachedAttention) -> Tensor:
        part, x = self.dit.part, step.x
        if part.embeds:
            x = self.dit.embed(x)
        for layer, block in enumerate(self.dit.own_blocks()):
            assert step.time.blocks is not None
            text_kv = step.text.keys[layer], step.text.values[layer]
            x = self._block(block, x, step.time.blocks[layer], *past.memory(layer), past.places, past.attend, text_kv)
        return self._head(self.dit, x, step.time.head, step.grid_hw) if part.finishes else x

    def _replayed(self, step: PartStep, past: CachedAttention, capture: Capture) -> Tensor:
        if past.generation != self._generation:
            self._graphs.clear()  # they know the old memory by its addresses
            self._generation, self._texts = past.generation, None
        graph = self._graphs.get(past.rows)
        if graph is None or not graph.fits(step):
            self._graphs.pop(past.rows, None)
            if self._texts is None or self._texts.rows < past.most_rows:  # graphs that there are keep theirs
                self._texts = HeldTexts(step.text, past.most_rows)
            graph = self._graphs[past.rows] = CapturedStep(self._steady, step, self._texts, past, capture)
        return graph.replay(step, past)


class CapturedCoder(Coder):
    """All calls but those that open a stream are replayed as graphs. Its state stays where it is when it is reset."""

    def __init__(self, codec: Codec, size_wh: tuple[int, int], *, encoding: Capture, decoding: Capture) -> None:
        super().__init__(codec, size_wh)
        self._encoding = ReplayedCalls(encoding, "the encoder's calls are")
        self._decoding = ReplayedCalls(decoding, "the decoder's calls are")

    def reset(self) -> None:
        if self.state is None:
            super().reset()
        else:
            self.state.reset()
        self._encoding.opens = self._decoding.opens = True

    def encode(self, video: Tensor) -> tuple[Tensor, Side]:
        def work(video: Tensor) -> list[Tensor]:
            latents, side = super(CapturedCoder, self).encode(video)
            return [latents, *side]

        latents, *side = self._encoding(work, [video])
        return latents, tuple(side)

    def decode(self, latents: Tensor, side: Side, prepared: Tensor | None) -> Tensor:
        styles = [] if prepared is None else [prepared]
        count = len(styles)

        def work(latents: Tensor, *rest: Tensor) -> list[Tensor]:
            return [super(CapturedCoder, self).decode(latents, rest[count:], rest[0] if count else None)]

        return self._decoding(work, [latents, *styles, *side])[0]


class ReplayedCalls:
    """Calls of one kind, of tensors alone: a stream's first as it stands, since it is another, the rest as a graph."""

    def __init__(self, capture: Capture, subject: str) -> None:
        """subject: what they are, and its verb, for messages."""
        self._capture: Capture | None = capture
        self._subject = subject
        self._graph: CapturedCall | None = None
        self.opens = True

    def __call__(self, work: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> list[Tensor]:
        opens, self.opens = self.opens, False
        if opens or _is_plain_alone or self._capture is None:
            return work(*inputs)
        if self._graph is None:
            held = [each.clone() for each in inputs]
            try:
                self._graph = CapturedCall(lambda: work(*held), held, self._capture)
            except RuntimeError as error:
                self._capture = None
                log.warning(NOT_REPLAYED, self._subject, one_line(error))
                return work(*inputs)
            # Not replayed too: what it remembers from call to call is a call further.
            return self._graph.take_first()
        return self._graph.replay(inputs) if self._graph.fits(inputs) else work(*inputs)


def speed_up_vae(vae: WanVAE, device: torch.device, *, compiles: bool) -> None:
    """A GPU convolves in the quicker way. compiles: norm, SiLU and the write to where the convolution reads are one
    kernel."""
    fused = Region(_norm_silu_into, "the autoencoder's norms") if compiles else None
    quicker = QuickerWay(cuda_ms) if device.type == "cuda" else None
    for module in vae.modules():
        if isinstance(module, wan_vae.RMSNorm):
            module.fused = fused
        elif isinstance(module, CausalConv):
            module.way = quicker


class QuickerWay:
    """How a convolution over frames runs: as one, or frame by frame. Both are timed where a shape first comes.

    All shapes come before the stream is live: its opening has its own, and the rest are those of its second chunk.
    """

    def __init__(self, timed_ms: Callable[[Callable[[], object]], float]) -> None:
        self._timed_ms = timed_ms
        self._is_by_taps: dict[tuple[object, ...], bool] = {}

    def __call__(self, conv: CausalConv, joined: Tensor) -> Tensor:
        key = (conv.weight.shape, conv.stride, joined.shape)
        if key not in self._is_by_taps:
            whole_ms, taps_ms = (self._timed_ms(partial(way, joined)) for way in (conv.whole, conv.by_taps))
            self._is_by_taps[key] = taps_ms < whole_ms
            log.info("convolution of %s: %.2f ms as one, %.2f ms by taps", tuple(joined.shape), whole_ms, taps_ms)
        return conv.by_taps(joined) if self._is_by_taps[key] else conv.whole(joined)


class HeldTexts:
    """Where graphs of a part read the keys and values of their rows' texts, all of them in one place: a row of a large
    DiT is 400 MB."""

    def __init__(self, text: TextContext, rows: int) -> None:
        """text: of any step, for its shapes."""
        self.rows = rows
        held = (tuple(each.new_empty(rows, *each.shape[1:]) for each in kept) for kept in (text.keys, text.values))
        self._whole = TextContext(*held)
        self._numbers: list[int | None] = [None] * rows

    def of(self, rows: int) -> TextContext:
        """The first rows, where they lie."""
        return TextContext(*(tuple(each[:rows] for each in kept) for kept in (self._whole.keys, self._whole.values)))

    def take(self, step: PartStep) -> None:
        """Have the texts of a step, on the device alone; those that are there already are not copied."""
        for row, number in enumerate(step.texts):
            if self._numbers[row] != number:
                for given, held in ((step.text.keys, self._whole.keys), (step.text.values, self._whole.values)):
                    copy_all([each[row] for each in given], [each[row] for each in held])
                self._numbers[row] = number

    def forget(self) -> None:
        """Copy the texts of the next step, whatever their numbers."""
        self._numbers = [None] * self.rows


class CapturedStep:
    """A steady forward of certain rows as a graph.

    It has the addresses of its rows' cache, and holds none of it. Run twice, a step writes the same to the same place.
    """

    def __init__(
        self,
        forward: Callable[[PartStep, CachedAttention], Tensor],
        step: PartStep,
        texts: HeldTexts,
        past: CachedAttention,
        capture: Capture,
    ) -> None:
        self.texts = texts
        texts.take(step)
        times = (None if each is None else each.clone() for each in (step.time.blocks, step.time.head))
        self._step = replace(step, x=step.x.clone(), time=TimeContext(*times), text=texts.of(len(step.texts)))
        places = tuple(Place(*(each.clone() for each in place)) for place in past.places)
        moved = past.at(places)
        self._call = CapturedCall(lambda: [forward(self._step, moved)], _tensors(self._step, places), capture)
        self._call.take_first()

    def fits(self, step: PartStep) -> bool:
        return step.x.shape == self._step.x.shape and step.x.dtype == self._step.x.dtype

    def replay(self, step: PartStep, past: CachedAttention) -> Tensor:
        """-> as PlainPart, in memory of its own. Copies on the device alone, a prompt only when it is another."""
        self.texts.take(step)
        return self._call.replay(_tensors(step, past.places))[0]


def _tensors(step: PartStep, places: Sequence[Place]) -> list[Tensor]:
    """All that differs from one step to the next, but the text."""
    times = [each for each in (step.time.blocks, step.time.head) if each is not None]
    return [step.x, *times, *(each for place in places for each in place)]


# Regions that are compiled: tensors and modules alone, so that one code serves every layer.


def _block(
    block: Block,
    x: Tensor,
    time: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    places: tuple[Place, ...],
    attend: Attend,
    text_kv: tuple[Tensor, Tensor],
) -> Tensor:
    def past(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return write_and_attend(q, k, v, keys, values, places, attend)

    return block(x, time, 0, past, text_kv)  # type: ignore[no-any-return]  # a module's call


def _norm_silu_into(x: Tensor, gamma: Tensor, out: Tensor) -> None:
    out.copy_(F.silu(wan_vae.normed(x, gamma)))


def _head(dit: WanTransformer, x: Tensor, time: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    return dit.finish(x, TimeContext(None, time), grid_hw)
