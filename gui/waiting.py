"""Work before the window is there: a small dialog says how far it is, and ends it. Owns that dialog and its thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QDialog, QLabel, QProgressBar, QPushButton, QVBoxLayout

from gui.run import make_application

SHOWN_AFTER_MS = 400  # what is over at once shows nothing
PULSE_MS = 100  # and Python hears a signal of the terminal

Result = TypeVar("Result")
Work = Callable[[Callable[[str], None], threading.Event], Result]


class Waiting(QDialog):
    """Runs work(say, stop) on a thread; `stop` is set by Cancel, by Escape and where the dialog is closed."""

    said = Signal(str)
    ended = Signal()

    def __init__(self, work: Callable[[], None], stop: threading.Event, *, title: str) -> None:
        super().__init__()
        self._stop = stop
        self._thread = threading.Thread(target=self._run, args=(work,), name="before the window", daemon=True)
        self.setWindowTitle(title)
        self.resize(560, 130)
        self.words = QLabel("\u2026")
        self.words.setWordWrap(True)
        self.words.setAccessibleName("What happens")
        bar = QProgressBar()
        bar.setRange(0, 0)
        bar.setTextVisible(False)
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Start with the engine that ships, as it is")
        self.cancel.clicked.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(self.words, 1)
        layout.addWidget(bar)
        layout.addWidget(self.cancel, 0, Qt.AlignmentFlag.AlignRight)
        self.said.connect(self.words.setText)
        self.ended.connect(self.accept)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def reject(self) -> None:
        """It ends soon, and then the dialog."""
        self._stop.set()
        self.cancel.setEnabled(False)
        self.words.setText("Stopping \u2026")

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self.ended.emit()


def wait_for(work: Work[Result], *, assets: Path, title: str) -> Result:
    """What work gives; raises what it raises, and KeyboardInterrupt for a signal. On the main thread."""
    application = make_application(assets)
    stop = threading.Event()
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(dialog.said.emit, stop))
        except BaseException as error:  # a thread's top: raised again on the main thread
            errors.append(error)

    def on_signal(number: int, _frame: object) -> None:
        signals.append(number)
        stop.set()

    signals: list[int] = []
    dialog = Waiting(run, stop, title=title)
    waker = QTimer()
    waker.timeout.connect(lambda: None)
    waker.start(PULSE_MS)
    QTimer.singleShot(SHOWN_AFTER_MS, dialog, lambda: None if dialog.is_over else dialog.show())
    dialog.ended.connect(application.quit)
    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    dialog.start()
    try:
        application.exec()
    finally:
        stop.set()
        dialog.join()
        waker.stop()
        for number, handler in old.items():
            signal.signal(number, handler)
        dialog.deleteLater()
        application.processEvents()
    if signals:
        raise KeyboardInterrupt
    if errors:
        raise errors[0]
    return results[0]
