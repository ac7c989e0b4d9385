"""Texts made into embeddings ahead of the stream, so that no chunk waits for a text encoder. Owns: that thread.

Knows neither encoders nor mixes: encoding is a callable, run on the thread `text-ahead` alone. All that is public may
be called from any thread. An embedding comes from memory, else from disk, else it is made. `Direct` has the same
interface for an encoder that is cheap: no thread, encoded when asked for.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from sdv2live.engine.embedding_cache import EmbeddingCache
from sdv2live.errors import UserError, one_line

log = logging.getLogger(__name__)

KEPT_TEXTS = 64
WANTED_TEXTS = 8
CLOSE_TIMEOUT_S = 10.0
_SHOWN_CHARACTERS = 60
_CLOSED = "the text encoder was closed before the prompt was ready."

T = TypeVar("T")


class Texts(Protocol):
    """Where the embeddings of texts come from. An embedding is the same object for as long as it is kept."""

    def get(self, text: str) -> Tensor | None:
        """The embedding, or None if it is not there: then it is on its way, or it has failed. Never waits.

        A text that has failed is not tried again by `get`, which is asked once a chunk, but by `prepare` and `wait`.
        """

    def wait(self, text: str) -> Tensor:
        """The embedding. Blocks until it is there; raises UserError if it cannot be made."""

    def prepare(self, text: str) -> None:
        """See to it that `text` is there when it is asked for. Never waits; failures are told by `failure`."""

    def last_used(self) -> Tensor | None:
        """The embedding that was used last, in this process or before, or None. Reads the disk."""

    def failure(self, text: str) -> str | None:
        """The sentence that says why `text` could not be encoded, or None."""

    def close(self) -> None:
        """End what was started. Whoever waits gets a UserError."""


@dataclass(slots=True, eq=False)
class _Request:
    """A text on its way. waiting: how many threads block on it; such a request is not given up for newer ones."""

    waiting: int = 0
    done: threading.Event = field(default_factory=threading.Event)
    embedding: Tensor | None = None
    failure: str = ""


class TextAhead:
    """`Texts` with a thread of its own. Texts that are waited for come first, then the newest asked for.

    At most `wanted_texts` are queued: the one asked for longest ago is given up, and comes back when it is asked for
    again. encode: text to [1, X, D], may take seconds and raises UserError. cache: asked before, told after.
    """

    def __init__(
        self,
        encode: Callable[[str], Tensor],
        *,
        cache: EmbeddingCache | None = None,
        kept_texts: int = KEPT_TEXTS,
        wanted_texts: int = WANTED_TEXTS,
    ) -> None:
        self._encode, self._cache = encode, cache
        self._wanted_texts = wanted_texts
        # One lock for all that follows; it is never held while a text is encoded or the disk is read.
        self._changed = threading.Condition()
        self._kept = _Recent[Tensor](kept_texts)
        self._failures = _Recent[str](kept_texts)
        self._wanted: OrderedDict[str, _Request] = OrderedDict()  # the newest last
        self._in_hand: tuple[str, _Request] | None = None
        self._is_closed = False
        # A daemon, so that an encoder which hangs on a dead disk cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name="text-ahead", daemon=True)
        self._thread.start()

    def get(self, text: str) -> Tensor | None:
        with self._changed:
            embedding = self._kept.get(text)
            if embedding is None and self._failures.get(text) is None:
                self._request(text)
            return embedding

    def wait(self, text: str) -> Tensor:
        with self._changed:
            embedding = self._kept.get(text)
            if embedding is not None:
                return embedding
            request = self._request(text)
            request.waiting += 1
        request.done.wait()
        if request.embedding is None:
            raise UserError(request.failure)
        return request.embedding

    def prepare(self, text: str) -> None:
        with self._changed:
            if self._kept.get(text) is None:
                self._request(text)

    def last_used(self) -> Tensor | None:
        with self._changed:
            embedding = self._kept.newest
        if embedding is None and self._cache is not None:
            embedding = self._cache.last_used()
        return embedding

    def failure(self, text: str) -> str | None:
        with self._changed:
            return self._failures.get(text)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Ends the thread once the text in hand is done, and gives up the others. What is kept can still be had."""
        with self._changed:
            self._is_closed = True
            for request in self._wanted.values():
                request.failure = _CLOSED
                request.done.set()
            self._wanted.clear()
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("the text encoder still works on a prompt after %g s: it is left to itself", timeout_s)

    def _request(self, text: str) -> _Request:
        """The request of `text`, new or as it stands. The lock is held."""
        if self._in_hand is not None and self._in_hand[0] == text:
            return self._in_hand[1]
        request = self._wanted.get(text)
        if request is not None:
            self._wanted.move_to_end(text)
            return request
        request = _Request()
        if self._is_closed:
            request.failure = _CLOSED
            request.done.set()
            return request
        self._failures.forget(text)
        self._wanted[text] = request
        if len(self._wanted) > self._wanted_texts:
            # If all the others are waited for, nothing goes: they are no more than there are threads.
            given_up = next(name for name, older in self._wanted.items() if not older.waiting)
            if given_up != text:
                del self._wanted[given_up]
        self._changed.notify()
        return request

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._is_closed)
                if self._is_closed:
                    return
                waited_for = (text for text, request in self._wanted.items() if request.waiting)
                text = next(waited_for, next(reversed(self._wanted)))
                request = self._wanted.pop(text)
                self._in_hand = text, request
            request.embedding, request.failure = self._make(text)
            with self._changed:
                self._in_hand = None
                if request.embedding is not None:
                    self._kept.put(text, request.embedding)
                else:
                    self._failures.put(text, request.failure)
                request.done.set()
            # Not kept alive by a thread that sleeps.
            del request

    def _make(self, text: str) -> tuple[Tensor | None, str]:
        """(embedding, "") or (None, why not). The thread's top: no text may end it."""
        try:
            embedding = self._cache.get(text) if self._cache is not None else None
            if embedding is None:
                embedding = self._encode(text)
                if self._cache is not None:
                    self._cache.put(text, embedding)
            return embedding, ""
        except UserError as error:
            return None, one_line(error)
        except Exception as error:
            log.exception("the text encoder failed")
            return None, f"the prompt {_quoted(text)} could not be encoded ({one_line(error)}): try another wording."


