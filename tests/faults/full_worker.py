"""The engine's process on a device whose memory is full, as the app hears of it: for test_ranks.py."""

from __future__ import annotations

import sys

from sdv2live.engine.ipc import Message, read_message, write_message

REASON = "pocket at 64x64 needs 9.0 GB and 1.0 GB are free on cpu: take a smaller engine."


def main() -> None:
    read_message(sys.stdin.buffer)
    write_message(sys.stdout.buffer, Message.REFUSED, REASON.encode())
