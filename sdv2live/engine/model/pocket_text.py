"""The pocket model's text encoder: a prompt to eight tokens. Knows torch and the standard library alone.

Words and their letter groups are hashed into one table, so that a typo or an unseen form lands near the word meant.
Eight learned queries look at the words; what they see is read as weights of the known looks and colours; the tokens
are the mixture of a fixed code for each. So two wordings that are understood alike give the same tokens, and what
`understand` tells is what the picture follows. It knows its looks and colours, not language: the rest of a prompt
counts as unknown and asks for nothing.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import zlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 8192
WORD_DIM = 64
TOKENS = 8
TOKEN_DIM = 128
MAX_WORDS = 48
MAX_CHARACTERS = 2000
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a prompt was read as. Weights sum to 1; unknown is 0 (all understood) to 1 (nothing)."""

    looks: dict[str, float]
    colours: dict[str, float]
    unknown: float


@functools.lru_cache(maxsize=4096)
def hashed_rows(word: str) -> tuple[int, ...]:
    """Table rows of a word: itself and its groups of 3 to 5 letters, with marks at both ends. Row 0 is no word."""
    marked = f"<{word}>"
    grams = [marked] + [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)]
    return tuple(1 + zlib.crc32(gram.encode()) % (ROWS - 1) for gram in grams)


def split_words(text: str) -> list[str]:
    """Lower-case words without accents, at most MAX_WORDS; '' for an empty prompt."""
    plain = "".join(
        c for c in unicodedata.normalize("NFKD", text[:MAX_CHARACTERS].lower()) if not unicodedata.combining(c)
    )
    return _WORD.findall(plain)[:MAX_WORDS] or [""]


class PocketTextEncoder(nn.Module):
    """Prompts to tokens [B, 8, 128] of about unit variance, and to what was understood."""

    look_codes: Tensor
    colour_codes: Tensor

    def __init__(self, looks: tuple[str, ...], colours: tuple[str, ...]) -> None:
        super().__init__()
        self.looks, self.colours = looks, colours
        self.table = nn.EmbeddingBag(ROWS, WORD_DIM, mode="mean")
        nn.init.normal_(self.table.weight, std=0.5)
        self.keys = nn.Linear(WORD_DIM, TOKENS, bias=False)  # the learned queries: one row each
        self.values = nn.Linear(WORD_DIM, 48)
        self.read = nn.Sequential(nn.Linear(TOKENS * 48, 128), nn.SiLU(), nn.Linear(128, len(looks) + len(colours) + 1))
        codes = torch.Generator().manual_seed(20)
        self.register_buffer("look_codes", torch.randn(len(looks), TOKENS, TOKEN_DIM, generator=codes) * 0.8)
        self.register_buffer("colour_codes", torch.randn(len(colours), TOKENS, TOKEN_DIM, generator=codes) * 0.6)

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

    def logits(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of looks [B, looks], of colours [B, colours] and of 'unknown' [B]."""
        words, present = self._words(texts)
        attention = self.keys(words).masked_fill(~present[..., None], -1e4).softmax(1)
        seen = torch.einsum("bwq,bwd->bqd", attention, self.values(words))
        scores = self.read(seen.flatten(1))
        looks, colours, unknown = scores.split([len(self.looks), len(self.colours), 1], 1)
        return looks, colours, unknown[:, 0]

    def tokens_of(self, look_weights: Tensor, colour_weights: Tensor) -> Tensor:
        """Weights [B, looks], [B, colours] -> tokens [B, 8, 128]."""
        return torch.einsum("bl,lqd->bqd", look_weights, self.look_codes) + torch.einsum(
            "bc,cqd->bqd", colour_weights, self.colour_codes
        )

    def encode(self, texts: list[str]) -> Tensor:
        """Prompts -> tokens [B, 8, 128], float, on the weights' device."""
        looks, colours, _ = self.logits(texts)
        return self.tokens_of(F.softmax(looks, 1), F.softmax(colours, 1))

    @torch.no_grad()
    def understand(self, text: str) -> Understanding:
        """What one prompt is read as, for showing to the user."""
        looks, colours, unknown = self.logits([text])
        return Understanding(
            dict(zip(self.looks, F.softmax(looks[0], 0).tolist(), strict=True)),
            dict(zip(self.colours, F.softmax(colours[0], 0).tolist(), strict=True)),
            float(torch.sigmoid(unknown[0])),
        )
