"""Checkpoint files as mappings from names to tensors, mapped from disk. Owns: which files are accepted, and what is
said of those that are not. Knows no module: what fits where is weights.py's. Runs on the thread that calls it.

A checkpoint is somebody else's file. Nothing in it is executed, names in it lead to no other folder, and whatever is
wrong with it ends in one sentence.
"""

from __future__ import annotations

import json
import re
import stat
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]

from sdv2live.errors import UserError, one_line

SAFETENSORS, INDEX, TORCH = ".safetensors", ".safetensors.index.json", (".pt", ".pth")
MAX_INDEX_BYTES = 16 << 20
# The list of tensors in a torch file. Those of 1,095 tensors take 0.2 MB.
MAX_PICKLE_BYTES = 64 << 20
# Where a training run's file keeps the weights, in this order (engine.md, 1.2); else the file is the table itself.
TABLES = ("generator", "generator_ema", "state_dict")
# What a wrapper puts before a model's names (once or several times), and what FSDP puts anywhere in them.
_FRONT = re.compile(r"^(?:(?:model|module)\.)+(?=.)")
_WRAPPER = re.compile(r"(?<![^.])_fsdp_wrapped_module\.")
_FETCH = "fetch the file again"
_HEAD_BYTES = 512
_MAX_SHOWN = 120
# What torch.load raises for damaged files, found by throwing damaged files at it: what a wrong byte breaks decides.
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class NotEnoughMemory(UserError):
    """The weights do not fit into the memory that is free. What had been taken for them is given back."""


def open_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by name, without the prefixes that training wrappers add.

    path: a .safetensors file; a sharded set (its folder or its .safetensors.index.json); a folder that holds exactly
    one .safetensors file; a .pt or .pth file. Tensors are on the CPU in the file's own number format and mapped from
    it: read when touched, copied when written to. So the file must not be overwritten in place while they live (a
    replaced file is fine). Only torch's old format, which cannot be mapped, is read at once. Raises UserError.
    """
    if _is_folder(path):
        path = _file_of(path)
    name = path.name.lower()
    if name.endswith(INDEX):
        return _open_shards(path)
    if name.endswith(SAFETENSORS):
        file = _open_safetensors(path)
        return _Places(path, {key: (file, key) for key in file.keys()})  # noqa: SIM118  # not a dict
    if name.endswith(TORCH):
        return _open_torch(path)
    raise UserError(
        f"the weights {path} are of no known kind: give a .safetensors, .pt or .pth file, or a folder with "
        ".safetensors files."
    )


def shown(name: str) -> str:
    """A name out of a file, short and on one line, for a message."""
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "…"


def is_memory_full(error: BaseException) -> bool:
    """Whether torch or Python failed for want of memory. On the CPU torch has no error class of its own for it."""
    is_torch_s = isinstance(error, RuntimeError) and ("allocate" in str(error) or "out of memory" in str(error))
    return is_torch_s or isinstance(error, (MemoryError, torch.OutOfMemoryError))


# ---- which file --------------------------------------------------------------------------------------------------


def _refused(path: Path, why: str, what_to_do: str = _FETCH) -> UserError:
    return UserError(f"the weights {path} cannot be read ({why}): {what_to_do}.")


def _unreadable(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UserError(f"the weights {path} are missing: check the path, or fetch them (again).")
    what_to_do = "check its permissions" if isinstance(error, PermissionError) else "check the path and the drive"
    return _refused(path, error.strerror or one_line(error), what_to_do)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise _unreadable(path, error) from None


def _file_of(folder: Path) -> Path:
    """The one file of a folder that stands for all its weights: the index, or the only .safetensors file."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from None
    for ending in (INDEX, SAFETENSORS):
        found = [name for name in names if name.lower().endswith(ending)]
        if len(found) == 1:
            return folder / found[0]
        if found:
            what = "indexes" if ending == INDEX else "files and no index"
            raise UserError(f"the weights folder {folder} holds several {ending} {what}: give the path of one file.")
    given = next((name for name in names if name.lower().endswith(TORCH)), None)
    what_to_do = (
        "give another folder, or a file" if given is None else f"give the file itself, such as {folder / given}"
    )
    raise UserError(f"the weights folder {folder} holds no {SAFETENSORS} file: {what_to_do}.")


