"""The bounded OSC decoder and the encoder, against python-osc as the independent other side."""

from __future__ import annotations

import contextlib
import math
import random
import struct
import time

import pytest
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from bridges.osc_guard import (
    MAX_BUNDLE_DEPTH,
    MAX_MESSAGES,
    MAX_TEXT_CHARS,
    Message,
    OscError,
    decode,
    encode,
    may_answer,
    printable,
)

BUNDLE_HEADER = b"#bundle\0" + bytes(8)


def built(address: str, *arguments: object, types: str | None = None) -> bytes:
    """One message as python-osc writes it; `types` names the type tags where they are not to be guessed."""
    builder = OscMessageBuilder(address=address)
    for index, argument in enumerate(arguments):
        builder.add_arg(argument, types[index] if types else None)
    return builder.build().dgram


def bundle(*elements: bytes) -> bytes:
    return BUNDLE_HEADER + b"".join(struct.pack(">i", len(element)) + element for element in elements)


def raw(address: bytes, tags: bytes, body: bytes = b"") -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(4 - len(data) % 4)

    return padded(address) + padded(tags) + body


def only(datagram: bytes) -> Message:
    (message,) = decode(datagram).messages
    return message


def refusal(datagram: bytes) -> OscError:
    with pytest.raises(OscError) as caught:
        decode(datagram)
    return caught.value


@pytest.mark.parametrize(
    ("tag", "value"),
    [("i", -7), ("h", 2**40), ("f", 0.5), ("d", 0.1), ("s", "héllo 世界 🎨"), ("s", ""), ("s", "abcd"), ("T", True),
     ("F", False), ("N", None)],
)  # fmt: skip
def test_every_type_that_python_osc_writes_is_read(tag: str, value: object) -> None:
    assert only(built("/a/b", value, types=tag)) == Message("/a/b", (value,))


@pytest.mark.parametrize("value", [0.3, 0.1, 1e-7, 123456.7, 0.01, -2.5, 16777216.0])
def test_a_short_float_is_the_decimal_that_was_typed(value: float) -> None:
    assert only(built("/a", value, types="f")).arguments == (value,)


def test_short_floats_lose_nothing() -> None:
    rng = random.Random(1)
    patterns = [rng.getrandbits(32) for _ in range(5000)] + [0x7F7FFFFF, 0xFF7FFFFF, 1, 0x80000000, 0x00800000]
    for bits in patterns:
        body = struct.pack(">I", bits)
        (value,) = only(raw(b"/a", b",f", body)).arguments
        assert isinstance(value, float)
        assert math.isnan(value) or struct.pack(">f", value) == body


def test_messages_without_arguments() -> None:
    assert only(built("/a")) == Message("/a", ())
    assert only(b"/abc\0\0\0\0") == Message("/abc", ())  # the type tags left out
    assert decode(BUNDLE_HEADER).messages == ()


def test_arrays_are_flattened_one_level_deep() -> None:
    assert only(built("/a", 1, [2, "x"], 0.5)).arguments == (1, 2, "x", 0.5)
    assert only(raw(b"/a", b",[][i]", struct.pack(">i", 5))).arguments == (5,)
    for tags in (b",[[i]]", b",]", b",[i", b",i]["):
        assert refusal(raw(b"/a", tags, struct.pack(">i", 5))).kind == "types"


def test_bundles_keep_order_and_nest() -> None:
    builder = OscBundleBuilder(IMMEDIATELY)
    inner = OscBundleBuilder(2_085_000_000.0)
    for address in ("/a", "/b"):
        builder.add_content(OscMessageBuilder(address).build())
    inner.add_content(OscMessageBuilder("/c").build())
    builder.add_content(inner.build())
    packet = decode(builder.build().dgram)
    assert packet.is_bundle
    assert [message.address for message in packet.messages] == ["/a", "/b", "/c"]


def test_depth_and_number_of_messages_are_bounded() -> None:
    def nested(depth: int) -> bytes:
        packet = built("/a")
        for _ in range(depth):
            packet = bundle(packet)
        return packet

    assert only(nested(MAX_BUNDLE_DEPTH)).address == "/a"
    assert refusal(nested(MAX_BUNDLE_DEPTH + 1)).kind == "bundle"
    assert len(decode(bundle(*[built("/a")] * MAX_MESSAGES)).messages) == MAX_MESSAGES
    assert refusal(bundle(*[built("/a")] * (MAX_MESSAGES + 1))).kind == "bundle"


def test_three_thousand_nested_bundles_are_refused() -> None:
    elements = b"".join(struct.pack(">i", 20 * n) + BUNDLE_HEADER for n in range(2999, 0, -1))
    datagram = BUNDLE_HEADER + elements[:-4]
    datagram += bytes(-len(datagram) % 4)
    assert len(datagram) > 55_000
    assert refusal(datagram).kind == "bundle"


@pytest.mark.parametrize("size", [-4, 0, -1, -(2**31), 2**31 - 1, 3, 4096])
def test_an_element_size_that_leads_nowhere_is_refused(size: int) -> None:
    """-4 sends python-osc 1.10.2 into an endless loop, in a packet of 20 and in one of 28 bytes."""
    for tail in (b"", b"/a\0\0,\0\0\0"):
        assert refusal(BUNDLE_HEADER + struct.pack(">i", size) + tail).kind == "bundle"


