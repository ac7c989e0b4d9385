"""Captures of CUDA graphs and work on other threads keep out of each other's way, and captures come first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sdv2live.engine.captures import CAPTURES, CaptureLock, CudaCapture

PATIENCE_S = 30.0


def test_a_capture_waits_for_the_piece_in_hand_and_no_other() -> None:
    lock, order = CaptureLock(), list[str]()
    has_begun, may_end = threading.Event(), threading.Event()

    def first_piece() -> None:
        with lock.beside():
            has_begun.set()
            assert may_end.wait(PATIENCE_S)
            order.append("first piece")

    def capture() -> None:
        with lock.capturing():
            order.append("capture")

    def second_piece() -> None:
        with lock.beside():
            order.append("second piece")

    threads = [threading.Thread(target=each) for each in (first_piece, capture, second_piece)]
    threads[0].start()
    assert has_begun.wait(PATIENCE_S)
    threads[1].start()
    while not lock._captures:  # until it stands in line
        assert threads[1].is_alive()
    threads[2].start()
    may_end.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["first piece", "capture", "second piece"]


def test_the_lock_is_free_again_after_an_error() -> None:
    lock = CaptureLock()
    for each in (lock.capturing, lock.beside, lock.capturing, lock.beside):
        with pytest.raises(RuntimeError), each():
            raise RuntimeError("out of memory")


def test_while_a_graph_is_captured_no_piece_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA itself is a stand-in, which runs the work where it stands."""

    @contextmanager
    def within(*_: object, **__: object) -> Iterator[None]:
        yield

    stream: Any = SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "graph", within)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", type("CUDAGraph", (), {}))
    order: list[str] = []

    def piece() -> None:
        with CAPTURES.beside():
            order.append("piece")

    other = threading.Thread(target=piece)

    def work() -> list[Tensor]:
        if other.ident is None:
            other.start()
        other.join(0.05)  # time enough for it, if it might
        order.append("work")
        return [torch.ones(1)]

    CudaCapture(torch.device("cuda", 0))(work)
    other.join(PATIENCE_S)
    assert order == ["work", "work", "piece"], "the run before the capture, and the capture"
