"""The virtual camera: the outputs `camera`, `camera:BACKEND` and `camera:DEVICE`, through pyvirtualcam.

Owns: which device is used, its fixed size and the picture's place in it. A camera's size never changes while it
is open, since programs that watch it break on that; a picture of any other size is letterboxed inside, and may be
of another size each time. Knows nothing of engines. Runs on its output's thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridges.base import Output
from sdv2live.capture.preprocess import fit_into
from sdv2live.errors import UserError, one_line
from sdv2live.frames import Pixels

log = logging.getLogger(__name__)

DEFAULT_SIZE_WH = (1280, 720)
OBS_CAMERA = "OBS Virtual Camera"
PIPEWIRE = "pipewire"
# The platform's own backends, the next one where the one before has no device at all; a backend registered by
# somebody else is used only when it is named.
DEFAULT_BACKENDS = {"linux": ("v4l2loopback", PIPEWIRE), "darwin": ("obs",), "win32": ("obs",)}
MODPROBE = "sudo modprobe v4l2loopback devices=1 video_nr=10 card_label=sdv2live exclusive_caps=1"
LOOPBACK_DIR = Path("/sys/devices/virtual/video4linux")
NO_DEVICE_WORDS = ("does not exist", "no v4l2 loopback", "not installed", "not found")


class VirtualCamera(Output):
    """A camera that other programs see. `size_wh` is the camera's, whatever the pictures' size."""

    always_on = True
    takes_any_size = True

    def __init__(
        self,
        *,
        backend: str | None = None,
        device: str | None = None,
        size_wh: tuple[int, int] = DEFAULT_SIZE_WH,
    ) -> None:
        self.name = ":".join(["camera", *(word for word in (backend, device) if word)])
        self._backend = backend
        self._device = device
        self._size_wh = size_wh
        self._camera: Any = None
        self._frame = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
        self._drawn: Pixels | None = None
        self._is_watched: bool | None = None
        self._rate_fps = 1
        self._writes = 0
        self._node: tuple[str, tuple[int, int, int]] | None = None

    @classmethod
    def from_spec(cls, rest: str, *, size_wh: tuple[int, int] = DEFAULT_SIZE_WH) -> VirtualCamera:
        """`rest` is what follows `camera:`: nothing, a backend's name or a device."""
        if not rest:
            return cls(size_wh=size_wh)
        if rest in registered_backends():
            return cls(backend=rest, size_wh=size_wh)
        if sys.platform == "linux" and not rest.startswith("/dev/"):
            raise UserError(
                f"There is no virtual camera {rest!r}: give one of {', '.join(sorted(registered_backends()))}, or a "
                "device such as /dev/video10."
            )
        return cls(device=rest, size_wh=size_wh)

    @property
    def device(self) -> str:
        """What was opened, as other programs see it; '' while it is closed."""
        return str(self._camera.device) if self._camera is not None else ""

    @property
    def is_watched(self) -> bool | None:
        """Some program takes pictures now; None where the device does not tell."""
        return self._is_watched

    def open(self, size_wh: tuple[int, int], rate_fps: int) -> None:
        self.close()
        self._camera = self._first_camera(rate_fps)
        device = str(self._camera.device)
        self._node = (device, identity) if (identity := node_identity(device)) else None
        self._drawn = None
        self._rate_fps, self._writes = max(rate_fps, 1), 0
        width, height = self._size_wh
        log.info("virtual camera %s (%s) is on, %dx%d at %d fps", device, self._camera.backend, width, height, rate_fps)

    def _first_camera(self, rate_fps: int) -> Any:
        """The camera that was named, or the first of this platform's that there is."""
        registered = registered_backends()
        names = (self._backend,) if self._backend else default_backends(self._device)
        if not any(name in registered for name in names):
            raise UserError(
                f"This machine has no virtual camera backend {names[0]!r}: choose one of "
                f"{', '.join(sorted(registered))}."
            )
        import pyvirtualcam

        width, height = self._size_wh
        failures: list[str] = []
        for name in (name for name in names if name in registered):
            more = {"on_watched": self._note_watched} if name == PIPEWIRE else {}
            self._is_watched = False if more else None
            try:
                return pyvirtualcam.Camera(
                    width, height, rate_fps, fmt=pyvirtualcam.PixelFormat.RGB, backend=name, device=self._device, **more
                )
            except (RuntimeError, OSError, ValueError) as error:
                reason = one_line(error).removeprefix(f"'{name}' backend: ")
                failures.append(open_failure(name, self._device, self._size_wh, reason))
                if not any(word in reason.lower() for word in NO_DEVICE_WORDS):
                    break  # there is a device, and what is wrong with it is worth saying
        if len(failures) == 1:
            raise UserError(failures[0])
        first, second = failures
        raise UserError(f"{first.removesuffix('.')}, or use PipeWire instead: {second[:1].lower()}{second[1:]}")

    def write(self, pixels: Pixels, tick: int) -> None:
        if self._camera is None:
            raise RuntimeError("the virtual camera is not open")
        # pyvirtualcam only prints where a write fails, so once a second the device itself is looked at.
        if self._node is not None and self._writes % self._rate_fps == 0:
            device, identity = self._node
            if node_identity(device) != identity:
                self.close()
                raise UserError(f"The virtual camera {device} was removed: {remedy()}.")
        self._writes += 1
        try:
            self._camera.send(self._framed(pixels))
        except UserError:
            self.close()
            raise
        except (RuntimeError, OSError, ValueError) as error:
            self.close()
            raise UserError(f"The virtual camera took no picture ({one_line(error)}): it is opened again.") from error

    def _framed(self, pixels: Pixels) -> Pixels:
        """`pixels` in a frame of the camera's size. ValueError where that is no picture."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(f"a picture of shape {pixels.shape}")
        size_wh = pixels.shape[1], pixels.shape[0]
        if size_wh == self._size_wh:
            return pixels
        # What nobody watches need not be drawn: the camera only looks whether somebody has come, or PipeWire has gone.
        # A held picture is the same array again, and lies there already.
        if self._is_watched is not False and pixels is not self._drawn:
            fit_into(pixels, self._frame, "letterbox")
            self._drawn = pixels
        return self._frame

    def _note_watched(self, is_watched: bool) -> None:
        self._is_watched = is_watched
        log.info("the virtual camera is %s", "being watched" if is_watched else "not watched any more")

    def close(self) -> None:
        camera, self._camera = self._camera, None
        self._node = self._is_watched = self._drawn = None
        if camera is None:
            return
        try:
            camera.close()
        except (RuntimeError, OSError) as error:
            log.warning("the virtual camera did not close cleanly: %s", one_line(error))


def registered_backends() -> dict[str, Any]:
    """The backends that pyvirtualcam has here, and our own. UserError where it is not installed or does not load."""
    try:
        from pyvirtualcam import camera
    except (ImportError, OSError) as error:
        raise UserError(
            f"The virtual camera needs pyvirtualcam ({one_line(error)}): run `pip install pyvirtualcam`."
        ) from error
    backends: dict[str, Any] = camera.BACKENDS
    if sys.platform == "linux" and PIPEWIRE not in backends:
        from bridges.pipewire_camera import PipeWireCamera

        camera.register_backend(PIPEWIRE, PipeWireCamera)
    return backends


def default_backends(device: str | None) -> tuple[str, ...]:
    """The backends of this platform, best first; one of them where a device is named.

    On Windows another device than OBS's own is Unity Capture's.
    """
    if sys.platform == "win32" and device not in (None, OBS_CAMERA):
        return ("unitycapture",)
    names = DEFAULT_BACKENDS.get(sys.platform, ("v4l2loopback",))
    return names[:1] if device else names


def remedy() -> str:
    """What makes a virtual camera appear, as a clause that ends a sentence."""
    if sys.platform == "linux":
        return f"install v4l2loopback and run `{MODPROBE}`"
    return "install OBS Studio, start its virtual camera once and stop it again"


def open_failure(backend: str, device: str | None, size_wh: tuple[int, int], reason: str) -> str:
    """One sentence from the backend's reason; our own says it already."""
    if backend == PIPEWIRE and reason.endswith("."):
        return reason
    what = f"The virtual camera {device}" if device else f"A virtual camera ({backend})"
    text = reason.lower()
    width, height = size_wh
    if "permission" in text:
        return f"{what} may not be used: run `sudo usermod -aG video $USER` and log in again."
    if "in use" in text or "busy" in text:
        names_it = f" (`fuser -v {device}` names it)" if device and sys.platform == "linux" else ""
        return f"{what} is in use by another program at another size or format: close that program{names_it}, or wait."
    if any(word in text for word in NO_DEVICE_WORDS):
        return f"{what} does not exist: {remedy()}."
    if "not a video output" in text or "not a v4l2" in text:
        return f"{what} is not a virtual camera but another device: {remedy()}."
    return f"{what} could not be opened at {width}x{height} ({reason}): {remedy()}."


