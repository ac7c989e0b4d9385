"""What was measured on this machine, for the next start: `auto.json` in the folder for what can be made again.

Strict JSON, bounded, replaced whole. It is never worth an error: what cannot be read is measured again.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdv2live import __version__
from sdv2live.auto.choice import DECODERS, ENGINES, SCHEDULES, Candidate, Measured
from sdv2live.devices import list_gpus
from sdv2live.errors import one_line
from sdv2live.limits import MAX_STEPS
from sdv2live.paths import cache_dir
from sdv2live.strict_files import read_json, write_json

log = logging.getLogger(__name__)

FORMAT = 1
FILE_NAME = "auto.json"
MOST_MACHINES, MOST_MEASUREMENTS = 8, 64
LARGEST_SIDE = 4096
CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def machine() -> str:
    """What a measurement holds for: processor, GPUs and their driver, torch, and this version."""
    cards = [f"{one['name']} with driver {one['driver']}" for one in list_gpus({})]
    parts = (f"{_processor()}, {os.cpu_count()} cores", *cards, f"torch {_torch()}", f"sdv2live {__version__}")
    return "; ".join(parts)


def load(key: str) -> dict[Candidate, float]:
    """Pictures a second of each candidate; empty where nothing is known. Never raises. key: see `key_of`."""
    return _machines().get(key, {})


def save(key: str, measured: Measured) -> None:
    """Keep them, the newest machine last. Never raises: what cannot be kept is measured again."""
    machines = _machines()
    machines.pop(key, None)
    machines[key] = dict(list(measured.items())[-MOST_MEASUREMENTS:])
    names = list(machines)[-MOST_MACHINES:]
    data = {
        "sdv2live": FORMAT,
        "machines": {name: [{**asdict(one), "fps": fps} for one, fps in machines[name].items()] for name in names},
    }
    try:
        write_json(_path(), data)
    except (OSError, ValueError) as error:
        log.warning("what was measured cannot be kept in %s and is measured anew: %s", _path(), one_line(error))


def forget(key: str, one: Candidate) -> None:
    """One that has turned out otherwise is measured at the next start."""
    measured = load(key)
    if measured.pop(one, None) is not None:
        save(key, measured)


def key_of(flags: Mapping[str, Any]) -> str:
    """This machine with these parameters, which make an engine faster or slower, beside what is chosen."""
    return "; ".join([machine(), *(f"{name} {value}" for name, value in sorted(flags.items()))])


def _machines() -> dict[str, dict[Candidate, float]]:
    try:
        data = read_json(_path())
        if not isinstance(data, dict) or data.get("sdv2live") != FORMAT or not isinstance(data.get("machines"), dict):
            raise ValueError(f"it is not of format {FORMAT}")
        return {str(name): _measurements(entries) for name, entries in list(data["machines"].items())[-MOST_MACHINES:]}
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used (%s): what it held is measured again", _path(), one_line(error))
    return {}


def _measurements(entries: object) -> dict[Candidate, float]:
    """Raises ValueError for what makes no sense: then nothing of the file is believed."""
    if not isinstance(entries, list) or len(entries) > MOST_MEASUREMENTS:
        raise ValueError("its measurements are no list")
    found = {}
    for entry in entries:
        try:
            fields = dict(entry)
            fps, size_wh = fields.pop("fps"), fields["size_wh"]
            one = Candidate(**{**fields, "size_wh": (int(size_wh[0]), int(size_wh[1]))})
            is_known = one.engine in ENGINES and one.vae in ("", *DECODERS) and one.schedule in SCHEDULES
            is_sane = all(16 <= side <= LARGEST_SIDE for side in one.size_wh) and type(one.steps) is int
            if not (is_known and is_sane and 1 <= one.steps <= MAX_STEPS and 0 < float(fps) < 1e5):
                raise ValueError("a value is out of range")
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(f"an entry cannot be read: {error}") from None
        found[one] = float(fps)
    return found


def _path() -> Path:
    return cache_dir() / FILE_NAME


def _torch() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _processor() -> str:
    try:
        for line in CPU_INFO.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # another system, which names it here
    return platform.processor() or platform.machine()
