"""The OSC server over real sockets on loopback, spoken to by python-osc."""

from __future__ import annotations

import inspect
import logging
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg
from pythonosc.udp_client import SimpleUDPClient

from bridges import osc_guard, osc_server, osc_words
from bridges.osc_server import OscServer
from sdv2live.clock import FakeClock, MonotonicClock
from sdv2live.errors import UserError
from sdv2live.parameters import TABLE, Kind, When
from sdv2live.registry import Change, Registry
from sdv2live.status import RankLine
from sdv2live.understood import Understood

ROOT = "/sdv2live"
JOIN_S = 30.0
LIVE_ROWS = [row for row in TABLE.values() if row.when is not When.START]


class Peer:
    """Another program: one socket, so that answers come back to where the question was sent from."""

    def __init__(self, port: int) -> None:
        self.target = ("127.0.0.1", port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(JOIN_S)

    def send(self, address: str, *values: Any) -> None:
        self.socket.sendto(build_msg(address, list(values)).dgram, self.target)

    def send_bundle(self, *messages: tuple[Any, ...], at: float = IMMEDIATELY) -> None:
        builder = OscBundleBuilder(at)
        for address, *values in messages:
            builder.add_content(build_msg(address, values))
        self.socket.sendto(builder.build().dgram, self.target)

    def send_bytes(self, datagram: bytes) -> None:
        self.socket.sendto(datagram, self.target)

    def receive(self) -> tuple[Any, ...]:
        """The next answer: its address, then its arguments."""
        message = OscMessage(self.socket.recv(65536))
        return (message.address, *message.params)

    def ask(self, address: str, *values: Any) -> tuple[Any, ...]:
        self.send(address, *values)
        return self.receive()

    def settle(self) -> None:
        """Wait until all that was sent before has acted; fails if it made the server answer something."""
        assert self.ask(f"{ROOT}/ping", "settle") == (f"{ROOT}/pong", "settle")


def ping(port: int) -> tuple[Any, ...]:
    peer = Peer(port)
    try:
        return peer.ask(f"{ROOT}/ping")
    finally:
        peer.socket.close()


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="bridges.osc_server")


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def serve(registry: Registry) -> Iterator[Callable[..., OscServer]]:
    """Starts servers on free ports; ends them, and checks that their threads are gone."""
    servers: list[OscServer] = []

    def start(**arguments: Any) -> OscServer:
        server = OscServer(registry, **{"port": 0, "clock": MonotonicClock(), **arguments})
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop(JOIN_S)
    assert not [thread for thread in threading.enumerate() if thread.name == "osc"]


@pytest.fixture
def connect() -> Iterator[Callable[[OscServer], Peer]]:
    peers: list[Peer] = []

    def make(server: OscServer) -> Peer:
        peers.append(Peer(server.port))
        return peers[-1]

    yield make
    for peer in peers:
        peer.socket.close()


@pytest.fixture
def peer(serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer]) -> Peer:
    return connect(serve())


@pytest.mark.parametrize(
    ("address", "sent", "name", "value"),
    [
        ("noise/max", [0.55], "noise.max", 0.55),
        ("noise/max", [1], "noise.max", 1.0),
        ("noise/max", ["0.4"], "noise.max", 0.4),
        ("steps", [2.0], "steps.count", 2),
        ("steps/count", [3], "steps.count", 3),
        ("steps/list", [1000, 750.0, 500], "steps.list", (1000, 750, 500)),
        ("steps/list", [[900, 600]], "steps.list", (900, 600)),
        ("steps/list", ["900,600"], "steps.list", (900, 600)),
        ("steps/list", [700.0], "steps.list", (700,)),
        ("seed", [2**31 - 1], "seed", 2**31 - 1),
        ("output/bypass", [1.0], "output.bypass", True),
        ("output/bypass", [True], "output.bypass", True),
        ("output/freeze", ["on"], "output.freeze", True),
        ("noise/mode", ["slow"], "noise.mode", "slow"),
        ("noise/mode", [1.0], "noise.mode", "fixed"),
        ("prompt", ["héllo 世界 🎨"], "prompt.text", "héllo 世界 🎨"),
        ("prompt/text", ["a\nb"], "prompt.text", "a b"),
        ("prompt/mix", ["fog", 0.5, "fire", 2], "prompt.mix", (("fog", 0.5), ("fire", 2.0))),
    ],
)  # fmt: skip
def test_every_kind_of_value_is_set(
    registry: Registry, peer: Peer, address: str, sent: list[Any], name: str, value: object
) -> None:
    with SimpleUDPClient(*peer.target) as client:
        client.send_message(f"{ROOT}/{address}", sent)
    # Another socket: what the client above sent was in the queue before the ping.
    peer.settle()
    assert registry.get(name) == value
    assert type(registry.get(name)) is type(value)


