"""From an EngineSpec to an engine in this process. The one place that knows every engine's builder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdv2live.engine.base import EngineSpec
from sdv2live.engine.host_memory import keep_freed_memory
from sdv2live.engine.pocket import build_pocket
from sdv2live.engine.precision import choose_device
from sdv2live.engine.stream import StreamEngine


def build_engine(
    spec: EngineSpec, assets: Path, *, first_epoch: int = 0, say: Callable[[str], None] = lambda _: None
) -> StreamEngine:
    """Loaded, not warm; sets the process up for it. assets: holds the pocket engine's weights in a folder of its name.

    say: told what is being loaded. Raises UserError.
    """
    if choose_device(spec.device).type == "cpu":
        keep_freed_memory()
    if spec.name == "pocket":
        return build_pocket(spec, assets / spec.name, first_epoch=first_epoch)
    from sdv2live.engine.wan import build_wan

    return build_wan(spec, first_epoch=first_epoch, say=say)
