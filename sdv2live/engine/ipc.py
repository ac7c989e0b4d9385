"""The border between the app and the engine's process. Owns: messages, their encoding, and the shared memory.

Frames lie in shared memory, in slots: a slot has room for one chunk in and the same chunk out, and belongs to that
chunk from submit until its result is copied. Messages are small: a fixed head, then plain structs or strict JSON.
Imports no torch. Nothing is pickled; the memory has no name that could be left behind (POSIX) or found by a
stranger.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import struct
import sys
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sdv2live.frames import Pixels
from sdv2live.limits import MAX_STEPS

MAX_MESSAGE_BYTES = 1 << 20
_HEAD = struct.Struct("<4sBI")
_MAGIC = b"sdv2"
_SUBMIT = struct.Struct("<QIII")
_RESULT = struct.Struct("<QQIIBIdd4d")


def slots_of(ranks: int) -> int:
    """As many chunks as can be in flight, one that waits, one that is being copied."""
    return MAX_STEPS * ranks + 2


class Message(IntEnum):
    """To the worker: CONFIGURE to PING. From it: the others."""

    CONFIGURE = 1
    SETTINGS = 2
    SUBMIT = 3
    FLUSH = 4
    RESET = 5
    PING = 6
    LANDED = 7  # never sent: the worker's own, when something came back from other ranks
    STAGE = 10
    READY = 11
    RESULT = 12
    FLUSHED = 13
    EPOCH = 14
    PONG = 15
    CHUNK_FAILED = 16
    DEAD = 17
    REPORTS = 20  # how each rank is doing, as JSON
    REFUSED = 19  # it cannot start and trying again would not help; the sentence for the user
    UNDERSTOOD = 21  # what a prompt was read as, when it is encoded, as understood.py writes it
    LORAS = 22  # which LoRAs are in the weights, and how strong, as JSON
    LENGTHY = 23  # this chunk waits for work that is not its own, such as blocks that move from rank to rank
    TAKEN = 18  # a submitted chunk was worked on; its result may come later


class BrokenMessage(Exception):
    """The other side sent what is no message, or ended in the middle of one."""


@dataclass(frozen=True, slots=True)
class Submit:
    """A chunk to run: its frames lie in `slot`, the settings are those of `settings_version`."""

    chunk_id: int
    slot: int
    frames: int
    settings_version: int

    def pack(self) -> bytes:
        return _SUBMIT.pack(self.chunk_id, self.slot, self.frames, self.settings_version)

    @classmethod
    def unpack(cls, data: bytes) -> Submit:
        return cls(*_SUBMIT.unpack(data))


@dataclass(frozen=True, slots=True)
class Result:
    """A finished chunk: its frames lie in `slot`. stage_ms: encode, denoise, decode, chunk."""

    chunk_id: int
    epoch: int
    slot: int
    frames: int
    is_finite: bool
    steps: int
    noise_scale: float
    motion: float
    stage_ms: tuple[float, float, float, float]

    def pack(self) -> bytes:
        return _RESULT.pack(
            self.chunk_id,
            self.epoch,
            self.slot,
            self.frames,
            self.is_finite,
            self.steps,
            self.noise_scale,
            self.motion,
            *self.stage_ms,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Result:
        chunk_id, epoch, slot, frames, is_finite, steps, noise_scale, motion, *stage_ms = _RESULT.unpack(data)
        encode_ms, denoise_ms, decode_ms, chunk_ms = stage_ms
        stages = (encode_ms, denoise_ms, decode_ms, chunk_ms)
        return cls(chunk_id, epoch, slot, frames, bool(is_finite), steps, noise_scale, motion, stages)


def write_message(stream: IO[bytes], kind: Message, payload: bytes = b"") -> None:
    """One message, whole, flushed. Raises BrokenPipeError where the other side is gone."""
    stream.write(_HEAD.pack(_MAGIC, kind, len(payload)) + payload)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[Message, bytes] | None:
    """The next message; None at a clean end. Raises BrokenMessage."""
    head = stream.read(_HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise BrokenMessage("it ended inside a message")
    magic, kind, length = _HEAD.unpack(head)
    if magic != _MAGIC or length > MAX_MESSAGE_BYTES:
        raise BrokenMessage("it sent something that is no message")
    payload = stream.read(length)
    if len(payload) < length:
        raise BrokenMessage("it ended inside a message")
    return Message(kind), payload


def to_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


class SharedFrames:
    """The memory of both directions: `chunk_in(slot)` and `chunk_out(slot)` are [T, H, W, 3] uint8 views of it."""

    def __init__(self, memory: mmap.mmap, *, size_wh: tuple[int, int], frames: int, slots: int) -> None:
        width, height = size_wh
        self._memory = memory
        self._all: NDArray[np.uint8] = np.frombuffer(memory, np.uint8).reshape(slots, 2, frames, height, width, 3)

    @staticmethod
    def size_bytes(size_wh: tuple[int, int], frames: int, slots: int) -> int:
        return slots * 2 * frames * size_wh[0] * size_wh[1] * 3

    def chunk_in(self, slot: int) -> Pixels:
        chunk: Pixels = self._all[slot, 0]
        return chunk

    def chunk_out(self, slot: int) -> Pixels:
        chunk: Pixels = self._all[slot, 1]
        return chunk

    def close(self) -> None:
        """Give the memory back. Views that others still hold keep it alive until they are gone."""
        del self._all
        try:
            self._memory.close()
        except BufferError:
            # A view is still held somewhere; the mapping ends with it, and no name is left behind either way.
            return


@dataclass(frozen=True, slots=True)
class MemoryHandle:
    """How the child finds the memory: an inherited file descriptor (POSIX) or a random tag (Windows)."""

    descriptor: int
    tag: str
    size_bytes: int

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def create_memory(size_bytes: int) -> tuple[mmap.mmap, MemoryHandle]:
    """New shared memory. On POSIX it never has a name, so a killed app leaves nothing behind."""
    if sys.platform == "win32":
        tag = f"sdv2live-{secrets.token_hex(16)}"
        return mmap.mmap(-1, size_bytes, tagname=tag), MemoryHandle(-1, tag, size_bytes)
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("sdv2live")
    else:
        descriptor, path = tempfile.mkstemp(prefix="sdv2live-")
        os.unlink(path)
    os.ftruncate(descriptor, size_bytes)
    return mmap.mmap(descriptor, size_bytes), MemoryHandle(descriptor, "", size_bytes)


def attach_memory(handle: MemoryHandle) -> mmap.mmap:
    """The child's view of the same memory."""
    if sys.platform == "win32":
        return mmap.mmap(-1, handle.size_bytes, tagname=handle.tag)
    memory = mmap.mmap(handle.descriptor, handle.size_bytes)
    os.close(handle.descriptor)
    return memory
