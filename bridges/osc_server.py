"""OSC in: other programs turn the knobs of the table over UDP on this machine.

Owns the socket, the thread `osc`, the order in which messages act, and the answers. Knows the registry; knows nothing
of engine, window or python-osc. `start`, `stop`, `port` and `counters` may be used from any thread, all else runs on
the thread `osc`. Bytes are read by `osc_guard`; what addresses and values mean stands in `osc_words`.

Newest value wins: what has arrived is gathered by parameter, in the order of the LAST arrival (the last of two rivals
wins), each value checked before it may replace an older one; pulls of a trigger are counted. A bundle acts whole or
not at all and is merged with nothing.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

from bridges.osc_guard import Argument, Message, OscError, decode, encode, may_answer, printable
from bridges.osc_words import (
    ERROR,
    PING,
    PONG,
    PRESET,
    RANKS,
    STATE,
    UNDERSTOOD,
    Addresses,
    Wish,
    arguments_of,
    is_question,
    is_value,
)
from sdv2live.clock import Clock
from sdv2live.errors import UserError, one_line
from sdv2live.parameters import Kind
from sdv2live.registry import Registry
from sdv2live.status import RankLine
from sdv2live.understood import Understood

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
FALL_BACK_PORTS = 20
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
MAX_ROUND_DATAGRAMS = 4096
MAX_ROUND_BYTES = 4 * 1024 * 1024
MAX_REPLIES_PER_S = 2000
MAX_PONG_ARGUMENTS = 8
POLL_S = 0.2  # how long the thread may take to see that it is stopped, if nothing wakes it
ROUND_PAUSE_S = 0.001  # lets a flood gather, so that at most a thousand rounds a second reach the registry
LOG_PERIOD_S = 5.0
REFUSAL_KINDS = ("size", "bundle", "text", "types", "address", "pattern", "unknown", "start", "arguments", "value",
                 "preset", "state", "reply")  # fmt: skip

Sender = tuple[str, int]


@dataclass(frozen=True, slots=True)
class OscCounters:
    """received: datagrams. applied: messages that acted. superseded: values replaced by newer ones before they acted.

    refused: by kind, messages and unreadable datagrams. withheld: replies not sent (not allowed, too many, or failed).
    """

    received: int
    applied: int
    superseded: int
    refused: Mapping[str, int]
    replies: int
    withheld: int


def _no_presets(name: str) -> None:
    raise UserError(f"The preset {name[:60]!r} cannot be applied: this program runs without presets.")


class OscServer:
    """Listens on 127.0.0.1 and sets, with origin `osc`, what it is told to. Port 0 takes any free one (for tests).

    state() names the app's state for queries, ranks() says how each of several devices does, understood() what the
    prompts are read as. apply_preset(name) raises UserError where it cannot. All are called on the thread `osc`. allow:
    further host addresses that may get replies;
    loopback always may.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        port: int,
        clock: Clock,
        state: Callable[[], str] = lambda: "running",
        ranks: Callable[[], Sequence[RankLine]] = lambda: (),
        understood: Callable[[], Sequence[Understood]] = lambda: (),
        apply_preset: Callable[[str], None] = _no_presets,
        allow: Iterable[str] = (),
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._state, self._ranks, self._understood = state, ranks, understood
        self._apply_preset = apply_preset
        self._allow = frozenset(allow)
        self._port = port
        self._addresses = Addresses(registry.table)
        self._socket: socket.socket | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="osc", daemon=True)
        self._inbox: deque[tuple[bytes, Sender]] = deque()
        self._wishes: dict[str, tuple[Wish, Sender]] = {}
        self._received = self._applied = self._superseded = self._replies = self._withheld = 0
        self._refused = dict.fromkeys(REFUSAL_KINDS, 0)
        self._logged_s: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}
        self._second_began_s = clock.now_s()
        self._replies_this_second = 0

    @property
    def port(self) -> int:
        """The port it listens on; before `start` the one that was asked for."""
        return self._port

    @property
    def counters(self) -> OscCounters:
        return OscCounters(
            self._received, self._applied, self._superseded, dict(self._refused), self._replies, self._withheld
        )

    def start(self, *, fall_back: bool = False) -> None:
        """Bind and start the thread; once for each server. Raises UserError where the port cannot be had.

        fall_back: take the next free one of the 20 ports after it (for a port that nobody asked for by name).
        """
        self._socket = _bound(self._port, fall_back=fall_back)
        asked, self._port = self._port, self._socket.getsockname()[1]
        buffer_bytes = _enlarge_receive_buffer(self._socket)
        if asked not in (0, self._port):
            log.warning("OSC port %d is taken by another program: OSC listens on %d", asked, self._port)
        log.info("OSC listens on %s:%d (receive buffer %d KiB)", HOST, self._port, buffer_bytes // 1024)
        self._thread.start()

    def stop(self, timeout_s: float = 0.5) -> None:
        """End the thread and free the port. What has arrived and not yet acted is dropped. May be called twice."""
        self._stop.set()
        if self._thread.is_alive() and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(b"", (HOST, self._port))  # wakes the thread; POLL_S would do it too
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("the OSC thread did not stop within %.1f s and is left behind", timeout_s)
        if self._socket is not None:
            self._socket.close()

    # The thread

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._receive()
                self._work_off()
            except Exception as error:
                # What was taken in stays in the inbox and in the wishes, and goes on in the next round.
                if self._is_log_due(type(error).__name__):
                    log.exception("OSC: a message made something fail that should not; OSC goes on")
            self._stop.wait(ROUND_PAUSE_S)

    def _receive(self) -> None:
        """Wait for a datagram, then take all that are there, up to the bounds of a round."""
        assert self._socket is not None
        if self._inbox or self._wishes:
            return  # left over by a round that failed: first come, first served
        self._socket.settimeout(POLL_S)
        taken_bytes = 0
        while len(self._inbox) < MAX_ROUND_DATAGRAMS and taken_bytes < MAX_ROUND_BYTES:
            try:
                datagram, sender = self._socket.recvfrom(65536)
            except (BlockingIOError, TimeoutError):
                return
            except ConnectionResetError:
                # Windows reports here that an earlier reply found nobody: no news for a receiver.
                continue
            self._received += 1
            self._inbox.append((datagram, sender))
            taken_bytes += len(datagram)
            if len(self._inbox) == 1:
                self._socket.settimeout(0)

    def _work_off(self) -> None:
        while self._inbox and not self._stop.is_set():
            datagram, sender = self._inbox[0]
            try:
                packet = decode(datagram)
            except OscError as error:
                self._inbox.popleft()
                self._refuse(error, sender)
                continue
            if packet.is_bundle or not is_value(packet.messages[0]):
                # Bundles and questions come after the values sent before them. Still in the inbox, so that a
                # listener that fails over one of those values does not cost this message too.
                self._apply_gathered()
            self._inbox.popleft()
            if packet.is_bundle:
                self._take_bundle(packet.messages, sender)
            else:
                self._take_message(packet.messages[0], sender)
        self._apply_gathered()

    def _take_message(self, message: Message, sender: Sender) -> None:
        try:
            if is_value(message):
                self._gather(self._wishes, self._addresses.wish(message), sender)
            else:
                self._answer(message, sender)
        except OscError as error:
            self._refuse(error, sender)

    def _take_bundle(self, messages: Collection[Message], sender: Sender) -> None:
        """Apply its values as one change, or none of them; then answer its questions."""
        wishes: dict[str, tuple[Wish, Sender]] = {}
        questions: list[Message] = []
        presets: list[Message] = []
        errors: list[OscError] = []
        for message in messages:
            try:
                if is_value(message):
                    self._gather(wishes, self._addresses.wish(message), sender)
                else:
                    (presets if message.address == PRESET else questions).append(message)
            except OscError as error:
                errors.append(error)
        if len(presets) + bool(wishes or errors) > 1:
            errors += [OscError("preset", "a preset is sent without other values", each.address) for each in presets]
        for each in errors:
            why = f"{each.reason}; nothing of its bundle was applied" if len(messages) > 1 else each.reason
            self._refuse(OscError(each.kind, why, each.address), sender)
        if not errors:
            self._apply(list(wishes.values()))
            questions = presets + questions
        for question in questions:
            try:
                self._answer(question, sender)
            except OscError as error:
                self._refuse(error, sender)

    # Values

    def _gather(self, wishes: dict[str, tuple[Wish, Sender]], wish: Wish, sender: Sender) -> None:
        """Put `wish` last, in the place of an older one for the same row; pulls of a trigger add up."""
        older = wishes.pop(wish.row.name, None)
        if older and wish.row.kind is Kind.TRIGGER:
            wish = replace(wish, pulls=wish.pulls + older[0].pulls)
        elif older:
            self._superseded += 1
        wishes[wish.row.name] = wish, sender

    def _apply_gathered(self) -> None:
        """Apply what single messages asked for, each by itself: one refusal is no reason for another."""
        while self._wishes:
            # Taken out first: one that makes a listener fail must not be tried again for ever.
            self._apply([self._wishes.pop(next(iter(self._wishes)))])

    def _apply(self, wishes: Iterable[tuple[Wish, Sender]]) -> None:
        """Apply them as one change."""
        chosen = [(wish, sender) for wish, sender in wishes for _ in range(wish.pulls)]
        results = self._registry.set_many([(wish.row.name, wish.value) for wish, _ in chosen], origin="osc")
        for (wish, sender), result in zip(chosen, results, strict=True):
            if result.status == "rejected":
                self._refuse(OscError("value", result.reason, wish.address), sender)
                continue
            self._applied += 1
            if result.status == "clamped":
                self._reply(sender, wish.address, arguments_of(wish.row, result.value))

    # Answers

    def _answer(self, message: Message, sender: Sender) -> None:
        """Do what a message asks for that sets no value. Raises OscError."""
        address, arguments = message.address, message.arguments
        if address == PING:
            token = [printable(each) if isinstance(each, str) else each for each in arguments[:MAX_PONG_ARGUMENTS]]
            self._reply(sender, PONG, token)
        elif address == STATE:
            if not is_question(arguments):
                raise OscError("state", "the state can be asked for, not set", address)
            self._reply(sender, STATE, [printable(self._state())])
        elif address == RANKS:
            if not is_question(arguments):
                raise OscError("state", "how the ranks do can be asked for, not set", address)
            for rank in self._ranks():
                self._reply(sender, RANKS, list(astuple(rank)))
        elif address == UNDERSTOOD:
            if not is_question(arguments):
                raise OscError("state", "what is understood can be asked for, not set", address)
            for answer in _understood_arguments(self._understood()):
                self._reply(sender, UNDERSTOOD, answer)
        elif address == PRESET:
            self._take_preset(arguments)
        elif address in (PONG, ERROR):
            raise OscError("reply", "an answer of another server is not answered", address)
        else:
            row = self._addresses.row(address)
            self._reply(sender, address, arguments_of(row, self._registry.get(row.name)))

    def _take_preset(self, arguments: tuple[Argument, ...]) -> None:
        match arguments:
            case (str(name),) if name != "?":
                try:
                    self._apply_preset(name)
                except UserError as error:
                    raise OscError("preset", one_line(error), PRESET) from None
                self._applied += 1
            case _:
                raise OscError("arguments", "one text is needed: the name of a preset", PRESET)

    def _refuse(self, error: OscError, sender: Sender) -> None:
        """Count it, log it now and then, and tell the sender why."""
        self._refused[error.kind] += 1
        address, reason = printable(error.address), printable(error.reason, 300)
        if self._is_log_due(error.kind):
            silent = self._unlogged.pop(error.kind, 0)
            more = f" (and {silent} more since the last such line)" if silent else ""
            log.warning("OSC from %s:%d refused: %s: %s%s", *sender, address or "unreadable packet", reason, more)
        else:
            self._unlogged[error.kind] = self._unlogged.get(error.kind, 0) + 1
        if error.kind != "reply":
            # Answering an answer would let two servers talk to each other for ever.
            self._reply(sender, ERROR, [address, reason])

    def _reply(self, sender: Sender, address: str, arguments: Iterable[Argument]) -> None:
        """Send, if this sender may be answered now; a reply that cannot be sent is counted and forgotten."""
        assert self._socket is not None
        now_s = self._clock.now_s()
        if now_s - self._second_began_s >= 1.0:
            self._second_began_s, self._replies_this_second = now_s, 0
        self._replies_this_second += 1
        if (
            not may_answer(sender[0], self._allow)
            or sender == (HOST, self._port)  # a forged datagram from ourselves
            or self._replies_this_second > MAX_REPLIES_PER_S
        ):
            self._withheld += 1
            return
        try:
            self._socket.sendto(encode(address, arguments), sender)
        except OSError:
            self._withheld += 1
        else:
            self._replies += 1

    def _is_log_due(self, reason: str) -> bool:
        now_s = self._clock.now_s()
        if now_s - self._logged_s.get(reason, -LOG_PERIOD_S) < LOG_PERIOD_S:
            return False
        self._logged_s[reason] = now_s
        return True


def _understood_arguments(entries: Sequence[Understood]) -> list[list[Argument]]:
    """A message for each look, in order and with their count, so that a patch knows when it has them all."""
    if not entries:
        return [[0, 0]]
    return [
        [
            number,
            len(entries),
            printable(entry.text, 300),
            entry.look,
            entry.weight,
            entry.colour,
            entry.strength,
            printable(" ".join(entry.unknown), 300),
        ]
        for number, entry in enumerate(entries, 1)
    ]


def _bound(port: int, *, fall_back: bool) -> socket.socket:
    """A UDP socket on loopback, with the port to itself. Raises UserError."""
    last = min(port + FALL_BACK_PORTS, 65535) if fall_back else port
    for candidate in range(port, last + 1):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # Never SO_REUSEADDR. Windows needs to be told that nobody else may bind the port over us.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        if exclusive is not None:
            server.setsockopt(socket.SOL_SOCKET, exclusive, 1)
        try:
            server.bind((HOST, candidate))
        except OSError as error:
            server.close()
            # Windows answers EACCES for a port that somebody holds exclusively.
            is_taken = error.errno == errno.EADDRINUSE or (error.errno == errno.EACCES and candidate >= 1024)
            if not is_taken:
                raise UserError(
                    f"OSC port {candidate} on this machine cannot be used ({one_line(error)}): "
                    "choose another with --osc-port, or 0 to do without."
                ) from None
        else:
            return server
    which, verb = (f"port {port}", "is") if last == port else (f"ports {port} to {last}", "are")
    raise UserError(
        f"OSC {which} on this machine {verb} taken by another program: "
        "choose another with --osc-port, or 0 to do without."
    )


def _enlarge_receive_buffer(server: socket.socket) -> int:
    """Make room for a burst; returns the size that the system really gave, in its own way of counting."""
    wanted = RECEIVE_BUFFER_BYTES
    while wanted > server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF):
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
            break
        except OSError:
            # macOS refuses what is above its limit; Linux silently gives less.
            wanted //= 2
    return server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
