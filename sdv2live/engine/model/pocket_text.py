"""The pocket model's text encoder: a prompt to eight tokens. Knows torch and the standard library alone.

Words, what is left of them without one letter, and their letter groups are hashed into one table, so that a typo or an
unseen form lands near the word meant. Eight learned queries look at the words; what they see is read as weights of the
known looks and colours, and as how strong they are wanted; the tokens are the mixture of a fixed code for each. So two
wordings that are understood alike give the same tokens, and what `understand` tells is what the picture follows.

It knows its two word lists, not language. A word, give or take a slip of the keyboard or an ending, asks for something,
or it stands around what asks and is not listened to; a word of neither list is listened to if it reads as a look or a
colour by itself. All others are unknown: they are left out and told. Where no word asks, none can stand around one that
does: then all but the smallest are unknown, and the prompt is an empty one.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 16384
WORD_DIM = 32
TOKENS = 8
TOKEN_DIM = 128
FIRST_LOOKS = 11
MAX_WORDS = 48
MAX_CHARACTERS = 2000
# How much of a look words can ask for. The last is a little beyond the looks as trained: pictures go on in a line.
STRENGTHS = (0.35, 0.6, 1.0, 1.2)
SHORTEST_UNKNOWN = 3  # letters; shorter words and numbers are never unknown
SHORTEST_WITH_SLIP = 5  # letters; shorter words have too many others one slip away
FULL_NOISE = 0.5  # the noise scale from which on all of a look is asked for
SURE = 0.8  # how surely a word outside the vocabulary has to be read as a look or a colour
# Words that a forgotten gap sticks to another one; of two nouns in one word nobody knows what is meant.
SMALL_WORDS = (
    "to",
    "on",
    "in",
    "of",
    "as",
    "the",
    "you",
    "me",
    "it",
    "is",
    "and",
    "with",
    "now",
    "here",
    "for",
    "please",
)
BEGINNINGS = ("un", "re", "non")
# Of a form, and of its stem.
ENDINGS = (
    ("s", ""), ("es", ""), ("d", ""), ("ed", ""), ("r", ""), ("er", ""), ("ers", ""), ("st", ""), ("est", ""),
    ("ing", ""), ("ing", "e"), ("led", ""), ("ling", ""), ("y", ""), ("ly", ""), ("al", ""), ("ally", ""), ("ic", ""),
    ("ish", ""), ("ist", ""), ("ism", ""), ("like", ""), ("less", ""), ("ness", ""), ("ised", ""), ("ized", ""),
    ("ation", ""), ("ies", "y"), ("ied", "y"), ("ily", "y"),
)  # fmt: skip
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a prompt was read as. looks and colours: weights that sum to 1. strength: how much of the look is wanted, or
    of the colour where no look is, 1 as trained. unknown: the words that were left out, as they were split."""

    looks: dict[str, float]
    colours: dict[str, float]
    strength: float
    unknown: tuple[str, ...]


def strength_of_noise(noise_scale: Tensor) -> Tensor:
    """How much of the look a noise scale (0 to 1) asks for: none at 0, all from FULL_NOISE on."""
    return (noise_scale / FULL_NOISE).clamp(0, 1)


def without_one_letter(word: str) -> list[str]:
    """Two words with one slip between them share one of these, or one of them is among the other's."""
    return [word[:i] + word[i + 1 :] for i in range(len(word))]


@functools.lru_cache(maxsize=4096)
def hashed_rows(word: str) -> tuple[int, ...]:
    """Table rows of a word: itself, its rests without one letter, its groups of 3 to 5 letters. Row 0 is no word."""
    marked = f"<{word}>"
    rests = [f"<{rest}>" for rest in without_one_letter(word)] if len(word) > 3 else []
    grams = [marked, *rests, *(marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1))]
    return tuple(1 + zlib.crc32(gram.encode()) % (ROWS - 1) for gram in grams)


def split_words(text: str) -> list[str]:
    """Lower-case words without accents, at most MAX_WORDS; '' for an empty prompt."""
    plain = "".join(
        c for c in unicodedata.normalize("NFKD", text[:MAX_CHARACTERS].lower()) if not unicodedata.combining(c)
    )
    return _WORD.findall(plain)[:MAX_WORDS] or [""]