@pytest.mark.parametrize(
    ("datagram", "kind"),
    [
        (b"", "size"),
        (b"/a\0", "size"),
        (bytes(64 * 1024 + 4), "size"),
        (b"#bundle\0", "bundle"),
        (b"#bundle\0" + bytes(4), "bundle"),
        (b"\0\0\0\0", "address"),
        (b"abc\0,\0\0\0", "address"),
        (b"/abc", "text"),
        (b"/\xff\xfe\0,\0\0\0", "text"),
        (raw(b"/a", b",s", b"\xed\xa0\x80\0"), "text"),
        (raw(b"/a", b",s", b"abcd"), "text"),
        (raw(b"/a", b"i", bytes(4)), "types"),
        (raw(b"/a", b",i"), "types"),
        (raw(b"/a", b",d", bytes(4)), "types"),
        (raw(b"/a", b",b", bytes(4)), "types"),
        (raw(b"/a", b",T", bytes(4)), "types"),
        (raw(b"/a", b"," + b"T" * 65), "types"),
    ],
)  # fmt: skip
def test_malformed_packets_are_refused_with_their_kind(datagram: bytes, kind: str) -> None:
    assert refusal(datagram).kind == kind


def test_a_refusal_says_which_address_and_why() -> None:
    error = refusal(built("/sdv2live/seed", b"blob"))
    assert error.address == "/sdv2live/seed"
    assert error.reason == "arguments of type 'b' are not read, only i, h, f, d, s, T, F, N"
    assert str(error) == "/sdv2live/seed: arguments of type 'b' are not read, only i, h, f, d, s, T, F, N"


def test_long_texts() -> None:
    assert only(built("/a", "🎨" * MAX_TEXT_CHARS)).arguments == ("🎨" * MAX_TEXT_CHARS,)
    assert "9000 characters; the most is 8000" in refusal(built("/a", "x" * 9000)).reason


def test_mutated_packets_raise_nothing_else() -> None:
    seed = 20261121
    print("seed", seed)
    rng = random.Random(seed)
    parents = [
        built("/sdv2live/noise/max", 0.5),
        built("/sdv2live/prompt", "héllo 世界"),
        built("/sdv2live/prompt/mix", "a", 0.5, "b", 1),
        built("/x", 1, 2**40, True, None, [1, 2], b"blob"),
        bundle(built("/a", 1), bundle(built("/b", "text"), built("/c", 0.25))),
        bundle(bundle(bundle(built("/d")))),
    ]
    good = 0
    for _ in range(60_000):
        packet = bytearray(rng.choice(parents))
        for _ in range(rng.randint(1, 4)):
            position = rng.randrange(len(packet) or 1)
            match rng.randrange(4):
                case 0 if packet:
                    packet[position] = rng.randrange(256)
                case 1:
                    del packet[position : position + 4 * rng.randint(1, 4)]
                case 2:
                    packet[position:position] = rng.randbytes(4 * rng.randint(1, 3))
                case _ if packet:
                    packet[position] ^= 1 << rng.randrange(8)
        try:
            decode(bytes(packet))
            good += 1
        except OscError:
            pass
    assert 5_000 < good < 55_000  # the mutations reach both sides


def test_the_worst_packets_take_linear_time() -> None:
    """F41: the processor time of this thread for 64 KiB, as a multiple of that for 8 KiB."""

    def worst_s(size: int) -> float:
        shapes = [
            BUNDLE_HEADER + b"".join([struct.pack(">i", 16) + BUNDLE_HEADER] * (size // 20 - 1)),
            b"/" + b"x" * (size - 1),
            raw(b"/a", b"," + b"[]" * 3000),
            bundle(*[built("/a", "y" * (size // 300))] * 250),
        ]
        times = []
        for shape in shapes:
            runs = []
            for _ in range(5):
                began_s = time.thread_time()
                with contextlib.suppress(OscError):
                    decode(shape)
                runs.append(time.thread_time() - began_s)
            times.append(min(runs))
        return max(times)

    small_s, large_s = worst_s(8 * 1024), worst_s(60 * 1024)
    assert large_s < 20 * small_s


@pytest.mark.parametrize(
    "arguments",
    [(), (1, -1, 2**40), (0.5, -0.25, 1e300), ("", "abc", "abcd", "héllo 世界 🎨"), (True, False, None), ("a", 1.0, 3)],
)
def test_python_osc_and_the_decoder_read_what_is_encoded(arguments: tuple[object, ...]) -> None:
    datagram = encode("/sdv2live/x", arguments)  # type: ignore[arg-type]
    other = OscMessage(datagram)
    assert (other.address, tuple(other.params)) == ("/sdv2live/x", arguments)
    assert only(datagram) == Message("/sdv2live/x", arguments)  # type: ignore[arg-type]


def test_what_osc_cannot_carry_is_replaced_or_refused() -> None:
    assert only(encode("/a", ["x\0y\ud800"])).arguments == ("x y?",)
    assert all(math.isnan(value) or math.isinf(value) for value in OscMessage(encode("/a", [math.nan, math.inf])))
    with pytest.raises(OscError):
        encode("/a", [2**64])


def test_printable_text_has_one_line_and_a_bound() -> None:
    assert printable("héllo 世界") == "héllo 世界"
    assert printable("a\n\x1b[31mb\u202ec\0", 20) == "a\ufffd\ufffd[31mb\ufffdc\ufffd"
    assert printable("x" * 50, 10) == "xxxxxxx..."


@pytest.mark.parametrize(
    ("host", "is_answered"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("192.168.1.7", True), ("192.168.1.8", False),
     ("8.8.8.8", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_who_gets_answers(host: str, is_answered: bool) -> None:
    assert may_answer(host, {"192.168.1.7"}) is is_answered
