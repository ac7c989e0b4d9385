"""Reads and writes OSC packets. Owns every bound on what a datagram may make this program do, and who gets answers.

Pure functions over bytes: no sockets, no parameter table, any thread. `decode` takes O(n) time for n bytes, goes
no deeper than MAX_BUNDLE_DEPTH and raises OscError and nothing else, whatever the bytes are.

Sources: "The Open Sound Control 1.0 Specification" (Wright, 2002; opensoundcontrol.stanford.edu) for alignment,
type tags and bundles; "Features and Future of Open Sound Control version 1.1 for NIME" (Freed and Schmeder, 2009)
for T, F and N and for time tags whose meaning is left to the application: here, always "now".
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass

MAX_DATAGRAM_BYTES = 64 * 1024
MAX_BUNDLE_DEPTH = 8
MAX_MESSAGES = 256
MAX_TEXT_CHARS = 8000
MAX_ARGUMENTS = 64

_BUNDLE = b"#bundle\0"
_BUNDLE_HEADER_BYTES = 16  # the word and a 64-bit time tag
_INT32 = struct.Struct(">i")
_INT64 = struct.Struct(">q")
_FLOAT32 = struct.Struct(">f")
_FLOAT64 = struct.Struct(">d")
_NUMBERS = {"i": _INT32, "h": _INT64, "f": _FLOAT32, "d": _FLOAT64}
_WORDS: dict[str, bool | None] = {"T": True, "F": False, "N": None}
_FLOAT32_MAX = 3.4028234663852886e38

Argument = int | float | bool | str | None


class OscError(Exception):
    """A packet or message that is not obeyed.

    kind: one short word, for counters. reason: a sentence without the address. address: as far as it was read.
    """

    def __init__(self, kind: str, reason: str, address: str = "") -> None:
        super().__init__(f"{address}: {reason}" if address else reason)
        self.kind = kind
        self.reason = reason
        self.address = address


@dataclass(frozen=True, slots=True)
class Message:
    """One OSC message. Arrays of its arguments are flattened; numbers may be NaN or infinite."""

    address: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Packet:
    """A datagram's messages in order. Bundles inside a bundle are part of it: the whole packet acts at once."""

    messages: tuple[Message, ...]
    is_bundle: bool


def decode(datagram: bytes) -> Packet:
    """Read a datagram. Time tags are skipped. Raises OscError (kinds: size, bundle, address, text, types)."""
    size = len(datagram)
    if not 0 < size <= MAX_DATAGRAM_BYTES:
        raise OscError("size", f"a packet has 4 to {MAX_DATAGRAM_BYTES} bytes, not {size}")
    if size % 4:
        # From here on every offset is a multiple of 4, so that padding can never lead past the end.
        raise OscError("size", f"a packet's size is a multiple of 4, not {size}")
    if not datagram.startswith(_BUNDLE):
        return Packet((_message(datagram, 0, size),), is_bundle=False)
    messages: list[Message] = []
    _collect_bundle(datagram, 0, size, depth=1, messages=messages)
    return Packet(tuple(messages), is_bundle=True)


def encode(address: str, arguments: Iterable[Argument] = ()) -> bytes:
    """One message as bytes: int as i (h where 32 bits are too few), float as f (d where too large), str, bool, None.

    NUL in a text becomes a space and a lone surrogate a question mark, since OSC can carry neither. Raises OscError
    for an integer of more than 64 bits.
    """
    tags, body = ",", b""
    for argument in arguments:
        tag, data = _encoded(argument)
        tags += tag
        body += data
    return _padded(address) + _padded(tags) + body


def printable(text: str, max_chars: int = 200) -> str:
    """`text` fit for a log line or a reply: one line, without control or direction characters, of bounded length."""
    cut = text if len(text) <= max_chars else text[: max_chars - 3] + "..."
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)


def may_answer(host: str, allow: Collection[str] = ()) -> bool:
    """Whether a sender at this IP address gets replies: on loopback or on the allow-list, nobody else."""
    if host == "127.0.0.1" or host in allow:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _collect_bundle(data: bytes, start: int, end: int, *, depth: int, messages: list[Message]) -> None:
    """Append the messages of the bundle in data[start:end] to `messages`."""
    if depth > MAX_BUNDLE_DEPTH:
        raise OscError("bundle", f"bundles are nested deeper than {MAX_BUNDLE_DEPTH}")
    if end - start < _BUNDLE_HEADER_BYTES:
        raise OscError("bundle", "a bundle ends before its time tag does")
    cursor = start + _BUNDLE_HEADER_BYTES
    while cursor < end:
        (size,) = _INT32.unpack_from(data, cursor)
        cursor += _INT32.size
        # A size of 0 or below would stand still or walk backwards: python-osc 1.10.2 hangs on -4.
        if size <= 0 or size % 4 or size > end - cursor:
            raise OscError("bundle", f"a bundle's element claims {size} bytes of the {end - cursor} that are left")
        if data.startswith(_BUNDLE, cursor, cursor + size):
            _collect_bundle(data, cursor, cursor + size, depth=depth + 1, messages=messages)
        elif len(messages) == MAX_MESSAGES:
            raise OscError("bundle", f"a bundle has more than {MAX_MESSAGES} messages")
        else:
            messages.append(_message(data, cursor, cursor + size))
        cursor += size


