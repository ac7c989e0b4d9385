"""Which files a Wan engine is made of and where they lie in a folder. Opens none of them.

A folder may be laid out flat, or as the reference and the Wan 2.1 download have it. `sdv2live.json` in it gives other
sizes than the released ones, for networks of one's own: {"dit": {...}, "vae": {...}, "text": {...}}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from sdv2live.engine.model.wan_transformer import WAN_1_3B, WAN_14B, WanConfig
from sdv2live.engine.model.wan_vae import WanVaeConfig
from sdv2live.engine.umt5 import UMT5_XXL, UMT5Size
from sdv2live.errors import UserError, one_line

SIZES_FILE = "sdv2live.json"
LARGEST_SIZES_BYTES = 65_536

_INSIDE = (".", "wan_models/Wan2.1-T2V-1.3B", "wan_models/Wan2.1-T2V-14B", "ckpts")
_DIT_FOLDER = {"wan-1.3b": "wan_causal_dmd_v2v", "wan-14b": "wan_causal_dmd_v2v_14b"}
_RELEASED = {"wan-1.3b": WAN_1_3B, "wan-14b": WAN_14B}
_VAE = ("Wan2.1_VAE.safetensors", "Wan2.1_VAE.pth")
_TAEHV = ("taew2_1.safetensors", "taew2_1.pth")
_TEXT = (
    "models_t5_umt5-xxl-enc-bf16.safetensors",
    "models_t5_umt5-xxl-enc-bf16.pth",
    "text_encoder",
)
_TOKENIZER = ("google/umt5-xxl", "tokenizer")

Size = TypeVar("Size", WanConfig, WanVaeConfig, UMT5Size)


@dataclass(frozen=True, slots=True)
class WanSizes:
    """What is to be built."""

    dit: WanConfig
    vae: WanVaeConfig
    text: UMT5Size


@dataclass(frozen=True, slots=True)
class WanFiles:
    """Paths that are there. vae or taehv is None where `--vae` needs it not."""

    dit: Path
    vae: Path | None
    taehv: Path | None
    text: Path
    tokenizer: Path


def find_files(engine: str, folder: Path, vae: str) -> WanFiles:
    """Where each file lies. Raises UserError naming the first that is missing."""
    if not folder.is_dir():
        raise UserError(
            f"the weights of {engine} are not here: the folder {folder} does not exist; give one with --weights, or "
            "try --random-weights."
        )
    dit = [f"{_DIT_FOLDER[engine]}/model.{ending}" for ending in ("safetensors", "pt")]
    dit += ["model.safetensors.index.json", "model.safetensors", "model.pt"]
    return WanFiles(
        dit=_find(engine, folder, "the transformer", dit),
        vae=_find(engine, folder, "the Wan VAE", _VAE) if vae != "taehv" else None,
        taehv=_find(engine, folder, "TAEHV", _TAEHV) if vae != "wan" else None,
        text=_find(engine, folder, "the text encoder", _TEXT),
        tokenizer=_find(engine, folder, "the tokenizer", _TOKENIZER),
    )


def sizes_of(engine: str, folder: Path | None) -> WanSizes:
    """The released sizes of an engine, or what `sdv2live.json` in the folder says instead. Raises UserError."""
    given = _read_sizes(folder / SIZES_FILE) if folder is not None else {}
    return WanSizes(
        dit=_sized(_RELEASED[engine], given.get("dit", {}), folder),
        vae=_sized(WanVaeConfig(), given.get("vae", {}), folder),
        text=_sized(UMT5_XXL, given.get("text", {}), folder),
    )


def _find(engine: str, folder: Path, what: str, names: Iterable[str]) -> Path:
    names = tuple(names)
    for inside in _INSIDE:
        for name in names:
            if (path := folder / inside / name).exists():
                return path
    raise UserError(
        f"{what} of {engine} is not in {folder}: put {names[-1]} there, give another folder with --weights, or try "
        "--random-weights."
    )


def _read_sizes(path: Path) -> dict[str, Any]:
    try:
        if not path.exists():
            return {}
        if path.stat().st_size > LARGEST_SIZES_BYTES:
            raise ValueError(f"it has more than {LARGEST_SIZES_BYTES} bytes")
        sizes = json.loads(path.read_text("utf-8"))
        if not isinstance(sizes, dict) or not all(isinstance(part, dict) for part in sizes.values()):
            raise ValueError("it is no object of objects")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be used ({one_line(error)}): mend it, or take it away.") from error
    return sizes


def _sized(released: Size, given: dict[str, Any], folder: Path | None) -> Size:
    known = {field.name: getattr(released, field.name) for field in fields(released)}
    for name, value in given.items():
        if name not in known or type(value) is not type(known[name]) or not 0 < value < 2**20:
            raise UserError(
                f"{SIZES_FILE} in {folder} says {name[:40]!r} is {str(value)[:40]}: the sizes there are "
                f"{', '.join(known)}, each a number above 0."
            )
    return type(released)(**{**known, **given})
