"""How well the text encoder reads prompts that it was never trained on. Owns: the figures of the model card."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sdv2live.engine.model.pocket_text import PocketTextEncoder, Understanding, split_words
from sdv2live.training import unseen
from sdv2live.training.unseen import Phrase, Sheet

# Between the strengths that are asked for and those around them.
WEAK_BELOW, STRONG_ABOVE = 0.85, 1.05


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares, 0 to 1. looks: of each look's prompts that are read as it. look, colour, grade: of all. false_alarms: of
    understood prompts with a word that is told as unknown. noticed: of prompts with an unknown word, those
    where one of its own is told."""

    looks: dict[str, float]
    look: float
    colour: float
    grade: float
    misspelt_look: float
    false_alarms: float
    noticed: float


def figures_of(encoder: PocketTextEncoder, sheet: Sheet) -> Figures:
    """Read a whole sheet."""
    read = [(phrase, encoder.understand(phrase.text)) for phrase in unseen.understood_phrases(sheet)]
    by_look: dict[str, list[bool]] = defaultdict(list)
    for phrase, understanding in read:
        by_look[phrase.look].append(largest(understanding.looks) == phrase.look)
    odd = unseen.unknown_phrases(sheet)
    return Figures(
        looks={look: _share(right) for look, right in by_look.items()},
        look=_share([is_right for right in by_look.values() for is_right in right]),
        colour=_share([largest(understanding.colours) == phrase.colour for phrase, understanding in read]),
        grade=_share([_has_grade(phrase, understanding) for phrase, understanding in read]),
        misspelt_look=_share([largest(u.looks) == phrase.look for phrase, u in read if phrase.is_misspelt]),
        false_alarms=_share([bool(understanding.unknown) for _, understanding in read]),
        noticed=_share([_is_told(phrase, encoder.understand(phrase.text)) for phrase in odd]),
    )


def largest(weights: dict[str, float]) -> str:
    """The name with the largest weight."""
    return max(weights, key=weights.__getitem__)


def words_table(encoder: PocketTextEncoder) -> str:
    """The figures of all sheets as Markdown, then what is read wrong of the whole sentences."""
    sheets = {name: figures_of(encoder, sheet) for name, sheet in unseen.SHEETS.items()}
    names = ("look", "colour", "grade", "misspelt_look", "noticed", "false_alarms")
    rows = {name.replace("_", " "): [getattr(figures, name) for figures in sheets.values()] for name in names}
    rows |= {look: [figures.looks[look] for figures in sheets.values()] for look in unseen.FIRST.synonyms}
    lines = [f"| share in % | {' | '.join(f'{name} sheet' for name in sheets)} |", "| --- |" + " --- |" * len(sheets)]
    lines += [f"| {name} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |" for name, shares in rows.items()]
    wrong = []
    for sentence, look, colour in unseen.SENTENCES:
        read = encoder.understand(sentence)
        if (largest(read.looks), largest(read.colours)) != (look, colour):
            wrong.append(f"{sentence!r} is read as {largest(read.looks)}, {largest(read.colours)}")
    lines.append(f"\n{len(unseen.SENTENCES) - len(wrong)} of {len(unseen.SENTENCES)} sentences are read right.")
    silent = [repr(sentence) for sentence in unseen.UNKNOWN_SENTENCES if not encoder.understand(sentence).unknown]
    count = len(unseen.UNKNOWN_SENTENCES)
    wrong.append(f"{count - len(silent)} of {count} that ask for nothing are told as unknown.")
    return "\n".join([*lines, *wrong, *(f"{each} is not" for each in silent)])


def _is_told(phrase: Phrase, read: Understanding) -> bool:
    """Of two unknown words side by side, both."""
    return all(set(split_words(odd)) & set(read.unknown) for odd in phrase.odd)


def _has_grade(phrase: Phrase, read: Understanding) -> bool:
    grade = "weak" if read.strength < WEAK_BELOW else "strong" if read.strength > STRONG_ABOVE else "plain"
    return grade == phrase.grade


def _share(cases: list[bool]) -> float:
    return sum(cases) / len(cases)
