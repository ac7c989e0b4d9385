"""What this machine has to capture with and to show on: `sdv2live devices`. Owns: the list and how it reads.

Looks and opens nothing. Knows nothing of the virtual cameras' rooms, which say for themselves what they lack. torch is
not asked about GPUs: it takes seconds to import, and may be missing.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from sdv2live.capture.cameras import list_cameras, no_camera_sentence
from sdv2live.errors import UserError, one_line

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
NVIDIA_SMI_LIMIT_S = 5.0

# What each section is called -> what stands there, a row for each device.
Report = dict[str, list[dict[str, Any]]]


def report(virtual_cameras: Sequence[tuple[str, str]]) -> tuple[Report, dict[str, str]]:
    """-> the devices, and a sentence for each section that is empty. virtual_cameras: (back-end, its state)."""
    notes: dict[str, str] = {}
    cameras = [
        {"source": f"camera:{one.id}", "name": one.name, "index": one.index, "path": one.path} for one in list_cameras()
    ]
    if not cameras:
        notes["cameras"] = no_camera_sentence()
    screens = screens_here(notes)
    gpus = list_gpus(notes)
    outputs = [{"output": f"camera:{backend}", "state": state} for backend, state in virtual_cameras]
    return {"cameras": cameras, "screens": screens, "virtual_cameras": outputs, "gpus": gpus}, notes


def as_json(found: Report, notes: dict[str, str]) -> str:
    return json.dumps({**found, "notes": notes}, indent=2, allow_nan=False)


def as_text(found: Report, notes: dict[str, str]) -> str:
    """Aligned columns under a heading for each section."""
    rows: dict[str, list[tuple[str, ...]]] = {
        "Cameras (--source camera, or camera: and a part of the name)": [
            (one["source"], one["name"], one["path"] if one["path"] not in one["source"] else "")
            for one in found["cameras"]
        ],
        "Screens (--source screen, or screen:X,Y,WxH for a part)": [
            (
                one["source"],
                f"{one['width']}x{one['height']} at {one['left']},{one['top']}",
                one["name"] + (", primary" if one["is_primary"] else ""),
            )
            for one in found["screens"]
        ],
        "Virtual cameras (--output camera)": [(one["output"], one["state"]) for one in found["virtual_cameras"]],
        "GPUs": [(one["name"], f"{one['memory_mib']} MiB", f"driver {one['driver']}") for one in found["gpus"]],
    }
    lines = []
    for (heading, section), key in zip(rows.items(), found, strict=True):
        lines += ["", heading, *(aligned(section) or [f"  {notes.get(key, 'none')}"])]
    return "\n".join(lines[1:])


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Each column as wide as its widest cell; the last one runs on."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def screens_here(notes: dict[str, str]) -> list[dict[str, Any]]:
    """The screens; where there are none, `notes` gets a sentence."""
    try:
        from sdv2live.capture.screen import list_screens

        screens = list_screens()
    except ImportError as error:
        notes["screens"] = f"Screens need mss ({one_line(error)}): run `pip install mss`."
        return []
    except UserError as error:
        notes["screens"] = one_line(error)
        return []
    return [
        {
            "source": f"screen:{one.number}",
            "name": one.name,
            "width": one.region.width,
            "height": one.region.height,
            "left": one.region.left,
            "top": one.region.top,
            "is_primary": one.is_primary,
        }
        for one in screens
    ]


def list_gpus(notes: dict[str, str]) -> list[dict[str, Any]]:
    """NVIDIA's, as its own tool lists them; where there are none, `notes` gets a sentence."""
    try:
        answer = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, check=True, timeout=NVIDIA_SMI_LIMIT_S)
    except FileNotFoundError:
        notes["gpus"] = "No NVIDIA GPU was found (there is no nvidia-smi): the pocket engine runs on the processor."
        return []
    except (OSError, subprocess.SubprocessError) as error:
        notes["gpus"] = f"nvidia-smi did not answer ({one_line(error)}): install NVIDIA's driver again, then restart."
        return []
    return parsed_gpus(answer.stdout)


def parsed_gpus(text: str) -> list[dict[str, Any]]:
    """One row for each line `name, MiB, driver`; what reads otherwise is left out."""
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.rsplit(",", 2)]
        if len(cells) == 3 and cells[0] and cells[1].isdecimal():
            gpus.append({"name": cells[0], "memory_mib": int(cells[1]), "driver": cells[2]})
    return gpus
