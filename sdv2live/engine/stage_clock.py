"""How long each stage of a chunk takes. Owns: marks in time, on the host or in a GPU's stream.

A GPU runs behind the host, so its marks are events; they are read once the chunk is done, and never waited for.
"""

from __future__ import annotations

import time

import torch

Mark = float | torch.cuda.Event


class StageClock:
    """Marks of one device."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"

    def mark(self) -> Mark:
        """This moment of the device's work."""
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def ms_between(self, start: Mark, end: Mark) -> float:
        """Milliseconds between two marks of this clock, both of which the device has passed."""
        if isinstance(start, float) and isinstance(end, float):
            return (end - start) * 1000
        assert isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
        return float(start.elapsed_time(end))
