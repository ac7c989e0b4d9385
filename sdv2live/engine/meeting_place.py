"""Where ranks meet. Owns: the address, the socket that rank 0 listens on, what is said of one that cannot be.

Imports no torch: the app tries the place before it starts a rank.
"""

from __future__ import annotations

import errno
import socket
import sys
from dataclasses import dataclass

from sdv2live.errors import UserError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Address:
    """Where rank 0 listens."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        return self.host in _LOOPBACK

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises UserError."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"{text!r} is no address: write it as HOST:PORT, such as 192.168.0.10:29500.")
        return cls(host, int(port))


def listen_at(address: Address) -> socket.socket:
    """Rank 0's socket, listening; the caller closes it. Raises UserError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(f"the ranks cannot meet at {address}: {_why(address, error)}") from None
    return listener


def _why(address: Address, error: OSError) -> str:
    of_here = "give one under which the other machines reach this one, with --master HOST:PORT."
    if isinstance(error, socket.gaierror):
        return f"the name {address.host} is not known here; {of_here}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address.host} is no address of this machine, where the first rank is; {of_here}"
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; give another one with --master HOST:PORT."
    return f"{error.strerror or error}; give another place with --master HOST:PORT."
