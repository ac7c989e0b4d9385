"""sdv2live: a live AI video effect with StreamDiffusionV2. `Stream` is the Python interface.

Importing this package is cheap on purpose: torch, OpenCV and PyAV are imported by the rooms that
need them, when they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdv2live.api import Stream

__all__ = ["Stream", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`Stream` when it is first asked for: it needs numpy and more, which commands such as the bootstrap do not."""
    if name == "Stream":
        from sdv2live.api import Stream

        return Stream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
