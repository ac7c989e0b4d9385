"""The blocks' matrix products in FP8. Owns: the quantised layer, what of the DiT becomes one, and who can run it.

Numbers of four bits for the exponent and three for the rest (e4m3), with a scale for each token of the input and for
each row of the weights; sums are made in full. All else stays as it is: embeddings, norms, modulation, attention, the
head, and the first and the last block, where an error is seen most. On a processor the same is computed with the
rounding alone, which states the error; it gains nothing there and no engine uses it.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdv2live.engine.checkpoint import is_memory_full
from sdv2live.engine.model.wan_transformer import WanTransformer
from sdv2live.errors import one_line

log = logging.getLogger(__name__)

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
CAPABILITY = (8, 9)  # of NVIDIA's cards: Ada, Hopper and later
MULTIPLE = 16  # that both sides of a product have to be of


class Fp8Linear(nn.Module):
    """A linear layer whose weights are FP8, and whose input becomes so on the way in. Takes and gives bfloat16."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """weight [out, in], bias [out]: not needed after it."""
        super().__init__()
        quantised, scale = quantise(weight)
        self.register_buffer("weight", quantised)
        self.register_buffer("scale", scale.t().contiguous())  # [1, out]
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], in x's dtype."""
        tokens, scale = quantise(x.flatten(0, -2))
        if x.device.type == "cuda":
            y: Tensor = torch._scaled_mm(
                tokens, self.weight.t(), scale_a=scale, scale_b=self.scale, bias=self.bias, out_dtype=x.dtype
            )
        else:
            weight = self.weight.float() * self.scale.t()
            y = F.linear(tokens.float() * scale, weight, self.bias.float()).to(x.dtype)
        return torch.unflatten(y, 0, x.shape[:-1])

    def write_(self, rows: slice, weight: Tensor) -> None:
        """Other weights [rows, in] for some rows of the output, in place."""
        quantised, scale = quantise(weight)
        self.weight[rows].copy_(quantised)
        self.scale[:, rows].copy_(scale.t())


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] -> FP8 [N, K] and float32 [N, 1], the product of which it is, nearly."""
    scale = rows.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(FORMAT), scale


def why_not(device: torch.device, dtype: torch.dtype) -> str:
    """Why FP8 cannot be used there; empty where it can."""
    if device.type != "cuda" or torch.version.hip is not None:
        return "it needs an NVIDIA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        wanted, has = (".".join(map(str, each)) for each in (CAPABILITY, capability))
        return f"it needs a GPU of compute capability {wanted} or more, and this one has {has}"
    if dtype is not torch.bfloat16:
        return "it needs --precision bfloat16"
    try:
        Fp8Linear(*(torch.ones(shape, device=device, dtype=dtype) for shape in ((32, 32), (32,))))(
            torch.ones(1, 32, 32, device=device, dtype=dtype)
        )
    except RuntimeError as error:
        if is_memory_full(error):
            raise
        return f"this torch cannot multiply it: {one_line(error)}"
    return ""


def use_fp8(dit: WanTransformer, device: torch.device, dtype: torch.dtype) -> bool:
    """Make the blocks' products FP8, or say in one sentence why it goes on in `dtype`; -> whether it was done."""
    if reason := why_not(device, dtype):
        name = str(dtype).removeprefix("torch.")
        log.warning("FP8 is not used, since %s: the stream goes on in %s.", reason, name)
        return False
    quantise_blocks_(dit)
    return True


@torch.no_grad()
def quantise_blocks_(dit: WanTransformer) -> None:
    """For good: the weights that become FP8 are let go, block by block, and no checkpoint can be loaded any more."""
    ends = (0, dit.config.num_layers - 1)
    for number, block in enumerate(dit.own_blocks(), dit.part.first_block):
        if number in ends or dit.config.dim % MULTIPLE or dit.config.ffn_dim % MULTIPLE:
            continue
        own, cross = block.self_attn, block.cross_attn
        own.join_()
        assert own.joined is not None
        own.qkv = Fp8Linear(*own.joined)
        own.joined = None
        del own.q, own.k, own.v
        for layers, name in ((own, "o"), (cross, "q"), (cross, "o"), (block.ffn, "0"), (block.ffn, "2")):
            linear = layers.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            layers.set_submodule(name, Fp8Linear(linear.weight.detach(), linear.bias.detach()))
