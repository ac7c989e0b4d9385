"""One LoRA file as low-rank updates of the DiT's layers. Owns: the names such files use, and what is said of a file
that cannot be used. Changes no weights: that is lora.py's. Runs on the thread that calls it.

Names are those of Wan's own code, of diffusers (`attn1.to_q`) or of kohya's scripts (`lora_unet_blocks_0_...`), halves
`lora_A` and `lora_B` or `lora_down` and `lora_up`, with or without `alpha`, behind whatever prefix. PEFT's alpha stands
in `adapter_config.json` beside the file, or in the file's own head.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdv2live.engine.checkpoint import SAFETENSORS, open_checkpoint, shown
from sdv2live.engine.model.wan_transformer import WanConfig, WanTransformer
from sdv2live.engine.weights import FLOATS, SHOWN_DIFFERENCES, is_finite
from sdv2live.errors import UserError, one_line
from sdv2live.strict_files import read_json

MAX_RANK = 1024
MAX_TENSORS = 20_000  # of 14B, with every layer and its alpha, there are 1,230
MAX_METADATA_CHARS = 1 << 20
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
DIFFUSERS_METADATA = "lora_adapter_metadata"

_HALF = re.compile(r"(?P<layer>.+)\.(?:lora_(?P<new>A|B|down|up)|lora\.(?P<old>down|up))(?:\.\w+)?\.weight")
_ALPHA = re.compile(r"(?P<layer>.+)\.alpha")
_OTHER_KINDS = {"dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "lokr_": "LoKr", "hada_": "LoHa"}
_PREFIXES = (
    "base_model_", "model_", "module_", "diffusion_model_", "transformer_", "unet_", "lora_unet_", "lora_transformer_",
    "_",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LowRank:
    """What a LoRA adds to the weight [out, in] of one layer: scale * up @ down, times the strength.

    down [rank, in], up [out, rank], as they are in the file and mapped from it. A convolution's weight is flattened.
    scale: alpha / rank.
    """

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class LoraFile:
    """layers: by the name of the DiT's layer. unused: names of tensors that belong to no layer of it."""

    path: Path
    layers: Mapping[str, LowRank]
    unused: tuple[str, ...]

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(len(each.down) for each in self.layers.values())

    @property
    def sentence_of_unused(self) -> str:
        """What is said of the tensors that are left out, or ''."""
        if not self.unused:
            return ""
        verb = "belongs" if len(self.unused) == 1 else "belong"
        return (
            f"of the LoRA {self.path} {len(self.layers)} layers are used, and {len(self.unused)} of its tensors {verb} "
            f"to no layer of this engine and are left out: {_first(self.unused)}."
        )


@dataclass(slots=True)
class _Halves:
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    names: list[str] = field(default_factory=list)


def layer_shapes(config: WanConfig) -> dict[str, torch.Size]:
    """The layers of the whole DiT that have a weight of two axes and more, and its shape."""
    with torch.device("meta"):
        whole = WanTransformer(config)
    weights = ((name, weight) for name, weight in whole.named_parameters() if name.endswith(".weight"))
    return {name.removesuffix(".weight"): weight.shape for name, weight in weights if weight.dim() > 1}


def read_lora(path: Path, shapes: Mapping[str, torch.Size], *, engine: str) -> LoraFile:
    """The LoRA at `path`, every value of it checked: a .safetensors file or a folder that holds exactly one.

    shapes: as `layer_shapes` has them; engine: its name, for messages. Raises UserError for a file that cannot be
    read or fits no layer, for a layer of another shape, a rank above 1024, half an update, values that are no numbers,
    and for kinds of updates that are no LoRA.
    """
    path = _file_of(path)
    tensors = open_checkpoint(path)
    if len(tensors) > MAX_TENSORS:
        raise _refused(path, f"it holds {len(tensors)} tensors, and no LoRA has more than {MAX_TENSORS}")
    for mark, kind in _OTHER_KINDS.items():
        if any(mark in name for name in tensors):
            raise _refused(path, f"it is a {kind}, which is merged otherwise", "give a plain LoRA")
    table = _known_names(shapes)
    found: dict[str, _Halves] = {}
    unused: list[str] = []
    for name in tensors:
        if not _take(name, tensors, table, found, path):
            unused.append(name)
    for layer in [layer for layer, halves in found.items() if halves.down is None and halves.up is None]:
        unused += found.pop(layer).names  # an alpha of nothing
    if not found:
        why = f"none of its {len(tensors)} tensors belongs to a layer of {engine}: {_first(unused)}"
        raise _refused(path, why, "give one that was trained for this engine")
    rule = _scale_rule(path)
    layers = {name: _update(name, halves, shapes[name], rule, path, engine) for name, halves in found.items()}
    return LoraFile(path, layers, tuple(sorted(unused)))


