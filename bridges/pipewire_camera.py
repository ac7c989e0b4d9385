"""A PipeWire camera of our own, on libpipewire-0.3 through ctypes: no kernel module, any number of programs watch it.

Owns: one node of the PipeWire graph with one format of fixed size and rate, and everything that the C library must
not see go wrong. Has the shape of a pyvirtualcam back-end (`virtual_camera.py` registers it) and does not know that
package. Its caller's thread sends; PipeWire's own thread calls `_state_changed` and `_param_changed`.

RGB goes out as RGBA alone: Chromium and OBS 30 both take it (OBS to the exact colour), nobody has to guess a matrix,
no colour is halved, and NumPy widens 1280x720 in a millisecond where its YUV takes ten.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable
from ctypes import c_void_p
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from bridges import spa_pod
from bridges.pipewire_library import (
    ANY_ID,
    DIRECTION_OUTPUT,
    ERROR,
    FLAG_DRIVER,
    FLAG_MAP_BUFFERS,
    FLAG_NO_CONVERT,
    INSTALL,
    PAUSED,
    STREAMING,
    UNCONNECTED,
    MetaHeader,
    ParamChanged,
    SpaBuffer,
    StateChanged,
    StreamEvents,
    library,
)
from sdv2live.errors import UserError

log = logging.getLogger(__name__)

START = "systemctl --user start pipewire wireplumber"
RESTART = "systemctl --user restart pipewire wireplumber"
DEFAULT_NAME = "sdv2live"
OPEN_TIMEOUT_S = 5.0
STUCK_S = 3.0
LARGEST_SIDE = 8192


@dataclass(frozen=True, slots=True)
class Layout:
    """How pictures of one pyvirtualcam pixel format lie in a PipeWire buffer.

    bytes_per_2x2: of two by two pixels, as sent; stride_bytes: of one pixel of the first plane's rows.
    """

    fourcc: str
    video: int
    bytes_per_2x2: int
    stride_bytes: int
    even_wh: tuple[bool, bool]
    colours: spa_pod.Colours


# RGB is widened on the way; the others go out as they come in.
LAYOUTS = {
    "raw ": Layout("ABGR", spa_pod.RGBA, 16, 4, (False, False), spa_pod.SRGB),
    "ABGR": Layout("ABGR", spa_pod.RGBA, 16, 4, (False, False), spa_pod.SRGB),
    "I420": Layout("I420", spa_pod.I420, 6, 1, (True, True), spa_pod.BT601),
    "NV12": Layout("NV12", spa_pod.NV12, 6, 1, (True, True), spa_pod.BT601),
    "YUY2": Layout("YUY2", spa_pod.YUY2, 8, 2, (True, False), spa_pod.BT601),
}


class Pods:
    """Pods as a C array, in memory that lives as long as this."""

    def __init__(self, *pods: bytes) -> None:
        # ctypes aligns buffers to 8 bytes only by luck; uint64 makes it so.
        self._memory = [np.frombuffer(pod, np.uint64).copy() for pod in pods]
        self.array = (c_void_p * len(pods))(*(memory.ctypes.data for memory in self._memory))
        self.count = len(pods)


# What is open stays here, so that no callback is collected while C may call it, and all is closed before Python ends.
_open_cameras: set[PipeWireCamera] = set()


class PipeWireCamera:
    """A pyvirtualcam back-end: a camera in PipeWire's graph, named `device`.

    on_watched: called from `send` when the first program begins to watch (True) and after the last one left (False);
    the picture of that call is not sent. Raises UserError with one sentence where PipeWire is missing or was lost,
    ValueError for a size, rate or format that a camera cannot have.
    """

    def __init__(
        self,
        *,
        width: int,
        height: int,
        fps: float,
        fourcc: int,
        device: str | None = None,
        on_watched: Callable[[bool], None] | None = None,
        **_: Any,
    ) -> None:
        self._layout, self._is_rgb = layout_of(fourcc, width, height)
        if not (math.isfinite(fps) and 0 < fps <= 1000):
            raise ValueError(f"a camera of {fps} pictures a second cannot be")
        self._name = device or DEFAULT_NAME
        if "\0" in self._name:
            raise ValueError("a camera's name cannot have a null character")
        self._pixels = width * height
        self._size = self._pixels * self._layout.bytes_per_2x2 // 4
        self._stride = width * self._layout.stride_bytes
        self._sent_size = self._pixels * 3 if self._is_rgb else self._size
        self._on_watched = on_watched or (lambda is_watched: None)
        self._was_watched = False
        self._lock = threading.Lock()  # sending against closing
        self._state = UNCONNECTED
        self._is_closing = False
        self._error = ""
        self._lost: str | None = None
        self._changed = threading.Event()
        self._sequence = 0
        self._last_free_s = 0.0  # when a buffer was last free to be filled
        self._lib = library()
        self._loop = self._stream = None
        self._state_callback = StateChanged(self._state_changed)
        self._param_callback = ParamChanged(self._param_changed)
        self._events = StreamEvents(state_changed=self._state_callback, param_changed=self._param_callback)
        rate = Fraction(fps).limit_denominator(1001)
        self._format = Pods(spa_pod.video_format(self._layout.video, (width, height), rate, self._layout.colours))
        self._params = Pods(spa_pod.buffers(self._size, self._stride), spa_pod.header_meta())
        _open_cameras.add(self)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        lib = self._lib
        self._loop = lib.pw_thread_loop_new(b"sdv2live camera", None)
        if not self._loop:
            raise UserError("A PipeWire camera got no thread: close some programs and try again.")
        properties = lib.pw_properties_new_string(b"media.type=Video media.class=Video/Source media.role=Camera")
        # One by one, since a name may hold what the text form gives a meaning to.
        for key in (b"node.name", b"node.description", b"node.nick"):
            lib.pw_properties_set(properties, key, self._name.encode(errors="replace"))
        # The properties are the stream's from here on, whether it comes to be or not.
        self._stream = lib.pw_stream_new_simple(
            lib.pw_thread_loop_get_loop(self._loop), self._name.encode(errors="replace"), properties,
            ctypes.byref(self._events), None,
        )  # fmt: skip
        if not self._stream or lib.pw_thread_loop_start(self._loop) < 0:
            raise UserError(
                f"A PipeWire camera could not be made, since parts of PipeWire are missing: run `{INSTALL}`."
            )
        lib.pw_thread_loop_lock(self._loop)
        try:
            # Newer versions would put a converter between.
            flags = FLAG_DRIVER | FLAG_MAP_BUFFERS | FLAG_NO_CONVERT
            failure = lib.pw_stream_connect(
                self._stream, DIRECTION_OUTPUT, ANY_ID, flags, self._format.array, self._format.count
            )
        finally:
            lib.pw_thread_loop_unlock(self._loop)
        if failure < 0:
            raise UserError(f"A PipeWire camera needs the PipeWire daemon, which does not run: run `{START}`.")
        deadline_s = time.monotonic() + OPEN_TIMEOUT_S
        while self._state < PAUSED and self._lost is None:
            if not self._changed.wait(max(0.0, deadline_s - time.monotonic())):
                raise UserError(f"A PipeWire camera got no answer within {OPEN_TIMEOUT_S:.0f} s: run `{RESTART}`.")
            self._changed.clear()
            if self._state == ERROR:
                raise UserError(f"A PipeWire camera was refused ({self._error}): run `{RESTART}`.")
        if self._lost is not None:
            raise UserError(self._lost)

    @property
    def is_watched(self) -> bool:
        """Some program takes pictures now."""
        return self._state == STREAMING and self._lost is None

    def send(self, frame: NDArray[np.uint8]) -> None:
        """Hand one picture to whoever watches: [bytes] uint8, C-contiguous. Copied; nobody watching costs nothing.

        Raises UserError once PipeWire is lost, ValueError for another size, RuntimeError when closed.
        """
        if frame.dtype != np.uint8 or frame.shape != (self._sent_size,) or not frame.flags.c_contiguous:
            raise ValueError(f"a picture of {self._sent_size} bytes was announced, not {frame.dtype} {frame.shape}")
        with self._lock:
            if self._stream is None:
                raise RuntimeError("the PipeWire camera is closed")
            if self._lost is not None:
                raise UserError(self._lost)
            is_watched = self._state == STREAMING
            if is_watched and self._was_watched:
                self._hand_over(frame)
        if is_watched != self._was_watched:
            self._was_watched = is_watched
            self._last_free_s = time.monotonic()
            self._on_watched(is_watched)

    def _hand_over(self, frame: NDArray[np.uint8]) -> None:
        lib = self._lib
        lib.pw_thread_loop_lock(self._loop)
        try:
            # Looked at again: the last watcher may have left, and the buffers with it, before the lock was held.
            if self._state != STREAMING or self._lost is not None:
                return
            buffer = lib.pw_stream_dequeue_buffer(self._stream)
            if buffer:
                self._fill(buffer.contents.buffer.contents, frame)
                lib.pw_stream_queue_buffer(self._stream, buffer)
                lib.pw_stream_trigger_process(self._stream)
                self._last_free_s = time.monotonic()
            elif time.monotonic() - self._last_free_s > STUCK_S:
                # A program that hangs, or whose link failed half-way (seen with 1.4.2), holds up all the others.
                self._lost = (
                    f"The PipeWire camera {self._name} is held up by a program that watches: it is opened again."
                )
                raise UserError(self._lost)
        finally:
            lib.pw_thread_loop_unlock(self._loop)

    def _fill(self, buffer: SpaBuffer, frame: NDArray[np.uint8]) -> None:
        data = buffer.datas[0] if buffer.n_datas else None
        if data is None or not data.chunk:
            return
        has_room = bool(data.data) and data.maxsize >= self._size
        if has_room:
            memory = np.ctypeslib.as_array((ctypes.c_uint8 * self._size).from_address(data.data))
            if self._is_rgb:
                widen(frame, memory)
            else:
                memory[:] = frame
        chunk = data.chunk.contents
        chunk.offset, chunk.stride, chunk.flags = 0, self._stride, 0
        chunk.size = self._size if has_room else 0
        for index in range(buffer.n_metas):
            meta = buffer.metas[index]
            if meta.type == spa_pod.META_HEADER and meta.size >= ctypes.sizeof(MetaHeader) and meta.data:
                header = MetaHeader.from_address(meta.data)
                header.flags = header.offset = header.dts_offset = 0
                header.pts, header.seq = time.monotonic_ns(), self._sequence
        self._sequence += 1

    def close(self) -> None:
        """Take the camera away. May be called twice and from another thread than sends; no callback comes after it."""
        with self._lock:
            self._is_closing = True
            loop, self._loop = self._loop, None
            stream, self._stream = self._stream, None
            if loop:
                # Its thread is joined first, without its lock, so that nothing runs in what is destroyed next.
                self._lib.pw_thread_loop_stop(loop)
            if stream:
                self._lib.pw_stream_destroy(stream)
            if loop:
                self._lib.pw_thread_loop_destroy(loop)
        _open_cameras.discard(self)

    def device(self) -> str:
        return self._name

    def native_fourcc(self) -> int:
        return int.from_bytes(self._layout.fourcc.encode(), "little")

    # Called by C, with the loop's lock held: nothing here may raise, block or close.

    def _state_changed(self, _data: int | None, _old: int, state: int, error: bytes | None) -> None:
        if self._is_closing:
            return
        self._state = state
        reason = self._error = error.decode(errors="replace") if error else "no reason given"
        # ERROR is not the end: newer versions go there when a program wants another format, and leave it with the next.
        if state == UNCONNECTED:
            self._lost = (
                f"The PipeWire camera {self._name} lost its daemon ({reason}): if that stays away, run `{START}`."
            )
        self._changed.set()

    def _param_changed(self, _data: int | None, param: int, pod: int | None) -> None:
        # A format was chosen, and there is but one; a null pod takes it back.
        if param == spa_pod.PARAM_FORMAT and pod and self._stream and not self._is_closing:
            self._lib.pw_stream_update_params(self._stream, self._params.array, self._params.count)


@atexit.register
def close_all() -> None:
    for camera in list(_open_cameras):
        camera.close()


def layout_of(fourcc: int, width: int, height: int) -> tuple[Layout, bool]:
    """The layout for pyvirtualcam's `fourcc`, and whether it has to be widened. ValueError where there is none."""
    word = (fourcc & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
    layout = LAYOUTS.get(word)
    if layout is None:
        raise ValueError(f"a PipeWire camera takes RGB, RGBA, I420, NV12 and YUYV, not {word!r}")
    for side, must_be_even in zip((width, height), layout.even_wh, strict=True):
        if not 1 <= side <= LARGEST_SIDE or (must_be_even and side % 2):
            raise ValueError(f"a PipeWire camera of {layout.fourcc} cannot be {width}x{height}")
    return layout, word == "raw "


def widen(rgb: NDArray[np.uint8], rgba: NDArray[np.uint8]) -> None:
    """RGB [3 N] into opaque RGBA [4 N], both flat and C-contiguous.

    Each pixel is read as a word that reaches into its neighbour, whose red gives way to alpha; the last has none.
    """
    words = as_strided(rgb[:4].view("<u4"), (len(rgb) // 3 - 1,), (3,)) if len(rgb) > 3 else np.empty(0, "<u4")
    np.bitwise_or(words, np.uint32(0xFF000000), out=rgba.view("<u4")[:-1])
    rgba[-4:-1], rgba[-1] = rgb[-3:], 255