@pytest.mark.parametrize("question", [(), ("?",)])
def test_every_row_answers_a_question(registry: Registry, peer: Peer, question: tuple[str, ...]) -> None:
    registry.apply_engine_defaults(
        {"steps.count": 1, "steps.list": (700,), "noise.max": 0.6, "noise.min": 0.5, "noise.mode": "fixed",
         "noise.timestep_offset": -100, "sinks.similarity": 0.2}
    )  # fmt: skip
    for row in LIVE_ROWS:
        for address in row.osc_addresses:
            answered, *values = peer.ask(address, *question)
            assert answered == address
            value = registry.get(row.name)
            match row.kind:
                case Kind.BOOL | Kind.TRIGGER:
                    assert values == [int(value)] and type(values[0]) is int  # type: ignore[call-overload]
                case Kind.FLOAT:
                    assert values == pytest.approx([value]) and type(values[0]) is float
                case Kind.MIX | Kind.FLOATS:
                    assert values == [None]
                case Kind.INTS:
                    assert values == [700]
                case _:
                    assert values == [value]


def test_what_is_not_known_yet_is_answered_with_nothing(peer: Peer) -> None:
    assert peer.ask(f"{ROOT}/noise/max") == (f"{ROOT}/noise/max", None)


def test_a_question_hears_of_what_was_sent_before_it(registry: Registry, peer: Peer) -> None:
    for weight in range(1, 50):
        peer.send(f"{ROOT}/prompt/mix", "a", weight, "b", 1)
        assert peer.ask(f"{ROOT}/prompt/mix", "?") == (f"{ROOT}/prompt/mix", "a", float(weight), "b", 1.0)
    peer.send(f"{ROOT}/prompt/mix", None)
    peer.settle()
    assert registry.get("prompt.mix") == ()


def test_ping_and_state(serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer]) -> None:
    states = iter(["loading", "running"])
    peer = connect(serve(state=lambda: next(states)))
    assert peer.ask(f"{ROOT}/ping") == (f"{ROOT}/pong",)
    assert peer.ask(f"{ROOT}/ping", "token", 7, True) == (f"{ROOT}/pong", "token", 7, True)
    assert len(peer.ask(f"{ROOT}/ping", *["x" * 900] * 20)[1]) == 200
    assert peer.ask(f"{ROOT}/state") == (f"{ROOT}/state", "loading")
    assert peer.ask(f"{ROOT}/state", "?") == (f"{ROOT}/state", "running")
    assert peer.ask(f"{ROOT}/state", "ready")[2] == "the state can be asked for, not set"


def test_how_each_of_several_devices_does(
    serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer]
) -> None:
    rank = RankLine(1, "cuda:1", 12, 30, 0.75, 0.0, 20.5, 14.25)
    peer = connect(serve(ranks=lambda: [rank]))
    assert peer.ask(f"{ROOT}/ranks") == (f"{ROOT}/ranks", 1, "cuda:1", 12, 30, 0.75, 0.0, 20.5, 14.25)
    assert peer.ask(f"{ROOT}/ranks", 1)[2] == "how the ranks do can be asked for, not set"


def test_what_the_prompts_are_read_as(serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer]) -> None:
    told = [
        Understood("oil, octopus, chess", "oil", 0.75, "blue", 0.5, ("octopus", "chess")),
        Understood("ink", "ink", 0.25, "none", 1.0, ()),
    ]
    peer = connect(serve(understood=lambda: told))
    asked = f"{ROOT}/understood"
    assert peer.ask(asked) == (asked, 1, 2, "oil, octopus, chess", "oil", 0.75, "blue", 0.5, "octopus chess")
    assert peer.receive() == (asked, 2, 2, "ink", "ink", 0.25, "none", 1.0, "")
    assert peer.ask(asked, "oil")[2] == "what is understood can be asked for, not set"
    told.clear()
    assert peer.ask(asked, "?") == (asked, 0, 0)


