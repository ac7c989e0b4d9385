"""The real window on the real stream, in one process without a screen: a window that hangs costs no picture."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from PySide6.QtCore import QTimer

from gui.run import drive
from sdv2live.app import LiveApp, LiveOptions
from sdv2live.paths import assets_dir
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec
from tests.faults.live import Watcher
from tests.gui.conftest import application  # noqa: F401  (a fixture)

BLOCKED_S = 2.0


@pytest.mark.usefixtures("application")
def test_a_window_blocked_for_two_seconds_loses_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "APPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    registry = Registry()
    registry.set_many([("osc.port", 0), ("engine.size", (64, 64)), ("source.name", "clip")], origin="test")
    watcher = Watcher()
    spec = engine_spec(registry)
    app = LiveApp(registry, LiveOptions(outputs=[watcher], spec=spec, waits_for_source=False))
    seen: dict[str, int] = {}

    def block() -> None:
        if app.presenter.first_picture_s is None or app.session.frames_generated < 16:
            QTimer.singleShot(50, block)
            return
        seen.update(ticks=len(watcher.ticks), generated=app.session.frames_generated, dropped=app.sources.dropped)
        time.sleep(BLOCKED_S)  # the thing under test: the GUI thread does nothing at all
        seen.update(after_ticks=len(watcher.ticks), after_generated=app.session.frames_generated)
        seen.update(after_dropped=app.sources.dropped)
        app.request_stop()

    def with_window(live: LiveApp) -> None:
        QTimer.singleShot(50, block)
        drive(live, assets=assets_dir(), state={}, history=[], on_close=lambda *_: None)

    assert app.run(lambda: with_window(app)) == 0
    assert threading.current_thread() is threading.main_thread()
    assert seen["after_ticks"] - seen["ticks"] > 0.8 * BLOCKED_S * 30, "outputs went on"
    # 16 frames a second came in; what waits or is with the engine at the two ends is at most two chunks.
    assert seen["after_generated"] - seen["generated"] >= BLOCKED_S * 16 - 8
    assert seen["after_dropped"] - seen["dropped"] <= 8 and watcher.ticks == sorted(set(watcher.ticks))
