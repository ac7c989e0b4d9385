"""Which build of torch. Owns: telling whether there is an NVIDIA GPU, and where the right build comes from.

Standard library alone. PyPI's file for Linux is the CUDA build with several GB of libraries, its files for
macOS and Windows are the CPU build, and a machine's own pip settings may offer yet another one. So pip is
asked first what its usual sources would give; only if that is the wrong build is it taken from PyTorch's index.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdv2live.pip_runner import Pip, PipError

# The user's word goes before what is found here: cpu, cuda, or any (take what pip's usual sources give).
BUILD_VARIABLE = "SDV2LIVE_TORCH"
LABELS = {"cpu": "CPU build", "cuda": "CUDA build", "any": "whichever build pip offers"}
PYTORCH_INDEX = "https://download.pytorch.org/whl/"
_LOCAL_VERSION = {"cpu": "cpu", "cuda": "cu130"}


def wanted_build(platform: str, environ: Mapping[str, str]) -> str:
    """`cpu`, `cuda` or `any`; `platform` as in `sys.platform`."""
    asked = environ.get(BUILD_VARIABLE, "").strip().lower()
    if asked in LABELS:
        return asked
    return "cuda" if has_nvidia_gpu(platform, environ) else "cpu"


def has_nvidia_gpu(platform: str, environ: Mapping[str, str], proc: Path = Path("/proc/driver/nvidia")) -> bool:
    """Whether a driver for an NVIDIA GPU is at work, found without torch."""
    if platform == "darwin":
        return False
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is not None:
        try:
            answer = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False)
            if answer.returncode == 0 and "GPU " in answer.stdout:
                return True
        except (OSError, subprocess.TimeoutExpired):
            pass  # a program that does not run says nothing; the driver's own traces may
    if platform == "win32":
        return (Path(environ.get("SystemRoot", r"C:\Windows")) / "System32" / "nvcuda.dll").is_file()
    return any(proc.glob("gpus/*"))


def build_in(report: Mapping[str, Any], platform: str) -> str:
    """Whether the file in pip's report is the `cpu` or the `cuda` build."""
    metadata = report["metadata"]
    local = str(metadata["version"]).partition("+")[2]
    if local:
        return "cuda" if local.startswith("cu") else "cpu"
    if platform != "linux":
        return "cpu"
    requirements = metadata.get("requires_dist") or []
    return "cuda" if any(re.match(r"(?:nvidia|cuda)-", name) for name in requirements) else "cpu"


def install(pip: Pip, version: str, build: str, platform: str) -> None:
    """Install torch alone, in the wanted build; what it needs is left to the caller. Raises PipError."""
    requirement = f"torch=={version}"
    if build == "any":
        pip.install("--no-deps", requirement)
        return
    try:
        offered = build_in(pip.would_install(requirement), platform)
        usual_trouble = f"pip's usual sources offer only the {LABELS[offered]}"
    except PipError as error:
        offered = ""
        usual_trouble = f"pip's usual sources gave nothing ({error.reason})"
    if offered == build:
        pip.install("--no-deps", requirement)
        return
    # Without "+cpu" or "+cu130" pip could again take the usual sources' file, which stay in force.
    # PyTorch makes no such files for macOS, whose only build is the plain one.
    local = _LOCAL_VERSION[build]
    exact = requirement if platform == "darwin" else f"{requirement}+{local}"
    try:
        pip.install("--no-deps", "--index-url", PYTORCH_INDEX + local, exact)
    except PipError as error:
        raise PipError(
            f"{usual_trouble}, and PyTorch's own ({PYTORCH_INDEX}{local}) failed: {error.reason}",
            f"open the way to PyTorch's, or set {BUILD_VARIABLE}=any to take what pip's usual sources offer"
            + (" (several GB)" if offered == "cuda" else "")
            + ", then start again",
        ) from error
