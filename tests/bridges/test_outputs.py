"""One suite for every output, and the thread that feeds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyvirtualcam import camera as pyvirtualcam_camera

from bridges.base import Output, OutputThread
from bridges.null_output import NullOutput
from bridges.rack import AGAIN_S, OutputRack
from bridges.recorder import Recorder
from bridges.select import make_output
from bridges.virtual_camera import VirtualCamera
from sdv2live.capture.test_pattern import render_pattern
from sdv2live.clock import FakeClock, MonotonicClock
from sdv2live.errors import UserError
from sdv2live.frames import Pixels

SIZE_WH = (96, 64)


class QuietBackend:
    """A camera of the test's own, as pyvirtualcam wants one."""

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: str | None, **_: Any) -> None:
        self._device = device or "test camera"

    def send(self, frame: Pixels) -> None:
        """Takes it."""

    def close(self) -> None:
        """Nothing is held."""

    def device(self) -> str:
        return self._device

    def native_fourcc(self) -> int | None:
        return None


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """pyvirtualcam's table of backends, with `test` in it; as before afterwards."""
    table = {**pyvirtualcam_camera.BACKENDS, "test": QuietBackend}
    monkeypatch.setattr(pyvirtualcam_camera, "BACKENDS", table)
    yield table


@pytest.fixture(params=["null", "file:{}.mp4", "file:{}.mov", "file:{}.mkv", "camera:test"])
def output(request: pytest.FixtureRequest, tmp_path: Path, backends: dict[str, Any]) -> Output:
    return make_output(request.param.format(tmp_path / "show"))


def test_every_output_keeps_the_contract(output: Output) -> None:
    assert output.name
    output.close()
    for _ in range(2):
        output.open(SIZE_WH, 30)
        for tick in (3, 4, 9):
            pixels = render_pattern(tick, SIZE_WH)
            pixels.flags.writeable = False
            output.write(pixels, tick)
        output.close()
        output.close()


def test_every_output_runs_in_its_thread(output: Output) -> None:
    thread = OutputThread(output, size_wh=SIZE_WH, rate_fps=30, clock=MonotonicClock())
    assert thread.status.state == "opening"
    thread.start()
    for tick in range(5):
        thread.offer(render_pattern(tick, SIZE_WH), tick)
        time.sleep(0.01)
    thread.stop()
    status = thread.status
    assert status.state == "closed" and status.written >= 1
    assert status.written + status.skipped == 5


def test_words_name_outputs(tmp_path: Path, backends: dict[str, Any]) -> None:
    assert isinstance(make_output("null"), NullOutput)
    assert isinstance(make_output(f"file:{tmp_path}/a.mp4"), Recorder)
    for spec in ("camera", "camera:test", "camera:v4l2loopback", "camera:/dev/video10"):
        assert isinstance(make_output(spec), VirtualCamera)
        assert make_output(spec).name.startswith("camera")


@pytest.mark.parametrize("spec", ["", "screen", "window:", "a.mp4", "nul"])
def test_an_unknown_word_is_answered_with_the_known_ones(spec: str) -> None:
    with pytest.raises(UserError, match="camera:DEVICE, file:PATH or null"):
        make_output(spec)


def test_a_file_spec_without_a_path() -> None:
    with pytest.raises(UserError, match="names no file"):
        make_output("file:")


class ScriptedOutput(Output):
    """Fails where it is told to."""

    def __init__(
        self, *, open_errors: list[Exception | None] | None = None, write_errors: dict[int, Exception]
    ) -> None:
        self.name = "scripted"
        self._open_errors = open_errors or []
        self._write_errors = write_errors
        self.ticks: list[int] = []
        self.opened = self.closed = 0
        self.in_write = threading.Event()
        self.may_write = threading.Event()
        self.may_write.set()

    def open(self, size_wh: tuple[int, int], rate_fps: int) -> None:
        self.opened += 1
        error = self._open_errors.pop(0) if self._open_errors else None
        if error is not None:
            raise error

    def write(self, pixels: Pixels, tick: int) -> None:
        self.in_write.set()
        self.may_write.wait(60)
        if tick in self._write_errors:
            raise self._write_errors.pop(tick)
        self.ticks.append(tick)

    def close(self) -> None:
        self.closed += 1


