"""Screens by way of Qt: with a real X server, with a real PipeWire behind a portal of our own, and the way there."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication

from gui import screen_capture
from gui.main_window import MainWindow
from gui.screen_capture import QtScreenSource, ScreenDesk, Share, need_multimedia, pixels_of, sentence_of
from sdv2live import window as window_room
from sdv2live.capture import select
from sdv2live.capture.screen import DEFAULT_RATE_FPS
from sdv2live.capture.thread import CaptureThread
from sdv2live.clock import FakeClock, MonotonicClock
from sdv2live.errors import UserError
from sdv2live.queues import FrameRing
from tests.bridges.pipewire_session import Session, need, use, wait_for
from tests.capture import x_display
from tests.gui.conftest import StillLive, settle

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"


def multimedia() -> Any:
    """Qt's module, or a skip that says what to install."""
    try:
        need_multimedia()
    except UserError as error:
        pytest.skip(str(error))
    return importlib.import_module("PySide6.QtMultimedia")


def read_screen(seconds: float, blocked_frames: int = 0, **env: str) -> dict[str, Any]:
    """What another process sees of the screen; see screen_reader.py."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.gui.screen_reader", str(seconds), str(blocked_frames)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["left"] == []
    return seen


# ---- the real thing


@pytest.mark.slow
def test_an_x_screen_is_captured_also_while_the_window_is_blocked() -> None:
    multimedia()
    with x_display.running() as display:
        display.paint()
        seen = read_screen(2.5, 10, DISPLAY=display.name, QT_QPA_PLATFORM="xcb", XDG_SESSION_TYPE="x11")
    assert seen["problem"] == ""
    assert seen["size"] == list(x_display.SIZE_WH)
    assert seen["corners"] == [list(colour) for colour in x_display.QUADRANTS]
    assert seen["while_blocked"] >= 10, "the window's thread served nobody meanwhile"
    assert seen["frames"] <= 1.5 * DEFAULT_RATE_FPS * seen["span_s"], "no faster than it should, on any machine"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    multimedia()
    need("pipewire", "wireplumber", "dbus-daemon")
    has_dbus = Path(SYSTEM_PYTHON).exists() and not subprocess.call(
        [SYSTEM_PYTHON, "-c", "import dbus, gi"], stderr=subprocess.DEVNULL
    )
    if not has_dbus or shutil.which("pw-cli") is None:
        pytest.skip("run `sudo apt install python3-dbus python3-gi pipewire-bin`")
    session = Session(tmp_path)
    try:
        session.start()
        yield session
    finally:
        session.stop()


def start_desktop(session: Session, node: str, answer: int, ends_after_ms: int = 0) -> Path:
    """-> the file that says what the portal was asked."""
    said = session.folder / "portal.txt"
    with said.open("wb") as file:
        script = str(ROOT / "tests/gui/fake_portal.py")
        session.run(SYSTEM_PYTHON, script, node, str(answer), str(ends_after_ms), stdout=file)
    wait_for(lambda: "ready" in said.read_text(), why="the portal")
    return said


@pytest.mark.slow
def test_a_wayland_desktop_shows_its_screen_through_the_portal_until_it_ends_it(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bridges.pipewire_camera import PipeWireCamera

    use(session, monkeypatch, names=session.env)
    width, height = x_display.SIZE_WH
    picture = np.full((height, width, 4), 255, np.uint8)
    for number, colour in enumerate(x_display.QUADRANTS):
        top, left = number // 2 * height // 2, number % 2 * width // 2
        picture[top : top + height // 2, left : left + width // 2, :3] = colour
    fourcc = int.from_bytes(b"ABGR", "little")
    screen = PipeWireCamera(width=width, height=height, fps=30, fourcc=fourcc, device="a screen")
    is_over = threading.Event()

    def show() -> None:
        while not is_over.wait(1 / 30):
            screen.send(picture.ravel())

    shower = threading.Thread(target=show)
    shower.start()
    try:
        nodes: list[str] = []

        def is_listed() -> bool:
            listed = subprocess.run(["pw-cli", "ls", "Node"], capture_output=True, text=True).stdout
            blocks = [block for block in re.split(r"\n(?=\s*id )", listed) if "a screen" in block]
            nodes[:] = [found[1] for block in blocks if (found := re.search(r"id (\d+)", block))]
            return bool(nodes)

        wait_for(is_listed, why="the node")
        said = start_desktop(session, nodes[0], answer=0, ends_after_ms=2500)
        seen = read_screen(20.0, XDG_SESSION_TYPE="wayland", QT_QPA_PLATFORM="offscreen")
    finally:
        is_over.set()
        shower.join()
        screen.close()
    assert seen["size"] == [width, height]
    assert seen["corners"] == [list(colour) for colour in x_display.QUADRANTS]
    assert seen["frames"] > 30
    assert "shows the screen no more" in seen["problem"]
    assert seen["again"] == seen["problem"]
    assert said.read_text().count("asked") == 1, "who ends the showing is not asked again"


@pytest.mark.slow
def test_a_person_who_says_no_is_understood_at_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    use(session, monkeypatch, names=session.env)
    start_desktop(session, "0", answer=1)
    seen = read_screen(5.0, XDG_SESSION_TYPE="wayland", QT_QPA_PLATFORM="offscreen")
    assert "was told to show no screen" in seen["problem"], "and not that nobody answered in time"


@pytest.mark.parametrize("layout", ["Format_RGB32", "Format_ARGB32", "Format_RGBX8888", "Format_RGB888"])
def test_every_layout_becomes_the_same_rgb(application: QApplication, layout: str) -> None:
    video_frame = multimedia().QVideoFrame
    wanted = np.random.default_rng(1).integers(0, 255, (7, 13, 3), np.uint8)
    image = QImage(wanted.tobytes(), 13, 7, 39, QImage.Format.Format_RGB888)
    pixels = pixels_of(video_frame(image.convertToFormat(QImage.Format[layout])))
    assert pixels is not None
    np.testing.assert_array_equal(pixels, wanted)
    assert pixels.flags.c_contiguous and pixels.flags.owndata
    assert pixels_of(video_frame()) is None


# ---- the source, without QtMultimedia


@pytest.fixture
def desk(application: QApplication, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScreenDesk]:
    """A desk whose captures are stand-ins and whose frames are pixels already."""
    monkeypatch.setattr(screen_capture, "need_multimedia", lambda: None)
    monkeypatch.setattr(screen_capture, "pixels_of", lambda frame: frame)
    monkeypatch.setattr(screen_capture, "_Capture", StillCapture)
    StillCapture.made.clear()
    desk = ScreenDesk(application)
    yield desk
    desk.close()
    desk.deleteLater()
    settle(application)
    application.aboutToQuit.disconnect(desk.close)


class StillCapture:
    made: list[StillCapture] = []  # noqa: RUF012 - one list for a test to look at

    def __init__(self, share: Share) -> None:
        self.share, self.is_ended, self.thread = share, False, threading.get_ident()
        self.made.append(self)

    def start(self) -> None:
        self.give((8, 6), 1)

    def give(self, size_wh: tuple[int, int], value: int) -> None:
        self.share.frames.put(np.full((size_wh[1], size_wh[0], 3), value, np.uint8))  # type: ignore[arg-type]

    def end(self) -> None:
        self.is_ended = True
        assert threading.get_ident() == self.thread


def opened(application: QApplication, source: QtScreenSource) -> None:
    """Open on a thread, as capture does, while this one keeps the loop going."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            source.open()
        except UserError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        settle(application)
    thread.join()
    if failures:
        raise failures[0]


