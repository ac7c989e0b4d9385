"""From words to the embedding of each chunk. Owns: mixes and transitions.

Embeddings are blended, weights and transitions alike; keys and values are made from the blend and never blended.
Where texts become embeddings is `text_ahead.py`. Runs on the engine's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdv2live.engine.text_ahead import Texts
from sdv2live.errors import UserError

log = logging.getLogger(__name__)

Mix = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class PromptStep:
    """What one chunk is conditioned on. embedding [1, X, text_dim]; the same object as long as nothing changes.

    is_new: the first chunk that carries a changed prompt whole (after a blend: its last chunk).
    """

    embedding: Tensor
    is_new: bool


class PromptMixer:
    """Moves from one prompt mix to the next: at once, or in a straight line over n chunks.

    waits: block until a new prompt is encoded, as a render must, so that the same settings give the same file. Live it
    does not: the stream goes on with the prompt before, over a reset too, and the new one starts when it is there.
    """

    def __init__(self, texts: Texts, *, waits: bool = False) -> None:
        self._texts, self._waits = texts, waits
        self._failed: Mix | None = None
        self._fallback: Tensor | None = None  # the last one that could be had
        self._upcoming = ""
        self.reset()

    def reset(self) -> None:
        """Forget where a transition stood; the next chunk starts at its own prompt."""
        self._mix: Mix | None = None
        self._start: Tensor | None = None
        self._target: Tensor | None = None
        self._current: Tensor | None = None
        self._done = self._length = 0

    def advance(self, mix: Mix, transition_chunks: int, *, upcoming: str = "") -> PromptStep:
        """The embedding of the next chunk, which asks for `mix`, blended in over `transition_chunks` if it is new.

        upcoming: a text that is likely to be next, to be encoded ahead. Raises UserError if the very first prompt, or
        with `waits` any prompt, cannot be encoded; a later one that fails is said in the log and the one before stays.
        """
        if upcoming and upcoming != self._upcoming:
            self._texts.prepare(upcoming)
        self._upcoming = upcoming
        if (self._current is None or mix != self._mix) and (target := self._blend(mix)) is not None:
            is_first = self._current is None
            self._mix, self._start, self._target = mix, self._current, target
            self._fallback = target
            self._done, self._length = 0, 0 if is_first else transition_chunks
            if self._length == 0:
                self._current = target
                return PromptStep(target, is_new=not is_first)
        if self._current is None:
            self._current = self._fallback
        if self._done < self._length and self._start is not None and self._target is not None:
            self._done += 1
            if self._done == self._length:
                self._current = self._target
                return PromptStep(self._target, is_new=True)
            self._current = torch.lerp(self._start, self._target, self._done / self._length)
        assert self._current is not None
        return PromptStep(self._current, is_new=False)

    def encode(self, texts: Sequence[str], *, falls_back: bool = False) -> None:
        """Have these texts ready. Blocks; raises UserError.

        falls_back: where one cannot be encoded, be content with any embedding that can be had, to show until it can.
        """
        try:
            for text in texts:
                self._fallback = self._texts.wait(text)
        except UserError:
            spare = self._texts.last_used() if falls_back and not self._waits else None
            if spare is None:
                raise
            self._fallback = spare

    def close(self) -> None:
        self._texts.close()

    def _blend(self, mix: Mix) -> Tensor | None:
        """The weighted mean of the mix's embeddings, or None as long as one is not there."""
        weighted = [(text, weight) for text, weight in mix if weight > 0]
        must_wait = self._waits or self._fallback is None
        embeddings = [self._texts.wait(text) if must_wait else self._texts.get(text) for text, _ in weighted]
        known = [embedding for embedding in embeddings if embedding is not None]
        if len(known) < len(weighted):
            self._say_failure(mix)
            return None
        if len(known) == 1:
            return known[0]
        total = sum(weight for _, weight in weighted)
        shares = [weight / total for _, weight in weighted]
        return torch.stack([embedding * share for embedding, share in zip(known, shares, strict=True)]).sum(0)

    def _say_failure(self, mix: Mix) -> None:
        """Once for each mix that is asked for, not once a chunk."""
        reasons = [reason for text, weight in mix if weight > 0 and (reason := self._texts.failure(text))]
        if reasons and mix != self._failed:
            self._failed = mix
            log.error("the prompt before stays: %s", reasons[0])
