"""The few SPA pods that a camera needs, packed by hand. Owns: PipeWire's binary form; knows no library and no thread.

A pod is a body's size and type, two little words of the machine's order, then the body, filled up to eight bytes.
The numbers are those of PipeWire's headers spa/utils/type.h, spa/param/format.h, video/raw.h, video/color.h and
buffers.h; they are part of its ABI and never change.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

# spa_type
ID, INT, RECTANGLE, FRACTION, OBJECT, CHOICE = 3, 4, 10, 11, 15, 19
OBJECT_FORMAT, OBJECT_BUFFERS, OBJECT_META = 0x40003, 0x40004, 0x40005
CHOICE_RANGE, CHOICE_FLAGS = 1, 4
# spa_param_type
PARAM_ENUM_FORMAT, PARAM_FORMAT, PARAM_BUFFERS, PARAM_META = 3, 4, 5, 6
# spa_format
MEDIA_TYPE, MEDIA_SUBTYPE = 1, 2
MEDIA_TYPE_VIDEO, MEDIA_SUBTYPE_RAW = 2, 1
VIDEO_FORMAT, VIDEO_SIZE, VIDEO_RATE, VIDEO_PIXEL_ASPECT = 0x20001, 0x20003, 0x20004, 0x20008
COLOR_RANGE, COLOR_MATRIX, TRANSFER, PRIMARIES = 0x2000C, 0x2000D, 0x2000E, 0x2000F
# spa_video_format
I420, YUY2, RGBA, NV12 = 2, 4, 11, 23
# spa_param_buffers
BUFFER_COUNT, BUFFER_BLOCKS, BUFFER_SIZE, BUFFER_STRIDE, BUFFER_DATA_TYPE = 1, 2, 3, 4, 6
DATA_MEM_PTR, DATA_MEM_FD = 1 << 1, 1 << 2
# spa_param_meta, spa_meta_type, sizeof(struct spa_meta_header)
META_TYPE, META_SIZE = 1, 2
META_HEADER, META_HEADER_SIZE = 1, 32


@dataclass(frozen=True, slots=True)
class Colours:
    """How numbers mean colours: spa_video_color_range, _matrix, _transfer_function and _primaries."""

    range: int
    matrix: int
    transfer: int
    primaries: int


# Computer RGB: 0 to 255, no matrix, sRGB's curve, BT.709's primaries.
SRGB = Colours(range=1, matrix=1, transfer=7, primaries=1)
# What webcams and libyuv mean by YUV: 16 to 235, BT.601's matrix; curve and primaries as above.
BT601 = Colours(range=2, matrix=4, transfer=7, primaries=1)


def pod(kind: int, body: bytes) -> bytes:
    return struct.pack("=II", len(body), kind) + body + bytes(-len(body) % 8)


def id_(value: int) -> bytes:
    return pod(ID, struct.pack("=I", value))


def int_(value: int) -> bytes:
    return pod(INT, struct.pack("=i", value))


def rectangle(width: int, height: int) -> bytes:
    return pod(RECTANGLE, struct.pack("=II", width, height))


def fraction(value: Fraction) -> bytes:
    return pod(FRACTION, struct.pack("=II", value.numerator, value.denominator))


def int_choice(choice: int, *values: int) -> bytes:
    """One of several integers: the default first, then what the kind of choice asks for."""
    body = struct.pack("=IIII", choice, 0, 4, INT) + struct.pack(f"={len(values)}i", *values)
    return pod(CHOICE, body)


def object_(kind: int, param: int, properties: dict[int, bytes]) -> bytes:
    body = struct.pack("=II", kind, param)
    for key, value in properties.items():
        body += struct.pack("=II", key, 0) + value
    return pod(OBJECT, body)


def video_format(video: int, size_wh: tuple[int, int], rate: Fraction, colours: Colours) -> bytes:
    """The one format a camera of fixed size and rate offers."""
    return object_(
        OBJECT_FORMAT,
        PARAM_ENUM_FORMAT,
        {
            MEDIA_TYPE: id_(MEDIA_TYPE_VIDEO),
            MEDIA_SUBTYPE: id_(MEDIA_SUBTYPE_RAW),
            VIDEO_FORMAT: id_(video),
            VIDEO_SIZE: rectangle(*size_wh),
            VIDEO_RATE: fraction(rate),
            VIDEO_PIXEL_ASPECT: rectangle(1, 1),
            COLOR_RANGE: id_(colours.range),
            COLOR_MATRIX: id_(colours.matrix),
            TRANSFER: id_(colours.transfer),
            PRIMARIES: id_(colours.primaries),
        },
    )


def buffers(size: int, stride: int) -> bytes:
    """The buffers a camera works with: `size` bytes in one block, in plain or shared memory."""
    return object_(
        OBJECT_BUFFERS,
        PARAM_BUFFERS,
        {
            BUFFER_COUNT: int_choice(CHOICE_RANGE, 4, 2, 16),
            BUFFER_BLOCKS: int_(1),
            BUFFER_SIZE: int_(size),
            BUFFER_STRIDE: int_(stride),
            BUFFER_DATA_TYPE: int_choice(CHOICE_FLAGS, DATA_MEM_PTR | DATA_MEM_FD),
        },
    )


def header_meta() -> bytes:
    """Each buffer carries a header: time and number of its picture."""
    return object_(OBJECT_META, PARAM_META, {META_TYPE: id_(META_HEADER), META_SIZE: int_(META_HEADER_SIZE)})
