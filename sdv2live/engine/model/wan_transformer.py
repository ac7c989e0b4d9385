"""The causal Wan 2.1 DiT: one class for every size. Knows torch alone; the past comes in as a SelfAttention.

Parameter names are the released checkpoints' (engine.md, 1.1): 27 a block and 15 more, so a checkpoint loads
strictly. The network predicts the flow v = noise - x0. Letters: B rows, F latent frames of a row, L tokens of a
latent frame, N = F*L, X text positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdv2live.engine.model.attention import SelfAttention, attend

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class WanConfig:
    """Sizes of a DiT. The patch is always (1, 2, 2): two by two latent cells make a token."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    in_dim: int = 16
    out_dim: int = 16

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


POCKET = WanConfig(dim=192, ffn_dim=768, num_heads=3, num_layers=6, text_dim=128, text_len=8)
WAN_1_3B = WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30)
WAN_14B = WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the DiT: blocks [first_block, end_block), the patch embedding, the head. Whatever has blocks or the
    head also has the time embedding, and whatever has blocks the text embedding."""

    first_block: int
    end_block: int
    embeds: bool = True
    finishes: bool = True

    @property
    def blocks(self) -> int:
        return self.end_block - self.first_block


@dataclass(frozen=True, slots=True)
class TextContext:
    """Cross-attention keys and values of a prompt, one [B, X, heads, D] pair a layer. Made once a prompt."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @staticmethod
    def stack(rows: list[TextContext]) -> TextContext:
        """One context for a batch whose rows carry prompts of their own."""
        if all(row is rows[0] for row in rows):
            count = len(rows)
            return TextContext(
                tuple(k.expand(count, -1, -1, -1) for k in rows[0].keys),
                tuple(v.expand(count, -1, -1, -1) for v in rows[0].values),
            )
        return TextContext(
            tuple(torch.cat(layer) for layer in zip(*(row.keys for row in rows), strict=True)),
            tuple(torch.cat(layer) for layer in zip(*(row.values for row in rows), strict=True)),
        )


@dataclass(frozen=True, slots=True)
class TimeContext:
    """The modulations of a timestep: blocks [layers, B, F, 6, dim], head [B, F, 2, dim]. Made once a timestep.

    Of a part without blocks or without a head there is none of that.
    """

    blocks: Tensor | None
    head: Tensor | None

    @staticmethod
    def stack(rows: list[TimeContext], frames: int) -> TimeContext:
        """One context for a batch of rows of one frame each, which is then shared by `frames` latent frames."""
        if len(rows) == 1 and frames == 1:
            return rows[0]
        blocks = [row.blocks for row in rows if row.blocks is not None]
        heads = [row.head for row in rows if row.head is not None]
        return TimeContext(
            torch.cat(blocks, 1).expand(-1, -1, frames, -1, -1) if blocks else None,
            torch.cat(heads).expand(-1, frames, -1, -1) if heads else None,
        )


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32; weight [dim]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        scaled = x.float()
        return (scaled * torch.rsqrt(scaled.square().mean(-1, keepdim=True) + EPS)).to(x.dtype) * self.weight


