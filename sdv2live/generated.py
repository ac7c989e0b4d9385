"""Pages of the documentation that are written in part by hand and in part by a program.

What a program writes lies between two comments that name it, and a test compares the two. Standard library alone.
"""

from __future__ import annotations

from pathlib import Path


def with_section(page: str, name: str, text: str) -> str:
    """The page with `text` in place of what stood between the marks of `name`. Raises ValueError without them."""
    begin, end = f"<!-- {name}: written by a program -->\n", f"<!-- {name}: end -->\n"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the page has no marks of {name!r}: {begin.strip()} and {end.strip()}")
    return before + begin + text.rstrip("\n") + "\n" + end + after


def write_section(page: Path, name: str, text: str) -> None:
    page.write_text(with_section(page.read_text("utf-8"), name, text), "utf-8")
