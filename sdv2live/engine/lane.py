"""A queue of a GPU beside the transformer's: encoding and decoding overlap with it. Owns: what waits for what.

The current stream is the transformer's. A lane's work never holds that up unless it is given to it; on a CPU there is
one queue, the program's own, and a lane is nothing. Nothing here makes the host wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from sdv2live.engine.stage_clock import Mark, StageClock


class Lane:
    """One of a rank's. The allocator is told of tensors that cross over: it may else reuse their memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is begun inside follows the lane's own work alone."""
        with self._queue():
            yield

    @contextmanager
    def after(self, *tensors: Tensor) -> Iterator[None]:
        """What is begun inside also follows all that the current stream has by now, of which it uses `tensors`."""
        self.join()
        for tensor in tensors if self._stream is not None else ():
            tensor.record_stream(self._stream)  # type: ignore[arg-type]
        with self._queue():
            yield

    def _queue(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def give(self, *tensors: Tensor) -> None:
        """The current stream goes on when the lane's work is done, and may use `tensors`."""
        if self._stream is None:
            return
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(current)

    def mark(self, clock: StageClock) -> Mark:
        """This moment of the lane's work."""
        with self.apart():
            return clock.mark()

    def join(self) -> None:
        """The lane goes on when the current stream's work is done."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
