"""CUDA graphs: work that is recorded once and then replayed. Owns: captures, and the lock to what runs beside them.

While a graph is captured, torch's allocator refuses to give memory back to the driver, and what another thread asks of
the driver may spoil the capture. Knows nothing of what is recorded, or of what runs beside it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class CaptureLock:
    """Captures come first: a piece of other work begins only while none is under way and none waits.

    Whoever works beside them does it in pieces, since a capture waits for the piece in hand, and a stream with it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._captures = 0  # under way, or waiting
        self._is_taken = False

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Nothing runs `beside` within the block."""
        with self._changed:
            self._captures += 1
            self._changed.wait_for(lambda: not self._is_taken)
            self._is_taken = True
        try:
            yield
        finally:
            self._free(captures=1)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Nothing is captured within the block, which is as small a piece of work as there can be."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_taken or self._captures))
            self._is_taken = True
        try:
            yield
        finally:
            self._free(captures=0)

    def _free(self, *, captures: int) -> None:
        with self._changed:
            self._captures -= captures
            self._is_taken = False
            self._changed.notify_all()


CAPTURES = CaptureLock()  # of this process: a graph of any of its streams


class Graph(Protocol):
    """Work that was recorded. replay: has the device do it again, in the same memory; waits for nothing."""

    def replay(self) -> None: ...


class Recorded(NamedTuple):
    """graph, and the tensors that each replay writes; first: what the work made when it ran once, beforehand."""

    graph: Graph
    made: list[Tensor]
    first: list[Tensor]


Capture = Callable[[Callable[[], list[Tensor]]], Recorded]


class CudaCapture:
    """Records work of one GPU. Its graphs share their memory, so what one made is to be copied before another runs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def __call__(self, work: Callable[[], list[Tensor]]) -> Recorded:
        """Raises RuntimeError where it cannot be recorded. Waits for the device, and for a piece of work beside it."""
        with CAPTURES.capturing():
            return self._captured(work)

    def _captured(self, work: Callable[[], list[Tensor]]) -> Recorded:
        current = torch.cuda.current_stream(self._device)
        self._stream = self._stream or torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):  # once outside of the graph: libraries set themselves up, code is made
            made = work()
        current.wait_stream(self._stream)
        first = [each.clone() for each in made]  # in the memory of the stream that goes on with it
        graph = torch.cuda.CUDAGraph()
        pool = next((each.pool() for each in self._graphs), None)
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            made = work()
        self._graphs.add(graph)
        return Recorded(graph, made, first)


class CapturedCall:
    """Work as a graph, with inputs that stay where they are."""

    def __init__(self, work: Callable[[], list[Tensor]], inputs: Sequence[Tensor], capture: Capture) -> None:
        """inputs: what the work reads, its own for good. The work runs once: `take_first` has what it made."""
        self._inputs = inputs
        self._graph, self._made, self._first = capture(work)

    def take_first(self) -> list[Tensor]:
        """What the work made of the first inputs, once."""
        first, self._first = self._first, []
        return first

    def fits(self, inputs: Sequence[Tensor]) -> bool:
        pairs = zip(inputs, self._inputs, strict=True)
        return all(given.shape == held.shape and given.dtype == held.dtype for given, held in pairs)

    def replay(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the work makes of these inputs, in memory of its own. Copies on the device alone."""
        copy_all(inputs, self._inputs)
        self._graph.replay()
        return [each.clone() for each in self._made]


def copy_all(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)
