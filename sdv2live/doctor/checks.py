"""Every check of the doctor, in the order in which they are said: the quick ones and what others stand on first.

A check runs in a process of the doctor's own, with a limit; so its modules are imported there and then alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from sdv2live.doctor.finding import Finding, State

QUICK_S, USUAL_S, LONG_S = 15.0, 60.0, 180.0


@dataclass(frozen=True, slots=True)
class Check:
    """place: module and function of it, and what that is called with. if_it_hangs: what to do where no answer comes
    within limit_s. looks_at: what is being looked at, for people who wait."""

    name: str
    place: str
    limit_s: float
    looks_at: str
    if_it_hangs: str
    argument: str = ""

    def look(self) -> Finding:
        """Run it here. An exception is a finding too: a check that fails says nothing of those behind it."""
        module, _, function = self.place.partition(":")
        try:
            check: Callable[..., Finding] = getattr(import_module(f"sdv2live.doctor.{module}"), function)
            return check(self.argument) if self.argument else check()
        except ImportError as error:
            text = f"it cannot be looked at: {' '.join(str(error).split())}"
            return Finding(self.name, State.WARN, text, "see the line of the packages")
        except Exception as error:  # the top of a check, whose process goes on with the next one
            text = f"the check itself failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
            return Finding(self.name, State.FAIL, text, "please report it, with this line")


_DRIVE = "see whether a network drive is away"
_DRIVER = "restart the machine; if it hangs again, install the GPU's driver again"
_AGAIN = "close other programs and start the doctor again"

CHECKS = (
    Check("python", "machine:python", QUICK_S, "Python", _AGAIN),
    Check("packages", "machine:packages", QUICK_S, "the packages", _DRIVE),
    Check("system", "machine:system", QUICK_S, "the system", _AGAIN),
    Check("disk", "machine:disk", QUICK_S, "the drives", _DRIVE),
    Check("window", "machine:window", USUAL_S, "the display", "see whether the display still answers"),
    Check("OSC", "ends:osc", QUICK_S, "the OSC port", _AGAIN),
    Check("torch", "engines:torch_and_cuda", LONG_S, "torch, which may take a while the first time", _DRIVER),
    Check("GPU", "machine:gpu", USUAL_S, "the GPU", _DRIVER),
    Check("processor", "engines:processor", QUICK_S, "the processor", _AGAIN),
    Check("memory", "engines:memory", QUICK_S, "the memory", _AGAIN),
    Check("attention", "engines:attention", USUAL_S, "the attention kernels", _DRIVER),
    Check("engine pocket", "engines:pocket", LONG_S, "the engine pocket, which starts and runs", _AGAIN),
    Check("engine wan-1.3b", "engines:wan", LONG_S, "the engine wan-1.3b", _DRIVE, "wan-1.3b"),
    Check("engine wan-14b", "engines:wan", LONG_S, "the engine wan-14b", _DRIVE, "wan-14b"),
    Check("cameras", "ends:cameras", USUAL_S, "the cameras", "unplug the camera and plug it in again"),
    Check("screens", "ends:screens", QUICK_S, "the screens", "see whether the display still answers"),
    Check(
        "virtual cameras",
        "ends:virtual_cameras",
        QUICK_S,
        "the virtual cameras",
        "close the programs that watch the virtual camera, and start the doctor again",
    ),
)
