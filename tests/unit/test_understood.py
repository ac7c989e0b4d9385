"""What is told of prompts: shares of a mix, the sentence about unknown words, and the way over the process border."""

import pytest

from sdv2live.understood import ReadPrompts, Understood, from_json, sentence_of_unknown, to_json

OIL = Understood("oil with an octopus", "oil", 1.0, "blue", 0.6, ("octopus",))
NEON = Understood("neon and ink", "neon", 0.75, "none", 1.0, ())
INK = Understood("neon and ink", "ink", 0.25, "none", 1.0, ())
NOTHING = Understood("wombat", "identity", 1.0, "none", 1.0, ("wombat",))


def test_the_border_changes_nothing() -> None:
    assert from_json(to_json([OIL, NEON, INK])) == (OIL, NEON, INK)
    assert from_json(to_json([])) == ()


def test_shares_of_a_mix_sum_to_one_over_all_its_texts() -> None:
    read = ReadPrompts()
    for entries in ((OIL,), (NEON, INK)):
        read.note(entries)
    mixed = read.of_mix([("oil with an octopus", 3.0), ("neon and ink", 1.0), ("never read", 0.0)])
    assert [(entry.look, entry.weight) for entry in mixed] == [("oil", 0.75), ("neon", 0.1875), ("ink", 0.0625)]


def test_nothing_is_told_before_all_texts_are_read() -> None:
    read = ReadPrompts()
    read.note((OIL,))
    assert read.of_mix([(OIL.text, 1.0), ("on its way", 1.0)]) == ()


def test_the_oldest_texts_are_forgotten() -> None:
    read = ReadPrompts(kept=2)
    for entries in ((OIL,), (NEON, INK), (NOTHING,)):
        read.note(entries)
    assert read.of_mix([(OIL.text, 1.0)]) == ()
    assert read.of_mix([(NOTHING.text, 1.0)]) == (NOTHING,)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ((NEON, INK), ""),
        ((OIL,), "'octopus' means nothing to the engine pocket: the picture follows the nearest look, oil."),
        (
            (NOTHING,),
            "'wombat' means nothing to the engine pocket: no look is near, so the picture stays as it is; name ",
        ),
        (
            (Understood("", "identity", 1.0, "red", 1.0, ("fox", "den")),),
            "'fox' and 'den' mean nothing to the engine pocket: the picture keeps its look and takes the colour red; ",
        ),
        (
            (Understood("", "ink", 1.0, "red", 1.0, tuple("abcdefgh")),),
            "'a', 'b', 'c', 'd', 'e', 'f' and 2 more words mean nothing to the engine pocket: the picture follows the "
            "nearest look, ink.",
        ),
    ],
)
def test_the_sentence_names_the_words_and_what_the_picture_does(entries: tuple[Understood, ...], words: str) -> None:
    sentence = sentence_of_unknown("pocket", entries)
    assert sentence.startswith(words)
    assert bool(sentence) == bool(words)