def test_sizes_may_change_and_a_still_screen_goes_on(application: QApplication, desk: ScreenDesk) -> None:
    clock = FakeClock()
    source = QtScreenSource(desk, clock=clock)
    opened(application, source)
    first = source.read()
    assert first is not None and first.pixels.shape == (6, 8, 3)
    first.pixels[:] = 99
    still = source.read()
    assert still is not None and still.pixels.max() == 1, "what was given away is not given again"
    assert still.media_time_s > first.media_time_s
    capture = StillCapture.made[0]
    capture.give((4, 2), 7)
    changed = source.read()
    assert changed is not None and changed.pixels.shape == (2, 4, 3)
    now_s = clock.now_s()
    assert source.read(0.01) is None
    assert clock.now_s() - now_s == pytest.approx(0.01), "it waits no longer than it may"
    source.close()
    source.close()
    assert not capture.is_ended, "closing waits for nobody"
    settle(application)
    assert capture.is_ended
    with pytest.raises(UserError, match="is closed"):
        source.read()


def test_a_blocked_window_holds_up_neither_opening_nor_closing_for_ever(
    desk: ScreenDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen_capture, "ANSWER_LIMIT_S", 0.2)
    with pytest.raises(UserError, match="has shown no screen within"):
        QtScreenSource(desk).open()  # this is the GUI thread, which serves nobody meanwhile
    settle(QApplication.instance())  # type: ignore[arg-type]
    assert not StillCapture.made, "who has left is not asked for"