# ---- names -------------------------------------------------------------------------------------------------------


def _known_names(shapes: Iterable[str]) -> dict[str, str]:
    """Each layer by its own name and by diffusers', with _ for every dot: as kohya's scripts write both."""
    return {alias.replace(".", "_"): name for name in shapes for alias in (name, _diffusers_name(name))}


def _diffusers_name(name: str) -> str:
    """How diffusers' WanTransformer3DModel calls a layer."""
    for ours, theirs in (
        (r"(blocks\.\d+)\.self_attn\.([qkv])", r"\1.attn1.to_\2"),
        (r"(blocks\.\d+)\.cross_attn\.([qkv])", r"\1.attn2.to_\2"),
        (r"(blocks\.\d+)\.self_attn\.o", r"\1.attn1.to_out.0"),
        (r"(blocks\.\d+)\.cross_attn\.o", r"\1.attn2.to_out.0"),
        (r"(blocks\.\d+)\.ffn\.0", r"\1.ffn.net.0.proj"),
        (r"(blocks\.\d+)\.ffn\.2", r"\1.ffn.net.2"),
        (r"(text|time)_embedding\.0", r"condition_embedder.\1_embedder.linear_1"),
        (r"(text|time)_embedding\.2", r"condition_embedder.\1_embedder.linear_2"),
        (r"time_projection\.1", "condition_embedder.time_proj"),
        (r"head\.head", "proj_out"),
    ):
        if match := re.fullmatch(ours, name):
            return match.expand(theirs)
    return name


def _layer_of(stem: str, table: Mapping[str, str]) -> str | None:
    plain = stem.replace(".", "_")
    while plain not in table:
        prefix = next((each for each in _PREFIXES if plain.startswith(each)), None)
        if prefix is None:
            return None
        plain = plain.removeprefix(prefix)
    return table[plain]


def _take(
    name: str, tensors: Mapping[str, Tensor], table: Mapping[str, str], found: dict[str, _Halves], path: Path
) -> bool:
    """Put one tensor where it belongs; -> whether there is such a place."""
    half, alpha = _HALF.fullmatch(name), _ALPHA.fullmatch(name)
    match = half or alpha
    layer = _layer_of(match["layer"], table) if match else None
    if layer is None:
        return False
    halves = found.setdefault(layer, _Halves())
    halves.names.append(name)
    which = "alpha" if half is None else "down" if (half["new"] or half["old"]) in ("A", "down") else "up"
    if getattr(halves, which) is not None:
        raise _refused(path, f"it has {layer} twice, in {_first(halves.names)}", "give a file with one LoRA")
    tensor = _checked(name, tensors[name], path)
    if which == "alpha" and tensor.numel() != 1:
        raise _refused(path, f"{shown(name)} is {tuple(tensor.shape)}, and an alpha is one number")
    setattr(halves, which, float(tensor) if which == "alpha" else tensor)
    return True


# ---- values ------------------------------------------------------------------------------------------------------


def _checked(name: str, tensor: Tensor, path: Path) -> Tensor:
    if tensor.dtype not in FLOATS and tensor.numel() != 1:
        raise _refused(path, f"{shown(name)} holds no floating-point numbers", "give a file that is not quantised")
    if not is_finite(tensor.float()):
        raise _refused(path, f"{shown(name)} holds values that are no numbers")
    return tensor


