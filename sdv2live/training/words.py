"""Prompts for training the text encoder: sentences made of the words of `vocabulary.py`.

A drawn prompt comes with what it should be read as. What judges the encoder stands apart, in `unseen.py`.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from sdv2live.engine.model.pocket_text import STRENGTHS, split_words
from sdv2live.training.effects import COLOURS, LOOKS
from sdv2live.training.vocabulary import (
    COLOUR_WORDS,
    FILLERS,
    HINT_WORDS,
    LOOK_WORDS,
    PLAIN,
    STRANGE,
    STRANGE_PHRASES,
    STRONG_WORDS,
    SUBJECTS,
    TEMPLATES,
    WEAK_WORDS,
)

LOOK_NAMES, COLOUR_NAMES = tuple(LOOKS), tuple(COLOURS)

HINT, WEAK, FULL, STRONG = range(len(STRENGTHS))
GRADES = {HINT: HINT_WORDS, WEAK: WEAK_WORDS, STRONG: STRONG_WORDS}
ENDINGS = ("s", "y", "ly", "ish", "like", "ed", "style", "esque", "ing", "ised", "er")
SYLLABLE_STARTS, VOWELS = tuple("bcdfghklmnprstvwz"), tuple("aeiou")
_ASKING = (*LOOK_WORDS.values(), *COLOUR_WORDS.values(), *GRADES.values())
ASKING_WORDS = tuple(sorted({w for phrases in _ASKING for phrase in phrases for w in split_words(phrase)}))
_FRAMES = tuple(template.format(look="", subject="", filler="") for template in TEMPLATES)
# Words that may stand around what asks for something.
SILENT_WORDS = tuple(
    sorted({*PLAIN, *(w for p in (*SUBJECTS, *FILLERS, *_FRAMES) for w in split_words(p) if w)} - {*ASKING_WORDS})
)
STRANGE_WORDS = tuple(sorted(set(STRANGE)))


@dataclass(frozen=True)
class Reading:
    """A prompt and what it asks for. looks, colours: weights that sum to 1. The strengths are places in STRENGTHS."""

    text: str
    looks: np.ndarray
    colours: np.ndarray
    look_strength: int = FULL
    colour_strength: int = FULL


def misspell(word: str, rng: np.random.Generator) -> str:
    """One letter dropped, doubled, swapped or replaced, inside words long enough to stay recognisable."""
    if len(word) < 5:
        return word
    at = int(rng.integers(1, len(word) - 1))
    letter = chr(97 + int(rng.integers(26)))
    return (
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :],
        word[:at] + letter + word[at + 1 :],
    )[int(rng.integers(4))]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _nonsense(rng: np.random.Generator) -> str:
    """A word of no language: syllables, letters, halves of two words, or one that begins or ends as a known word."""
    kind = rng.random()
    if kind < 0.3:
        return "".join(_pick(SYLLABLE_STARTS, rng) + _pick(VOWELS, rng) for _ in range(rng.integers(2, 5)))
    if kind < 0.5:
        return "".join(chr(97 + int(c)) for c in rng.integers(0, 26, int(rng.integers(3, 9))))
    one, two = _pick(STRANGE, rng), _pick(STRANGE, rng)
    if kind < 0.8:
        return one[: len(one) // 2 + 1] + two[len(two) // 2 :]
    known = _pick(ASKING_WORDS, rng)
    half = max(2, len(known) // 2)
    return known[:half] + two[len(two) // 2 :] if kind < 0.9 else one[: len(one) // 2 + 1] + known[-half:]


def _strange(rng: np.random.Generator) -> str:
    """Something that means nothing to the model."""
    kind = rng.random()
    if kind < 0.4:
        return _nonsense(rng)
    return _pick(STRANGE_PHRASES if kind < 0.45 else STRANGE, rng)


def _plain(rng: np.random.Generator, most: int) -> str:
    """Up to `most` ordinary words in no order."""
    return " ".join(_pick(PLAIN, rng) for _ in range(int(rng.integers(most + 1))))


def _reshape(phrase: str, rng: np.random.Generator) -> str:
    """Now and then another ending, or two words written as one: what a language does to its words."""
    words = phrase.split()
    kind = rng.random()
    if kind < 0.12:
        at = int(rng.integers(len(words)))
        if len(words[at]) > 3 and words[at].isalpha():
            words[at] += _pick(ENDINGS, rng)
    elif kind < 0.2 and len(words) > 1:
        at = int(rng.integers(len(words) - 1))
        words[at : at + 2] = [words[at] + _pick(("", "-"), rng) + words[at + 1]]
    return " ".join(words)


def _around(phrase: str, rng: np.random.Generator) -> str:
    """A sentence about a look: one of the templates, or ordinary words before and after it."""
    if rng.random() < 0.45:
        subject = _pick(SUBJECTS, rng) if rng.random() < 0.4 else ""
        return f"{_plain(rng, 3)} {phrase} {_plain(rng, 2)} {subject}"
    template = _pick(TEMPLATES, rng)
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name}
    drawn = {"subject": _pick(SUBJECTS, rng), "filler": _pick(FILLERS, rng)}
    return template.format(look=phrase, **{name: drawn[name] for name in names if name != "look"})


def _colour_alone(rng: np.random.Generator) -> Reading:
    """One colour and nothing around it, now and then with how much of it."""
    looks, colours = np.zeros(len(LOOK_NAMES)), np.zeros(len(COLOUR_NAMES))
    colour = int(rng.integers(1, len(COLOUR_NAMES)))
    looks[0] = colours[colour] = 1
    text, strength = _pick(COLOUR_WORDS[COLOUR_NAMES[colour]], rng), FULL
    if rng.random() < 0.3:
        strength = (HINT, WEAK, STRONG)[int(rng.integers(3))]
        text = f"{_pick(GRADES[strength], rng)} {text}"
    if rng.random() < 0.3:
        text = _slipped(text, rng)
    return Reading(text, looks, colours, FULL, strength)


def draw(rng: np.random.Generator, look: int | None = None, colour: int | None = None) -> Reading:
    """A prompt with its reading; look and colour (indices) are drawn where they are not given."""
    looks, colours = np.zeros(len(LOOK_NAMES)), np.zeros(len(COLOUR_NAMES))
    is_free = look is None and colour is None
    if is_free and rng.random() < 0.05:
        return _colour_alone(rng)
    if is_free and (kind := rng.random()) < 0.26:
        looks[0] = colours[0] = 1
        if kind < 0.02:
            return Reading("", looks, colours)
        if kind < 0.1:
            return Reading(_slipped(f"{_pick(SUBJECTS, rng)} {_plain(rng, 5)}", rng), looks, colours)
        if kind < 0.18:
            return Reading(_strange(rng), looks, colours)
        parts = [_plain(rng, 3), *(_strange(rng) for _ in range(int(rng.integers(1, 4)))), _plain(rng, 2)]
        return Reading(" ".join(" ".join(parts).split()), looks, colours)
    look = int(rng.integers(len(LOOK_NAMES))) if look is None else look
    if colour is None:
        colour = 0 if rng.random() < 0.5 else int(rng.integers(1, len(COLOUR_NAMES)))
    looks[look], colours[colour] = 1, 1
    strength, colour_strength = FULL, FULL
    phrase = _reshape(_pick(LOOK_WORDS[LOOK_NAMES[look]], rng), rng)
    tint = _reshape(_pick(COLOUR_WORDS[COLOUR_NAMES[colour]], rng), rng) if colour else ""
    grade = (HINT, WEAK, STRONG)[int(rng.choice(3, p=(0.25, 0.4, 0.35)))] if is_free and rng.random() < 0.3 else FULL
    if is_free and look and rng.random() < 0.32:
        second = int(rng.integers(1, len(LOOK_NAMES)))
        joint = _pick(("and", "mixed with", "meets", "+", "plus", "with", "blended with", ","), rng)
        phrase = f"{phrase} {joint} {_pick(LOOK_WORDS[LOOK_NAMES[second]], rng)}"
        looks[look] -= 0.5
        looks[second] += 0.5
    if grade != FULL and look:
        phrase, strength = f"{_reshape(_pick(GRADES[grade], rng), rng)} {phrase}", grade
    elif grade != FULL and colour:
        tint, colour_strength = f"{_pick(GRADES[grade], rng)} {tint}", grade
    if look and colour and strength == FULL and is_free and rng.random() < 0.1:
        colour_strength = (HINT, WEAK)[int(rng.integers(2))]
        text = f"{_around(phrase, rng)} with {_pick(GRADES[colour_strength], rng)} {tint}"
    elif look == 0 and colour and rng.random() < 0.7:
        text = _around(tint, rng) if rng.random() < 0.6 else f"{tint} {_pick(('', 'light', 'picture', 'mood'), rng)}"
    elif tint and rng.random() < 0.5:
        text = _around(f"{tint} {phrase}", rng)
    else:
        text = _around(phrase, rng) + (_pick((", ", " in ", " with ", " "), rng) + tint if tint else "")
    if rng.random() < 0.2:
        odd = _strange(rng)
        joint = _pick(("with", "and", ",", "of", "a", ""), rng)
        text = f"{text} {joint} {odd}" if rng.random() < 0.7 else f"{odd} {joint} {text}"
    return Reading(_slipped(text, rng), looks, colours, strength, colour_strength)


def _slipped(text: str, rng: np.random.Generator) -> str:
    """A prompt as it may be typed: tidy, or with a slip or two, now and then in capitals."""
    words = text.split()
    if (slips := rng.random()) < 0.45 and words:
        for _ in range(1 if slips < 0.37 else 2):
            at = int(rng.integers(len(words)))
            words[at] = misspell(words[at], rng)
    text = " ".join(words)
    return text.upper() if rng.random() < 0.03 else text
