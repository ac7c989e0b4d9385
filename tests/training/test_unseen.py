"""The prompts that judge the text encoder are none that it was trained on."""

import re

import numpy as np

from sdv2live.engine.model.pocket_text import split_words
from sdv2live.training import unseen, words


def _plain(text: str) -> str:
    """As the encoder sees it, without gaps: '8-bit', '8 bit' and '8bit' are one wording."""
    return "".join(split_words(text))


def _all(lists: dict[str, tuple[str, ...]]) -> set[str]:
    return {_plain(phrase) for phrases in lists.values() for phrase in phrases}


def test_no_synonym_is_shared_with_training() -> None:
    assert not _all(unseen.SYNONYMS) & _all(words.LOOK_WORDS)
    assert not _all(unseen.COLOUR_SYNONYMS) & _all(words.COLOUR_WORDS)
    grades = {_plain(word) for word in (*unseen.WEAKLY, *unseen.STRONGLY)}
    assert not grades & {_plain(word) for word in (*words.WEAK_WORDS, *words.STRONG_WORDS)}


def test_no_sentence_frame_is_shared_with_training() -> None:
    def frames(templates: tuple[str, ...]) -> set[str]:
        return {" ".join(re.findall(r"[\w{}']+", template.lower())) for template in templates}

    bare = {"{look}", "{subject} {look}"}  # no frame at all
    assert not (frames(unseen.FRAMES) & frames(words.TEMPLATES)) - bare
    assert not {_plain(f.format(look="", subject="")) for f in unseen.FRAMES if f != "{look}"} & {
        _plain(t.format(look="", subject="", filler="")) for t in words.TEMPLATES
    } - {""}


def test_no_unknown_word_is_drawn_in_training() -> None:
    known = {word for phrase in (*words.STRANGE, *words.FILLERS, *words.SUBJECTS) for word in split_words(phrase)}
    for lists in (words.LOOK_WORDS, words.COLOUR_WORDS):
        known |= {word for phrases in lists.values() for phrase in phrases for word in split_words(phrase)}
    for phrase in unseen.UNKNOWN:
        assert set(split_words(phrase)) - known, phrase


def test_whole_sentences_are_never_drawn() -> None:
    drawn = {_plain(words.draw(np.random.default_rng(i)).text) for i in range(3000)}
    judged = {_plain(phrase.text) for phrase in (*unseen.understood_phrases(), *unseen.unknown_phrases())}
    judged |= {_plain(text) for text, _, _ in unseen.SENTENCES if text}
    assert not drawn & judged


def test_phrases_are_the_same_each_time() -> None:
    assert unseen.understood_phrases() == unseen.understood_phrases()
    assert unseen.unknown_phrases() == unseen.unknown_phrases()


def test_a_slip_changes_one_word_by_little() -> None:
    text, is_misspelt = unseen.slip("watercolour", np.random.default_rng(1))
    assert is_misspelt
    assert text != "watercolour" or "tt" in text
    assert abs(len(text) - len("watercolour")) <= 1
    assert unseen.slip("oil ink", np.random.default_rng(1)) == ("oil ink", False)