class Direct:
    """`Texts` for an encoder that takes no time to speak of: everything happens in the call, on one thread.

    An error that is no UserError passes through.
    """

    def __init__(self, encode: Callable[[str], Tensor], *, kept_texts: int = KEPT_TEXTS) -> None:
        self._encode = encode
        self._kept = _Recent[Tensor](kept_texts)
        self._failures = _Recent[str](kept_texts)

    def get(self, text: str) -> Tensor | None:
        if self._kept.get(text) is None and self._failures.get(text) is None:
            self.prepare(text)
        return self._kept.get(text)

    def wait(self, text: str) -> Tensor:
        embedding = self._kept.get(text)
        if embedding is None:
            self._failures.forget(text)
            embedding = self._encode(text)
            self._kept.put(text, embedding)
        return embedding

    def prepare(self, text: str) -> None:
        try:
            self.wait(text)
        except UserError as error:
            self._failures.put(text, one_line(error))

    def last_used(self) -> Tensor | None:
        return self._kept.newest

    def failure(self, text: str) -> str | None:
        return self._failures.get(text)

    def close(self) -> None:
        pass


class _Recent(Generic[T]):
    """The last `capacity` things put or asked for, by text. No lock of its own."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._things: OrderedDict[str, T] = OrderedDict()

    def get(self, text: str) -> T | None:
        if text in self._things:
            self._things.move_to_end(text)
        return self._things.get(text)

    @property
    def newest(self) -> T | None:
        return next(reversed(self._things.values()), None)

    def put(self, text: str, thing: T) -> None:
        self._things[text] = thing
        self._things.move_to_end(text)
        if len(self._things) > self._capacity:
            self._things.popitem(last=False)

    def forget(self, text: str) -> None:
        self._things.pop(text, None)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")