def node_identity(device: str) -> tuple[int, int, int] | None:
    """What tells a device node from another of the same name; None where there is no such node.

    A camera without a node has a name of its own, which must not be taken for a file of that name.
    """
    if not os.path.isabs(device):
        return None
    try:
        found = os.stat(device)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_rdev


@dataclass(frozen=True, slots=True)
class CameraChoice:
    """For a picker. spec: what stands behind `camera:`. state: one sentence, why it is missing where it is."""

    spec: str
    label: str
    state: str
    is_missing: bool = False


def camera_choices(sys_dir: Path = LOOPBACK_DIR) -> list[CameraChoice]:
    """The virtual cameras of this machine: each loopback device that can be used, and the other back-ends."""
    try:
        backends = sorted(registered_backends())
    except UserError as error:
        name = default_backends(None)[0]
        return [CameraChoice(name, name, str(error), is_missing=True)]
    choices = []
    for backend in backends:
        is_loopback = backend == "v4l2loopback"
        devices = _usable(loopback_nodes(sys_dir)) if is_loopback else []
        choices += [CameraChoice(path, f"{name} ({path})", "Ready.") for path, name in devices]
        if not devices:
            choices.append(CameraChoice(backend, backend, backend_state(backend, sys_dir), is_missing=is_loopback))
    return choices


