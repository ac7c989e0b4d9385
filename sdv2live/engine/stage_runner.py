"""What one rank runs of a stream. Owns: its part of the model, its layers' KV cache, the codec's memory, the prompts.

On one device there is one, which has everything. It does as its orders say and decides nothing; nothing here waits for
the device. Runs on the thread of its rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdv2live.engine.attention_choice import AttentionChoice, choose_attention
from sdv2live.engine.codec import Codec, Side
from sdv2live.engine.compile import PartStep, coder_of, part_of
from sdv2live.engine.fp8 import use_fp8
from sdv2live.engine.kv_cache import KVCache, RowWrite
from sdv2live.engine.lane import Lane
from sdv2live.engine.lora import Loras
from sdv2live.engine.model.wan_transformer import Block, Part, TextContext, TimeContext, WanTransformer
from sdv2live.engine.noise import NoiseSource
from sdv2live.engine.orders import DecodeOrder, NoiseKey, RowOrder, StepOrder
from sdv2live.engine.schedule import sigma_of
from sdv2live.engine.stage_clock import Mark, StageClock, StageMeter
from sdv2live.engine.window import Window

KEPT_TIMESTEPS = 32


@dataclass(slots=True)
class Prompt:
    """embedding [1, X, text_dim] on the device; its keys and values for this rank's blocks, made when first needed."""

    embedding: Tensor
    context: TextContext | None = None