def test_presets(registry: Registry, serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer]) -> None:
    applied: list[str] = []

    def apply(name: str) -> None:
        if name == "none":
            raise UserError("There is no preset 'none': the nearest is noon.")
        applied.append(name)

    peer = connect(serve(apply_preset=apply))
    peer.send(f"{ROOT}/preset", "noon")
    peer.send_bundle((f"{ROOT}/preset", "dusk"), (f"{ROOT}/seed",))
    assert peer.receive() == (f"{ROOT}/seed", 1)
    assert applied == ["noon", "dusk"]
    why = "There is no preset 'none': the nearest is noon."
    assert peer.ask(f"{ROOT}/preset", "none") == (f"{ROOT}/error", f"{ROOT}/preset", why)
    assert "one text is needed" in peer.ask(f"{ROOT}/preset")[2]
    peer.send_bundle((f"{ROOT}/preset", "noon"), (f"{ROOT}/seed", 9))
    assert "a preset is sent without other values" in peer.receive()[2]
    assert (registry.get("seed"), len(applied)) == (1, 2)


def test_an_app_without_presets_says_so(peer: Peer) -> None:
    assert "runs without presets" in peer.ask(f"{ROOT}/preset", "noon")[2]


@pytest.mark.parametrize(
    ("address", "values", "reason"),
    [
        ("noise/max", [float("nan")], "NaN and infinity are not values"),
        ("noise/max", [float("inf")], "NaN and infinity are not values"),
        ("noise/max", ["much"], "'much' is not a number"),
        ("noise/max", [0.1, 0.2], "one value is needed, not 2"),
        ("noise/max", [None], "a number is needed, not nothing"),
        ("noise/max", [b"blob"], "arguments of type 'b' are not read, only i, h, f, d, s, T, F, N"),
        ("prompt", [5], "a text is needed, not int"),
        ("prompt", ["a", "b"], "one value is needed, not 2"),
        ("prompt/mix", ["a", 1, "b"], "up to 8 texts are needed, each followed by its weight"),
        ("prompt/mix", ["a", 0], "one weight at least must be above 0"),
        ("steps/list", [500, 750], "each number must be smaller than the one before"),
        ("steps/list", [[]], None),
        ("noise/mode", ["wild"], "'wild' is not one of fresh, fixed, slow"),
        ("stream/reset", [float("nan")], "NaN and infinity are not values"),
        ("noise/maxx", [0.5], "there is no such address (did you mean /sdv2live/noise/max?)"),
        ("zzzzzzzzzzzzzzzzzzzz/q/q/q/q/q/q/q/q/q", [0.5], "there is no such address"),
        ("noise/*", [0.5], "patterns are not read: send to each address by its own name"),
        ("noise/ma?", [0.5], "patterns are not read: send to each address by its own name"),
        ("{noise,seed}", [0.5], "patterns are not read: send to each address by its own name"),
        ("*" * 40, [1], "patterns are not read: send to each address by its own name"),
        ("engine/size", ["64x64"], "engine.size is fixed at the start: it is set by --size"),
        ("size", ["64x64"], "engine.size is fixed at the start: it is set by --size"),
        ("engine/size", [], "engine.size is fixed at the start: it is set by --size"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_changes_nothing_and_is_answered(
    registry: Registry, peer: Peer, address: str, values: list[Any], reason: str | None
) -> None:
    before = registry.snapshot()
    if reason is None:
        # An empty array has no arguments, and that is a question.
        assert peer.ask(f"{ROOT}/{address}", *values) == (f"{ROOT}/{address}", None)
    else:
        assert peer.ask(f"{ROOT}/{address}", *values) == (f"{ROOT}/error", f"{ROOT}/{address}", reason)
    peer.settle()
    assert registry.snapshot() is before


def test_a_changed_value_comes_back_and_an_accepted_one_does_not(registry: Registry, peer: Peer) -> None:
    peer.send(f"{ROOT}/noise/sensitivity", 0.01)  # the end of the range, which no 32-bit float hits exactly
    peer.settle()
    assert peer.ask(f"{ROOT}/output/wet", 7.0) == (f"{ROOT}/output/wet", 1.0)
    assert peer.ask(f"{ROOT}/steps", 99.0) == (f"{ROOT}/steps", 8)
    assert peer.ask(f"{ROOT}/prompt/mix", "a", 1000.0) == (f"{ROOT}/prompt/mix", "a", 100.0)
    assert registry.get("output.wet") == 1.0


def test_long_prompts(registry: Registry, peer: Peer) -> None:
    assert peer.ask(f"{ROOT}/prompt", "é" * 7900) == (f"{ROOT}/prompt", "é" * 2000)
    assert registry.get("prompt.text") == "é" * 2000
    assert peer.ask(f"{ROOT}/prompt", "x" * 9000)[2] == "a text has 9000 characters; the most is 8000"
    assert registry.get("prompt.text") == "é" * 2000


def test_a_button_acts_when_pressed_and_not_when_let_go(registry: Registry, peer: Peer) -> None:
    for value in (1.0, 0.0):
        peer.send(f"{ROOT}/stream/reset", value)
    peer.settle()
    assert registry.get("stream.reset") == 1
    for _ in range(200):
        peer.send(f"{ROOT}/stream/reset", 1)
        peer.send(f"{ROOT}/stream/reset", 0)
    peer.send_bundle((f"{ROOT}/stream/reset", 1), (f"{ROOT}/stream/reset", 0), (f"{ROOT}/stream/reset", 1))
    peer.settle()
    assert registry.get("stream.reset") == 203


def test_a_bundle_acts_whole_or_not_at_all(registry: Registry, peer: Peer) -> None:
    changes: list[Change] = []
    registry.subscribe(changes.append)
    peer.send_bundle((f"{ROOT}/seed", 5), (f"{ROOT}/output/wet", 0.25), (f"{ROOT}/seed", 6))
    peer.settle()
    assert [(dict(change.values), change.origin) for change in changes] == [({"seed": 6, "output.wet": 0.25}, "osc")]
    for bad in (("seed", float("nan")), ("nothing", 1), ("seed", 1, 2)):
        peer.send_bundle((f"{ROOT}/output/wet", 0.75), (f"{ROOT}/{bad[0]}", *bad[1:]), (f"{ROOT}/ping", "after"))
        answered, address, reason = peer.receive()
        assert (answered, address) == (f"{ROOT}/error", f"{ROOT}/{bad[0]}")
        assert reason.endswith("; nothing of its bundle was applied")
        assert peer.receive() == (f"{ROOT}/pong", "after")
    assert len(changes) == 1


def test_a_bundle_answers_its_questions_after_its_values(peer: Peer) -> None:
    peer.send_bundle((f"{ROOT}/seed", "?"), (f"{ROOT}/output/wet", 5), (f"{ROOT}/seed", 77), (f"{ROOT}/sed", "?"))
    assert peer.receive() == (f"{ROOT}/output/wet", 1.0)
    assert peer.receive() == (f"{ROOT}/seed", 77)
    assert peer.receive()[:2] == (f"{ROOT}/error", f"{ROOT}/sed")


def test_time_tags_wait_for_nobody(registry: Registry, peer: Peer) -> None:
    peer.send_bundle((f"{ROOT}/seed", 42), at=2_085_000_000.0)  # the year 2036, as far as the format goes
    peer.settle()
    peer.send_bundle((f"{ROOT}/seed", 43), at=1.0)
    peer.settle()
    assert registry.get("seed") == 43


def test_the_last_of_two_rivals_wins(registry: Registry, peer: Peer) -> None:
    for number in range(300):
        peer.send(f"{ROOT}/prompt", f"text {number}")
        peer.send(f"{ROOT}/prompt/mix", "fog", 1, "fire", 1)
        peer.send(f"{ROOT}/prompt/text", "last")
    peer.settle()
    assert (registry.get("prompt.text"), registry.get("prompt.mix")) == ("last", ())


def test_a_bad_value_does_not_push_out_a_good_one(registry: Registry, peer: Peer) -> None:
    for _ in range(100):
        peer.send(f"{ROOT}/seed", 5)
        peer.send(f"{ROOT}/seed", float("nan"))
    assert {peer.receive()[0] for _ in range(100)} == {f"{ROOT}/error"}
    peer.settle()
    assert registry.get("seed") == 5


def test_hostile_packets_are_counted_and_a_good_message_acts_after_each(
    registry: Registry, serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer]
) -> None:
    server = serve()
    peer, stranger = connect(server), connect(server)
    header = b"#bundle\0" + bytes(8)
    nested = header + b"".join(struct.pack(">i", 20 * n - 4) + header for n in range(2999, 0, -1))
    hostile = [
        b"",
        b"\0",
        header + struct.pack(">i", -4),
        header + struct.pack(">i", -4) + b"/a\0\0,\0\0\0",
        nested,
        b"/\xff\xfe\0,\0\0\0",
        b"/" + b"*" * 43,
        b"/" + b"*a" * 12 + b"x\0\0,f\0\0" + bytes(4),
        b"/a\0\0," + b"[" * 20_003,
        random.Random(1).randbytes(60_000),
    ]
    rng = random.Random(2)
    parent = build_msg(f"{ROOT}/output/wet", [0.5]).dgram
    for _ in range(100):
        mutated = bytearray(parent)
        mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        hostile.append(bytes(mutated))
    for number, datagram in enumerate(hostile):
        stranger.send_bytes(datagram)
        peer.send(f"{ROOT}/seed", number)
        assert peer.ask(f"{ROOT}/seed") == (f"{ROOT}/seed", number)
    counters = server.counters
    assert counters.received == 3 * len(hostile)
    assert counters.refused["bundle"] >= 3 and counters.refused["size"] >= 2 and counters.refused["text"] >= 2


def test_every_reason_of_the_guard_and_the_words_has_a_counter() -> None:
    sources = [inspect.getsource(module) for module in (osc_guard, osc_words, osc_server)]
    kinds = {kind for source in sources for kind in re.findall(r'OscError\(\s*"(\w+)"', source)}
    kinds |= set(re.findall(r'return "(\w+)", ', sources[1]))
    assert kinds == set(osc_server.REFUSAL_KINDS)


def test_own_words_and_addresses_of_rows_do_not_collide() -> None:
    addresses = [address for row in LIVE_ROWS for address in row.osc_addresses]
    own = [osc_words.PING, osc_words.PONG, osc_words.STATE, osc_words.RANKS, osc_words.UNDERSTOOD]
    own += [osc_words.PRESET, osc_words.ERROR]
    assert len({*addresses, *own}) == len(addresses) + len(own)


FLOOD = """
import sys, time
from pythonosc.udp_client import SimpleUDPClient
client = SimpleUDPClient("127.0.0.1", int(sys.argv[1]))
for number in range(20_000):
    client.send_message("/sdv2live/seed", number)
    if number % 2_000 == 1_999:
        time.sleep(0.1)  # on a busy machine the system's own buffer would overflow, and drop the newest
"""


def test_the_last_of_twenty_thousand_values_arrives(
    registry: Registry, serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer]
) -> None:
    server = serve()
    changes: list[Change] = []
    registry.subscribe(changes.append)
    subprocess.run([sys.executable, "-c", FLOOD, str(server.port)], check=True, timeout=20)
    connect(server).settle()
    counters = server.counters
    print(counters)
    assert registry.get("seed") == 19_999
    assert counters.applied + counters.superseded == counters.received - 1
    assert len(changes) <= counters.applied


def test_values_of_one_round_are_gathered(
    registry: Registry, serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer]
) -> None:
    """While the registry is held, messages pile up; then only the newest of each address acts."""
    server = serve()
    peer = connect(server)
    changes: list[Change] = []
    with registry._lock:
        peer.send(f"{ROOT}/output/wet", 0.1)  # the thread now waits for the registry with this one
        deadline_s = time.monotonic() + JOIN_S
        while server.counters.received < 1:
            assert time.monotonic() < deadline_s
        for number in range(1000):
            peer.send(f"{ROOT}/seed", number)
            peer.send(f"{ROOT}/stream/reset", 1)
        registry.subscribe(changes.append)
    peer.settle()
    assert registry.get("seed") == 999
    assert registry.get("stream.reset") == 1000
    assert len(changes) <= 5
    assert server.counters.superseded >= 900


