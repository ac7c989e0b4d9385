"""Names that people give and files get. Owns: which ones are a file's name on every system, and which look alike.

Pure functions. Names come in Unicode's form NFC; letters of all scripts are welcome.
"""

from __future__ import annotations

import unicodedata

MAX_NAME_CHARS = 64
_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789")])
_MAX_NAME_BYTES = 200  # a file system counts bytes, and the suffix comes on top
# Letters and marks that nobody sees: with one of them two names look alike.
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0") | frozenset(
    chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
)


def name_fault(name: str) -> str:
    """What is wrong with an NFC name, or ''. Such a name is a file's name on every system."""
    if not 0 < len(name) <= MAX_NAME_CHARS:
        return f"it needs 1 to {MAX_NAME_CHARS} characters"
    if len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
        return f"it has more than the {_MAX_NAME_BYTES} bytes that a file's name may have"
    if not name[0].isalnum():
        return "it has to begin with a letter or a digit"
    if name[-1] in " .":
        return "it may not end with a space or a dot"
    for char in name:
        category = unicodedata.category(char)
        if not (category[0] == "L" or category in ("Mn", "Mc", "Nd") or char in " -_.") or char in _UNSEEN:
            return f"{char!r} is not allowed; letters, digits, spaces, - _ and . are"
    if name.split(".")[0].rstrip().casefold() in _RESERVED:
        return "Windows keeps that word for a device"
    return ""


def twin_key(name: str) -> str:
    """Equal for names that a file system or a person may take for one another."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