def _update(layer: str, halves: _Halves, shape: torch.Size, rule: _ScaleRule, path: Path, engine: str) -> LowRank:
    if halves.down is None or halves.up is None:
        raise _refused(path, f"of {layer} it has one half, {shown(halves.names[0])}, and not the other")
    if halves.down.dim() < 2 or halves.up.dim() < 2:
        raise _refused(path, f"the halves of {layer} are no matrices")
    down, up = halves.down.flatten(1), halves.up.flatten(1)
    rank, takes = down.shape
    gives = len(up)
    if rank > MAX_RANK or not rank:
        raise _refused(path, f"the rank of {layer} is {rank}", f"give one of rank 1 to {MAX_RANK}")
    if up.shape[1] != rank:
        raise _refused(path, f"the halves of {layer} have ranks {rank} and {up.shape[1]}")
    if (gives, takes) != (shape[0], math.prod(shape[1:])):
        raise UserError(
            f"the LoRA {path} does not fit {engine}: its {layer} turns {takes} values into {gives}, and this engine's "
            f"{math.prod(shape[1:])} into {shape[0]}; give one that was trained for this engine."
        )
    return LowRank(down, up, rule.of(rank, halves.alpha))


@dataclass(frozen=True, slots=True)
class _ScaleRule:
    """alpha: of the whole file, for layers that have none of their own; None: as large as the rank."""

    alpha: float | None = None
    by_root: bool = False  # rank-stabilised LoRA

    def of(self, rank: int, own_alpha: float | None) -> float:
        alpha = self.alpha if own_alpha is None else own_alpha
        return 1.0 if alpha is None else alpha / (math.sqrt(rank) if self.by_root else rank)


def _scale_rule(path: Path) -> _ScaleRule:
    """What PEFT wrote about the file as a whole. Raises UserError for what it could mean and is not done here."""
    config = _peft_config(path)
    alpha = config.get("lora_alpha")
    if config.get("use_dora") or config.get("alpha_pattern"):
        what = "DoRA" if config.get("use_dora") else "an alpha of its own for some layers"
        raise _refused(path, f"its configuration asks for {what}", "give a plain LoRA")
    if alpha is None:
        return _ScaleRule()
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise _refused(path, f"its configuration says that lora_alpha is {str(alpha)[:40]!r}")
    return _ScaleRule(float(alpha), config.get("use_rslora") is True)


def _peft_config(path: Path) -> dict[str, Any]:
    """PEFT's words on a file: from its own head, where diffusers puts them, or from the file beside it."""
    beside = path.with_name(PEFT_CONFIG)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(DIFFUSERS_METADATA, "")
        if text:
            if len(text) > MAX_METADATA_CHARS:
                raise ValueError("it is too long")
            config = json.loads(text)
        elif path.name == PEFT_FILE and beside.exists():
            config = read_json(beside)
        else:
            return {}
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise _refused(path, f"the configuration with it cannot be read: {one_line(error)}") from None
    if not isinstance(config, dict):
        raise _refused(path, "the configuration with it is no object")
    return {name.removeprefix("transformer."): value for name, value in config.items()}


# ---- what is said ------------------------------------------------------------------------------------------------


def _file_of(path: Path) -> Path:
    try:
        if path.is_dir():
            files = sorted(each for each in path.iterdir() if each.name.lower().endswith(SAFETENSORS))
            if len(files) != 1:
                raise _refused(path, f"the folder holds {len(files)} {SAFETENSORS} files", "give the file itself")
            return files[0]
        if not path.name.lower().endswith(SAFETENSORS):
            raise _refused(path, f"it is no {SAFETENSORS} file", "give it in that form, from which nothing is executed")
        if not path.exists():
            raise UserError(f"the LoRA {path} is missing: check the path given with --lora.")
    except OSError as error:
        raise _refused(path, one_line(error), "check the path and its permissions") from None
    return path


def _refused(path: Path, why: str, what_to_do: str = "fetch the file again") -> UserError:
    return UserError(f"the LoRA {path} cannot be used ({why}): {what_to_do}.")


def _first(names: Iterable[str]) -> str:
    listed = [shown(name) for name in sorted(names)]
    more = f" and {len(listed) - SHOWN_DIFFERENCES} more" if len(listed) > SHOWN_DIFFERENCES else ""
    return ", ".join(listed[:SHOWN_DIFFERENCES]) + more
