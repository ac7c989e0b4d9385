"""The doctor's checks of what everything stands on: Python, packages, system, GPU, window, drives.

Standard library alone: they are made where nothing is installed, too. Each returns one Finding.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

from sdv2live.bootstrap import NEEDS_OF_COMMAND, missing_modules, package_of
from sdv2live.devices import list_gpus
from sdv2live.doctor.finding import Finding, State, finding
from sdv2live.errors import UserError, one_line
from sdv2live.models.manifest import GB, size_text
from sdv2live.paths import cache_dir, checkout_root, models_dir, recordings_dir, user_config_dir
from sdv2live.strict_files import write_bytes

BUSY_SHARE = 0.5  # of the cores, taken by other programs
LITTLE_DISK_BYTES = GB  # a recording of about half an hour, and what is kept between two starts
PROBE_NAME = "doctor.probe"


def python() -> Finding:
    """Its version, and the one pairing with Qt that is known to end the process."""
    version = platform.python_version()
    text = f"{version}, {sys.executable}"
    if sys.version_info < (3, 12) and (_version("PySide6-Essentials") or (0,)) >= (6, 12):
        return Finding(
            "python",
            State.FAIL,
            f"{text}: PySide6 6.12 ends this Python after some minutes of a window",
            "run `pip install 'PySide6-Essentials<6.12'`, or use Python 3.12 or newer",
        )
    return Finding("python", State.OK, text)


def packages() -> Finding:
    """Whether what `live` needs is installed here, and what goes along with it."""
    needs = NEEDS_OF_COMMAND["live"]
    missing, away = missing_modules(needs.modules), missing_modules(needs.along)
    pip = f"{sys.executable} -m pip install"
    if missing:
        words = ", ".join(f"{package_of(module)} {reason}" for module, reason in missing.items())
        remedy = f"run `{pip} {' '.join(map(package_of, missing))}`"
        if checkout_root() is not None:
            remedy = "start `python3 -m sdv2live` once, which installs it"
        return Finding("packages", State.FAIL, words, remedy)
    if _version("opencv-python"):
        return Finding(
            "packages",
            State.WARN,
            "opencv-python brings a Qt of its own, which gets into the way of the window's",
            f"run `{sys.executable} -m pip uninstall opencv-python` and `{pip} opencv-python-headless`",
        )
    if away:
        names = ", ".join(map(package_of, away))
        return Finding(
            "packages",
            State.WARN,
            f"{names} {'is' if len(away) == 1 else 'are'} not installed: a window, a screen, a camera or a Wan engine "
            "may be missing for it",
            f"run `{pip} {' '.join(map(package_of, away))}`",
        )
    return Finding("packages", State.OK, f"all {len(needs.modules) + len(needs.along)} are here")


def system() -> Finding:
    """The operating system, the cores, and how busy they are with something else."""
    cores = os.cpu_count() or 1
    text = f"{platform.platform()}, {cores} cores"
    if not hasattr(os, "getloadavg"):
        return Finding("system", State.OK, text)
    load = os.getloadavg()[0]
    text += f", load {load:.1f}"
    if load > BUSY_SHARE * cores:
        return Finding(
            "system",
            State.WARN,
            f"{text}: other programs have taken much of the processor over the last minute",
            "close them before a show, and see what `top` shows",
        )
    return Finding("system", State.OK, text)


def window() -> Finding:
    """Whether the window could be shown."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return Finding("window", State.OK, "there is no display: it runs with --headless, and OSC is how it is turned")
    from sdv2live.window import check_qt

    try:
        check_qt()
    except UserError as error:
        return finding("window", str(error), State.FAIL)
    return Finding("window", State.OK, f"PySide6 {_text_version('PySide6-Essentials')} on {_display()}")


def gpu() -> Finding:
    """NVIDIA's GPUs, their driver, and what torch says of them."""
    notes: dict[str, str] = {}
    cards = list_gpus(notes)
    if not cards:
        # The tool that is missing is a fact; the one that does not answer is a fault.
        state = State.OK if "no nvidia-smi" in notes["gpus"] else State.FAIL
        sentence = notes["gpus"].rstrip(".")
        return finding("GPU", sentence, state) if state is State.FAIL else Finding("GPU", state, sentence)
    names = ", ".join(f"{one['name']}, driver {one['driver']}" for one in cards)
    try:
        from sdv2live.engine.hardware import gpus
    except ImportError:
        return Finding("GPU", State.OK, names)  # torch is missing, which another line says
    usable = gpus()
    if not usable:
        return Finding("GPU", State.FAIL, f"{names}: torch cannot use it", "see the line of torch")
    driver = cards[0]["driver"]
    words = [
        f"{each.name}, compute capability {each.capability[0]}.{each.capability[1]}, {size_text(each.free_bytes)} of "
        f"{size_text(each.total_bytes)} free"
        for each in usable
    ]
    if any(each.free_bytes < each.total_bytes / 2 for each in usable):
        remedy = "see in nvidia-smi which other programs have taken its memory"
        return Finding("GPU", State.WARN, f"{'; '.join(words)}; driver {driver}", remedy)
    return Finding("GPU", State.OK, f"{'; '.join(words)}; driver {driver}")


def disk() -> Finding:
    """Whether the user's folders take a file, and how much room there is."""
    folders = {"settings": user_config_dir(), "cache": cache_dir(), "models": models_dir()}
    rooms, refused = [], []
    for what, folder in folders.items():
        try:
            write_probe(folder)
        except OSError as error:
            refused.append(f"the folder for {what}, {folder}, takes no file ({error.strerror or one_line(error)})")
    for what, folder in (("models", models_dir()), ("recordings", recordings_dir())):
        if (free := free_at(folder)) is not None:
            rooms.append((free, f"{size_text(free)} free for {what}"))
    text = "; ".join([*refused, *dict.fromkeys(words for _, words in rooms)])
    if refused:
        return Finding("disk", State.FAIL, text, "make room there, or see that the folder is yours and may be written")
    if any(free < LITTLE_DISK_BYTES for free, _ in rooms):
        return Finding("disk", State.WARN, text, "make room before something is recorded or fetched")
    return Finding("disk", State.OK, text)


def write_probe(folder: Path) -> None:
    """Write a file there and take it away; folders that had to be made for it too. Raises OSError."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        write_bytes(folder / PROBE_NAME, b"\0" * 4096)
    finally:
        (folder / PROBE_NAME).unlink(missing_ok=True)
        for one in made:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


def free_at(folder: Path) -> int | None:
    """Bytes that are free where the folder is or would be made; None where the system does not say."""
    there = next((one for one in (folder, *folder.parents) if one.is_dir()), None)
    try:
        return None if there is None else shutil.disk_usage(there).free
    except OSError:
        return None


def _display() -> str:
    names = {"linux": os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY", "")}
    return names.get(sys.platform, "this desktop")


def _text_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version(package: str) -> tuple[int, ...] | None:
    """Its numbers; None where it is not installed."""
    text = _text_version(package)
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal()) if text else None
