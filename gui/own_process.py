"""A command of our own for a dialog: the same sdv2live as this one, in a process that blocks no window."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from PySide6.QtCore import QObject, QProcess, QProcessEnvironment

import sdv2live

PROGRAM = (sys.executable, "-m", "sdv2live")


def own_process(parent: QObject) -> QProcess:
    """Not yet started. It finds the package wherever this one was started from."""
    process = QProcess(parent)
    environment = QProcessEnvironment.systemEnvironment()
    root = str(Path(sdv2live.__file__).parents[1])
    environment.insert("PYTHONPATH", os.pathsep.join(filter(None, [root, environment.value("PYTHONPATH")])))
    process.setProcessEnvironment(environment)
    return process