def test_what_the_desktop_takes_away_is_not_asked_for_again(application: QApplication, desk: ScreenDesk) -> None:
    source = QtScreenSource(desk)
    opened(application, source)
    desk.on_answer(1, {})  # of something else: this one is shown already
    assert source.read() is not None
    desk.on_ended()
    with pytest.raises(UserError, match="shows the screen no more"):
        source.read()
    with pytest.raises(UserError, match="shows the screen no more"):
        source.open()
    assert len(StillCapture.made) == 1


def test_a_quitting_app_is_no_failure_and_leaves_no_thread(application: QApplication, desk: ScreenDesk) -> None:
    capture = CaptureThread(QtScreenSource(desk), FrameRing(), MonotonicClock())
    starter = threading.Thread(target=capture.start)
    starter.start()
    while starter.is_alive():
        settle(application)
    starter.join()
    desk.close()
    assert StillCapture.made[0].is_ended
    time.sleep(0.1)
    assert capture.status.state == "running"
    capture.stop(30.0)
    assert not capture._thread.is_alive()
    with pytest.raises(UserError, match="The window is closed"):
        QtScreenSource(desk).open()


def test_what_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(error: ImportError) -> None:
        def fail(name: str) -> None:
            raise error

        monkeypatch.setattr(screen_capture, "importlib", SimpleNamespace(import_module=fail))

    without(ModuleNotFoundError("No module named 'PySide6.QtMultimedia'"))
    with pytest.raises(UserError, match=r"run `pip install PySide6-Addons==\d+\.\d+"):
        need_multimedia()
    without(ImportError("libpulse.so.0: cannot open shared object file"))
    with pytest.raises(UserError, match=r"libpulse\.so\.0.*apt install libpulse0"):
        need_multimedia()


@pytest.mark.parametrize("name", ["CapturingNotSupported", "NotFound", "CaptureFailed", "InternalError"])
def test_errors_of_qt_are_one_sentence_that_says_what_to_do(name: str) -> None:
    sentence = sentence_of(name, "Failed:\n" + "a long story " * 50)
    assert "\n" not in sentence and len(sentence) < 320
    assert sentence.endswith("choose another source.")


# ---- the way there


def test_in_a_wayland_session_qt_makes_the_screens_and_nothing_else(
    application: QApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_room.sys, "platform", "linux")
    monkeypatch.setenv("XDG_SESSION_TYPE", "wayland")
    with window_room._source_maker() as make:
        assert isinstance(make("screen", True), QtScreenSource)
        assert isinstance(make("screen:2", True), QtScreenSource)
        assert not isinstance(make("pattern", True), QtScreenSource)
        with pytest.raises(UserError, match="choose screen, and answer it"):
            make("screen:0,0,320x200", True)
        with pytest.raises(UserError, match="cannot be read"):
            make("screen:left", True)
        with pytest.raises(UserError, match="names no screen"):
            make("screen:", True)
        desk = make("screen", True)._desk  # type: ignore[attr-defined]
    assert desk.is_closed
    application.aboutToQuit.disconnect(desk.close)
    monkeypatch.setenv("XDG_SESSION_TYPE", "x11")
    with window_room._source_maker() as make:
        assert not isinstance(make("screen", True), QtScreenSource)


def test_a_wayland_session_lists_one_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select.sys, "platform", "linux")
    monkeypatch.setenv("XDG_SESSION_TYPE", "wayland")
    screens = [choice for choice in select.list_sources() if choice.spec.startswith("screen")]
    assert screens == [select.SourceChoice("screen", "Screen (the desktop asks which)")]


def test_the_window_is_hidden_from_captures_while_a_screen_plays(
    window: MainWindow, live: StillLive, application: QApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[bool] = []
    monkeypatch.setattr("gui.main_window.hide_from_captures", lambda which, is_hidden: said.append(is_hidden))
    for name in ("screen:2", "file:screen.mp4", "screen"):
        live.registry.set("source.name", name, origin="test")
        settle(application)
    window.hide()
    live.registry.set("source.name", "clip", origin="test")
    settle(application)
    assert said == [True, False, True]
    window.show()
    assert said[3:] == [False]


def test_windows_is_told_so_from_2004_on(window: MainWindow, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    user32 = SimpleNamespace(SetWindowDisplayAffinity=lambda handle, affinity: told.append(affinity) or 1)
    monkeypatch.setattr(screen_capture.ctypes, "windll", SimpleNamespace(user32=user32), raising=False)
    for build in (18363, 19041):
        system = SimpleNamespace(platform="win32", getwindowsversion=lambda build=build: SimpleNamespace(build=build))
        monkeypatch.setattr(screen_capture, "sys", system)
        screen_capture.hide_from_captures(window, True)
        screen_capture.hide_from_captures(window, False)
    assert told == [0x11, 0]
