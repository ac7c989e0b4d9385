"""The text encoder's hashing never moves, its lists forgive slips alone, its tokens are what was understood."""

import numpy as np
import pytest
import torch

from sdv2live.engine.model.pocket_text import (
    STRENGTHS,
    PocketTextEncoder,
    WordList,
    hashed_rows,
    split_words,
    strength_of_noise,
)
from sdv2live.engine.pocket_words import load_text_encoder
from sdv2live.paths import assets_dir
from sdv2live.training import vocabulary, words
from sdv2live.training.train_words import new_text_encoder


def _encoder() -> PocketTextEncoder:
    torch.manual_seed(0)
    return new_text_encoder()


def test_hashing_is_stable() -> None:
    """Numbers that the shipped table was trained with."""
    assert hashed_rows("oil") == (1744, 15456, 7262, 4737, 2480, 9891, 1744)
    assert len(hashed_rows("neon")) == 1 + 4 + 4 + 3 + 2


@pytest.mark.parametrize(
    "written", ["pencil", "pencils", "penciled", "pencilled", "pencl", "penccil", "pemcil", "pecnil", "pencilnow"]
)
def test_a_word_its_forms_and_its_slips_are_in_a_list(written: str) -> None:
    assert written in WordList(["pencil", "now"])


@pytest.mark.parametrize("written", ["stencil", "pence", "council", "penicillin", "pencilcase", "peril"])
def test_other_words_are_not(written: str) -> None:
    assert written not in WordList(["pencil", "now"])


def test_short_words_have_no_slips() -> None:
    assert "ink" in WordList(["ink"])
    assert "inn" not in WordList(["ink"])


def test_a_word_is_heard_passed_over_or_unknown() -> None:
    text = PocketTextEncoder(["identity", "oil"], ["none"], asking=["oil"], silent=["actors"], strange=["factor"])
    found = {word: text.asks(word) for word in ("oil", "oils", "actor", "factor", "12", "a", "wombat")}
    assert found == {"oil": True, "oils": True, "actor": False, "factor": None, "12": False, "a": False, "wombat": None}


def test_where_nothing_asks_all_but_small_words_are_unknown() -> None:
    text = PocketTextEncoder(
        ["identity", "oil"],
        ["none"],
        asking=["a", "bit", "of", "oil"],
        silent=["banana", "with", "lion"],
        strange=["x"],
    )
    told = {
        prompt: text.understand(prompt).unknown for prompt in ("a banana", "oil of a banana", "with a lion", "", "a")
    }
    assert told == {"a banana": ("banana",), "oil of a banana": (), "with a lion": ("lion",), "": (), "a": ()}


def test_every_word_that_asks_is_read_by_itself() -> None:
    text = load_text_encoder(assets_dir() / "pocket")
    wrong = []
    for names, wordings in (("looks", vocabulary.LOOK_WORDS), ("colours", vocabulary.COLOUR_WORDS)):
        for name, phrases in wordings.items():
            read = {phrase: getattr(text.understand(phrase), names) for phrase in phrases}
            wrong += [(phrase, name) for phrase, shares in read.items() if max(shares, key=shares.get) != name]
    assert not wrong


def test_the_strength_of_a_colour_alone_is_told() -> None:
    text = load_text_encoder(assets_dir() / "pocket")
    strengths = [text.understand(prompt).strength for prompt in ("a hint of red", "slightly red", "red", "very red")]
    assert strengths == pytest.approx(STRENGTHS, abs=0.1)


def test_words_are_split_without_case_and_accents() -> None:
    assert split_words("An Animé-film, 8-BIT!") == ["an", "anime", "film", "8", "bit"]
    assert split_words("  ,. ") == [""]
    assert len(split_words("word " * 500)) == 48


def test_tokens_do_not_depend_on_the_batch() -> None:
    text = _encoder()
    prompts = ["oil painting", "", "a very long prompt about a blue neon city at night"]
    together = text.encode(prompts)
    assert together.shape == (3, 8, 128)
    for i, prompt in enumerate(prompts):
        torch.testing.assert_close(together[i : i + 1], text.encode([prompt]))


def test_codes_have_unit_variance() -> None:
    text = _encoder()
    looks, colours = torch.eye(len(text.looks)), torch.eye(len(text.colours))
    for colour in colours:
        tokens = text.tokens_of(looks, colour[None].expand(len(looks), -1))
        assert 0.8 < float(tokens.std()) < 1.2


def test_understand_sums_to_one() -> None:
    read = _encoder().understand("teal pixel art")
    assert abs(sum(read.looks.values()) - 1) < 1e-5
    assert abs(sum(read.colours.values()) - 1) < 1e-5
    assert min(STRENGTHS) <= read.strength <= max(STRENGTHS)
    assert read.unknown == ()


def test_weights_are_a_mixture_whatever_the_strength() -> None:
    text = _encoder()
    looks, colours = text.weights(text.scores(["slightly oil", "extremely neon", ""]))
    torch.testing.assert_close(looks.sum(1), torch.ones(3))
    torch.testing.assert_close(colours.sum(1), torch.ones(3))


def test_drawn_prompts_are_readable_and_repeatable() -> None:
    for step in range(300):
        one, two = words.draw(np.random.default_rng(step)), words.draw(np.random.default_rng(step))
        assert one.text == two.text
        assert abs(one.looks.sum() - 1) < 1e-9
        assert abs(one.colours.sum() - 1) < 1e-9


def test_strength_is_full_from_half_noise_on() -> None:
    torch.testing.assert_close(
        strength_of_noise(torch.tensor([0.0, 0.25, 0.5, 0.8])), torch.tensor([0.0, 0.5, 1.0, 1.0])
    )


def test_little_noise_weakens_tokens_towards_those_of_an_empty_prompt() -> None:
    text = _encoder()
    looks, colours = torch.eye(len(text.looks)), torch.eye(len(text.colours))
    empty, oil = text.tokens_of(looks[:1], colours[:1]), text.tokens_of(looks[1:2], colours[2:3])
    half = text.tokens_of((looks[:1] + looks[1:2]) / 2, (colours[:1] + colours[2:3]) / 2)
    weakened = text.weakened(oil.expand(4, -1, -1), torch.tensor([0.0, 0.25, 0.5, 0.9]))
    torch.testing.assert_close(weakened, torch.cat([empty, half, oil, oil]))
