"""How a process of ours is started, for the engine and for other ranks of it. Imports no torch."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)


def start_child(module: str, *, descriptors: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Run `main` of a module in a process of its own, with pipes on both sides, in a process group of its own.

    Ctrl-C in a terminal goes to a whole group, and it is for the app to end what it started. -P and a path of its own:
    a `queue.py` in the user's working folder is not ours. descriptors: inherited (POSIX). Raises OSError.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
    command = [sys.executable, "-P", "-c", f"from {module} import main; main()"]
    env = {**os.environ, "PYTHONPATH": path}
    pipe = subprocess.PIPE
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, creationflags=flags)
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, pass_fds=list(descriptors), process_group=0)


def end_child(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """It goes by itself when its pipe closes; one that hangs is killed."""
    assert process.stdin is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        log.debug("process %d was gone before it was closed", process.pid)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
