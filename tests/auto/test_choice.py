"""What `auto` chooses, by figures alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sdv2live.auto.choice import (
    DECODERS,
    HEADROOM,
    Candidate,
    Fixed,
    candidates,
    choose,
    disproved,
    most_fps,
    next_trial,
    still_fits,
    unmeasured,
)

POCKET: dict[str, tuple[str, ...]] = {"pocket": ()}
ALL: dict[str, tuple[str, ...]] = {"wan-14b": DECODERS, "wan-1.3b": ("taehv",), "pocket": ()}


def tried(order: list[Candidate], wanted: float, speed: Callable[[Candidate], float]) -> dict[Candidate, float]:
    """What is measured on a machine of this speed, until the choice can be made."""
    measured: dict[Candidate, float] = {}
    while one := next_trial(order, measured, wanted):
        assert one not in measured
        measured[one] = speed(one)
    return measured


def test_the_order_gives_up_what_costs_the_picture_least_first() -> None:
    order = candidates(ALL, Fixed())
    assert len(set(order)) == len(order)
    assert [one.words for one in order[:5]] == [
        "wan-14b 832x480, wan, 1 step, latency",
        "wan-14b 832x480, wan-taehv, 1 step, latency",
        "wan-14b 832x480, taehv, 1 step, latency",
        "wan-14b 640x368, wan, 1 step, latency",
        "wan-14b 640x368, wan-taehv, 1 step, latency",
    ]
    assert [one.words for one in order if one.engine == "wan-1.3b"][:4] == [
        "wan-1.3b 832x480, taehv, 2 steps, latency",
        "wan-1.3b 832x480, taehv, 2 steps, throughput",
        "wan-1.3b 832x480, taehv, 1 step, latency",
        "wan-1.3b 640x368, taehv, 2 steps, latency",
    ]
    engines = [one.engine for one in order]
    assert engines == sorted(engines, key=("wan-14b", "wan-1.3b", "pocket").index)
    assert {one.vae for one in order if one.engine == "wan-1.3b"} == {"taehv"}
    assert [one.words for one in order if one.engine == "pocket"] == [
        "pocket 256x256, 1 step, latency",
        "pocket 192x192, 1 step, latency",
        "pocket 160x160, 1 step, latency",
    ]
    sizes = [one.pixels for one in order if one.engine == "wan-14b"]
    assert sizes == sorted(sizes, reverse=True)


def test_what_the_user_has_fixed_is_respected_and_the_rest_is_chosen() -> None:
    order = candidates(ALL, Fixed(size_wh=(512, 288), steps=1, vae="taehv"))
    assert {(one.size_wh, one.steps) for one in order} == {((512, 288), 1)}
    assert {one.vae for one in order} == {"taehv", ""}
    assert {one.engine for one in order} == set(ALL)
    assert {one.schedule for one in candidates(ALL, Fixed(schedule="throughput"))} == {"throughput"}
    four = candidates(ALL, Fixed(steps=4))
    assert {one.engine for one in four} == {"wan-14b", "wan-1.3b"}  # the list of the pocket engine has no fourth


def test_a_fast_machine_is_tried_once() -> None:
    order = candidates(ALL, Fixed())
    measured = tried(order, 16.0, lambda one: 40.0)
    assert list(measured) == order[:1]
    choice = choose(order, measured, 16.0)
    assert choice.candidate == order[0] and choice.fps == 40.0
    assert choice.words == "auto: wan-14b 832x480, wan, 1 step, latency: 40.0 fps measured, 16 wanted"
    assert choice.brought == {"steps.count": 1, "schedule": "latency"}


def model_fps(one: Candidate) -> float:
    """A machine on which time grows with pixels and steps, and a batch and a light decoder help."""
    ms = {"wan-14b": 900.0, "wan-1.3b": 120.0, "pocket": 100.0}[one.engine] * one.steps
    ms *= one.pixels / {"wan-14b": 832 * 480, "wan-1.3b": 832 * 480, "pocket": 256 * 256}[one.engine]
    ms *= 0.8 if one.schedule == "throughput" else 1.0
    return 4000 / (ms + {"wan": 200, "wan-taehv": 80, "taehv": 30, "": 0}[one.vae])


@pytest.mark.parametrize("wanted", [1.0, 4.0, 10.0, 16.0, 24.0, 30.0, 60.0, 120.0])
@pytest.mark.parametrize("here", [POCKET, ALL, {"wan-1.3b": DECODERS, "pocket": ()}])
def test_what_is_left_out_would_not_have_been_chosen(here: dict[str, tuple[str, ...]], wanted: float) -> None:
    """Against trying everything."""
    order = candidates(here, Fixed())
    whole = {one: model_fps(one) for one in order}
    measured = tried(order, wanted, model_fps)
    best = next((one for one in order if whole[one] >= HEADROOM * wanted), None)
    found = choose(order, measured, wanted)
    if best is not None:
        assert found.candidate == best
    else:
        assert "nothing here holds it" in found.words or "little to spare" in found.words
        assert found.fps == max(measured.values())
    for one in order:
        assert most_fps(one, measured) >= whole[one] or one in measured


def test_a_trial_that_something_held_up_is_found_out_by_the_others() -> None:
    first, second, third = candidates(POCKET, Fixed())
    assert disproved({first: 4.0, second: 45.7}) == {first}  # 3.2 times the fewer pixels' share is all there is to gain
    assert disproved({first: 30.0, second: 45.7, third: 60.0}) == set()
    assert disproved({first: 0.0, second: 45.7}) == set()
    # On a machine that is as it is, nothing is disproved.
    assert disproved({one: model_fps(one) for one in candidates(ALL, Fixed())}) == set()


def test_one_that_cannot_be_run_says_nothing_of_the_smaller_ones() -> None:
    order = candidates(POCKET, Fixed())
    measured = tried(order, 24.0, lambda one: 0.0 if one.size_wh == (256, 256) else 29.4)
    choice = choose(order, measured, 24.0)
    assert choice.words == "auto: pocket 192x192, 1 step, latency: 29.4 fps measured, 24 wanted"


def test_where_nothing_holds_the_rate_the_fastest_runs_and_says_so() -> None:
    order = candidates(POCKET, Fixed())
    choice = choose(order, {order[0]: 8.0, order[1]: 14.0, order[2]: 11.0}, 30.0)
    assert choice.candidate == order[1] and "14.0 fps measured, 30 wanted; nothing here holds it" in choice.words
    assert "with little to spare" in choose(order, {order[0]: 31.0}, 30.0).words


def test_without_a_measurement_what_ships_runs() -> None:
    assert unmeasured(candidates(ALL, Fixed()), "stopped").words == "auto: pocket 256x256, 1 step, latency: stopped"
    assert choose(candidates(ALL, Fixed()), {}, 30.0).candidate.engine == "pocket"
    only = candidates({"wan-1.3b": ("taehv",)}, Fixed(steps=4))
    assert unmeasured(only, "stopped").candidate.steps == 4  # nothing else can be had with these flags


@pytest.mark.parametrize(("live", "fits"), [(30.0, True), (22.0, True), (20.0, False), (41.0, True), (43.0, False)])
def test_a_run_that_shows_otherwise(live: float, fits: bool) -> None:
    assert still_fits(30.0, live) is fits
