"""When an engine is started again and when that is given up: a table, with times passed in."""

from __future__ import annotations

from sdv2live.supervisor import Breaker, RestartPolicy


def test_pauses_grow_and_the_fifth_failure_in_five_minutes_is_the_last() -> None:
    breaker = Breaker(RestartPolicy())
    assert [breaker.failed(float(t)) for t in (0, 10, 20, 30, 40)] == [1.0, 2.0, 5.0, 15.0, None]


def test_failures_that_lie_long_back_do_not_count() -> None:
    breaker = Breaker(RestartPolicy())
    for t in (0, 1, 2, 3):
        breaker.failed(float(t))
    assert breaker.failed(400.0) == 1.0


def test_ten_seconds_of_new_pictures_set_the_count_to_nought() -> None:
    breaker = Breaker(RestartPolicy())
    for t in (0, 1, 2, 3):
        breaker.failed(float(t))
    breaker.picture(5.0)
    breaker.picture(14.9)
    assert breaker.failed(14.95) is None
    breaker = Breaker(RestartPolicy())
    for t in (0, 1, 2, 3):
        breaker.failed(float(t))
    breaker.picture(5.0)
    breaker.picture(15.1)
    assert breaker.failed(15.2) == 1.0


def test_a_failure_interrupts_the_healthy_time() -> None:
    breaker = Breaker(RestartPolicy())
    breaker.picture(0.0)
    breaker.failed(9.0)
    breaker.picture(11.0)
    for t in (12.0, 13.0, 14.0):
        assert breaker.failed(t) is not None
    assert breaker.failed(15.0) is None
