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

from gui.live import Live
from gui.main_window import MainWindow
from gui.theme import apply_theme

log = logging.getLogger(__name__)


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


def drive(
    live: Live,
    *,
    assets: Path,
    state: Mapping[str, bytes],
    history: Sequence[str],
    on_close: Callable[[dict[str, bytes], list[str]], None],
) -> None:
    """Show the window until it is closed or the run is over. on_close(window state, prompts) is called at its end."""
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
    try:
        application.exec()
        on_close(window.window_state(), window.panel.prompt.history)
    finally:
        sys.excepthook = old_hook
        waker.stop()
        window.close()
        window.deleteLater()
        application.processEvents()