class WordList:
    """Words, their forms, and what is one slip of the keyboard away from either."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = frozenset(words)
        self._slips = frozenset(
            slip for word in self.words if len(word) >= SHORTEST_WITH_SLIP for slip in _slips(word, is_written=False)
        )

    def __contains__(self, word: str) -> bool:
        return word in self.words or self._has_form(word) or self._has_gap_forgotten(word)

    def _has_form(self, word: str) -> bool:
        begun = [word, *(word.removeprefix(beginning) for beginning in BEGINNINGS)]
        stems = {each.removesuffix(form) + stem for each in begun for form, stem in ENDINGS if each.endswith(form)}
        return any(stem in self.words or self._has_slip(stem) for stem in {*begun, *stems})

    def _has_slip(self, word: str) -> bool:
        if len(word) < SHORTEST_WITH_SLIP:
            # Of a word that is long enough, with a letter too few.
            return len(word) == SHORTEST_WITH_SLIP - 1 and (word, "rest") in self._slips
        return not self._slips.isdisjoint(_slips(word, is_written=True))

    def _has_gap_forgotten(self, word: str) -> bool:
        stuck = [word.removeprefix(small) for small in SMALL_WORDS] + [
            word.removesuffix(small) for small in SMALL_WORDS
        ]
        return any(rest != word and len(rest) >= SHORTEST_WITH_SLIP and rest in self.words for rest in stuck)


def _is_small(word: str) -> bool:
    return len(word) < SHORTEST_UNKNOWN or word.isdigit() or word in SMALL_WORDS


def _slips(word: str, *, is_written: bool) -> list[tuple[str, str]]:
    """What a word and what was written for it have in common where there is one slip between them.

    The slips are a letter too few, one too many, another one in its place, and two swapped; the first letter is right.
    """
    rests = without_one_letter(word)[1:]
    marks = ("whole", "rest") if is_written else ("rest", "whole")
    number = [(word, marks[1]), *((rest, marks[0]) for rest in rests)]
    another = [(rest, str(at)) for at, rest in enumerate(rests)]
    steps = (0,) if is_written else (-1, 1)
    swapped = [(rest, f"{at + step}{word[at + 1]}") for step in steps for at, rest in enumerate(rests)]
    return number + another + swapped


@dataclass(frozen=True, slots=True)
class Scores:
    """Logits: of looks [B, looks], of colours [B, colours], and of the STRENGTHS of both [B, 2, 4]."""

    looks: Tensor
    colours: Tensor
    strengths: Tensor


class PocketTextEncoder(nn.Module):
    """Prompts to tokens [B, 8, 128] of about unit variance, and to what was understood."""

    look_codes: Tensor
    colour_codes: Tensor

    def __init__(
        self,
        looks: Sequence[str],
        colours: Sequence[str],
        *,
        asking: Iterable[str] = (),
        silent: Iterable[str] = (),
        strange: Iterable[str] = (),
    ) -> None:
        """looks, colours: names. asking: the words that ask for something. silent: those that may stand around them.
        strange: common words that are neither, so that none is taken for another word with a slip in it."""
        super().__init__()
        self.looks, self.colours = tuple(looks), tuple(colours)
        self._asking, self._silent, self._strange = WordList(asking), WordList(silent), frozenset(strange)
        self.table = nn.EmbeddingBag(ROWS, WORD_DIM, mode="mean")
        nn.init.normal_(self.table.weight, std=0.5)
        self.keys = nn.Linear(WORD_DIM, TOKENS, bias=False)  # the learned queries: one row each
        self.values = nn.Linear(WORD_DIM, 48)
        asked = len(looks) + len(colours) + 2 * len(STRENGTHS)
        self.read = nn.Sequential(nn.Linear(TOKENS * 48, 128), nn.SiLU(), nn.Linear(128, asked))
        # Looks that came later are drawn after the colours, so that no code moves and old looks keep their pictures.
        draws = torch.Generator().manual_seed(20)
        first, colour_codes, later = (
            torch.randn(len(names), TOKENS, TOKEN_DIM, generator=draws)
            for names in (looks[:FIRST_LOOKS], colours, looks[FIRST_LOOKS:])
        )
        self.register_buffer("look_codes", torch.cat([first, later]) * 0.8)
        self.register_buffer("colour_codes", colour_codes * 0.6)

    @classmethod
    def from_config(cls, fields: Mapping[str, Any]) -> PocketTextEncoder:
        """As `text` in config.json describes it, without its weights."""
        lists = {name: fields[name].split() for name in ("asking", "silent", "strange")}
        return cls(fields["looks"], fields["colours"], **lists)

    def _words(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Word vectors [B, W, WORD_DIM] and where there is a word [B, W]."""
        device = self.table.weight.device
        split = [split_words(text) for text in texts]
        rows = [hashed_rows(word) for words in split for word in words]
        offsets = torch.tensor([0, *(len(r) for r in rows[:-1])], device=device).cumsum(0)
        flat = self.table(torch.tensor([row for r in rows for row in r], device=device), offsets)
        present = torch.zeros(len(texts), max(map(len, split)), dtype=torch.bool, device=device)
        for i, words in enumerate(split):
            present[i, : len(words)] = True
        padded = flat.new_zeros(*present.shape, WORD_DIM)
        padded[present] = flat
        return padded, present

    def scores(self, texts: list[str]) -> Scores:
        """What is read out of each prompt, all its words heard."""
        words, present = self._words(texts)
        attention = self.keys(words).masked_fill(~present[..., None], -1e4).softmax(1)
        seen = torch.einsum("bwq,bwd->bqd", attention, self.values(words))
        sizes = [len(self.looks), len(self.colours), 2 * len(STRENGTHS)]
        looks, colours, strengths = self.read(seen.flatten(1)).split(sizes, 1)
        return Scores(looks, colours, strengths.unflatten(1, (2, len(STRENGTHS))))

    def weights(self, scores: Scores) -> tuple[Tensor, Tensor]:
        """Weights of the codes [B, looks], [B, colours], each summing to 1; what strength leaves goes to the first."""
        parts = []
        for logits, strength in zip((scores.looks, scores.colours), self._strengths(scores).T, strict=True):
            shares = F.softmax(logits, 1) * strength[:, None]
            parts.append(shares + F.pad((1 - strength)[:, None], (0, shares.shape[1] - 1)))
        return parts[0], parts[1]

    def _strengths(self, scores: Scores) -> Tensor:
        """[B, 2]"""
        return F.softmax(scores.strengths, 2) @ scores.strengths.new_tensor(STRENGTHS)

    def tokens_of(self, look_weights: Tensor, colour_weights: Tensor) -> Tensor:
        """Weights [B, looks], [B, colours] -> tokens [B, 8, 128]."""
        return torch.einsum("bl,lqd->bqd", look_weights, self.look_codes) + torch.einsum(
            "bc,cqd->bqd", colour_weights, self.colour_codes
        )

    def weakened(self, tokens: Tensor, noise_scale: Tensor) -> Tensor:
        """Tokens [B, 8, 128] as little noise, [B], asks for them: the rest of the way from the empty prompt's.

        So the transformer knows a source with little noise, which is to change little, from a late denoising step,
        which is to keep what the first one drew: their timestep is the same.
        """
        plain = self.look_codes[0] + self.colour_codes[0]
        return torch.lerp(plain, tokens, strength_of_noise(noise_scale).view(-1, 1, 1).to(tokens))

    def encode(self, texts: list[str]) -> Tensor:
        """Prompts -> tokens [B, 8, 128], float, on the weights' device."""
        return self.tokens_of(*self.weights(self.scores([self._heard(text)[0] for text in texts])))

    @torch.no_grad()
    def read_prompt(self, text: str) -> tuple[Tensor, Understanding]:
        """The tokens of one prompt [1, 8, 128], and what it was read as."""
        heard, unknown = self._heard(text)
        scores = self.scores([heard])
        is_colour_alone = bool(scores.looks[0].argmax() == 0 and scores.colours[0].argmax() > 0)
        return self.tokens_of(*self.weights(scores)), Understanding(
            dict(zip(self.looks, F.softmax(scores.looks[0], 0).tolist(), strict=True)),
            dict(zip(self.colours, F.softmax(scores.colours[0], 0).tolist(), strict=True)),
            float(self._strengths(scores)[0, int(is_colour_alone)]),
            unknown,
        )

    def understand(self, text: str) -> Understanding:
        """What one prompt is read as, for showing to the user."""
        return self.read_prompt(text)[1]

    def asks(self, word: str) -> bool | None:
        """Whether a word asks for something; None if the lists do not know it."""
        if word in self._asking.words:
            return True
        if len(word) < SHORTEST_UNKNOWN or word.isdigit() or word in self._silent.words:
            return False
        if word in self._strange:
            return None
        return True if word in self._asking else False if word in self._silent else None

    def _heard(self, text: str) -> tuple[str, tuple[str, ...]]:
        """The words of a prompt that ask for something, and those that are unknown, each once."""
        words = split_words(text)
        asks = {word: self.asks(word) for word in words}
        if strangers := [word for word in asks if asks[word] is None]:
            asks |= dict(zip(strangers, self._read_alone(strangers), strict=True))
        is_idle = all(_is_small(word) for word in asks if asks[word])
        unknown = tuple(word for word in asks if asks[word] is None or (is_idle and not _is_small(word)))
        return " ".join(word for word in words if asks[word]), unknown

    @torch.no_grad()
    def _read_alone(self, words: list[str]) -> list[bool | None]:
        """True for those that read as a look or a colour by themselves, None for the others."""
        scores = self.scores(words)
        asked = [1 - F.softmax(logits, 1)[:, 0] for logits in (scores.looks, scores.colours)]
        return [True if share > SURE else None for share in torch.maximum(*asked).tolist()]
