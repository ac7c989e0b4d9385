"""Texts ahead of the stream: nothing waits that should not, what is kept, what is given up, what is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdv2live.engine.embedding_cache import EmbeddingCache
from sdv2live.engine.text_ahead import Direct, TextAhead, Texts, _Request
from sdv2live.errors import UserError

LIMIT_S = 20.0
WAITER = "waiter"


def vector(text: str) -> Tensor:
    return torch.full((1, 4, 2), float(len(text)) + 1)


class Encoder:
    """Encodes at once, or one text for each `let_one` while it is held. `bad` texts fail."""

    def __init__(self, *, held: bool = False) -> None:
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.bad: dict[str, Exception] = {}
        self.started = threading.Semaphore(0)
        self._held = held
        self._go = threading.Semaphore(0)

    def __call__(self, text: str) -> Tensor:
        self.calls.append(text)
        self.threads.add(threading.get_ident())
        self.started.release()
        if self._held:
            assert self._go.acquire(timeout=LIMIT_S)
        if text in self.bad:
            raise self.bad[text]
        return vector(text)

    def wait_for_start(self) -> None:
        assert self.started.acquire(timeout=LIMIT_S)

    def let(self, count: int = 1) -> None:
        self._go.release(count)

    def let_all(self) -> None:
        self.let(1000)


@pytest.fixture
def make() -> Iterator[Callable[..., Watched]]:
    made: list[tuple[Watched, Encoder]] = []

    def build(encoder: Encoder, **settings: Any) -> Watched:
        ahead = Watched(encoder, **settings)
        made.append((ahead, encoder))
        return ahead

    yield build
    for ahead, encoder in made:
        encoder.let_all()
        ahead.close()


class Waiter:
    """`wait` on a thread of its own; `join` gives what came of it."""

    def __init__(self, ahead: TextAhead, text: str) -> None:
        self._came: list[Tensor | UserError] = []

        def wait() -> None:
            try:
                self._came.append(ahead.wait(text))
            except UserError as error:
                self._came.append(error)

        self._thread = threading.Thread(target=wait, name=WAITER)
        self._thread.start()

    def join(self) -> Tensor | UserError:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        return self._came[0]


class Watched(TextAhead):
    """Tells when a `Waiter` has come to its wait, and what is on its way."""

    def __init__(self, encode: Callable[[str], Tensor], **settings: Any) -> None:
        self.asked = threading.Semaphore(0)
        super().__init__(encode, **settings)

    def _request(self, text: str) -> _Request:
        if threading.current_thread().name == WAITER:
            self.asked.release()
        return super()._request(text)

    @property
    def pending(self) -> tuple[str, ...]:
        """Texts that are on their way, the one in hand first."""
        with self._changed:
            in_hand = (self._in_hand[0],) if self._in_hand is not None else ()
            return in_hand + tuple(self._wanted)


def waited_for(ahead: Watched, text: str) -> Waiter:
    """A waiter whose text is queued and counted as waited for."""
    waiter = Waiter(ahead, text)
    assert ahead.asked.acquire(timeout=LIMIT_S)
    _ = ahead.pending  # goes through the lock after the waiter, which was told of while it held it
    return waiter


Make = Callable[..., Watched]


def test_get_never_waits_and_gives_the_same_object_once_it_is_there(make: Make) -> None:
    encoder = Encoder(held=True)
    ahead = make(encoder)
    assert ahead.pending == ()
    assert ahead.get("fox") is None
    encoder.wait_for_start()
    assert ahead.get("fox") is None and ahead.pending == ("fox",) and ahead.failure("fox") is None
    encoder.let()
    embedding = ahead.wait("fox")
    assert torch.equal(embedding, vector("fox")) and ahead.get("fox") is embedding is ahead.wait("fox")
    assert ahead.pending == () and encoder.calls == ["fox"]
    assert encoder.threads.isdisjoint({threading.get_ident()})


def test_prepared_texts_are_there_when_asked_for(make: Make) -> None:
    encoder = Encoder()
    ahead = make(encoder)
    ahead.prepare("fox")
    first = ahead.wait("fox")
    ahead.prepare("fox")
    assert ahead.get("fox") is first and encoder.calls == ["fox"]


def test_the_newest_goes_first_and_the_oldest_is_given_up(make: Make) -> None:
    encoder = Encoder(held=True)
    ahead = make(encoder, wanted_texts=3)
    ahead.get("now")
    encoder.wait_for_start()
    for text in ("a", "b", "c", "d"):
        ahead.prepare(text)
    assert ahead.pending == ("now", "b", "c", "d")
    ahead.get("b")  # asked for again: now the newest
    assert ahead.pending == ("now", "c", "d", "b")
    encoder.let_all()
    for text in ("b", "c", "d"):
        ahead.wait(text)
    assert encoder.calls == ["now", "b", "d", "c"]
    assert ahead.get("a") is None
    assert torch.equal(ahead.wait("a"), vector("a")), "what was given up comes back when it is asked for"


def test_what_is_waited_for_comes_first_and_is_not_given_up(make: Make) -> None:
    encoder = Encoder(held=True)
    ahead = make(encoder, wanted_texts=2)
    ahead.get("now")
    encoder.wait_for_start()
    first, second = waited_for(ahead, "first"), waited_for(ahead, "second")
    for text in ("a", "b", "c"):
        ahead.prepare(text)
    assert ahead.pending == ("now", "first", "second", "c")
    encoder.let_all()
    assert torch.equal(first.join(), vector("first")) and torch.equal(second.join(), vector("second"))
    ahead.wait("c")
    assert encoder.calls == ["now", "first", "second", "c"]


def test_all_who_wait_for_a_text_get_the_same(make: Make) -> None:
    encoder = Encoder(held=True)
    ahead = make(encoder)
    waiters = [waited_for(ahead, "fox") for _ in range(4)]
    encoder.let()
    results = [waiter.join() for waiter in waiters]
    assert all(result is results[0] for result in results) and encoder.calls == ["fox"]


def test_a_failure_is_told_and_not_tried_again_by_each_chunk(make: Make) -> None:
    encoder = Encoder()
    ahead = make(encoder)
    encoder.bad["fox"] = UserError("the weights w.pth are missing:\nfetch them.")
    with pytest.raises(UserError, match=r"^the weights w\.pth are missing: fetch them\.$"):
        ahead.wait("fox")
    for _ in range(5):
        assert ahead.get("fox") is None
    assert ahead.failure("fox") == "the weights w.pth are missing: fetch them." and ahead.pending == ()
    assert torch.equal(ahead.wait("owl"), vector("owl")), "one bad text does not stop the others"
    assert encoder.calls == ["fox", "owl"]
    del encoder.bad["fox"]
    ahead.prepare("fox")
    assert torch.equal(ahead.wait("fox"), vector("fox"))
    assert ahead.failure("fox") is None and encoder.calls == ["fox", "owl", "fox"]


def test_a_bug_in_the_encoder_ends_one_text_and_not_the_thread(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder()
    ahead = make(encoder)
    text = "long " * 100
    encoder.bad[text] = ZeroDivisionError("division by zero")
    with pytest.raises(UserError, match=r"the prompt 'long .{0,60}…' could not be encoded \(division by zero\)"):
        ahead.wait(text)
    assert "ZeroDivisionError" in caplog.text, "the log has the traceback"
    assert torch.equal(ahead.wait("owl"), vector("owl"))


def test_what_was_used_last_is_kept(make: Make) -> None:
    encoder = Encoder()
    ahead = make(encoder, kept_texts=2)
    fox = ahead.wait("fox")
    ahead.wait("owl")
    assert ahead.get("fox") is fox
    ahead.wait("elk")
    assert ahead.get("fox") is fox
    ahead.wait("owl")
    assert encoder.calls == ["fox", "owl", "elk", "owl"]


def test_failures_are_bounded_too(make: Make) -> None:
    encoder = Encoder()
    ahead = make(encoder, kept_texts=2)
    for text in ("a", "b", "c"):
        encoder.bad[text] = UserError("no.")
        with pytest.raises(UserError):
            ahead.wait(text)
    assert [ahead.failure(text) for text in ("a", "b", "c")] == [None, "no.", "no."]


def test_the_disk_is_asked_before_and_told_after(make: Make, tmp_path: Path) -> None:
    first, second = Encoder(), Encoder()
    cache = EmbeddingCache(tmp_path, "model")
    made = make(first, cache=cache).wait("fox")
    read = make(second, cache=cache).wait("fox")
    assert torch.equal(made, read) and first.calls == ["fox"] and second.calls == []
    make(second, cache=EmbeddingCache(tmp_path, "other model")).wait("fox")
    assert second.calls == ["fox"]


def test_a_failure_is_not_kept_on_disk(make: Make, tmp_path: Path) -> None:
    encoder = Encoder()
    encoder.bad["fox"] = UserError("no.")
    with pytest.raises(UserError):
        make(encoder, cache=EmbeddingCache(tmp_path, "model")).wait("fox")
    assert list(tmp_path.iterdir()) == []


def test_close_ends_the_thread_and_all_waits(make: Make) -> None:
    encoder = Encoder(held=True)
    ahead = make(encoder)
    in_hand = waited_for(ahead, "in hand")
    encoder.wait_for_start()
    queued = waited_for(ahead, "queued")
    closer = threading.Thread(target=ahead.close)
    closer.start()
    gone = queued.join()
    assert isinstance(gone, UserError) and "closed before the prompt was ready" in str(gone)
    assert closer.is_alive(), "the text in hand is waited for"
    encoder.let()
    closer.join(LIMIT_S)
    assert not closer.is_alive() and not ahead._thread.is_alive()
    done = in_hand.join()
    assert isinstance(done, Tensor) and ahead.get("in hand") is done is ahead.wait("in hand")
    assert ahead.get("queued") is None and ahead.pending == () and encoder.calls == ["in hand"]
    ahead.prepare("queued")
    with pytest.raises(UserError, match="closed"):
        ahead.wait("queued")
    ahead.close()


def test_close_does_not_hang_with_an_encoder_that_does(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder(held=True)
    ahead = make(encoder)
    ahead.get("fox")
    encoder.wait_for_start()
    ahead.close(timeout_s=0.01)
    assert "still works on a prompt" in caplog.text and ahead._thread.daemon


def test_what_was_used_last_comes_from_memory_or_the_disk(make: Make, tmp_path: Path) -> None:
    ahead = make(Encoder(), cache=EmbeddingCache(tmp_path, "model"))
    assert ahead.last_used() is None
    ahead.wait("fox")
    owl = ahead.wait("a tawny owl")
    assert ahead.last_used() is owl
    fox = ahead.get("fox")
    assert ahead.last_used() is fox
    again = make(Encoder(), cache=EmbeddingCache(tmp_path, "model")).last_used()
    assert again is not None and torch.equal(again, owl), "of the process before: the last that it took from there"


def test_many_threads_at_once(make: Make) -> None:
    encoder = Encoder()
    ahead = make(encoder, kept_texts=5, wanted_texts=3)
    texts = ["x" * length for length in range(12)]
    failed: list[object] = []

    def use(shift: int) -> None:
        try:
            for i in range(200):
                text = texts[(i * (shift + 1) + shift) % len(texts)]
                ahead.prepare(texts[i % len(texts)])
                given = ahead.get(text)
                if given is None:
                    given = ahead.wait(text)
                if not torch.equal(given, vector(text)):
                    failed.append(text)
                if len(ahead.pending) > 1 + 3 + 8:
                    failed.append(ahead.pending)
        except UserError as error:
            failed.append(error)

    threads = [threading.Thread(target=use, args=(shift,)) for shift in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert not failed and not any(thread.is_alive() for thread in threads)


def test_an_encoder_that_is_cheap_needs_no_thread() -> None:
    encoder = Encoder()
    direct: Texts = Direct(encoder, kept_texts=2)
    before = threading.active_count()
    fox = direct.get("fox")
    assert fox is not None and direct.get("fox") is fox is direct.wait("fox")
    direct.prepare("owl")
    assert encoder.calls == ["fox", "owl"] and encoder.threads == {threading.get_ident()}
    direct.get("fox")
    direct.get("elk")
    direct.get("owl")
    assert encoder.calls == ["fox", "owl", "elk", "owl"], "what was used longest ago went"
    assert threading.active_count() == before
    direct.close()


def test_a_cheap_encoder_s_failures_are_told_alike() -> None:
    encoder = Encoder()
    direct: Texts = Direct(encoder)
    encoder.bad["fox"] = UserError("no such look.")
    assert direct.get("fox") is None and direct.get("fox") is None
    assert direct.failure("fox") == "no such look." and encoder.calls == ["fox"]
    with pytest.raises(UserError, match="no such look"):
        direct.wait("fox")
    del encoder.bad["fox"]
    direct.prepare("fox")
    assert direct.failure("fox") is None and direct.get("fox") is not None
    encoder.bad["owl"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        direct.get("owl")
