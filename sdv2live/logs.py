"""Where messages go: one handler on standard error, the same sentences as in the window. Owns the format."""

from __future__ import annotations

import logging
import sys


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: logging.LogRecord) -> None:
        """A closed terminal or a full disk must not reach the picture."""


def set_up(*, verbose: bool = False) -> None:
    """What sdv2live itself says always; with `verbose` what libraries say as well."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    for name in ("sdv2live", "bridges"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("libav", "av"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
