"""Which cameras this machine has, and which of them a word means. Owns: their names and stable identities.

Opens no stream. Linux is read from sysfs, with one question to each node about what it can do; macOS and Windows
through cv2-enumerate-cameras. A camera's index changes with every plug that is pulled, its id does not. Runs on any
thread.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdv2live.errors import UserError, one_line

log = logging.getLogger(__name__)
SYS_DIR = Path("/sys/class/video4linux")
DEV_DIR = Path("/dev")

# linux/videodev2.h: _IOR('V', 0, struct v4l2_capability) and _IOWR('V', 8, struct v4l2_requestbuffers).
VIDIOC_QUERYCAP, CAPABILITY_BYTES = 0x80685600, 104
VIDIOC_REQBUFS, BUFFER_REQUEST = 0xC0145608, struct.pack("5I", 1, 1, 1, 0, 0)  # one, of video capture, mapped
CAN_CAPTURE = 0x1 | 0x1000  # V4L2_CAP_VIDEO_CAPTURE, V4L2_CAP_VIDEO_CAPTURE_MPLANE
CAN_STREAM_BOTH_WAYS = 0x4000 | 0x8000  # a codec, V4L2_CAP_VIDEO_M2M
SAYS_OF_THE_NODE = 0x80000000  # V4L2_CAP_DEVICE_CAPS: device_caps speaks of this node alone
# The card label that our own virtual camera is made with.
OWN_LABEL = "sdv2live"


@dataclass(frozen=True, slots=True)
class Camera:
    """id: the same after a restart and in another socket where the camera has a serial number. name: for people.
    path: what to open (a node on Linux, elsewhere the same as id). index: as OpenCV counts."""

    id: str
    name: str
    path: str
    index: int


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a V4L2 node says of itself."""

    driver: str
    card: str
    capabilities: int

    @property
    def is_camera(self) -> bool:
        """Whether pictures come out of it; the metadata node that most webcams have as well gives none."""
        return bool(self.capabilities & CAN_CAPTURE) and not self.capabilities & CAN_STREAM_BOTH_WAYS

    @property
    def is_own_output(self) -> bool:
        return "loopback" in self.driver and self.card.casefold().startswith(OWN_LABEL)


def list_cameras(*, with_own_output: bool = False) -> list[Camera]:
    """The cameras, in the system's order. with_own_output: also the virtual camera that this app writes to.

    Never raises: what cannot be asked is left out with a word in the log, or named without what could not be asked.
    """
    if sys.platform == "linux":
        return list_v4l2_cameras(with_own_output=with_own_output)
    try:
        from cv2_enumerate_cameras import enumerate_cameras

        # DirectShow, because only it shows the virtual cameras of OBS and the like, and it opens at once.
        api = 700 if sys.platform == "win32" else 1200
        found = enumerate_cameras(api)
    except ImportError:
        return [Camera("0", "the first camera", "0", 0)]  # it has no name then, and can be opened all the same
    except (OSError, RuntimeError) as error:
        log.warning("The cameras cannot be listed: %s", one_line(error))
        return []
    return [Camera(str(one.path or one.name), str(one.name), str(one.path or one.name), one.index) for one in found]


def list_v4l2_cameras(
    *,
    with_own_output: bool = False,
    sys_dir: Path = SYS_DIR,
    dev_dir: Path = DEV_DIR,
    ask: Callable[[Path], NodeAnswer | None] | None = None,
) -> list[Camera]:
    """The cameras of Linux, by node number. `ask` says what a node can do, None where it may not be opened."""
    ask = ask or asked_node
    stable = _stable_names(dev_dir)
    cameras = []
    for index, folder in _nodes(sys_dir):
        node = dev_dir / folder.name
        try:
            answer = ask(node)
        except FileNotFoundError:
            continue  # unplugged, and sysfs is behind
        except OSError:
            answer = None
        # A node that may not be opened is still shown, or nobody would learn that a right is missing; of several
        # nodes of one device the first is the one with pictures.
        if answer is None and _text(folder / "index") not in ("", "0"):
            continue
        if answer is not None and (not answer.is_camera or (answer.is_own_output and not with_own_output)):
            continue
        name = (answer.card if answer is not None else "") or _text(folder / "name") or folder.name
        cameras.append(Camera(stable.get(folder.name, str(node)), _plain_name(name), str(node), index))
    return cameras