def test_a_listener_that_fails_ends_nothing(
    registry: Registry,
    serve: Callable[..., OscServer],
    connect: Callable[[OscServer], Peer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(change: Change) -> None:
        if "output.wet" in change.values:
            raise RuntimeError("a window is gone")

    registry.subscribe(fail)
    peer = connect(serve())
    for number in range(50):
        peer.send(f"{ROOT}/output/wet", number / 100)
        peer.send(f"{ROOT}/seed", number)
    peer.settle()
    assert (registry.get("seed"), registry.get("output.wet")) == (49, 0.49)
    assert caplog.text.count("RuntimeError: a window is gone") == 1  # with its traceback, once in five seconds
    assert "Traceback" in caplog.text


def test_the_registry_has_the_last_word(serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer]) -> None:
    """A rule between rows that only the registry knows may refuse what each row for itself allows."""

    class Stern(Registry):
        def set_many(self, items: Any, *, origin: str) -> Any:
            return [type(result)(result.name, "rejected", result.value, "not today") for result in
                    super().set_many(items, origin=origin)]  # fmt: skip

    server = OscServer(Stern(), port=0, clock=MonotonicClock())
    server.start()
    try:
        assert connect(server).ask(f"{ROOT}/seed", 5) == (f"{ROOT}/error", f"{ROOT}/seed", "not today")
    finally:
        server.stop()


def test_refusals_are_logged_once_in_five_seconds_and_without_control_characters(
    serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer], caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    peer = connect(serve(clock=clock))
    for _ in range(20):
        assert "\n" not in peer.ask(f"{ROOT}/a\nb\x1b\x07", 1)[1]
    assert len(caplog.records) == 1
    clock.advance(5.1)
    peer.ask(f"{ROOT}/other", 1)
    assert len(caplog.records) == 2
    assert "(and 19 more since the last such line)" in caplog.records[1].getMessage()
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_answers_are_bounded_in_a_second(
    serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(osc_server, "MAX_REPLIES_PER_S", 3)
    clock = FakeClock()
    server = serve(clock=clock)
    peer = connect(server)
    peer.send_bundle(*[(f"{ROOT}/ping", number) for number in range(10)])
    assert [peer.receive()[1] for _ in range(3)] == [0, 1, 2]
    deadline_s = time.monotonic() + JOIN_S
    while server.counters.withheld < 7:
        assert time.monotonic() < deadline_s
    clock.advance(1.0)
    peer.settle()
    while server.counters.replies < 4:  # an answer is counted once it is sent
        assert time.monotonic() < deadline_s
    assert server.counters.replies == 4


def test_answers_of_other_servers_are_not_answered(
    serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer]
) -> None:
    server = serve()
    peer = connect(server)
    peer.send(f"{ROOT}/error", f"{ROOT}/seed", "no")
    peer.send(f"{ROOT}/pong")
    peer.settle()
    assert server.counters.refused["reply"] == 2


def test_strangers_get_no_answer_but_are_counted(
    serve: Callable[..., OscServer], connect: Callable[[OscServer], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    peer = connect(server)
    monkeypatch.setattr(osc_server, "may_answer", lambda host, allow: False)
    peer.send(f"{ROOT}/ping")
    deadline_s = time.monotonic() + JOIN_S
    while server.counters.withheld < 1:
        assert time.monotonic() < deadline_s
    monkeypatch.undo()
    peer.settle()


def test_it_is_bound_to_loopback_alone(serve: Callable[..., OscServer]) -> None:
    server = serve()
    assert server._socket is not None
    assert server._socket.getsockname() == ("127.0.0.1", server.port)
    assert server._socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
    assert server._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 200_000


def test_a_taken_port_is_refused_or_stepped_over(
    registry: Registry, serve: Callable[..., OscServer], caplog: pytest.LogCaptureFixture
) -> None:
    first = serve()
    with pytest.raises(UserError) as caught:
        serve(port=first.port)
    assert str(caught.value) == (
        f"OSC port {first.port} on this machine is taken by another program: "
        "choose another with --osc-port, or 0 to do without."
    )
    second = OscServer(registry, port=first.port, clock=MonotonicClock())
    second.start(fall_back=True)
    try:
        assert first.port < second.port <= first.port + 20
        assert f"OSC listens on {second.port}" in caplog.text
        assert ping(second.port) == (f"{ROOT}/pong",)
        assert ping(first.port) == (f"{ROOT}/pong",)
    finally:
        second.stop()


def test_no_free_port_among_twenty(serve: Callable[..., OscServer], monkeypatch: pytest.MonkeyPatch) -> None:
    first = serve()
    monkeypatch.setattr(osc_server, "FALL_BACK_PORTS", 0)
    server = OscServer(Registry(), port=first.port, clock=MonotonicClock())
    with pytest.raises(UserError, match="taken by another program"):
        server.start(fall_back=True)
    server.stop()


def test_stop_wakes_the_thread_frees_the_port_and_may_come_twice(
    serve: Callable[..., OscServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(osc_server, "POLL_S", 3600.0)
    server = serve()
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "osc"] == [True]
    server.stop(JOIN_S)
    assert not [thread for thread in threading.enumerate() if thread.name == "osc"]
    server.stop()
    serve(port=server.port)


def test_importing_it_brings_in_neither_torch_nor_python_osc() -> None:
    code = (
        "import sys, bridges.osc_server; "
        "print(sorted({'torch', 'pythonosc', 'PySide6', 'cv2', 'numpy'} & {m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == "[]"
