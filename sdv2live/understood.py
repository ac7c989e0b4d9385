"""What an engine understood of its prompts, and how that is said. Owns: those words. Pure: no torch, any thread.

Told by engines whose text encoder knows that it does not know a word: the pocket engine. The encoder of the Wan engines
takes any language and tells nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

AS_IT_IS = "identity"  # the look of an empty prompt: the picture as it is
SHOWN_WORDS = 6


@dataclass(frozen=True, slots=True)
class Understood:
    """One look that a text asks for. weight: its share; the shares of one text, or of one mix, sum to 1. strength: how
    much of the look, or of the colour where no look is, 1 as trained. unknown: words of the text that mean nothing to
    the engine and that it left out."""

    text: str
    look: str
    weight: float
    colour: str
    strength: float
    unknown: tuple[str, ...]

    def as_fields(self) -> dict[str, Any]:
        """For JSON, with numbers that a person can read."""
        return {**asdict(self), "weight": round(self.weight, 3), "strength": round(self.strength, 3)}


def to_json(entries: Sequence[Understood]) -> bytes:
    return json.dumps([asdict(entry) for entry in entries], allow_nan=False, ensure_ascii=False).encode()


def from_json(data: bytes) -> tuple[Understood, ...]:
    return tuple(Understood(**{**fields, "unknown": tuple(fields["unknown"])}) for fields in json.loads(data))


class ReadPrompts:
    """What was told of each text, the newest `kept`. Written by one thread, read by any: a dictionary's own operations
    are whole."""

    def __init__(self, kept: int = 512) -> None:
        self._kept = kept
        self._by_text: dict[str, tuple[Understood, ...]] = {}

    def note(self, entries: tuple[Understood, ...]) -> None:
        if entries:
            self._by_text[entries[0].text] = entries
        if len(self._by_text) > self._kept:
            self._by_text.pop(next(iter(self._by_text)))

    def of_mix(self, mix: Iterable[tuple[str, float]]) -> tuple[Understood, ...]:
        """The looks of a mix with their shares; nothing as long as one of its texts has not been read."""
        weighted = [(text, weight) for text, weight in mix if weight > 0]
        total = sum(weight for _, weight in weighted)
        read = [(self._by_text.get(text), weight / total) for text, weight in weighted]
        if any(entries is None for entries, _ in read):
            return ()
        return tuple(replace(e, weight=e.weight * share) for entries, share in read for e in entries or ())


def sentence_of_unknown(engine: str, entries: Sequence[Understood]) -> str:
    """What is said where words are unknown, with the look that the picture follows; '' if all is understood."""
    unknown = list(dict.fromkeys(word for entry in entries for word in entry.unknown))
    if not unknown:
        return ""
    named = [f"'{word}'" for word in unknown[:SHOWN_WORDS]]
    more = f" and {len(unknown) - SHOWN_WORDS} more words" if len(unknown) > SHOWN_WORDS else ""
    words = ", ".join(named) + more if more or len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    verb = "means" if len(unknown) == 1 else "mean"
    nearest = max(entries, key=lambda entry: entry.weight)
    if nearest.look != AS_IT_IS:
        does = f"the picture follows the nearest look, {nearest.look}"
    elif nearest.colour != "none":
        does = (
            f"the picture keeps its look and takes the colour {nearest.colour}; name a look, such as oil, ink or night"
        )
    else:
        does = "no look is near, so the picture stays as it is; name a look, such as oil, ink or night"
    return f"{words} {verb} nothing to the engine {engine}: {does}."