def _head(path: Path) -> bytes:
    """The first bytes of a file that may hold weights. Raises UserError for what is plainly something else."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block for ever
            raise UserError(f"the weights {path} are not a file: give a .safetensors or .pt file.")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None
    if not head:
        raise _refused(path, "the file is empty")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        raise _refused(path, "it is a web page", "fetch the file again, logged in where its site asks for that")
    if text.startswith(b"version https://git-lfs"):
        raise _refused(path, "it is a Git LFS pointer to the weights", "run `git lfs pull` where it was cloned")
    return head


# ---- .safetensors ------------------------------------------------------------------------------------------------


class _Places(Mapping[str, Tensor]):
    """Tensors in open .safetensors files, by plain name; one is mapped when it is asked for."""

    def __init__(self, path: Path, places: Mapping[str, tuple[Any, str]]) -> None:
        if not places:
            raise _refused(path, "it holds no tensors")
        self._path = path
        self._places = {plain: places[name] for plain, name in _plain_names(path, places).items()}

    def __getitem__(self, name: str) -> Tensor:
        file, stored_name = self._places[name]
        try:
            tensor: Tensor = file.get_tensor(stored_name)
        except (SafetensorError, OSError) as error:
            raise _refused(self._path, f"{shown(name)}: {one_line(error)}") from None
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _open_safetensors(path: Path) -> Any:
    """The open file; the library has checked its header against the file's length."""
    if _head(path).startswith(b"PK\x03\x04"):
        raise _refused(path, f"it is a zip archive, not {SAFETENSORS}", "if torch saved it, name it .pt")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError:
        raise _refused(path, "it is damaged, or not all of it is there") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _open_shards(index: Path) -> Mapping[str, Tensor]:
    files: dict[str, Any] = {}
    places: dict[str, tuple[Any, str]] = {}
    shard_of = _read_index(index)
    for shard in sorted(set(shard_of.values())):
        files[shard] = _open_safetensors(index.parent / shard)
        for name in files[shard].keys():  # noqa: SIM118  # not a dict
            if shard_of.get(name) != shard:
                raise _refused(index, f"{shard} holds {shown(name)}, which the index does not place there")
            places[name] = (files[shard], name)
    if missing := sorted(shard_of.keys() - places.keys()):
        name = missing[0]
        raise _refused(
            index, f"{shown(name)} is not in {shard_of[name]}, where the index places it", "fetch both again"
        )
    return _Places(index, places)


def _read_index(path: Path) -> dict[str, str]:
    """Names of tensors to names of files, which lie in the index's own folder."""
    _head(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_INDEX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(content) > MAX_INDEX_BYTES:
        raise _refused(path, f"an index of more than {MAX_INDEX_BYTES >> 20} MiB is none")
    try:
        index = json.loads(content.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise _refused(path, "it is no valid JSON") from None
    shard_of = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise _refused(path, "it has no weight_map")
    for shard in shard_of.values():
        # Links are followed (Hugging Face's cache is made of them), names are not: this list came from elsewhere.
        if not isinstance(shard, str) or not re.fullmatch(r"[^/\\:\x00-\x1f]+\.safetensors", shard):
            raise _refused(path, f"it names {shown(str(shard))}, which is no {SAFETENSORS} file of its folder")
    return shard_of


def _no_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


# ---- .pt and .pth ------------------------------------------------------------------------------------------------


def _open_torch(path: Path) -> Mapping[str, Tensor]:
    is_zip = _head(path).startswith(b"PK\x03\x04")
    if is_zip:
        _check_zip(path)
    loaded: object = None
    try:
        with warnings.catch_warnings():
            # torch warns of what it then reads all the same, or refuses.
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except UnpicklingError:
        why = "it is damaged or holds something other than tensors, and was not executed"
        raise _refused(path, why, f"fetch the file again, as {SAFETENSORS} where there is a choice") from None
    except (*_DAMAGED, MemoryError) as error:
        if is_memory_full(error):
            raise NotEnoughMemory(
                f"the weights {path} cannot be read, because the memory is full: close other programs and try again."
            ) from None
        raise _refused(path, "it is damaged, or not all of it is there") from None
    table, place = loaded, "it"
    if isinstance(loaded, dict):
        for key in TABLES:
            if key in loaded:
                table, place = loaded[key], f"its {key!r}"
                break
    if not isinstance(table, dict) or not table:
        raise _refused(path, f"{place} is no table of tensors", "give a checkpoint of weights alone")
    for name, value in table.items():
        if not isinstance(name, str) or not _is_plain(value):
            raise _refused(path, f"{place} holds {shown(str(name))}, which is no tensor", "give one of weights alone")
    return {plain: table[name].detach() for plain, name in _plain_names(path, table).items()}


def _is_plain(value: object) -> bool:
    """A tensor of numbers in memory: not sparse, quantised, without data or of a class with ideas of its own."""
    if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter):
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized


def _check_zip(path: Path) -> None:
    """Refuse zip archives that torch did not write, and lists that would not end when they are unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError):
        raise _refused(path, "it is damaged, or not all of it is there") from None
    lists = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(lists) != 1 or any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise _refused(path, "it is a zip archive, but not one of tensors saved by torch", "give the file of weights")
    if lists[0].file_size > MAX_PICKLE_BYTES or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _refused(path, "it is not packed as torch does it", "give the file as it was published")


# ---- names -------------------------------------------------------------------------------------------------------


def _plain_names(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Each name without wrappers' prefixes -> the name as it is stored."""
    plain_names: dict[str, str] = {}
    for name in names:
        plain = _FRONT.sub("", _WRAPPER.sub("", name)) or name
        if plain in plain_names:
            raise _refused(
                path,
                f"{shown(plain_names[plain])} and {shown(name)} are one name without their prefixes",
                "give a file with one set of weights",
            )
        plain_names[plain] = name
    return plain_names
