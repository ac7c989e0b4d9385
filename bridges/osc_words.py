"""What OSC addresses and arguments mean. Owns the way from a message to a row's value and back.

Pure: knows the table, no socket, no registry; any thread. Which bytes make a message is `osc_guard`'s business, what
is done with a value is `osc_server`'s.

Words on the wire, with ROW an address of a table row, for example /sdv2live/noise/max:
  ROW value...            sets it: one value; steps.list as several numbers, prompt.mix as text and weight in turn
                          (N empties it); a trigger acts on any value above 0 and ignores the rest
  ROW   or   ROW "?"      answered by ROW with the value; so a prompt cannot be the single character "?"
  /sdv2live/ping s...     answered by /sdv2live/pong with the same arguments
  /sdv2live/state         answered by /sdv2live/state s
  /sdv2live/ranks         answered by a message for each of several devices
  /sdv2live/understood    answered by a message for each look that the prompts of now ask for:
                          i:number, from 1  i:how many there are  s:text  s:look  f:weight  s:colour  f:strength
                          s:words of the text that are unknown, with gaps between; '' if all is understood
                          0 0 alone where nothing is known, as before the first picture or with a Wan engine
  /sdv2live/preset s      applies a preset by its name
A value taken as it is gets no answer, a changed one comes back at its address, a refusal comes back as
/sdv2live/error s:address s:reason. Addresses are literal, never patterns.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from bridges.osc_guard import Argument, Message, OscError
from sdv2live.parameters import OSC_ROOT, InvalidValue, Kind, Parameter, Value, When, coerce, names_a_file

PING, PONG = f"{OSC_ROOT}/ping", f"{OSC_ROOT}/pong"
STATE, PRESET, ERROR = f"{OSC_ROOT}/state", f"{OSC_ROOT}/preset", f"{OSC_ROOT}/error"
RANKS = f"{OSC_ROOT}/ranks"
UNDERSTOOD = f"{OSC_ROOT}/understood"
SEARCHED_CHARS = 100  # the search for the nearest address takes longer than its text is long


@dataclass(frozen=True, slots=True)
class Wish:
    """A checked value for a row. pulls: how often it acts; only a trigger's is not 1."""

    row: Parameter
    value: object
    address: str
    pulls: int = 1


class Addresses:
    """The literal addresses of a table, found by dictionary."""

    def __init__(self, table: Mapping[str, Parameter]) -> None:
        self._rows = {address: row for row in table.values() for address in row.osc_addresses}
        fixed = (row for row in table.values() if row.when is When.START)
        words = ((word, row) for row in fixed for word in (row.name.replace(".", "/"), row.cli_flag[2:]))
        self._fixed = {f"{OSC_ROOT}/{word}": row for word, row in words}
        # A patch may send hundreds of unknown channels sixty times a second, and the search is slow.
        self._why_unknown = functools.lru_cache(maxsize=1024)(self._explain)

    def row(self, address: str) -> Parameter:
        """Raises OscError (kinds: pattern, start, unknown) with what to send instead."""
        row = self._rows.get(address)
        if row is None:
            raise OscError(*self._why_unknown(address[:SEARCHED_CHARS]), address)
        return row

    def wish(self, message: Message) -> Wish:
        """The row and the checked value that a message means. Raises OscError, also with arguments and value."""
        row = self.row(message.address)
        value = _value(row, message)
        if row.kind is Kind.SOURCE and names_a_file(str(value)):
            reason = "a file is chosen in the window or with --source, not over OSC"
            raise OscError("value", reason, message.address)
        try:
            coerced = coerce(row, value)
        except InvalidValue as error:
            raise OscError("value", str(error), message.address) from None
        if row.kind is Kind.TRIGGER:
            # The 0 of a button let go is heard and does nothing.
            return Wish(row, 1, message.address, pulls=int(bool(coerced.value)))
        return Wish(row, value, message.address)

    def _explain(self, address: str) -> tuple[str, str]:
        """The kind and the reason of an address that no live row answers to."""
        if set(address) & set("*?[]{}"):
            return "pattern", "patterns are not read: send to each address by its own name"
        if address in self._fixed:
            row = self._fixed[address]
            return "start", f"{row.name} is fixed at the start: it is set by {row.cli_flag}"
        close = difflib.get_close_matches(address, [*self._rows, PING, STATE, RANKS, UNDERSTOOD, PRESET], n=1)
        return "unknown", "there is no such address" + (f" (did you mean {close[0]}?)" if close else "")


def is_question(arguments: tuple[Argument, ...]) -> bool:
    return arguments in ((), ("?",))


def is_value(message: Message) -> bool:
    """Whether it means to set a row; whether the row exists is another question."""
    return message.address not in (PING, PONG, STATE, RANKS, UNDERSTOOD, PRESET, ERROR) and not is_question(
        message.arguments
    )


def arguments_of(row: Parameter, value: Value) -> list[Argument]:
    """A value as other programs want it: numbers (0 and 1 for a switch) and texts, N where there is none."""
    match value:
        case None | ():
            return [None]
        case bool():
            return [int(value)]
        case tuple():
            return [part for item in value for part in (item if isinstance(item, tuple) else (item,))]
        case _:
            return [float(value) if row.kind is Kind.FLOAT else value]


def _value(row: Parameter, message: Message) -> object:
    """The arguments as `coerce` takes them. Raises OscError where their number is wrong."""
    arguments = message.arguments
    if row.kind is Kind.MIX:
        return () if arguments == (None,) else arguments
    if row.kind in (Kind.INTS, Kind.FLOATS) and len(arguments) > 1:
        return arguments
    if len(arguments) != 1:
        raise OscError("arguments", f"one value is needed, not {len(arguments)}", message.address)
    return arguments[0]