def _message(data: bytes, start: int, end: int) -> Message:
    if not data.startswith(b"/", start, end):
        raise OscError("address", "an OSC address starts with /")
    address, cursor = _text(data, start, end, address="")
    if cursor == end:
        # Some senders leave out the type tags of a message without arguments.
        return Message(address, ())
    tags, cursor = _text(data, cursor, end, address)
    if not tags.startswith(","):
        raise OscError("types", "the type tags after the address are missing", address)
    arguments, cursor = _arguments(data, cursor, end, tags=tags[1:], address=address)
    if cursor != end:
        raise OscError("types", f"{end - cursor} bytes are left over after the arguments", address)
    return Message(address, arguments)


def _arguments(data: bytes, cursor: int, end: int, *, tags: str, address: str) -> tuple[tuple[Argument, ...], int]:
    arguments: list[Argument] = []
    is_in_array = False
    for tag in tags:
        if tag in "[]":
            if is_in_array == (tag == "["):
                raise OscError("types", "arrays inside arrays, or brackets that do not match", address)
            is_in_array = not is_in_array
            continue
        if len(arguments) == MAX_ARGUMENTS:
            raise OscError("types", f"a message has more than {MAX_ARGUMENTS} arguments", address)
        if tag == "s":
            text, cursor = _text(data, cursor, end, address)
            arguments.append(text)
        elif tag in _NUMBERS:
            layout = _NUMBERS[tag]
            if end - cursor < layout.size:
                raise OscError("types", "the packet ends inside a number", address)
            (number,) = layout.unpack_from(data, cursor)
            arguments.append(_as_typed(number) if tag == "f" else number)
            cursor += layout.size
        elif tag in _WORDS:
            arguments.append(_WORDS[tag])
        else:
            allowed = ", ".join([*_NUMBERS, "s", *_WORDS])
            raise OscError("types", f"arguments of type {printable(tag)!r} are not read, only {allowed}", address)
    if is_in_array:
        raise OscError("types", "an array is not closed", address)
    return tuple(arguments), cursor


def _text(data: bytes, start: int, end: int, address: str) -> tuple[str, int]:
    """The text at `start` and the offset after its padding."""
    nul = data.find(0, start, end)
    if nul < 0:
        raise OscError("text", "a text has no end inside the packet", address)
    try:
        text = data[start:nul].decode("utf-8")
    except UnicodeDecodeError:
        raise OscError("text", "a text is not valid UTF-8", address) from None
    if len(text) > MAX_TEXT_CHARS:
        raise OscError("text", f"a text has {len(text)} characters; the most is {MAX_TEXT_CHARS}", address)
    return text, (nul // 4 + 1) * 4


def _as_typed(single: float) -> float:
    """The shortest decimal that means this 32-bit float: 0.3 as the sender typed it, not 0.30000001192092896.

    So a slider at the end of a range is inside the range, and a saved preset shows the number that was sent.
    """
    wanted = _FLOAT32.pack(single)
    for digits in ("%.6g", "%.7g", "%.8g"):
        short = float(digits % single)
        if _FLOAT32.pack(short) == wanted:
            return short
    return single


def _encoded(argument: Argument) -> tuple[str, bytes]:
    match argument:
        case None:
            return "N", b""
        case bool():
            return ("T" if argument else "F"), b""
        case int():
            try:
                return ("i", _INT32.pack(argument)) if -(2**31) <= argument < 2**31 else ("h", _INT64.pack(argument))
            except struct.error:
                raise OscError("types", "an integer has more than 64 bits") from None
        case float():
            is_too_large = _FLOAT32_MAX < abs(argument) < float("inf")
            return ("d", _FLOAT64.pack(argument)) if is_too_large else ("f", _FLOAT32.pack(argument))
        case str():
            return "s", _padded(argument)


def _padded(text: str) -> bytes:
    data = text.replace("\0", " ").encode("utf-8", "replace")
    return data + bytes(4 - len(data) % 4)
