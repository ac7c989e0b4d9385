"""Starts Qt, shows the window and drives the run until it is closed. Owns the QApplication."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from PySide6.QtCore import Qt, QTimer, qInstallMessageHandler
from PySide6.QtGui import QGuiApplication, QIcon
from PySide6.QtWidgets import QApplication

from gui.live import Background, Live
from gui.main_window import MainWindow
from gui.theme import apply_theme

log = logging.getLogger(__name__)

KEEP_MS = 5000
Keep = Callable[[dict[str, bytes], list[str]], None]


def make_application(assets: Path) -> QApplication:
    """The one QApplication of this process, dressed."""
    found = QApplication.instance()
    if isinstance(found, QApplication):
        return found
    QGuiApplication.setHighDpiScaleFactorRoundingPolicy(Qt.HighDpiScaleFactorRoundingPolicy.PassThrough)
    qInstallMessageHandler(lambda kind, context, words: log.debug("Qt: %s", words))
    application = QApplication(["sdv2live"])
    application.setApplicationName("sdv2live")
    application.setApplicationDisplayName("sdv2live")
    application.setDesktopFileName("sdv2live")
    icon = assets / "icon.png"
    if icon.is_file():
        application.setWindowIcon(QIcon(str(icon)))
    apply_theme(application, assets)
    return application


class _Keeper:
    """Keeps the session now and then: whatever ends the process, little is lost."""

    def __init__(self, window: MainWindow, keep: Keep) -> None:
        self._window, self._keep = window, keep
        self._kept = window.knobs.registry.snapshot().version
        self._background = Background()
        self._timer = QTimer()
        self._timer.timeout.connect(self._look)
        self._timer.start(KEEP_MS)

    def stop(self) -> None:
        self._timer.stop()
        self._background.wait(5.0)

    def _look(self) -> None:
        version = self._window.knobs.registry.snapshot().version
        if version == self._kept or self._window.isFullScreen():
            return
        self._kept = version
        state, prompts = self._window.window_state(), self._window.panel.prompt.history
        self._background.run(lambda: self._keep(state, prompts), lambda _: None)


def drive(
    live: Live,
    *,
    assets: Path,
    state: Mapping[str, bytes],
    history: Sequence[str],
    on_close: Keep,
) -> None:
    """Show the window until it is closed or the run is over.

    on_close(window state, prompts) is called at its end, and, on another thread, some time after a change.
    """
    application = make_application(assets)
    window = MainWindow(live, on_over=application.quit)
    window.restore_window(state)
    window.panel.prompt.remember(history)
    window.show()
    # Python sees a signal only when it runs: Qt's loop would keep Ctrl-C waiting for ever.
    waker = QTimer()
    waker.timeout.connect(lambda: None)
    waker.start(200)
    old_hook = sys.excepthook

    def on_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.error("the window: something failed that should not", exc_info=(kind, error, trace))
        window.notice.tell(f"Something failed that should not ({kind.__name__}: {error}): see the log.")

    sys.excepthook = on_error
    keeper = _Keeper(window, on_close)
    try:
        application.exec()
        keeper.stop()
        if window.isFullScreen():
            window.toggle_full_screen()
        on_close(window.window_state(), window.panel.prompt.history)
    finally:
        sys.excepthook = old_hook
        waker.stop()
        window.close()
        window.deleteLater()
        application.processEvents()
