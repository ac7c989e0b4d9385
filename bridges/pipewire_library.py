"""libpipewire-0.3 as ctypes sees it: structures, signatures, one loading for all. Knows nothing of cameras.

Written for 0.3.65 and newer, whose ABI only grows. Loads nothing before `library()` is called.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, Structure, c_char_p, c_int, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from typing import Any

from sdv2live.errors import UserError

LIBRARY = "libpipewire-0.3.so.0"
OLDEST_VERSION = (0, 3, 65)
INSTALL = "sudo apt install pipewire wireplumber"

# pw_stream_state
ERROR, UNCONNECTED, CONNECTING, PAUSED, STREAMING = -1, 0, 1, 2, 3
# pw_direction, pw_stream_flags
DIRECTION_OUTPUT = 1
FLAG_MAP_BUFFERS, FLAG_DRIVER, FLAG_NO_CONVERT = 1 << 2, 1 << 3, 1 << 5
ANY_ID = 0xFFFFFFFF


class Chunk(Structure):
    _fields_ = [("offset", c_uint32), ("size", c_uint32), ("stride", c_int32), ("flags", c_int32)]


class Data(Structure):
    _fields_ = [
        ("type", c_uint32),
        ("flags", c_uint32),
        ("fd", c_int64),
        ("mapoffset", c_uint32),
        ("maxsize", c_uint32),
        ("data", c_void_p),
        ("chunk", POINTER(Chunk)),
    ]


class Meta(Structure):
    _fields_ = [("type", c_uint32), ("size", c_uint32), ("data", c_void_p)]


class MetaHeader(Structure):
    _fields_ = [("flags", c_uint32), ("offset", c_uint32), ("pts", c_int64), ("dts_offset", c_int64), ("seq", c_uint64)]


class SpaBuffer(Structure):
    _fields_ = [("n_metas", c_uint32), ("n_datas", c_uint32), ("metas", POINTER(Meta)), ("datas", POINTER(Data))]


class PwBuffer(Structure):
    """The first two members; newer versions have more behind them."""

    _fields_ = [("buffer", POINTER(SpaBuffer)), ("user_data", c_void_p)]


StateChanged = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_int, c_char_p)
ParamChanged = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, c_void_p)


class StreamEvents(Structure):
    """struct pw_stream_events, version 0; a null entry is not called."""

    _fields_ = [
        ("version", c_uint32),
        ("destroy", c_void_p),
        ("state_changed", StateChanged),
        ("control_info", c_void_p),
        ("io_changed", c_void_p),
        ("param_changed", ParamChanged),
        ("add_buffer", c_void_p),
        ("remove_buffer", c_void_p),
        ("process", c_void_p),
        ("drained", c_void_p),
        ("command", c_void_p),
        ("trigger_done", c_void_p),
    ]


SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "pw_init": (None, [c_void_p, c_void_p]),
    "pw_get_library_version": (c_char_p, []),
    "pw_properties_new_string": (c_void_p, [c_char_p]),
    "pw_properties_set": (c_int, [c_void_p, c_char_p, c_char_p]),
    "pw_thread_loop_new": (c_void_p, [c_char_p, c_void_p]),
    "pw_thread_loop_get_loop": (c_void_p, [c_void_p]),
    "pw_thread_loop_start": (c_int, [c_void_p]),
    "pw_thread_loop_stop": (None, [c_void_p]),
    "pw_thread_loop_destroy": (None, [c_void_p]),
    "pw_thread_loop_lock": (None, [c_void_p]),
    "pw_thread_loop_unlock": (None, [c_void_p]),
    "pw_stream_new_simple": (c_void_p, [c_void_p, c_char_p, c_void_p, POINTER(StreamEvents), c_void_p]),
    "pw_stream_connect": (c_int, [c_void_p, c_int, c_uint32, c_int, POINTER(c_void_p), c_uint32]),
    "pw_stream_update_params": (c_int, [c_void_p, POINTER(c_void_p), c_uint32]),
    "pw_stream_dequeue_buffer": (POINTER(PwBuffer), [c_void_p]),
    "pw_stream_queue_buffer": (c_int, [c_void_p, POINTER(PwBuffer)]),
    "pw_stream_trigger_process": (c_int, [c_void_p]),
    "pw_stream_destroy": (None, [c_void_p]),
}


@functools.cache
def library() -> Any:
    """libpipewire, initialised once and for good. UserError where there is none, or one too old."""
    try:
        lib = ctypes.CDLL(LIBRARY, use_errno=True)
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise UserError(f"A PipeWire camera needs {LIBRARY}, which does not load here: run `{INSTALL}`.") from error
    version = lib.pw_get_library_version().decode()
    if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise UserError(f"A PipeWire camera needs PipeWire {oldest}, and {version} is here: run `{INSTALL}`.")
    lib.pw_init(None, None)
    return lib
