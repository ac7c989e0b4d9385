"""Which engines there are and what each brings. Imports no torch: the app reads it before the engine exists."""

from __future__ import annotations

from sdv2live.engine.base import EngineSpec, EngineTraits
from sdv2live.engine.window import Window
from sdv2live.errors import UserError

ENGINES = ("pocket",)
DEFAULT_SIZE = {"pocket": (256, 256)}

# Found by training (assets/pocket/MODEL_CARD.md); the ranges of the parameter table are the same for all engines.
_POCKET_DEFAULTS = {
    "steps.list": (600, 300),
    "steps.count": 1,
    "noise.max": 0.6,
    "noise.min": 0.5,
    "noise.mode": "fixed",
    "noise.timestep_offset": 0,
}
WINDOWS = {"pocket": Window(capacity=4, sinks=1)}


def traits_of(spec: EngineSpec) -> EngineTraits:
    """Chunk sizes and defaults of the engine that `spec` names. Raises UserError for one that there is not."""
    if spec.name not in ENGINES:
        raise UserError(f"there is no engine {spec.name!r}: choose one of {', '.join(ENGINES)}.")
    return EngineTraits(
        name=spec.name, size_wh=spec.size_wh, first_chunk_frames=4, chunk_frames=4, defaults=dict(_POCKET_DEFAULTS)
    )
