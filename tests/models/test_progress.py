"""Rates and times left, with a clock of the test's own; and how they are said."""

from __future__ import annotations

import pytest

from sdv2live.models.command import progress_text, time_text
from sdv2live.models.manifest import ENGINES, MODELS, engines_with, size_text
from sdv2live.progress import RATE_OVER_S, Reading, Transfer


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_time_left_follows_from_what_came_in_this_run() -> None:
    clock = Clock()
    transfer = Transfer({"a": 1000, "b": 3000}, {"a": 400}, now=clock)
    assert transfer.at("a", 400) == Reading(400, 1000, 400, 4000, None, None, None), "no rate before anything came"
    clock.now_s += 1
    assert transfer.at("a", 500).rate_per_s is None, "nor in the first moments"
    clock.now_s += 1
    reading = transfer.at("a", 600)
    assert (reading.rate_per_s, reading.left_s, reading.all_left_s) == (100, 4, 34), "what was there is no part of it"
    clock.now_s += 4
    reading = transfer.at("a", 1000)
    assert (reading.rate_per_s, reading.left_s, reading.all_done) == (100, 0, 1000)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    transfer = Transfer({"a": 10**9}, {}, now=clock)
    done = 0
    for rate, seconds in ((1000, 60), (10, int(RATE_OVER_S) + 2)):
        for _ in range(seconds):
            clock.now_s, done = clock.now_s + 1, done + rate
            reading = transfer.at("a", done)
    assert reading.rate_per_s == 10


def test_a_line_says_the_file_and_all() -> None:
    reading = Reading(120_000_000, 507_600_000, 140_000_000, 17_600_000_000, 11_200_000.0, 34.6, 1559.0)
    assert progress_text("fetching", "wan-vae", reading) == (
        "fetching wan-vae: 120.0 MB of 507.6 MB, 11.2 MB/s, 35 s left; in all 140.0 MB of 17.6 GB, 26 min left"
    )
    alone = Reading(5, 10, 5, 10, None, None, None)
    assert progress_text("checking", "taehv", alone) == "checking taehv: 0 kB of 0 kB"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (98.4, "98 s"), (99, "2 min"), (3570, "1 h 00 min"), (7500, "2 h 05 min")]
)
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert time_text(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (950_000, "950 kB"),
        (16_837_417, "16.8 MB"),
        (999_600_000, "1.00 GB"),
        (5_676_070_424, "5.68 GB"),
        (28.6e9, "28.6 GB"),
    ],
)
def test_sizes_are_decimal_as_the_hub_has_them(count: float, words: str) -> None:
    assert size_text(count) == words


def test_the_manifest_is_whole() -> None:
    assert set(MODELS) == {name for names in ENGINES.values() for name in names}
    for name, model in MODELS.items():
        assert model.name == name and engines_with(name)
        assert model.place in model.found_as, "what is fetched is found"
        assert not model.place.startswith("/") and ".." not in model.place
        assert (
            model.checksum is None or len(model.checksum.digest) == {"sha256": 64, "git-sha1": 40}[model.checksum.kind]
        )
        assert (model.revision == "main") == (model.checksum is None), "a hash is known of one revision"
