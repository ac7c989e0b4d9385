"""The real program in a real window on an X server, driven by xdotool, and asked over OSC what has come of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import QPoint
from PySide6.QtWidgets import QWidget
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from gui.main_window import MainWindow
from tests.capture import x_display
from tests.gui.conftest import StillLive

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
pytestmark = pytest.mark.slow
if shutil.which("xdotool") is None:
    pytest.skip("no xdotool: apt-get install xdotool", allow_module_level=True)


class Osc:
    """python-osc's own messages, on a socket that also hears the answers."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(1.0)
        self._port = port

    def ask(self, address: str) -> list[object]:
        """What /sdv2live/ADDRESS holds; [] where nobody answers yet."""
        builder = OscMessageBuilder(f"/sdv2live/{address}")
        builder.add_arg("?")
        self._socket.sendto(builder.build().dgram, ("127.0.0.1", self._port))
        try:
            while True:
                answer = OscMessage(self._socket.recv(65535))
                if answer.address == f"/sdv2live/{address}":
                    return list(answer.params)
        except OSError:
            return []

    def close(self) -> None:
        self._socket.close()


@dataclass
class Screen:
    """A running program, its display, and where things are in its window."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    osc: Osc
    home: Path

    def do(self, *words: object) -> str:
        command = ["xdotool", *map(str, words)]
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout.strip()

    def window(self) -> str:
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            assert self.process.poll() is None, "the program has ended"
            found = subprocess.run(
                ["xdotool", "search", "--onlyvisible", "--name", "^sdv2live$"],
                env=self.environment,
                capture_output=True,
                text=True,
            ).stdout.split()
            if found:
                self.do("windowfocus", found[0])
                return found[0]
            time.sleep(0.1)
        raise AssertionError("no window")

    def until(self, address: str, expected: object) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        seen: list[object] = []
        while time.monotonic() < deadline_s:
            assert self.process.poll() is None, "the program has ended"
            seen = self.osc.ask(address)
            if seen == [expected] or (callable(expected) and seen and expected(seen[0])):
                return
            time.sleep(0.05)
        raise AssertionError(f"{address} is {seen}, not {expected}")


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    with x_display.running((1400, 900)) as display:
        yield display.name


@contextmanager
def launched(display: str, home: Path) -> Iterator[Screen]:
    """The program on `display`, with a home of its own; ended with the block."""
    port = free_port()
    environment = {**os.environ, "DISPLAY": display, "HOME": str(home), "QT_QPA_PLATFORM": "xcb"}
    for name in ("WAYLAND_DISPLAY", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_SESSION_TYPE"):
        environment.pop(name, None)
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "sdv2live", "--source", "pattern", "--size", "64x64", "--osc-port", str(port)]
    process = subprocess.Popen(command, cwd=home, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    screen = Screen(process, environment, Osc(port), home)
    try:
        yield screen
    finally:
        screen.osc.close()
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def point_of(widget: QWidget, window: QWidget, x: float, y: float) -> tuple[int, int]:
    """Where a point of a widget lies in its window."""
    at = widget.mapTo(window, QPoint(round(x), round(y)))
    return at.x(), at.y()


@pytest.fixture
def screen(display: str, tmp_path: Path) -> Iterator[Screen]:
    with launched(display, tmp_path) as screen:
        yield screen


@pytest.fixture
def layout(window: MainWindow) -> MainWindow:
    """The same window without a screen, to know where its parts are."""
    window.resize(1220, 800)
    return window


def test_a_first_session_with_mouse_and_keys(screen: Screen, layout: MainWindow, live: StillLive) -> None:
    identity = screen.window()
    screen.do("windowmove", identity, 0, 0)
    screen.until("state", "running")
    live.registry.set_many([("noise.max", 0.6), ("noise.min", 0.5)], origin="test")

    # A prompt.
    screen.do("mousemove", *point_of(layout.panel.prompt._text, layout, 40, 20), "click", 1)
    screen.do("key", "ctrl+a")
    screen.do("type", "--delay", 15, "neon lights")
    screen.do("key", "Return")
    screen.until("prompt", "neon lights")
    # A bound, dragged.
    screen.until("noise/max", lambda value: abs(float(value) - 0.6) < 0.01)
    trace = layout.panel.trace
    screen.do("mousemove", *point_of(trace, layout, 60, trace._y(0.6)), "mousedown", 1)
    for value in (0.65, 0.7, 0.75, 0.8):
        screen.do("mousemove", *point_of(trace, layout, 60, trace._y(value)))
    screen.do("mouseup", 1)
    screen.until("noise/max", lambda value: abs(float(value) - 0.8) < 0.03)
    # Fifty sources.
    screen.do("mousemove", *point_of(layout.panel.source._box, layout, 30, 10), "click", 1)
    screen.do("key", "Escape")
    for number in range(50):
        screen.do("key", ("Up", "Down")[number % 2])
    screen.do("key", "Home")
    screen.until("source/name", lambda name: name != "pattern")
    screen.until("state", "running")
    # A look, a switch, a panic.
    screen.do("key", "ctrl+3")
    screen.until("prompt", lambda text: text not in ("neon lights", ""))
    for key, address in (("F6", "output/bypass"), ("F8", "output/panic")):
        screen.do("key", key)
        screen.until(address, 1)
        screen.do("key", key)
        screen.until(address, 0)
    screen.do("key", "F5")
    screen.until("state", "stopped")
    screen.do("key", "F5")
    screen.until("state", "running")
    # The end.
    screen.do("key", "ctrl+q")
    assert screen.process.wait(30) == 0
    kept = json.loads(next(screen.home.rglob("session.json")).read_text())
    assert "neon lights" in kept["prompts"] and kept["values"]["source.name"] != "pattern"


def test_a_window_that_is_closed_while_the_engine_loads(screen: Screen) -> None:
    screen.window()
    screen.do("key", "ctrl+q")
    assert screen.process.wait(30) == 0


def test_ctrl_c_in_the_terminal_ends_the_window(screen: Screen) -> None:
    screen.window()
    screen.until("state", "running")
    screen.process.send_signal(signal.SIGINT)
    assert screen.process.wait(30) == 128 + signal.SIGINT
    assert list(screen.home.rglob("session.json")), "what was set is kept all the same"


def test_a_killed_window_takes_its_engine_with_it(screen: Screen) -> None:
    screen.window()
    screen.until("state", "running")
    children = psutil.Process(screen.process.pid).children(recursive=True)
    assert children
    screen.process.kill()
    screen.process.wait(30)
    gone, left = psutil.wait_procs(children, timeout=20)
    assert not left and len(gone) == len(children)


def test_a_second_window_is_refused_in_a_sentence(screen: Screen) -> None:
    screen.window()
    command = [sys.executable, "-m", "sdv2live", "--osc-port", "0"]
    second = subprocess.run(command, cwd=screen.home, env=screen.environment, capture_output=True, text=True)
    assert second.returncode == 2 and "window open already" in second.stderr and "Traceback" not in second.stderr
    assert screen.process.poll() is None
