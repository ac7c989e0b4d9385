"""What every output gets at each tick, with the time passed in: hold, card, freeze, bypass, mix."""

from __future__ import annotations

import numpy as np
import pytest

from sdv2live.clock import FakeClock
from sdv2live.frames import Frame, Pixels
from sdv2live.pacing import Picture
from sdv2live.presenter import Presenter
from sdv2live.registry import Registry

TICK_S = 1 / 30


def plain(value: int) -> Pixels:
    return np.full((32, 48, 3), value, np.uint8)


class Outlet:
    def __init__(self, *, always_on: bool) -> None:
        self.always_on = self.takes_any_size = always_on
        self.taken: list[tuple[int, int]] = []  # (mean grey, tick)

    def offer(self, pixels: Pixels, tick: int) -> None:
        self.taken.append((round(float(pixels.mean())), tick))


class Stage:
    """A presenter whose source shows 50 and whose effect shows 200."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.registry.set("source.fit", "stretch", origin="test")
        self.file, self.camera = Outlet(always_on=False), Outlet(always_on=True)
        self.now_s = 0.0
        self.live: Frame | None = None
        self.presenter = Presenter(
            registry=self.registry,
            outlets=[self.file, self.camera],
            size_wh=(48, 32),
            rate_fps=30,
            clock=FakeClock(),
            newest_frame=lambda: self.live,
            words=lambda: "loading",
        )

    def set(self, name: str, value: object) -> None:
        assert self.registry.set(name, value, origin="test").status == "accepted"

    def chunk(self) -> None:
        times = [self.now_s - 0.2 + step / 16 for step in range(4)]
        self.presenter.add([Picture(plain(200), plain(50), time_s) for time_s in times], self.now_s)

    def run(self, seconds: float, *, chunk_every_s: float | None = None) -> list[int]:
        """Tick on; -> what the file output was given."""
        start, end_s, next_s = len(self.file.taken), self.now_s + seconds, self.now_s
        while self.now_s < end_s:
            if chunk_every_s is not None and self.now_s >= next_s:
                self.chunk()
                next_s += chunk_every_s
            self.live = Frame(plain(50), self.now_s, 0)
            self.presenter.tick(self.now_s)
            self.now_s += TICK_S
        return [grey for grey, _ in self.file.taken[start:]]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_before_the_first_picture_only_a_camera_gets_a_card(stage: Stage) -> None:
    stage.run(1.0)
    assert stage.file.taken == [] and len(stage.camera.taken) >= 30
    assert 20 < stage.camera.taken[0][0] < 80, "a card with words, and no black"


def test_a_picture_is_held_and_then_a_card_says_why(stage: Stage) -> None:
    assert set(stage.run(2.0, chunk_every_s=0.25)[10:]) == {200}
    held = stage.run(4.0)
    assert held[: int(2.8 * 30)] == [200] * int(2.8 * 30)
    assert 20 < held[-1] < 80
    assert stage.run(1.0, chunk_every_s=0.25)[-1] == 200


def test_pause_holds_for_ever_and_ends_without_a_card(stage: Stage) -> None:
    stage.run(1.0, chunk_every_s=0.25)
    stage.set("stream.paused", True)
    assert set(stage.run(10.0)) == {200}
    stage.set("stream.paused", False)
    assert set(stage.run(1.0)) == {200}


def test_a_slow_source_s_pictures_do_not_become_old(stage: Stage) -> None:
    stage.presenter.expect(period_s=4.0)
    stage.run(0.5, chunk_every_s=0.25)
    assert set(stage.run(9.0)) == {200}


def test_wet_mixes_camera_and_effect(stage: Stage) -> None:
    stage.run(0.5, chunk_every_s=0.25)
    for wet, grey in ((0.0, 50), (0.5, 125), (1.0, 200)):
        stage.set("output.wet", wet)
        assert stage.run(0.2, chunk_every_s=0.1)[-1] == grey


def test_freeze_holds_what_was_seen_whatever_is_turned(stage: Stage) -> None:
    stage.run(0.5, chunk_every_s=0.25)
    stage.set("output.bypass", True)
    assert stage.run(0.2, chunk_every_s=0.1)[-1] == 50
    stage.set("output.freeze", True)
    stage.set("output.bypass", False)
    stage.set("output.wet", 0.5)
    assert set(stage.run(5.0, chunk_every_s=0.25)) == {50}
    stage.set("output.freeze", False)
    assert stage.run(0.2, chunk_every_s=0.1)[-1] == 125


def test_bypass_works_without_any_engine(stage: Stage) -> None:
    stage.set("output.bypass", True)
    assert set(stage.run(5.0)) == {50}


def test_ticks_count_on_and_new_frames_have_their_age(stage: Stage) -> None:
    stage.run(3.0, chunk_every_s=0.25)
    ticks = [tick for _, tick in stage.file.taken]
    assert ticks == list(range(len(ticks)))
    age = stage.presenter.age_ms.summary()
    assert age["p50"] is not None and 190 < age["p50"] < 260


def test_filters_act_on_what_is_shown_and_are_taken_away_again(stage: Stage) -> None:
    stage.run(1.0, chunk_every_s=0.25)
    assert stage.run(0.2, chunk_every_s=0.25)[-1] == 200
    stage.set("output.filters", "brightness:-0.5")
    darker = stage.run(0.5, chunk_every_s=0.25)[-1]
    assert darker < 160
    stage.set("output.wet", 0.5)
    assert abs(stage.run(0.5, chunk_every_s=0.25)[-1] - (darker + 50) / 2) <= 1, "the camera's half is not filtered"
    stage.set("output.bypass", 1)
    assert stage.run(0.2, chunk_every_s=0.25)[-1] == 50
    stage.set("output.bypass", 0)
    stage.set("output.wet", 1.0)
    stage.set("output.filters", "")
    assert stage.run(0.5, chunk_every_s=0.25)[-1] == 200


def test_a_mirrored_effect_is_mixed_with_a_mirrored_camera(stage: Stage) -> None:
    half = plain(0)
    half[:, :24] = 240
    stage.set("output.filters", "mirror")
    stage.set("output.wet", 0.5)
    picture = Picture(half, half, 0.0)
    out = stage.presenter._finished(picture, "mirror", 0.5)
    assert (out[:, :24] == 0).all() and (out[:, 24:] == 240).all()
    assert stage.presenter._finished(picture, "mirror", 0.5) is out, "a repeated tick costs nothing"


def test_an_enlarged_picture_has_the_outputs_size(stage: Stage) -> None:
    out = stage.presenter._finished(Picture(plain(200), plain(50), 0.0), "upscale:2", 0.5)
    assert out.shape == (32, 48, 3) and abs(float(out.mean()) - 125) <= 1


def test_a_label_says_that_the_weights_are_drawn() -> None:
    stage = Stage()
    stage.presenter._label = "random weights"
    picture = plain(200)
    out = stage.presenter._finished(Picture(picture, picture, 0.0), "", 1.0)
    assert (out != 200).any() and (picture == 200).all(), "on a copy"
