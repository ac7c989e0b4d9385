"""The text encoder's hashing never moves, and its tokens are what was understood."""

import numpy as np
import torch

from sdv2live.engine.model.pocket_text import PocketTextEncoder, hashed_rows, split_words
from sdv2live.training import words


def _encoder() -> PocketTextEncoder:
    torch.manual_seed(0)
    return PocketTextEncoder(words.LOOK_NAMES, words.COLOUR_NAMES)


def test_hashing_is_stable() -> None:
    """Numbers that the shipped table was trained with."""
    assert hashed_rows("oil") == (337, 3407, 4147, 5210, 2527, 7009, 337)


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
    assert 0 <= read.unknown <= 1


def test_drawn_prompts_are_readable_and_repeatable() -> None:
    for step in range(300):
        one, two = words.draw(np.random.default_rng(step)), words.draw(np.random.default_rng(step))
        assert one.text == two.text
        assert abs(one.looks.sum() - 1) < 1e-9
        assert abs(one.colours.sum() - 1) < 1e-9