class WaitingClock(FakeClock):
    """Notes how long each wait was to be."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_s: list[float] = []

    def wait_until(self, time_s: float, stop: threading.Event) -> bool:
        self.waits_s.append(time_s - self.now_s())
        return super().wait_until(time_s, stop)


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.002)


PICTURE = np.zeros((SIZE_WH[1], SIZE_WH[0], 3), np.uint8)


def test_a_slow_output_loses_only_its_own_pictures() -> None:
    slow, fast = ScriptedOutput(write_errors={}), ScriptedOutput(write_errors={})
    threads = [OutputThread(o, size_wh=SIZE_WH, rate_fps=30, clock=MonotonicClock()) for o in (slow, fast)]
    for thread in threads:
        thread.start()
    slow.may_write.clear()
    for tick in range(20):
        for thread in threads:
            thread.offer(PICTURE, tick)
        until(lambda tick=tick: fast.ticks[-1:] == [tick])
        if tick == 0:
            until(slow.in_write.is_set)
    slow.may_write.set()
    for thread in threads:
        thread.stop()
    assert fast.ticks == list(range(20)) and threads[1].status.skipped == 0
    # The one it was busy with and the newest; what came between is counted.
    assert slow.ticks == [0, 19] and threads[0].status.skipped == 18


@pytest.mark.parametrize("error", [UserError("The camera was removed: load it again."), ZeroDivisionError("driver")])
def test_an_output_that_fails_is_opened_again(error: Exception) -> None:
    clock = WaitingClock()
    again = UserError("It is still away.")
    output = ScriptedOutput(open_errors=[None, again, again, again, again], write_errors={1: error})
    thread = OutputThread(output, size_wh=SIZE_WH, rate_fps=30, clock=clock)
    thread.start()
    for tick in range(4):
        thread.offer(PICTURE, tick)
        until(lambda tick=tick: tick == 1 or output.ticks[-1:] == [tick])
        if tick == 1:
            until(lambda: output.opened == 6)
    thread.stop()
    assert output.ticks == [0, 2, 3]
    assert clock.waits_s == pytest.approx([0.5, 1.0, 2.0, 5.0, 5.0])
    assert output.closed == 2


def test_a_failure_at_the_start_is_raised_or_waited_out() -> None:
    missing = UserError("There is no virtual camera: load the module.")
    thread = OutputThread(
        ScriptedOutput(open_errors=[missing], write_errors={}), size_wh=SIZE_WH, rate_fps=30, clock=WaitingClock()
    )
    with pytest.raises(UserError, match="load the module"):
        thread.start()

    output = ScriptedOutput(open_errors=[missing, missing], write_errors={})
    patient = OutputThread(output, size_wh=SIZE_WH, rate_fps=30, clock=WaitingClock())
    patient.start(is_required=False)
    until(lambda: patient.status.state == "running")
    patient.offer(PICTURE, 0)
    until(lambda: output.ticks == [0])
    patient.stop()
    assert output.opened == 3


def test_a_write_that_hangs_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    output = ScriptedOutput(write_errors={})
    thread = OutputThread(output, size_wh=SIZE_WH, rate_fps=30, clock=MonotonicClock())
    thread.start()
    output.may_write.clear()
    thread.offer(PICTURE, 0)
    until(output.in_write.is_set)
    thread.stop(timeout_s=0.05)
    assert "left behind" in caplog.text
    output.may_write.set()
    until(lambda: output.closed == 1)


# ---- the rack ------------------------------------------------------------------------------------------------------


class HeldClock(WaitingClock):
    """Its pauses end when the test says so, or when they are broken off."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Semaphore(0)

    def wait_until(self, time_s: float, stop: threading.Event) -> bool:
        self.waits_s.append(time_s - self.now_s())
        while not stop.is_set() and not self.may_go_on.acquire(timeout=0.005):
            pass
        return stop.is_set()


class Rack:
    """A rack, what it told, and an output that cannot be made as often as there are sentences."""

    def __init__(self) -> None:
        self.clock = HeldClock()
        self.told: list[int] = []
        self.rack = OutputRack(rate_fps=30, clock=self.clock, on_change=lambda threads: self.told.append(len(threads)))
        self.sentences: list[str] = []
        self.made: list[ScriptedOutput] = []

    def make(self) -> Output:
        if self.sentences:
            raise UserError(self.sentences.pop(0))
        self.made.append(ScriptedOutput(write_errors={}))
        return self.made[-1]

    def state(self) -> str:
        status = self.rack.status("output.record")
        return status.state if status is not None else ""


@pytest.fixture
def rack() -> Iterator[Rack]:
    rack = Rack()
    yield rack
    rack.rack.close()
    assert not [one for one in threading.enumerate() if one.name == "output rack"]


def test_what_could_not_be_made_is_made_once_it_can_be(rack: Rack, caplog: pytest.LogCaptureFixture) -> None:
    full, gone = "Recordings cannot go there (full): empty it.", "Recordings cannot go there (gone): plug it in."
    rack.sentences = [full, full, gone]
    rack.rack.switch("output.record", rack.make, SIZE_WH)
    for tries, sentence in enumerate((full, full, gone)):
        until(lambda n=tries: len(rack.clock.waits_s) == n + 1)
        (status,) = rack.rack.statuses
        assert (status.state, status.reason) == ("failed", sentence)
        rack.clock.may_go_on.release()
    until(lambda: rack.state() == "running")
    assert rack.clock.waits_s == [AGAIN_S] * 3 and len(rack.made) == 1 and rack.told[-1] == 1
    assert len(rack.rack.statuses) == 1, "nothing of the refusal is left"
    assert caplog.text.count(full) == caplog.text.count(gone) == 1, "the same sentence is said once"


def test_what_is_no_longer_wanted_is_not_tried_again(rack: Rack) -> None:
    rack.sentences = ["It cannot be: see to it."] * 9
    rack.rack.switch("output.record", rack.make, SIZE_WH)
    until(lambda: len(rack.clock.waits_s) == 1)
    rack.rack.switch("output.record", None, SIZE_WH)
    until(lambda: rack.state() == "")
    rack.rack.switch("output.camera", lambda: ScriptedOutput(write_errors={}), SIZE_WH)
    until(lambda: len(rack.rack.statuses) == 1)
    assert len(rack.sentences) == 8 and rack.made == [] and len(rack.clock.waits_s) == 1


def test_another_wish_waits_for_no_pause(rack: Rack) -> None:
    rack.sentences = ["It cannot be: see to it."]
    rack.rack.switch("output.record", rack.make, SIZE_WH)
    until(lambda: len(rack.clock.waits_s) == 1)
    rack.rack.switch("output.record", rack.make, SIZE_WH)  # another folder
    until(lambda: rack.state() == "running")
    assert rack.told[-1] == 1


def test_the_end_waits_for_no_pause(rack: Rack) -> None:
    rack.sentences = ["It cannot be: see to it."] * 9
    rack.rack.switch("output.record", rack.make, SIZE_WH)
    until(lambda: len(rack.clock.waits_s) == 1)
    rack.rack.close()
    rack.rack.switch("output.record", rack.make, SIZE_WH)
    assert len(rack.sentences) == 8 and rack.told[-1] == 0