class StageRunner:
    """A rank's share of every chunk."""

    def __init__(
        self,
        *,
        dit: WanTransformer,
        codec: Codec,
        window: Window,
        size_wh: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        new_cache: Callable[..., KVCache] = KVCache,
        noise: NoiseSource | None = None,
        compiles: bool = False,
        fp8: bool = False,
        loras: Loras | None = None,
    ) -> None:
        """compiles: as compile.py has it, from the first steady step on. fp8: where the device can (fp8.py).

        loras: made for this `dit`; not in its weights before `set_strengths`.
        """
        self.dit, self.codec, self.device, self.dtype, self.compiles = dit, codec, device, dtype, compiles
        self.coder = coder_of(codec, size_wh, device, compiles=compiles)
        self.size_wh, self.loras = size_wh, loras
        self._noise = noise or NoiseSource()
        self.clock = StageClock(device)
        self.meter = StageMeter(self.clock)
        self.encoding, self.decoding = Lane(device), Lane(device)
        dit.join_products_()
        self.is_fp8 = fp8 and use_fp8(dit, device, dtype)
        self._run_part = part_of(dit, device, compiles=compiles)
        self.times: dict[int, TimeContext] = {}
        self.prompts: dict[int, Prompt] = {}
        (width, height), scale = size_wh, codec.spatial_factor * 2
        self.cache = new_cache(
            window,
            layers=dit.part.blocks,
            heads=dit.config.num_heads,
            head_dim=dit.config.head_dim,
            grid_hw=(height // scale, width // scale),
            device=device,
            dtype=dtype,
        )
        self.attention = AttentionChoice()
        if dit.part.blocks:  # whether or not it compiles: a kernel needs no compiler
            tokens, config = self.cache.tokens, dit.config
            self.attention = choose_attention(
                device,
                tokens=tokens,
                past_tokens=window.capacity * tokens,
                heads=config.num_heads,
                head_dim=config.head_dim,
                dtype=dtype,
            )
            self.cache.attend = self.attention.attend
        self.reset()

    def reset(self) -> None:
        """A new epoch: caches, memories and what was kept of chunks. Prompts and timesteps stay."""
        self._run_part.end_warm_up()
        self.encoding.give()
        self.decoding.give()
        self.coder.reset()
        self.cache.reset()  # where it is: what was captured knows its addresses
        self.encoding.join()
        self.decoding.join()

    def set_strengths(self, strengths: tuple[float, ...], *, checks: bool = False) -> None:
        """Put the LoRAs into the weights, each with its strength, and make anew what was kept of the old weights.
        Between micro-steps; the cache stays. checks: as `Loras.merge_`."""
        if self.loras is None:
            return
        self.loras.merge_(self.dit, strengths, checks=checks)
        self._run_part.weights_changed()
        self._forget_contexts()

    def _forget_contexts(self) -> None:
        self.times.clear()
        for prompt in self.prompts.values():
            prompt.context = None

    def add_prompt(self, number: int, embedding: Tensor) -> None:
        """Keep a prompt under its number for as long as orders name it. embedding: on the host."""
        self.prompts[number] = Prompt(self.sent(embedding).to(self.dtype))

    def encode(self, frames: Tensor) -> tuple[Tensor, Side]:
        """[T, H, W, 3] uint8 on the host -> latents [1, F, C, h, w] in the codec's dtype, and side data.

        Beside the steps of the chunk before, where the device does both at once.
        """
        with self.encoding.apart():
            started, pixels = self.meter.begin(), self.sent(frames)
            # Channels last in memory; what crosses to the device is uint8.
            video = pixels.permute(0, 3, 1, 2).to(self.dtype).mul_(2.0 / 255.0).sub_(1.0)[None]
            latents, side = self.coder.encode(video)
            self.meter.end("encode", started)
        self.encoding.give(latents, *side)
        return latents, side

    def run(self, order: StepOrder, x: Tensor | None, latents: Tensor) -> tuple[Tensor | None, Tensor]:
        """This rank's share of a micro-step -> what the next rank goes on with, and the latents.

        x: tokens [B, N, dim], None before they are embedded and after the head. latents [B, F, C, h, w] float32: as
        they came, and behind the head those of the next step.
        """
        started, part = self.meter.begin(), self.dit.part
        if part.blocks or part.finishes:
            x = self._run_part(self._step(order, x, latents))
        if part.finishes:
            assert x is not None
            flow = x.float()
            advanced = [
                self._advanced(order, row, latents[b : b + 1], flow[b : b + 1]) for b, row in enumerate(order.rows)
            ]
            x, latents = None, torch.cat(advanced) if len(advanced) > 1 else advanced[0]
        for row in order.rows:
            self._tend(row)
        self._forget_prompts(order)
        self.meter.end("blocks", started)
        return x, latents

    def _step(self, order: StepOrder, x: Tensor | None, latents: Tensor) -> PartStep:
        given = latents.to(self.dtype) if self.dit.part.embeds else x
        assert given is not None, "nobody has embedded the latents"
        frames, (height, width) = latents.shape[1], latents.shape[-2:]
        writes = [RowWrite(row.row, row.first_frame, row.newest_frame, row.sink_threshold) for row in order.rows]
        return PartStep(
            x=given,
            time=TimeContext.stack([self.time_context(row.timestep) for row in order.rows], frames),
            text=TextContext.stack([self._text_context(row.text) for row in order.rows]),
            past=self.cache.attention(writes),
            grid_hw=(height // 2, width // 2),
            texts=tuple(row.text for row in order.rows),
        )

    def decode(self, order: DecodeOrder, latents: Tensor, side: Side) -> tuple[Tensor, Tensor]:
        """Clean latents -> frames [T, H, W, 3] uint8 and whether they are finite, on the device and not waited for.

        They are in the lane `decoding`, which gives them to whoever wants them elsewhere.
        """
        embedding = self.prompts[order.text].embedding
        with self.decoding.after(latents, *side, embedding):
            started = self.meter.begin()
            prepared = self.codec.prepare(embedding, order.noise_scale)
            frames = self.coder.decode(latents.to(self.dtype), side, prepared)
            pixels = frames[0].permute(0, 2, 3, 1).float()
            # One pass: a value that is no number spoils the sum. In float32, since float16 ends at 65504, which a
            # bright picture's sum exceeds.
            is_finite = torch.isfinite(pixels.sum())
            pixels = pixels.mul(127.5).add_(128.0).clamp_(0, 255).to(torch.uint8).contiguous()
            self.meter.end("decode", started)
        return pixels, is_finite

    def to_host(self, pixels: Tensor, is_finite: Tensor) -> tuple[Tensor, Tensor, Mark]:
        """A picture on its way to the host, and the mark behind which it is there."""
        with self.decoding.after(pixels, is_finite):
            if pixels.device.type == "cuda":
                pixels, is_finite = (
                    torch.empty(each.shape, dtype=each.dtype, pin_memory=True).copy_(each, non_blocking=True)
                    for each in (pixels, is_finite)
                )
            return pixels, is_finite, self.clock.mark()

    def time_context(self, timestep: int) -> TimeContext:
        """Kept: later steps are always the same timestep, and the first moves among few with the motion."""
        if timestep not in self.times:
            if len(self.times) >= KEPT_TIMESTEPS:
                self.times.pop(next(iter(self.times)))
            self.times[timestep] = self.dit.encode_time(torch.full((1, 1), float(timestep), device=self.device))
        return self.times[timestep]

    def noise_of(self, key: NoiseKey, *, epoch: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """The draw of one step of a chunk, on the device."""
        return self.sent(self._noise.of_chunk(key, epoch=epoch, step=step, shape=shape))

    def sent(self, tensor: Tensor) -> Tensor:
        """A host tensor on the device. From pinned memory the copy waits for nothing that a GPU still does."""
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _text_context(self, number: int) -> TextContext:
        prompt = self.prompts[number]
        if prompt.context is None:
            prompt.context = self.dit.encode_text(prompt.embedding)
        return prompt.context

    def _advanced(self, order: StepOrder, row: RowOrder, latents: Tensor, flow: Tensor) -> Tensor:
        """x0 = x_t - sigma v, and noised again to the next timestep if there is one (engine.md, 2)."""
        clean = latents - sigma_of(row.timestep) * flow
        if row.next_timestep is None:
            return clean
        sigma = sigma_of(row.next_timestep)
        eps = self.noise_of(row.noise, epoch=order.epoch, step=row.step + 1, shape=tuple(latents.shape))
        return (1.0 - sigma) * clean + sigma * eps

    def _tend(self, row: RowOrder) -> None:
        """What becomes of the row's cache once it has run."""
        if not self.dit.part.blocks:
            return
        if row.sink is not None:
            self.cache.refresh_sink(row.row, sink=row.sink, frame=row.newest_frame)
        for target in row.copies_to:
            self.cache.copy_row(row.row, target)

    def _forget_prompts(self, order: StepOrder) -> None:
        for number in [number for number in self.prompts if number not in order.texts]:
            del self.prompts[number]
        for number, prompt in self.prompts.items():
            if number not in order.contexts:
                prompt.context = None

    # Blocks that move to another rank.

    def block_tensors(self, layer: int) -> list[Tensor]:
        """Weights of one of its blocks, then its keys and values, row by row."""
        block, index = self.dit.blocks[str(layer)], self._index_of(layer)
        return [*block.state_dict().values(), *self.cache.keys[index], *self.cache.values[index]]

    def add_block(self, layer: int, block: Block) -> None:
        """A place for a block that comes."""
        self.dit.blocks[str(layer)] = block.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        self.cache.add_layer(self._index_of(layer))

    def drop_block(self, layer: int) -> None:
        """Its block has another rank now."""
        self.cache.drop_layer(self._index_of(layer))
        del self.dit.blocks[str(layer)]

    def _index_of(self, layer: int) -> int:
        return sorted(map(int, self.dit.blocks)).index(layer)

    def have_part(self, part: Part) -> None:
        """Go on with the blocks that there are now."""
        self.dit.part = part
        self.dit.join_products_()
        self._forget_contexts()
        self.meter.forget()
