"""Embeddings on disk, so that a prompt is encoded once on a machine. Owns: one folder, what is in its files, its size.

Knows nothing of models: whoever makes it says what the embeddings depend on (a fingerprint) and how a text is
cleaned. It blocks on the disk and keeps nothing in memory, so that any thread, and several processes, may use one
folder at once. Losing it costs time alone: nothing here raises for a disk that is full or a file that is damaged.

A file is named by what is asked and written whole under another name first, so that it is never seen half written.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from sdv2live.errors import UserError, one_line

log = logging.getLogger(__name__)

MAX_ENTRIES = 2000
MAX_BYTES = 256 << 20
SUFFIX, UNFINISHED_SUFFIX = ".safetensors", ".part"
# A file left by a process that died while it wrote.
UNFINISHED_FOR_S = 3600.0
HASHED_BYTES = 1 << 20
KEY_BYTES = 16
_TENSOR = "embedding"
_counter = itertools.count()


def fingerprint_of(files: Iterable[Path], *also: str) -> str:
    """Names a model by its files' names, sizes, first and last MiB, and by the words of `also`. Raises UserError.

    Reading 11 GB would take longer than encoding. The last MiB of a .pth holds the checksums of all its tensors.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for path in files:
        try:
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode("utf-8", "surrogateescape"))
            with path.open("rb") as file:
                digest.update(file.read(HASHED_BYTES))
                file.seek(max(0, size - HASHED_BYTES))
                digest.update(file.read(HASHED_BYTES))
        except OSError as error:
            raise UserError(
                f"the text encoder's file {path} cannot be read ({error.strerror}): fetch the file again."
            ) from None
    digest.update("\0".join(also).encode())
    return digest.hexdigest()


class EmbeddingCache:
    """Embeddings [1, text_len, D] by cleaned text. Past its bounds, what was used longest ago is removed first.

    folder: made when something is written. fingerprint: of all that an embedding depends on besides the text.
    clean: the encoder's own cleaning, so that spellings which it takes for the same share a file.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        *,
        clean: Callable[[str], str] = str,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._folder, self._fingerprint, self._clean = folder, fingerprint, clean
        self._max_entries, self._max_bytes = max_entries, max_bytes

    def get(self, text: str) -> Tensor | None:
        """The embedding as it was put, or None. A damaged file is removed and counts as not there."""
        cleaned = self._clean(text)
        path = self._path(cleaned)
        try:
            embedding = _read(path, cleaned)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            log.warning("the kept embedding %s cannot be used (%s): it is made again", path, one_line(error))
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):  # removed by another process, or a disk that cannot be written
            os.utime(path)
        return embedding

    def last_used(self) -> Tensor | None:
        """The embedding that was got or put last, of those with this fingerprint; None if there is none."""
        found: list[tuple[int, Path]] = []
        with contextlib.suppress(OSError):
            for path in self._folder.glob(f"*{SUFFIX}"):
                with contextlib.suppress(OSError):
                    found.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(found, reverse=True):
            with contextlib.suppress(SafetensorError, OSError, ValueError):
                content = path.read_bytes()
                load(content)  # sound, so that its words can be read
                cleaned = _metadata(content).get("text", "")
                if self._path(cleaned) == path:  # so that it is named by this fingerprint
                    return _read(path, cleaned)
        return None

    def put(self, text: str, embedding: Tensor) -> None:
        """Keep `embedding` [1, text_len, D] for `text`; it stays the caller's. A failure is said in the log alone."""
        cleaned = self._clean(text)
        path = self._path(cleaned)
        rows = _real_rows(embedding)
        words = {"text": cleaned, "text_len": str(embedding.shape[1])}
        words["digest"] = _digest(rows, words["text_len"])
        unfinished = path.with_name(f"{path.stem}.{os.getpid()}.{next(_counter)}{UNFINISHED_SUFFIX}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({_TENSOR: rows}, unfinished, metadata=words)
            written = unfinished.stat()
            os.replace(unfinished, path)
            self._trim(newest=path, size=written.st_size, now_ns=written.st_mtime_ns)
        except (SafetensorError, OSError) as error:
            log.warning("could not keep an embedding in %s (%s): it is made again next time", path, one_line(error))
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def _path(self, cleaned: str) -> Path:
        asked = f"{self._fingerprint}\0{cleaned}".encode("utf-8", "surrogatepass")
        return self._folder / (hashlib.blake2b(asked, digest_size=KEY_BYTES).hexdigest() + SUFFIX)

    def _trim(self, *, newest: Path, size: int, now_ns: int) -> None:
        """Down to the bounds again; `newest` stays whatever its size. Other processes may do the same meanwhile.

        size, now_ns: of `newest`, so that the time is the file system's, as that of the other files.
        """
        found: list[tuple[int, int, str]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    stat = entry.stat()
                    if entry.name.endswith(SUFFIX) and entry.name != newest.name:
                        found.append((stat.st_mtime_ns, stat.st_size, entry.path))
                    elif entry.name.endswith(UNFINISHED_SUFFIX) and now_ns - stat.st_mtime_ns > UNFINISHED_FOR_S * 1e9:
                        os.unlink(entry.path)
        count, total = len(found) + 1, sum(older for _, older, _ in found) + size
        for _, older, path in sorted(found):
            if count <= self._max_entries and total <= self._max_bytes:
                return
            with contextlib.suppress(OSError):  # gone already, or (on Windows) being read
                os.unlink(path)
            count, total = count - 1, total - older


def _real_rows(embedding: Tensor) -> Tensor:
    """[n, D]: without the zero rows at the end, which are padding. On the CPU, contiguous."""
    rows = embedding.detach()[0].to("cpu")
    used = (rows != 0).any(dim=1).nonzero()
    count = int(used[-1]) + 1 if len(used) else 0
    return rows[:count].contiguous()


def _digest(rows: Tensor, text_len: str) -> str:
    """Of all that an embedding is: safetensors has no checksum, and a flipped bit must not get into a picture."""
    digest = hashlib.blake2b(f"{tuple(rows.shape)} {rows.dtype} {text_len}".encode(), digest_size=KEY_BYTES)
    digest.update(rows.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, cleaned: str) -> Tensor:
    """Raises FileNotFoundError, and OSError, SafetensorError or ValueError for a file that is damaged."""
    # Read in one go: safe_open opens a file twice, and another process may remove or replace it in between.
    content = path.read_bytes()
    rows = load(content).get(_TENSOR)
    words = _metadata(content)
    text_len = words.get("text_len", "")
    if rows is None or words.get("text") != cleaned or words.get("digest") != _digest(rows, text_len):
        raise ValueError("its content is not what was written")
    embedding = torch.zeros(1, int(text_len), rows.shape[1], dtype=rows.dtype)
    embedding[0, : rows.shape[0]] = rows
    return embedding


def _metadata(content: bytes) -> dict[str, str]:
    """The words in a safetensors file that `load` has found sound: a length of 8 bytes, then JSON of that length."""
    header_bytes = int.from_bytes(content[:8], "little")
    words: dict[str, str] = json.loads(content[8 : 8 + header_bytes]).get("__metadata__", {})
    return words