def camera_report() -> list[tuple[str, str]]:
    """(back-end, what state it is in) for each back-end of this machine, in words and without opening one."""
    try:
        backends = sorted(registered_backends())
    except UserError as error:
        return [(default_backends(None)[0], str(error))]
    return [(backend, backend_state(backend)) for backend in backends]


def backend_state(backend: str, sys_dir: Path = LOOPBACK_DIR) -> str:
    """One sentence."""
    if backend != "v4l2loopback":
        return f"Looked for when it is opened; where it is missing, {remedy_of(backend)}."
    nodes = loopback_nodes(sys_dir)
    if not nodes:
        return open_failure(backend, None, DEFAULT_SIZE_WH, "not found")
    usable = _usable(nodes)
    if not usable:
        return open_failure(backend, nodes[0][0], DEFAULT_SIZE_WH, "permission")
    return f"Ready: {', '.join(path for path, _ in usable)}."


def loopback_nodes(sys_dir: Path = LOOPBACK_DIR) -> list[tuple[str, str]]:
    """(device, its name) of each loopback device: a video node that belongs to no hardware."""
    nodes = []
    for path in sorted(sys_dir.glob("video*")):
        name = ""
        with contextlib.suppress(OSError):  # gone between the two looks
            name = (path / "name").read_text("utf-8", "replace").strip()
        nodes.append((f"/dev/{path.name}", name or path.name))
    return nodes


def _usable(nodes: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(path, name) for path, name in nodes if os.access(path, os.R_OK | os.W_OK)]


def remedy_of(backend: str) -> str:
    """What makes a back-end's camera appear."""
    words = {
        "unitycapture": "install Unity Capture and register its camera",
        PIPEWIRE: "start PipeWire with `systemctl --user start pipewire wireplumber`",
    }
    if backend in words:
        return words[backend]
    return remedy() if backend in default_backends(None) else f"see what `--output camera:{backend}` says"
