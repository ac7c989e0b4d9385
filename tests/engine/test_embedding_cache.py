"""Embeddings on disk: what comes back, what is damaged, what is removed, and several processes in one folder."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from sdv2live.engine import embedding_cache
from sdv2live.engine.embedding_cache import EmbeddingCache, fingerprint_of
from sdv2live.errors import UserError


def embedding_of(rows: int, *, text_len: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    embedding = torch.zeros(1, text_len, 8, dtype=dtype)
    embedding[:, :rows] = torch.randn(1, rows, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return embedding


def kept_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 5, 16])
def test_what_comes_back_is_what_was_put(tmp_path: Path, rows: int, dtype: torch.dtype) -> None:
    folder = tmp_path / "made" / "when needed"
    cache = EmbeddingCache(folder, "model a")
    embedding = embedding_of(rows, dtype=dtype)
    assert cache.get("a fox") is None and not folder.exists()
    with torch.inference_mode():
        cache.put("a fox", embedding.clone())
    back = cache.get("a fox")
    assert back is not None and back.dtype == dtype and torch.equal(back, embedding)
    assert EmbeddingCache(folder, "model a").get("a fox") is not None
    with safe_open(kept_in(folder)[0], framework="pt") as file:
        assert file.get_tensor("embedding").shape == (rows, 8), "padding is not stored"
        assert file.metadata()["text"] == "a fox" and file.metadata()["text_len"] == "16"


def test_texts_and_models_do_not_meet(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "model a", clean=str.strip)
    cache.put("  a fox ", embedding_of(3))
    cache.put("水彩画 \ufffd", embedding_of(4))
    assert cache.get("a fox") is not None and cache.get("a fox\n") is not None, "one text, however it is spelled"
    assert cache.get("A fox") is None and cache.get("") is None
    assert cache.get("水彩画 \ufffd") is not None
    assert EmbeddingCache(tmp_path, "model b", clean=str.strip).get("a fox") is None
    assert EmbeddingCache(tmp_path, "model ", clean=str.strip).get("aa fox") is None
    assert len(kept_in(tmp_path)) == 2


def test_the_fingerprint_is_of_names_sizes_ends_and_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "HASHED_BYTES", 4)
    weights, other_name = tmp_path / "model.pth", tmp_path / "other.pth"

    def of(content: bytes, path: Path = weights, *words: str) -> str:
        path.write_bytes(content)
        return fingerprint_of([path], *words)

    first = of(b"head 123 tail")
    assert first == of(b"head 123 tail") == of(b"head 456 tail"), "the middle of 11 GB is not read"
    different = [
        of(b"Head 123 tail"),
        of(b"head 123 taiL"),
        of(b"head 1234 tail"),
        of(b"head 123 tail", other_name),
        of(b"head 123 tail", weights, "x"),
        of(b"head 123 tail", weights, "x", "y"),
        fingerprint_of([weights, other_name]),
        of(b""),
    ]
    assert len({first, *different}) == 1 + len(different)
    with pytest.raises(UserError, match=r"gone\.pth cannot be read \(No such file or directory\)"):
        fingerprint_of([tmp_path / "gone.pth"])


def damages(good: bytes) -> dict[str, bytes]:
    flipped = bytearray(good)
    flipped[-3] ^= 4
    return {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "a bit": bytes(flipped),
        "no safetensors": b"\xff" * 100,
        "longer": good + b"x",
        "another text_len": good.replace(b'"text_len":"16"', b'"text_len":"96"'),
        "no text_len": good.replace(b'"text_len"', b'"text_lem"'),
        "another tensor": good.replace(b'"embedding"', b'"embeddinG"'),
        "another text": good.replace(b'"a fox"', b'"a fog"'),
        "no words": good.replace(b'"__metadata__"', b'"__metadatA__"'),
    }


@pytest.mark.parametrize("kind", damages(b"0123456789"))
def test_a_damaged_file_is_removed_and_said(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = EmbeddingCache(tmp_path, "model")
    cache.put("a fox", embedding_of(3))
    (path,) = kept_in(tmp_path)
    good = path.read_bytes()
    damaged = damages(good)[kind]
    assert damaged != good
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert cache.get("a fox") is None
    assert not path.exists() and str(path) in caplog.text
    cache.put("a fox", embedding_of(3))
    assert cache.get("a fox") is not None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "model", max_entries=3)
    for i, text in enumerate("abc"):
        cache.put(text, embedding_of(2))
        os.utime(cache._path(text), ns=(i * 10**9, i * 10**9))
    assert cache.get("a") is not None, "reading counts as use"
    cache.put("d", embedding_of(2))
    assert [text for text in "abcd" if cache.get(text) is not None] == ["a", "c", "d"]
    cache.put("d", embedding_of(3))
    assert len(kept_in(tmp_path)) == 3, "the same text again takes no new place"


def test_what_was_used_last_can_be_had_without_its_text(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "model")
    assert cache.last_used() is None
    for i, text in enumerate("abc"):
        cache.put(text, embedding_of(i + 1))
        os.utime(cache._path(text), ns=(i * 10**9, i * 10**9))
    EmbeddingCache(tmp_path, "another model").put("d", embedding_of(9))
    cache._path("c").write_bytes(b"damaged")
    last = cache.last_used()
    assert last is not None and torch.equal(last, embedding_of(2)), "neither another model's nor a damaged one"
    cache.get("a")
    last = cache.last_used()
    assert last is not None and torch.equal(last, embedding_of(1))
    assert EmbeddingCache(tmp_path / "none", "model").last_used() is None


def test_the_folder_stays_within_its_bytes(tmp_path: Path) -> None:
    whole = embedding_of(16, text_len=16)
    EmbeddingCache(tmp_path / "one", "model").put("a", whole)
    size = kept_in(tmp_path / "one")[0].stat().st_size
    cache = EmbeddingCache(tmp_path, "model", max_bytes=size * 3 + size // 2)
    for i in range(8):
        cache.put(f"{i}", whole)
        os.utime(cache._path(f"{i}"), ns=(i * 10**9, i * 10**9))
        assert sum(path.stat().st_size for path in kept_in(tmp_path)) <= size * 3 + size // 2
    assert [i for i in range(8) if cache.get(f"{i}") is not None] == [5, 6, 7]
    EmbeddingCache(tmp_path, "model", max_bytes=1).put("large", whole)
    assert [path.name for path in kept_in(tmp_path)] == [cache._path("large").name], "the newest is worth keeping"


def test_only_what_a_dead_process_left_is_cleaned_up(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "model", max_entries=1)
    dead, alive, foreign = (tmp_path / name for name in ("1.1.0.part", "2.2.0.part", "notes.txt"))
    for path in (dead, alive, foreign):
        path.write_bytes(b"x")
    os.utime(dead, ns=(0, 0))
    os.utime(foreign, ns=(0, 0))
    cache.put("a", embedding_of(1))
    cache.put("b", embedding_of(1))
    assert not dead.exists() and alive.exists() and foreign.exists()
    assert len(kept_in(tmp_path)) == 1


def test_a_disk_that_cannot_be_written_costs_a_word_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = EmbeddingCache(tmp_path / "file", "model")
    with caplog.at_level(logging.WARNING):
        cache.put("a", embedding_of(1))
    assert "could not keep an embedding in" in caplog.text and "made again next time" in caplog.text
    assert cache.get("a") is None


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EmbeddingCache(tmp_path, "model")
    cache.put("a", embedding_of(3))

    def full(_tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half of i")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedding_cache, "save_file", full)
    cache.put("a", embedding_of(4))
    back = cache.get("a")
    assert back is not None and torch.equal(back, embedding_of(3))
    assert len(list(tmp_path.iterdir())) == 1


WRITER = """
import sys, torch
from pathlib import Path
from sdv2live.engine.embedding_cache import EmbeddingCache

cache = EmbeddingCache(Path(sys.argv[1]), "model", max_entries=5)
for turn in range(60):
    text = str(turn % 7)
    embedding = torch.full((1, 64, 32), float(text) + 1)
    cache.put(text, embedding)
    for other in range(7):
        back = cache.get(str(other))
        assert back is None or torch.equal(back, torch.full((1, 64, 32), other + 1.0)), (turn, other)
"""


def test_two_processes_may_share_a_folder(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [writer.communicate(timeout=60)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0] and said == ["", ""]
    assert 1 <= len(kept_in(tmp_path)) <= 6
    assert len(list(tmp_path.iterdir())) == len(kept_in(tmp_path))
