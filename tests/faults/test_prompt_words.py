"""What the engine's process understands of prompts, told by a live run: status, log and OSC, and pictures meanwhile."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from bridges.osc_guard import decode, encode
from sdv2live.app import LiveApp
from tests.faults.live import Watcher, live_app, until
from tests.faults.test_live_control import free_port

ADDRESS = "/sdv2live/understood"


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[LiveApp, Watcher]]:
    with live_app(osc_port=free_port()) as both:
        yield both


def asked(app: LiveApp) -> list[tuple[object, ...]]:
    """All answers to the question over OSC."""
    assert app.osc is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(10)
        peer.sendto(encode(ADDRESS, []), ("127.0.0.1", app.osc.port))
        answers: list[tuple[object, ...]] = []
        while not answers or answers[-1][0] != answers[-1][1]:
            message = decode(peer.recv(65536)).messages[0]
            assert message.address == ADDRESS
            answers.append(message.arguments)
        return answers


def test_a_prompt_that_is_understood_is_told_and_nothing_is_said(running: tuple[LiveApp, Watcher]) -> None:
    app, _ = running
    app.registry.set("prompt.text", "slightly oil painting in blue", origin="test")
    until(lambda: [e.look for e in app.status().understood] == ["oil"], "what is understood")
    assert app.status().not_understood == ""
    ((number, count, text, look, weight, colour, strength, unknown),) = asked(app)
    assert (number, count, text, look, colour, unknown) == (1, 1, "slightly oil painting in blue", "oil", "blue", "")
    assert weight == 1.0 and 0.3 < float(str(strength)) < 0.85


def test_unknown_words_are_said_once_with_the_nearest_look(
    running: tuple[LiveApp, Watcher], caplog: pytest.LogCaptureFixture
) -> None:
    app, watcher = running
    with caplog.at_level(logging.WARNING, logger="sdv2live.app"):
        app.registry.set("prompt.text", "watercolour of an octopus", origin="test")
        until(lambda: "'octopus'" in app.status().not_understood, "the unknown word")
        shown = len(watcher.ticks)
        until(lambda: len(watcher.ticks) > shown + 10, "pictures go on")
        for prompt in ("night", "watercolour of an octopus"):
            app.registry.set("prompt.text", prompt, origin="test")
            until(lambda p=prompt: [e.text for e in app.status().understood] == [p], "there and back")
    said = [record.getMessage() for record in caplog.records if "octopus" in record.getMessage()]
    assert len(said) == 1
    assert said[0] == app.status().not_understood
    assert "nearest look, watercolour" in said[0]
    (answer,) = asked(app)
    assert (answer[3], answer[7]) == ("watercolour", "octopus")


def test_a_mix_tells_all_its_looks_with_their_shares(running: tuple[LiveApp, Watcher]) -> None:
    app, _ = running
    app.registry.set("prompt.mix", (("night", 3.0), ("a wombat", 1.0)), origin="test")
    until(lambda: len(app.status().understood) == 2, "both texts")
    told = asked(app)
    assert [answer[:4] for answer in told] == [(1, 2, "night", "night"), (2, 2, "a wombat", "identity")]
    assert told[0][4] == pytest.approx(0.75, abs=0.01) and told[1][7] == "wombat"
    app.registry.set("prompt.mix", (), origin="test")


def test_the_picture_of_unknown_words_is_the_source_and_no_noise(running: tuple[LiveApp, Watcher]) -> None:
    """The same moving pattern under nonsense and under no look at all: alike in brightness and in fine grain."""
    app, watcher = running

    def statistics(prompt: str) -> np.ndarray:
        app.registry.set("prompt.text", prompt, origin="test")
        until(lambda: [e.text for e in app.status().understood] == [prompt], "the prompt")
        seen: list[np.ndarray] = []
        shown = len(watcher.ticks)
        until(lambda: len(watcher.ticks) > shown + 40, "its pictures")
        while len(seen) < 8:
            before = len(watcher.ticks)
            until(lambda b=before: len(watcher.ticks) > b, "another picture")
            picture = watcher.newest.astype(np.float32)
            seen.append(np.array([picture.mean(), picture.std(), np.abs(np.diff(picture, axis=1)).mean()]))
        return np.mean(seen, axis=0)

    nonsense, plain = statistics("xkqjz wvut blorf"), statistics("unchanged")
    np.testing.assert_allclose(nonsense, plain, rtol=0.15)


def test_a_question_with_a_value_is_refused(running: tuple[LiveApp, Watcher]) -> None:
    app, _ = running
    assert app.osc is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(10)
        peer.sendto(encode(ADDRESS, ["oil"]), ("127.0.0.1", app.osc.port))
        answer = decode(peer.recv(65536)).messages[0]
    assert answer.address == "/sdv2live/error"
    assert answer.arguments == (ADDRESS, "what is understood can be asked for, not set")
