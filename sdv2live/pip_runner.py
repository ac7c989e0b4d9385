"""Running pip. Owns: how pip is called, what of its output is shown, and which of its lines say why it failed.

Standard library alone; knows nothing of what is installed or into what. pip's own settings (its
configuration files, PIP_INDEX_URL, proxies, certificates) stay in force; only those that would install
somewhere else than into the given Python are switched off.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_KEPT_LINES = 60
_LONGEST_REASON = 300
_STDERR = 2
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NETWORK_TROUBLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED"
    r"|Connection (?:refused|reset|aborted)|Network is unreachable",
)


class PipError(Exception):
    """pip failed, for a `reason`. The message adds what to do, and leaves out what was being installed."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}.")
        self.reason = reason


class Pip:
    """The pip of one Python. `keep_open`: a file descriptor that pip holds open as long as it runs."""

    def __init__(self, python: Path, *, keep_open: int | None = None) -> None:
        self._python = python
        # Handing on descriptors is a thing of POSIX; on Windows a program ends the lock with itself.
        self._pass_fds = () if keep_open is None or sys.platform == "win32" else (keep_open,)

    def install(self, *arguments: str) -> None:
        """`pip install ...`, its output going to the terminal as it comes. Raises PipError."""
        kept: deque[str] = deque(maxlen=_KEPT_LINES)
        # stdout is handed on untouched: pip draws its progress bar only where it sees a terminal.
        process = subprocess.Popen(
            self._command(*arguments),
            stdout=_STDERR,
            stderr=subprocess.PIPE,
            env=_environment(os.environ),
            text=True,
            errors="replace",
            pass_fds=self._pass_fds,
        )
        assert process.stderr is not None
        try:
            for line in process.stderr:
                sys.stderr.write(line)
                kept.append(line)
            exit_code = process.wait()
        finally:
            process.stderr.close()
            if process.poll() is None:
                process.terminate()
                process.wait()
        if exit_code != 0:
            raise error_in("".join(kept))

    def would_install(self, requirement: str) -> dict[str, Any]:
        """What pip would take for one requirement from its usual sources: its report on that package.

        Downloads no more than the package's metadata where the source offers that. Raises PipError.
        """
        result = subprocess.run(
            self._command("--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-", requirement),
            capture_output=True,
            text=True,
            errors="replace",
            env=_environment(os.environ),
            pass_fds=self._pass_fds,
            check=False,
        )
        if result.returncode != 0:
            raise error_in(result.stderr)
        try:
            report: dict[str, Any] = json.loads(result.stdout)["install"][0]
        except (ValueError, LookupError, TypeError) as error:
            raise PipError("pip's report cannot be read", "upgrade the pip of your Python") from error
        return report

    def _command(self, *arguments: str) -> list[str]:
        return [str(self._python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *arguments]


def error_in(output: str) -> PipError:
    """pip's own last word on why it failed, and what to do about it."""
    text = _COLOUR.sub("", output)
    errors = [line for line in text.splitlines() if line.startswith("ERROR: ") and line != "ERROR: Exception:"]
    reason = (errors[-1].removeprefix("ERROR: ") if errors else last_line(text)).rstrip(". ")
    if _NETWORK_TROUBLE.search(text):
        advice = "check the network connection and pip's proxy and certificate settings"
    elif "No space left" in text or "Errno 28" in text:
        advice = "make room on the disk"
    elif "No matching distribution" in text:
        advice = f"there may be no build for Python {sys.version_info[0]}.{sys.version_info[1]} on this system"
    else:
        advice = "see pip's lines above"
    return PipError(reason[:_LONGEST_REASON], f"{advice}, then start again")


def last_line(output: str) -> str:
    """The last line with something on it; never empty."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:_LONGEST_REASON] if lines else "it ended without a message"


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    elsewhere = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER"}
    return {**{name: value for name, value in environ.items() if name not in elsewhere}, "PIP_USER": "0"}
