"""From an EngineSpec to an engine in this process. The one place that knows every engine's builder."""

from __future__ import annotations

from pathlib import Path

from sdv2live.engine.base import EngineSpec
from sdv2live.engine.host_memory import keep_freed_memory
from sdv2live.engine.pocket import build_pocket
from sdv2live.engine.precision import choose_device
from sdv2live.engine.stream import StreamEngine


def build_engine(spec: EngineSpec, assets: Path, *, first_epoch: int = 0) -> StreamEngine:
    """Loaded, not warm; sets the process up for it. assets: holds each engine's weights in a folder of its name."""
    if choose_device(spec.device).type == "cpu":
        keep_freed_memory()
    return {"pocket": build_pocket}[spec.name](spec, assets / spec.name, first_epoch=first_epoch)
