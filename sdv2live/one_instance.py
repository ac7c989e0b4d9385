"""Whether another window of this user runs already. Owns: one lock that the system frees when its process ends.

Nothing is written into the file, and it is never deleted: a name that goes and comes back is a lock that two can hold.
"""

from __future__ import annotations

import logging
import os
from types import TracebackType

from sdv2live.errors import one_line
from sdv2live.file_lock import try_lock
from sdv2live.paths import user_config_dir

log = logging.getLogger(__name__)

LOCK_NAME = "window.lock"


class InstanceLock:
    """Held until it is released, or its process ends in whatever way. Programs started meanwhile do not inherit it."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let the next one in. May be called twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> InstanceLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def take_instance_lock() -> InstanceLock | None:
    """The lock, or None if another window has it. Does not wait and never raises.

    Where no lock can be had at all (a folder that cannot be written, a file system without locks) the log says so
    and the lock holds nothing: that is no reason not to start.
    """
    path, descriptor = user_config_dir() / LOCK_NAME, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if try_lock(descriptor):
            return InstanceLock(descriptor)
        os.close(descriptor)
        return None
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        log.warning("whether another sdv2live runs is not known, %s cannot be locked: %s", path, one_line(error))
        return InstanceLock(None)