def timestep_embedding(timesteps: Tensor, freq_dim: int) -> Tensor:
    """Sinusoid of timesteps (0..1000, any shape) -> [..., freq_dim] float32; cosines first, then sines."""
    half = freq_dim // 2
    exponent = torch.arange(half, dtype=torch.float64, device=timesteps.device) / half
    angles = timesteps.double()[..., None] * torch.pow(10_000.0, -exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


class GeluTanh(nn.Module):
    """GELU in its tanh form, 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3).

    On the CPU in float32 it is written as x * sigmoid(2u), which is the same and takes half the time there.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled():
            return F.gelu(x, approximate="tanh")
        factor = 2 * math.sqrt(2 / math.pi)
        doubled = x.square().mul_(factor * 0.044715).add_(factor).mul_(x)
        return doubled.sigmoid_().mul_(x)


class _Projections(nn.Module):
    """q, k, v, o and the norms of q and k over the full width, before the heads are split."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))


class SelfAttentionLayer(_Projections):
    """q, k and v are one product where `join_` has laid their weights out as one.

    The parameters are then parts of that, under their own names. Weights that are moved or exchanged are parted again.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config)
        self.joined: tuple[Tensor, Tensor] | None = None  # weight [3 * dim, dim] and bias
        self.qkv: nn.Module | None = None  # what gives all three in place of q, k and v, if anything does

    def join_(self) -> None:
        """Lay the weights out as one, in a memory of their own. A second time: nothing."""
        if self.joined is not None or self.qkv is not None:
            return
        layers = self.q, self.k, self.v
        joined = torch.cat([each.weight for each in layers]), torch.cat([each.bias for each in layers])
        for layer, weight, bias in zip(layers, *(whole.chunk(len(layers)) for whole in joined), strict=True):
            layer.weight, layer.bias = (nn.Parameter(part, requires_grad=False) for part in (weight, bias))
        self.joined = joined

    def products(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of x [B, N, dim]."""
        if self.qkv is not None:
            made = self.qkv(x)
        elif self.joined is not None:
            made = F.linear(x, *self.joined)
        else:
            return self.q(x), self.k(x), self.v(x)
        q, k, v = made.chunk(3, -1)
        return q, k, v

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        self.joined = None
        return super()._apply(*arguments, **options)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self.joined = None
        super()._load_from_state_dict(*arguments, **options)

    def forward(self, x: Tensor, layer: int, past: SelfAttention) -> Tensor:
        q, k, v = self.products(x)
        q, k = self.norm_q(q), self.norm_k(k)
        return self.o(past(layer, self.heads(q), self.heads(k), self.heads(v)).flatten(2))


class CrossAttentionLayer(_Projections):
    def text_keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """text [B, X, dim] -> keys, values [B, X, heads, D]."""
        return self.heads(self.norm_k(self.k(text))), self.heads(self.v(text))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q = self.heads(self.norm_q(self.q(x)))
        return self.o(attend(q, keys, values).flatten(2))


class Block(nn.Module):
    """A transformer layer: self-attention, cross-attention, feed-forward, modulated by the timestep."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dim = config.dim
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / math.sqrt(dim))
        self.self_attn = SelfAttentionLayer(config)
        self.norm3 = nn.LayerNorm(dim, eps=EPS)
        self.cross_attn = CrossAttentionLayer(config)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), GeluTanh(), nn.Linear(config.ffn_dim, dim))

    def forward(
        self, x: Tensor, time: Tensor, layer: int, past: SelfAttention, text_kv: tuple[Tensor, Tensor]
    ) -> Tensor:
        """x [B, N, dim]; time [B, F, 6, dim], this block's own, shared by the tokens of each latent frame."""
        tokens = x.shape[1] // time.shape[1]
        shift1, scale1, gate1, shift2, scale2, gate2 = time.unbind(2)
        x = _gated(x, self.self_attn(_modulated(x, shift1, scale1, tokens), layer, past), gate1, tokens)
        x = x + self.cross_attn(self.norm3(x), *text_kv)
        return _gated(x, self.ffn(_modulated(x, shift2, scale2, tokens)), gate2, tokens)


class Head(nn.Module):
    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / math.sqrt(config.dim))
        self.head = nn.Linear(config.dim, 4 * config.out_dim)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B, N, dim], time [B, F, 2, dim] -> [B, N, 4 * out_dim]."""
        shift, scale = time.unbind(2)
        return self.head(_modulated(x, shift, scale, x.shape[1] // time.shape[1]))


class WanTransformer(nn.Module):
    """The DiT, or a part of it. `forward` runs the whole; `embed`, `run_blocks` and `finish` are its stages."""

    def __init__(self, config: WanConfig, part: Part | None = None) -> None:
        """What is not of `part` is not built; what is has the name that it has in the whole."""
        super().__init__()
        self.config = config
        self.part = part or Part(0, config.num_layers)
        dim = config.dim
        if self.part.embeds:
            self.patch_embedding = nn.Conv3d(config.in_dim, dim, kernel_size=(1, 2, 2), stride=(1, 2, 2))
        if self.part.blocks:
            self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        if self.part.blocks or self.part.finishes:
            self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        if self.part.blocks:
            self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        own = range(self.part.first_block, self.part.end_block)
        self.blocks = nn.ModuleDict({str(layer): Block(config) for layer in own})
        if self.part.finishes:
            self.head = Head(config)
            nn.init.zeros_(self.head.head.weight)
            nn.init.zeros_(self.head.head.bias)

    @torch.no_grad()
    def join_products_(self) -> None:
        """q, k and v of each block as one product, for streaming: no second copy stays. A second time: nothing."""
        for block in self.own_blocks():
            block.self_attn.join_()

    def encode_text(self, embeddings: Tensor) -> TextContext:
        """embeddings [B, X <= text_len, text_dim]; shorter ones are padded with zero rows, which take part."""
        if not self.part.blocks:
            return TextContext((), ())
        missing = self.config.text_len - embeddings.shape[1]
        text = self.text_embedding(F.pad(embeddings, (0, 0, 0, missing)))
        pairs = [block.cross_attn.text_keys_values(text) for block in self.own_blocks()]
        return TextContext(tuple(k for k, _ in pairs), tuple(v for _, v in pairs))

    def encode_time(self, timesteps: Tensor) -> TimeContext:
        """timesteps [B, F] in 0..1000 -> what every block and the head are modulated by."""
        blocks = head = None
        if self.part.blocks or self.part.finishes:
            dtype = next(self.time_embedding.parameters()).dtype
            time = self.time_embedding(timestep_embedding(timesteps, self.config.freq_dim).to(dtype))
        if self.part.blocks:
            time6 = self.time_projection(time).unflatten(-1, (6, self.config.dim))
            blocks = torch.stack([block.modulation for block in self.own_blocks()])[:, :, None] + time6
        if self.part.finishes:
            head = self.head.modulation[:, None] + time[:, :, None]
        return TimeContext(blocks, head)

    def own_blocks(self) -> list[Block]:
        """The blocks of its part, in order."""
        own = range(self.part.first_block, self.part.end_block)
        return [self.blocks[str(layer)] for layer in own]  # type: ignore[misc]

    def embed(self, latents: Tensor) -> Tensor:
        """latents [B, F, C, h, w] -> x [B, N, dim]."""
        weight = self.patch_embedding.weight
        batch, frames, channels, height, width = latents.shape
        # A patch of (1, 2, 2) at stride (1, 2, 2) is a matrix product of the unfolded patches: no Conv3d kernel needed.
        patches = latents.reshape(batch, frames, channels, height // 2, 2, width // 2, 2)
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, -1, channels * 4)
        return F.linear(patches.to(weight.dtype), weight.flatten(1), self.patch_embedding.bias)

    def run_blocks(self, x: Tensor, time: TimeContext, text: TextContext, past: SelfAttention) -> Tensor:
        """Its blocks over x [B, N, dim]. Layers of `past` count from the first of them."""
        for index, block in enumerate(self.own_blocks()):
            assert time.blocks is not None
            x = block(x, time.blocks[index], index, past, (text.keys[index], text.values[index]))
        return x

    def finish(self, x: Tensor, time: TimeContext, grid_hw: tuple[int, int]) -> Tensor:
        """tokens [B, N, dim] -> flow [B, F, out_dim, h, w]; inside a patch the channel is the fastest axis."""
        assert time.head is not None, "this part has no head"
        batch, frames = time.head.shape[:2]
        height, width = grid_hw
        patches = self.head(x, time.head).reshape(batch, frames, height, width, 2, 2, self.config.out_dim)
        flow = patches.permute(0, 1, 6, 2, 4, 3, 5)
        return flow.reshape(batch, frames, self.config.out_dim, 2 * height, 2 * width)

    def forward(self, latents: Tensor, timesteps: Tensor, text: TextContext, past: SelfAttention) -> Tensor:
        """latents [B, F, C, h, w], timesteps [B, F] in 0..1000 -> flow of the same shape, in the weights' dtype."""
        time = self.encode_time(timesteps)
        x = self.run_blocks(self.embed(latents), time, text, past)
        return self.finish(x, time, (latents.shape[-2] // 2, latents.shape[-1] // 2))


def _modulated(x: Tensor, shift: Tensor, scale: Tensor, tokens: int) -> Tensor:
    """LayerNorm without weights, then scale and shift of each latent frame ([B, F, dim]) on its tokens."""
    normed = F.layer_norm(x, x.shape[-1:], eps=EPS).unflatten(1, (-1, tokens))
    return torch.addcmul(shift[:, :, None], normed, 1 + scale[:, :, None]).flatten(1, 2)


def _gated(x: Tensor, update: Tensor, gate: Tensor, tokens: int) -> Tensor:
    """x + gate * update, the gate [B, F, dim] shared by the tokens of each latent frame."""
    return torch.addcmul(x.unflatten(1, (-1, tokens)), update.unflatten(1, (-1, tokens)), gate[:, :, None]).flatten(
        1, 2
    )
