"""Another program, for a rehearsal: one OSC message to a port of this machine, from a process of its own."""

from __future__ import annotations

import json
import socket
import sys

from bridges.osc_guard import encode
from bridges.osc_server import HOST


def main() -> None:
    """What is to be sent comes as one line of JSON on standard input."""
    line = sys.stdin.readline()
    if not line:
        return  # the run was over before
    wish = json.loads(line)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(encode(wish["address"], [wish["value"]]), (HOST, wish["port"]))
