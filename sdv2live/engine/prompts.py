"""From words to the embedding of each chunk. Owns: the cache of encoded texts, mixes and transitions.

Embeddings are blended, weights and transitions alike; keys and values are made from the blend and never blended.
Runs on the engine's thread; `encode` is the engine's text encoder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Mix = tuple[tuple[str, float], ...]
KEPT_TEXTS = 64


@dataclass(frozen=True, slots=True)
class PromptStep:
    """What one chunk is conditioned on. embedding [1, X, text_dim]; the same object as long as nothing changes.

    is_new: the first chunk that carries a changed prompt whole (after a blend: its last chunk).
    """

    embedding: Tensor
    is_new: bool


class PromptMixer:
    """Moves from one prompt mix to the next: at once, or in a straight line over n chunks."""

    def __init__(self, encode: Callable[[str], Tensor]) -> None:
        self._encode = encode
        self._texts: OrderedDict[str, Tensor] = OrderedDict()
        self.reset()

    def reset(self) -> None:
        """Forget where a transition stood; the next chunk starts at its own prompt."""
        self._mix: Mix | None = None
        self._start: Tensor | None = None
        self._target: Tensor | None = None
        self._current: Tensor | None = None
        self._done = self._length = 0

    def advance(self, mix: Mix, transition_chunks: int) -> PromptStep:
        """The embedding of the next chunk, which asks for `mix`, blended in over `transition_chunks` if it is new."""
        if self._current is None or mix != self._mix:
            is_first = self._current is None
            self._mix, self._start, self._target = mix, self._current, self._blend(mix)
            self._done, self._length = 0, 0 if is_first else transition_chunks
            if self._length == 0:
                self._current = self._target
                return PromptStep(self._target, is_new=not is_first)
        if self._done < self._length and self._start is not None and self._target is not None:
            self._done += 1
            if self._done == self._length:
                self._current = self._target
                return PromptStep(self._target, is_new=True)
            self._current = torch.lerp(self._start, self._target, self._done / self._length)
        assert self._current is not None
        return PromptStep(self._current, is_new=False)

    def _blend(self, mix: Mix) -> Tensor:
        weighted = [(self._embedding(text), weight) for text, weight in mix if weight > 0]
        if len(weighted) == 1:
            return weighted[0][0]
        total = sum(weight for _, weight in weighted)
        return torch.stack([embedding * (weight / total) for embedding, weight in weighted]).sum(0)

    def _embedding(self, text: str) -> Tensor:
        if text not in self._texts:
            self._texts[text] = self._encode(text)
            if len(self._texts) > KEPT_TEXTS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(text)
        return self._texts[text]