def find_camera(words: str, cameras: Sequence[Camera]) -> Camera:
    """The camera that `words` mean: nothing (the first), an id, a path, a number, a name or a part of one.

    Raises UserError where there is none, or where more than one is meant.
    """
    if not cameras:
        raise UserError(no_camera_sentence())
    if not words:
        return cameras[0]
    wanted = words.casefold()
    readings: tuple[Callable[[Camera], bool], ...] = (
        lambda camera: words in (camera.id, camera.path),
        lambda camera: words == str(camera.index),
        lambda camera: camera.name.casefold() == wanted,
        lambda camera: not words.isdigit() and wanted in camera.name.casefold(),
    )
    for reading in readings:
        found = [camera for camera in cameras if reading(camera)]
        if len(found) == 1:
            return found[0]
        if found:
            ids = " or ".join(f"camera:{camera.id}" for camera in found)
            raise UserError(f"{words!r} means more than one camera: write {ids}.")
    known = ", ".join(f"{camera.name} (camera:{camera.index})" for camera in cameras)
    raise UserError(f"There is no camera {words!r}: plug it in, or choose one of {known}.")


def same_camera(known: Camera, cameras: Sequence[Camera]) -> Camera | None:
    """`known` as it is now, wherever it is plugged in; None while it is not there.

    By its id, and by its name alone where exactly one camera has that: a camera without a serial number gets
    another id in another socket.
    """
    same = [camera for camera in cameras if camera.id == known.id and camera.name == known.name]
    same = same or [camera for camera in cameras if camera.name == known.name]
    return same[0] if len(same) == 1 else None


def no_camera_sentence() -> str:
    advice = "plug one in, or choose the source `clip` or `screen`"
    if sys.platform == "darwin":
        advice += "; a camera that is there needs a tick under System Settings > Privacy & Security > Camera"
    return f"This machine has no camera: {advice}."


def asked_node(node: Path) -> NodeAnswer | None:
    """VIDIOC_QUERYCAP; None where the node answers nothing sensible. Raises OSError where it cannot be opened."""
    import fcntl  # not on Windows

    descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        answer = bytearray(CAPABILITY_BYTES)
        fcntl.ioctl(descriptor, VIDIOC_QUERYCAP, answer)
    finally:
        os.close(descriptor)
    return parsed_answer(bytes(answer))


def parsed_answer(answer: bytes) -> NodeAnswer:
    """struct v4l2_capability: driver[16], card[32], bus_info[32], version, capabilities, device_caps, reserved[3]."""
    driver, card, _bus, _version, whole_device, of_node = struct.unpack_from("=16s32s32s3I", answer)
    return NodeAnswer(_c_string(driver), _c_string(card), of_node if whole_device & SAYS_OF_THE_NODE else whole_device)


def node_trouble(path: str) -> int:
    """Why the node gives no pictures: an errno, 0 where nothing is wrong with it. Asks for a buffer and gives it back.

    OpenCV says only that it did not work; a camera that another program streams from refuses this with EBUSY.
    """
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        fcntl.ioctl(descriptor, VIDIOC_REQBUFS, BUFFER_REQUEST)
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(descriptor)
    return 0


def _nodes(sys_dir: Path) -> list[tuple[int, Path]]:
    """(number, folder) of each video node, by number: video10 after video9."""
    try:
        names = os.listdir(sys_dir)
    except OSError:
        return []
    numbers = [int(name.removeprefix("video")) for name in names if name.removeprefix("video").isdecimal()]
    return [(number, sys_dir / f"video{number}") for number in sorted(numbers) if f"video{number}" in names]


def _stable_names(dev_dir: Path) -> dict[str, str]:
    """Node -> the name that udev gives it by serial number, or else by socket."""
    stable: dict[str, str] = {}
    for kind in ("by-path", "by-id"):  # by-id last: it holds in any socket
        folder = dev_dir / "v4l" / kind
        try:
            links = sorted(os.listdir(folder))
        except OSError:
            continue
        stable.update({os.path.basename(os.path.realpath(folder / link)): link for link in links})
    return stable


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _c_string(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace").strip()


def _plain_name(name: str) -> str:
    """Some drivers give the name twice: `HD Webcam: HD Webcam`, cut at 32 bytes."""
    first, colon, second = name.partition(": ")
    return first if colon and first.startswith(second.strip()) else name
