"""Which files a Wan engine is made of, in one folder. Opens none of them.

Their names and layouts are in `sdv2live/models/manifest.py`, by which they are fetched too. `sdv2live.json` in the
folder gives other sizes than the released ones, for one's own networks: {"dit": {...}, "vae": {...}, "text": {...}}.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from sdv2live.engine.catalogue import SIZES_FILE
from sdv2live.engine.model.wan_transformer import WAN_1_3B, WAN_14B, WanConfig
from sdv2live.engine.model.wan_vae import WanVaeConfig
from sdv2live.engine.umt5 import UMT5_XXL, UMT5Size
from sdv2live.errors import UserError, one_line
from sdv2live.models.manifest import ENGINES, MODELS, command, find, size_text

LARGEST_SIZES_BYTES = 65_536
PARTS = ("dit", "vae", "text")
MOST_LAYERS, LARGEST_SIZE = 256, 1 << 20  # beyond any network, and short of what would take for ever to lay out
SMALLEST_HEAD = 6  # channels: a pair for each axis of the positions

_RELEASED = {"wan-1.3b": WAN_1_3B, "wan-14b": WAN_14B}
_LAYERS = ("num_layers", "res_blocks")
_FIXED = ("in_dim", "out_dim", "z_dim")  # latents have sixteen channels: their mean and deviation are known

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
    """Where each file lies. Raises UserError naming the first that is missing, and how to get it."""
    check_folder(engine, folder)

    def place(name: str) -> Path:
        model = MODELS[name]
        if (path := find(model, folder)) is not None:
            return path
        raise UserError(
            f"{model.what} of {engine} is not in {folder}: {command('get', engine, folder)} fetches what is missing; "
            f"or put {model.place} there, give another folder with --weights, or try --random-weights."
        )

    return WanFiles(
        dit=place(engine),
        vae=place("wan-vae") if vae != "taehv" else None,
        taehv=place("taehv") if vae != "wan" else None,
        text=place("text-encoder"),
        tokenizer=place("tokenizer").parent,
    )


def check_folder(engine: str, folder: Path) -> None:
    """Raises UserError for a folder that there is not."""
    if folder.is_dir():
        return
    why = "is a file" if folder.is_file() else "does not exist"
    size = size_text(sum(MODELS[name].rough_bytes for name in ENGINES[engine]))
    raise UserError(
        f"the weights of {engine} are not here, the folder {folder} {why}: {command('get', engine, folder)} fetches "
        f"them ({size}); or give a folder that has them with --weights, or try --random-weights without any."
    )


def sizes_of(engine: str, folder: Path | None) -> WanSizes:
    """The released sizes of an engine, or what `sdv2live.json` in the folder says instead. Raises UserError."""
    given = _read_sizes(folder / SIZES_FILE) if folder is not None else {}
    sizes = WanSizes(
        dit=_sized(_RELEASED[engine], given.get("dit", {}), folder),
        vae=_sized(WanVaeConfig(), given.get("vae", {}), folder),
        text=_sized(UMT5_XXL, given.get("text", {}), folder),
    )
    dit = sizes.dit
    if dit.dim % dit.num_heads or dit.head_dim % 2 or dit.head_dim < SMALLEST_HEAD:
        raise UserError(
            f"{SIZES_FILE} in {folder} says 'dim' is {dit.dim} and 'num_heads' is {dit.num_heads}: a head has an even "
            f"number of channels, {SMALLEST_HEAD} or more."
        )
    if dit.freq_dim % 2:
        raise UserError(f"{SIZES_FILE} in {folder} says 'freq_dim' is {dit.freq_dim}: it has to be an even number.")
    return sizes


def _read_sizes(path: Path) -> dict[str, Any]:
    try:
        if not path.exists():
            return {}
        if path.stat().st_size > LARGEST_SIZES_BYTES:
            raise ValueError(f"it has more than {LARGEST_SIZES_BYTES} bytes")
        sizes = json.loads(path.read_text("utf-8"))
        if not isinstance(sizes, dict) or not all(isinstance(part, dict) for part in sizes.values()):
            raise ValueError("it is no object of objects")
        if unknown := sorted(sizes.keys() - set(PARTS)):
            raise ValueError(f"it has {unknown[0][:40]!r}, and its parts are {', '.join(PARTS)}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be used ({one_line(error)}): mend it, or take it away.") from error
    return sizes


def _sized(released: Size, given: dict[str, Any], folder: Path | None) -> Size:
    """The released sizes with the given ones in their place; only numbers can be given."""
    sizes = {field.name: getattr(released, field.name) for field in fields(released) if field.name not in _FIXED}
    known = {name: size for name, size in sizes.items() if isinstance(size, int | float)}
    for name, value in given.items():
        most = MOST_LAYERS if name in _LAYERS else LARGEST_SIZE
        if name not in known or type(value) is not type(known[name]) or not 0 < value <= most:
            raise UserError(
                f"{SIZES_FILE} in {folder} says {name[:40]!r} is {str(value)[:40]}: the sizes there are "
                f"{', '.join(known)}, each a number above 0 and up to {LARGEST_SIZE} (layers {MOST_LAYERS})."
            )
    return replace(released, **given)
