"""What is switched while it runs: sources, outputs, the engine itself; the other parts go on and lose nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from sdv2live import source_switch
from sdv2live.app import LiveApp
from sdv2live.capture.base import Source, SourceInfo
from sdv2live.capture.test_pattern import PatternSource
from sdv2live.clock import MonotonicClock
from sdv2live.errors import UserError
from sdv2live.source_switch import SourceSwitch
from tests.faults.live import Watcher, live_app, until

Running = tuple[LiveApp, Watcher]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with live_app(record__folder=str(tmp_path_factory.mktemp("recordings"))) as both:
        yield both


def generated_more(app: LiveApp, frames: int = 8) -> None:
    before = app.session.frames_generated
    until(lambda: app.session.frames_generated >= before + frames, "new pictures")


def test_another_source_takes_over_and_the_stream_goes_on(running: Running) -> None:
    app, _ = running
    for spec in ("clip", "pattern"):
        epoch = app.supervisor.engine.epoch if app.supervisor.engine else None
        app.registry.set("source.name", spec, origin="test")
        until(lambda s=spec: app.sources.playing is not None and app.sources.playing.spec == s, spec)
        generated_more(app)
        assert app.supervisor.engine is not None and app.supervisor.engine.epoch == epoch, "no reset"
    assert app.status().source.name == "pattern" and app.status().problems == ()


def test_a_source_that_cannot_be_opened_changes_nothing(running: Running, tmp_path: Path) -> None:
    app, _ = running
    playing = app.sources.playing
    for spec in (f"file:{tmp_path / 'nowhere.mp4'}", "no such thing", f"file:{tmp_path}"):
        app.registry.set("source.name", spec, origin="test")
        until(lambda: app.registry.get("source.name") == "pattern", "the table says what plays")
        assert app.sources.playing is playing
        assert any(tmp_path.name in problem or "no such thing" in problem for problem in app.status().problems)
    generated_more(app)
    app.registry.set("source.name", "clip", origin="test")
    app.registry.set("source.name", "pattern", origin="test")  # the newest of two wishes counts
    until(lambda: app.sources.playing not in (None, playing) and app.status().source.spec == "pattern", "pattern")
    until(lambda: app.status().problems == (), "a source that plays ends the complaint")


def test_fifty_changes_of_source_leave_one_thread_and_a_running_stream(running: Running) -> None:
    app, _ = running
    for number in range(50):
        app.registry.set("source.name", ("clip", "pattern")[number % 2], origin="test")
        if number % 5 == 0:
            generated_more(app, 1)
    app.registry.set("source.name", "clip", origin="test")
    until(lambda: app.sources.playing is not None and app.sources.playing.spec == "clip", "the last one plays")
    generated_more(app)
    captures = [thread for thread in threading.enumerate() if thread.name == "capture"]
    until(lambda: sum(thread.is_alive() for thread in captures) == 1, "one capture thread")


def test_a_recording_begins_and_ends_while_it_runs(running: Running) -> None:
    app, _ = running
    app.registry.set("output.record", True, origin="test")
    until(lambda: (line := app.status().recording) is not None and line.written > 20, "a recording")
    line = app.status().recording
    assert line is not None and line.path is not None and line.path.name.startswith("sdv2live 20")
    app.registry.set("output.record", False, origin="test")
    until(lambda: app.status().recording is None, "its end")
    generated_more(app)
    until(lambda: not [one for one in threading.enumerate() if one.name.startswith("output file:")], "it is closed")
    with av.open(str(line.path)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 20


def test_a_recording_whose_folder_cannot_be_made_begins_once_it_can(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.rack.AGAIN_S", 0.05)
    app, _ = running
    in_the_way = tmp_path / "full"
    in_the_way.write_text("a file where a folder is to be")
    app.registry.set("record.folder", str(in_the_way / "show"), origin="test")
    app.registry.set("output.record", True, origin="test")
    until(lambda: (line := app.status().recording) is not None and line.state == "failed", "the refusal")
    assert any("set record.folder to another folder" in problem for problem in app.status().problems)
    in_the_way.unlink()
    until(lambda: (line := app.status().recording) is not None and line.written > 5, "a recording")
    assert app.status().problems == () and len(list((in_the_way / "show").iterdir())) == 1
    app.registry.set("output.record", False, origin="test")
    until(lambda: app.status().recording is None, "its end")


def test_a_camera_that_is_not_there_is_said_and_the_rest_goes_on(running: Running) -> None:
    app, _ = running
    app.registry.set("camera.device", "/dev/video99", origin="test")
    app.registry.set("output.camera", True, origin="test")
    until(lambda: (line := app.status().camera) is not None and line.state == "failed", "the failure")
    assert any("/dev/video99" in problem for problem in app.status().problems)
    generated_more(app)
    app.registry.set("output.camera", False, origin="test")
    until(lambda: app.status().camera is None and app.status().problems == (), "the camera is off")


def test_off_frees_source_and_engine_and_on_brings_them_back(running: Running) -> None:
    app, watcher = running
    engine = app.supervisor.engine
    assert engine is not None
    app.registry.set("stream.running", False, origin="test")
    until(lambda: app.supervisor.engine is None and app.sources.playing is None, "both are gone")
    assert app.status().engine_state == "stopped"
    ticks = len(watcher.ticks)
    until(lambda: len(watcher.ticks) > ticks + 5, "outputs go on")
    assert 20 < watcher.newest.mean() < 80, "with a card"
    app.registry.set("stream.running", True, origin="test")
    generated_more(app)
    assert app.supervisor.engine is not engine and app.status().restarts == 0


def test_the_engine_starts_again_with_what_was_set_meanwhile(running: Running) -> None:
    app, watcher = running
    app.registry.set("engine.size", (96, 64), origin="test")
    generated_more(app)
    assert watcher.newest.shape == (64, 64, 3), "set, and not yet in force"
    app.registry.set("engine.restart", 1, origin="test")
    until(lambda: watcher.newest.shape == (64, 96, 3) and app.status().engine_state == "running", "the new size")
    generated_more(app)
    assert watcher.newest.std() > 5, "a picture"


def test_an_engine_that_cannot_be_built_leaves_the_one_that_runs(running: Running) -> None:
    app, _ = running
    engine = app.supervisor.engine
    before = app.registry.get("engine.window_frames")
    app.registry.set_many([("engine.window_frames", 2), ("engine.sink_frames", 2)], origin="test")
    app.registry.set("engine.restart", 1, origin="test")
    until(lambda: any("window" in problem for problem in app.status().problems), "the refusal")
    generated_more(app)
    assert app.supervisor.engine is engine and app.registry.get("engine.window_frames") in (before, 2)


def test_an_engine_without_its_files_gives_way_to_the_one_before(running: Running, tmp_path: Path) -> None:
    app, _ = running
    app.registry.reset(["engine.window_frames", "engine.sink_frames"], origin="test")
    size = app.registry.get("engine.size")
    app.registry.set_many([("engine.name", "wan-1.3b"), ("engine.weights", str(tmp_path))], origin="test")
    app.registry.set("engine.restart", 1, origin="test")
    until(lambda: any("The one before goes on" in problem for problem in app.status().problems), "the way back")
    until(lambda: app.status().engine_state == "running", "the engine before")
    generated_more(app)
    assert app.registry.get("engine.name") == "pocket" and app.registry.get("engine.size") == size


def test_panic_shows_neither_camera_nor_effect(running: Running) -> None:
    app, watcher = running
    app.registry.set_many([("output.freeze", True), ("output.bypass", True)], origin="test")
    app.registry.set("output.panic", True, origin="test")
    until(lambda: 20 < watcher.newest.mean() < 60 and watcher.newest.std() < 60, "a card")
    card = watcher.newest
    time.sleep(0)  # the next ticks show the same
    ticks = len(watcher.ticks)
    until(lambda: len(watcher.ticks) > ticks + 3, "ticks")
    assert np.array_equal(watcher.newest, card)
    shown = app.presenter.preview.take(timeout_s=10)
    assert shown is not None and shown.source is None, "nor does a window"
    app.registry.set_many([(f"output.{name}", False) for name in ("panic", "freeze", "bypass")], origin="test")
    until(lambda: not np.array_equal(watcher.newest, card), "the effect again")


def test_a_change_is_timed_until_its_picture_is_shown(running: Running) -> None:
    app, _ = running
    before = len(app.presenter.change_to_picture_ms.newest(1000))
    app.registry.set("seed", 4321, origin="test")
    until(lambda: len(app.presenter.change_to_picture_ms.newest(1000)) == before + 1, "a picture made with it")
    middle = app.summary()["change_to_picture_ms"]["p50"]
    assert middle is not None and middle > 0 and app.status().change_to_picture_ms == middle


def test_a_mirror_and_a_turn_act_at_the_next_chunk(running: Running) -> None:
    app, _ = running
    for turns in ("90", "0"):
        app.registry.set_many([("source.rotate", turns), ("source.mirror", turns == "90")], origin="test")
        generated_more(app)


class Camera(PatternSource):
    """A device that opens when it is let, and says so when another program has it."""

    is_live = True

    def __init__(self, *, is_free: bool = True) -> None:
        super().__init__((64, 48))
        self.is_free = is_free
        self.is_opening, self.may_open, self.is_closed = threading.Event(), threading.Event(), threading.Event()

    def open(self) -> SourceInfo:
        self.is_opening.set()
        assert self.may_open.wait(60)
        if not self.is_free:
            raise UserError("The camera is in use by another program: close that one.")
        return super().open()

    def close(self) -> None:
        super().close()
        self.is_closed.set()


class Switching:
    """A switch whose cameras are not there until they are said to be, and open at once until they are held."""

    def __init__(self) -> None:
        self.is_there = self.is_held = False
        self.made: dict[str, list[Camera]] = {}
        self.refused: list[str] = []
        self.switch = SourceSwitch(
            self.make,
            MonotonicClock(),
            plays=threading.Event(),
            wake=threading.Event(),
            on_playing=lambda playing: None,
            on_refused=lambda spec, sentence: self.refused.append(spec),
            fallback="clip",
        )

    def make(self, spec: str) -> Source:
        if not spec.startswith("camera"):
            return PatternSource((64, 48))
        camera = Camera(is_free=self.is_there)
        if not self.is_held:
            camera.may_open.set()
        self.made.setdefault(spec, []).append(camera)
        return camera

    def held(self, spec: str) -> Camera:
        """The camera, asked for, and now hanging in its driver."""
        self.is_held = True
        before = len(self.made.get(spec, ()))
        self.switch.request(spec)
        until(lambda: len(self.made.get(spec, ())) > before, "it is made")
        camera = self.made[spec][-1]
        assert camera.is_opening.wait(60)
        self.is_held = False
        return camera

    def asked(self, spec: str | None) -> None:
        """It is asked for, and the switch knows."""
        self.switch.request(spec)
        until(lambda: not self.switch._has_wish, "it is heard")

    def release(self) -> None:
        for cameras in self.made.values():
            for camera in cameras:
                camera.may_open.set()

    def plays(self, spec: str) -> bool:
        playing = self.switch.playing
        return playing is not None and playing.spec == spec


@pytest.fixture
def switching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Switching]:
    monkeypatch.setattr(source_switch, "AGAIN_S", 0.05)
    before = set(threading.enumerate())
    switching = Switching()
    switching.switch.start()
    yield switching
    switching.release()
    switching.switch.stop()
    until(lambda: not [one for one in threading.enumerate() if one.name == "capture" and one not in before], "the end")


@pytest.mark.parametrize("is_there", [True, False], ids=["opened late", "refused late"])
@pytest.mark.parametrize("wish", ["pattern", None])
def test_a_source_that_opens_slowly_holds_up_no_other(switching: Switching, wish: str | None, is_there: bool) -> None:
    switching.asked("clip")
    until(lambda: switching.plays("clip"), "the clip")
    switching.is_there = is_there
    slow = switching.held("camera")
    switching.switch.request(wish)
    until(lambda: switching.plays("pattern") if wish else switching.switch.playing is None, "the newer wish")
    assert not slow.is_closed.is_set(), "the driver has not answered yet"
    playing = switching.switch.playing
    slow.may_open.set()
    assert slow.is_closed.wait(60), "what comes late is let go of"
    switching.asked(wish)  # by now the switch has heard of it
    until(lambda: switching.plays("pattern") if wish else switching.switch.playing is None, "as before")
    assert switching.refused == [] and len(switching.made["camera"]) == 1
    assert playing is None or playing.info.name == "pattern"


def test_one_device_is_never_opened_twice_at_a_time(switching: Switching) -> None:
    switching.is_there = True
    slow = switching.held("camera:a")
    switching.asked("camera:a")
    assert len(switching.made["camera:a"]) == 1, "it is on its way already"
    switching.asked("camera:b")
    until(lambda: switching.plays("camera:b"), "the other one")
    switching.asked("camera:a")
    switching.asked("camera:a")
    assert len(switching.made["camera:a"]) == 1, "the first one has it still"
    assert switching.plays("camera:b"), "which goes on meanwhile"
    slow.may_open.set()
    until(lambda: switching.plays("camera:a"), "it is let go of, and opened anew")
    assert slow.is_closed.is_set() and len(switching.made["camera:a"]) == 2
    assert switching.made["camera:b"][0].is_closed.is_set() and switching.refused == []


def test_a_driver_that_never_answers_is_refused_and_left_to_itself(
    switching: Switching, monkeypatch: pytest.MonkeyPatch
) -> None:
    switching.is_there = True
    switching.asked("pattern")
    until(lambda: switching.plays("pattern"), "the pattern")
    monkeypatch.setattr(source_switch, "OPEN_TIMEOUT_S", 0.05)
    slow = switching.held("camera")
    until(lambda: switching.refused == ["camera"], "the refusal")
    assert switching.plays("pattern") and not slow.is_closed.is_set()
    switching.asked("camera")
    until(lambda: switching.refused == ["camera", "camera"], "it has the device still")
    assert len(switching.made["camera"]) == 1
    monkeypatch.undo()
    slow.may_open.set()
    assert slow.is_closed.wait(60)
    switching.asked("camera")
    until(lambda: switching.plays("camera"), "it can be chosen again")


def test_the_end_leaves_nothing_open_but_what_hangs(switching: Switching, caplog: pytest.LogCaptureFixture) -> None:
    switching.is_there = True
    abandoned, opening = switching.held("camera:a"), switching.held("camera:b")
    switching.switch.stop()
    assert caplog.text.count("left behind") == 2 and switching.switch.playing is None
    for camera in (abandoned, opening):
        camera.may_open.set()
        assert camera.is_closed.wait(60)


def test_a_camera_that_comes_later_takes_over_from_the_clip(switching: Switching) -> None:
    switching.switch.request("camera")
    until(lambda: switching.plays("clip") and switching.switch.is_on_fallback, "the clip meanwhile")
    time.sleep(0.2)
    assert switching.refused == ["camera"], "said once, and tried again in silence"
    switching.is_there = True
    until(lambda: switching.plays("camera"), "the camera")
    assert not switching.switch.is_on_fallback
