"""The errors that cross room borders. Owns: what a user reads when something fails.

A `UserError` carries one complete sentence: what failed, on which object, why, and what to do. The
terminal, the log and the window show the same sentence; the command line turns it into exit code 2.
"""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right. The message is the one sentence that is shown."""


class SourceEnded(Exception):
    """A source that does not loop has no more frames."""


class ChunkError(Exception):
    """One chunk failed; the engine can go on after a reset."""


class EngineDead(Exception):
    """The engine cannot go on and has to be replaced."""


def one_line(error: BaseException) -> str:
    """The message of `error` on one line, never empty."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


class RankLost(Exception):
    """Another rank is gone or cannot go on: the pipeline is to be replaced as a whole. The message says which."""
