"""The prompts that judge the text encoder are none that it was trained on."""

import itertools
import re

import numpy as np
import pytest

from sdv2live.engine.model.pocket_text import split_words
from sdv2live.training import unseen, vocabulary, words
from sdv2live.training.unseen import Sheet

SHEETS = pytest.mark.parametrize("sheet", unseen.SHEETS.values(), ids=unseen.SHEETS)


def _plain(text: str) -> str:
    """As the encoder sees it, without gaps: '8-bit', '8 bit' and '8bit' are one wording."""
    return "".join(split_words(text))


def _all(lists: dict[str, tuple[str, ...]]) -> set[str]:
    return {_plain(phrase) for phrases in lists.values() for phrase in phrases}


@SHEETS
def test_no_synonym_is_shared_with_training(sheet: Sheet) -> None:
    assert not _all(sheet.synonyms) & _all(vocabulary.LOOK_WORDS)
    assert not _all(sheet.colours) & _all(vocabulary.COLOUR_WORDS)
    grades = {_plain(word) for graded in words.GRADES.values() for word in graded}
    assert not {_plain(word) for word in (*sheet.weakly, *sheet.strongly)} & grades


@SHEETS
def test_no_sentence_frame_is_shared_with_training(sheet: Sheet) -> None:
    def frames(templates: tuple[str, ...]) -> set[str]:
        return {" ".join(re.findall(r"[\w{}']+", template.lower())) for template in templates}

    assert not frames(sheet.frames) & frames(vocabulary.TEMPLATES)
    drawn = {_plain(frame.format(look="", subject="", filler="")) for frame in vocabulary.TEMPLATES}
    assert not {_plain(frame.format(look="", subject="")) for frame in sheet.frames} & drawn - {""}


@SHEETS
def test_no_unknown_word_is_drawn_in_training(sheet: Sheet) -> None:
    strange = {word for phrase in (*vocabulary.STRANGE, *vocabulary.STRANGE_PHRASES) for word in split_words(phrase)}
    drawn = strange.union(words.ASKING_WORDS, words.SILENT_WORDS)
    for phrase in sheet.unknown:
        assert set(split_words(phrase)) - drawn, phrase


def test_the_sheets_have_nothing_in_common() -> None:
    for one, two in itertools.combinations(unseen.SHEETS.values(), 2):
        assert not _all(one.synonyms) & _all(two.synonyms)
        assert not _all(one.colours) & _all(two.colours)
        others = {*two.frames, *two.unknown, *two.weakly, *two.strongly}
        assert not {*one.frames, *one.unknown, *one.weakly, *one.strongly} & others


def test_strange_words_are_no_known_ones() -> None:
    assert not set(vocabulary.STRANGE) & {*words.ASKING_WORDS, *words.SILENT_WORDS}


@SHEETS
def test_whole_sentences_are_never_drawn(sheet: Sheet) -> None:
    drawn = {_plain(words.draw(np.random.default_rng(i)).text) for i in range(3000)}
    judged = {_plain(phrase.text) for phrase in (*unseen.understood_phrases(sheet), *unseen.unknown_phrases(sheet))}
    judged |= {_plain(text) for text, _, _ in unseen.SENTENCES if text}
    assert not drawn & judged


def test_phrases_are_the_same_each_time() -> None:
    for sheet in unseen.SHEETS.values():
        assert unseen.understood_phrases(sheet) == unseen.understood_phrases(sheet)
        assert unseen.unknown_phrases(sheet) == unseen.unknown_phrases(sheet)


def test_a_slip_changes_one_word_by_little() -> None:
    text, is_misspelt = unseen.slip("watercolour", np.random.default_rng(1))
    assert is_misspelt
    assert text != "watercolour" or "tt" in text
    assert abs(len(text) - len("watercolour")) <= 1
    assert unseen.slip("oil ink", np.random.default_rng(1)) == ("oil ink", False)
