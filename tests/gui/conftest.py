"""A window without a screen, on a registry that is real and an app that is not: what a run does is shown elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QDeadlineTimer, QEventLoop
from PySide6.QtWidgets import QApplication

from gui.main_window import MainWindow
from gui.run import make_application
from sdv2live.frames import Shown
from sdv2live.paths import assets_dir
from sdv2live.queues import LatestSlot
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec
from sdv2live.status import LiveStatus, SourceLine

STATUS = LiveStatus(
    engine_state="running",
    engine_words="running",
    engine_name="pocket",
    device="cpu",
    size_wh=(256, 256),
    source=SourceLine("clip", "clip", "running", "", 16.0, (640, 360)),
    outputs=(),
    camera=None,
    recording=None,
    new_fps=16.0,
    engine_fps=33.0,
    age_ms=390.0,
    change_to_picture_ms=430.0,
    dropped=0,
    lagged=0,
    repeated=0,
    skipped=0,
    restarts=0,
    noise_scale=0.6,
    motion=0.2,
    memory_bytes=500 << 20,
    osc_port=9000,
    ranks=(),
    loras=(),
    understood=(),
    not_understood="",
    problems=(),
)


@dataclass
class Choice:
    spec: str
    label: str


@dataclass
class Camera:
    spec: str
    label: str
    state: str = "Ready."
    is_missing: bool = False


@dataclass
class StillLive:
    """What a window asks of the app, answered from memory."""

    registry: Registry = field(default_factory=Registry)
    preview: LatestSlot[Shown] = field(default_factory=LatestSlot)
    now: LiveStatus = STATUS
    choices: tuple[Choice, ...] = (Choice("clip", "Sample clip"), Choice("pattern", "Test pattern"))
    cameras: tuple[Camera, ...] = (Camera("pipewire", "pipewire"), Camera("v4l2", "v4l2", "It is not there.", True))
    is_finished: bool = False

    def status(self) -> LiveStatus:
        return self.now

    def list_sources(self) -> tuple[Choice, ...]:
        return self.choices

    def list_virtual_cameras(self) -> tuple[Camera, ...]:
        return self.cameras

    def is_over(self) -> bool:
        return self.is_finished

    def change(self, **values: object) -> None:
        self.now = replace(self.now, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def application() -> QApplication:
    return make_application(assets_dir())


@pytest.fixture
def live() -> StillLive:
    live = StillLive()
    engine_spec(live.registry)
    return live


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of this test alone, on every system."""
    for name in ("XDG_CONFIG_HOME", "APPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.fixture
def window(application: QApplication, live: StillLive, own_folder: Path) -> Iterator[MainWindow]:
    window = MainWindow(live)
    window.show()
    settle(application)
    yield window
    window.close()
    window.deleteLater()
    settle(application)


def settle(application: QApplication) -> None:
    """Let everything that is queued happen."""
    for _ in range(5):
        application.processEvents(QEventLoop.ProcessEventsFlag.AllEvents)
        application.sendPostedEvents(None, 0)


def wait_for(application: QApplication, condition: Callable[[], bool], what: str, patience_ms: int = 60_000) -> None:
    deadline = QDeadlineTimer(patience_ms)
    while not condition():
        assert not deadline.hasExpired(), f"not within {patience_ms} ms: {what}"
        application.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 20)
