"""What works on this machine, and a rehearsal of the show. Owns the process that looks, and the list of what it says.

It is `sdv2live doctor --json`, so that the window and a terminal say the same. For a rehearsal our own stream stops,
since it would take the camera and the engine's memory; it goes on afterwards.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence

from PySide6.QtCore import QProcess, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QDialog,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from gui import theme
from gui.own_process import PROGRAM, own_process
from sdv2live.doctor.finding import Finding, State, as_text

_COLOURS = {State.OK: theme.GOOD, State.WARN: theme.WARN, State.FAIL: theme.BAD}
SECONDS = (5, 3600)
DEFAULT_SECONDS = 60


class DoctorDialog(QDialog):
    """Stays open beside the window; hidden, it goes on.

    rehearsal(): the flags of a rehearsal, asked when one begins; set_running(is_on): have the window's stream stopped
    for one, and started again.
    """

    def __init__(
        self,
        parent: QWidget | None = None,
        *,
        rehearsal: Callable[[], Sequence[str]] = lambda: (),
        set_running: Callable[[bool], bool] = lambda is_on: False,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        super().__init__(parent)
        self._rehearsal, self._set_running, self._program = rehearsal, set_running, tuple(program)
        self._process: QProcess | None = None
        self._is_cancelled = self._goes_on = False
        self._rest = b""
        self.findings: list[Finding] = []
        self._verdict = ""
        self.setWindowTitle("What works here")
        self.resize(980, 680)
        self.page = QTextBrowser()  # a table of it wraps its lines, and can be marked and read out
        self.page.setAccessibleName("What was found")
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.hide()
        self.words = QLabel("Look tries everything that a show needs, which takes up to a minute.")
        self.words.setWordWrap(True)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.words.setAccessibleName("What happens")
        self.look_button = self._button("&Look", self.look, "Try everything that a show needs")
        self.look_button.setObjectName("primary")
        self.rehearse_button = self._button(
            "&Rehearse", self.rehearse, "Run the show as it is set now, for that long, and judge it; the stream stops"
        )
        self.seconds = QSpinBox()
        self.seconds.setRange(*SECONDS)
        self.seconds.setValue(DEFAULT_SECONDS)
        self.seconds.setSuffix(" s")
        self.seconds.setAccessibleName("Seconds of a rehearsal")
        self.cancel_button = self._button("&Cancel", self.cancel, "Stop looking")
        self.copy_button = self._button("Cop&y as text", self.copy, "For a message to somebody who helps")
        close = self._button("Close", self.close, "It goes on while it is closed")
        line = QHBoxLayout()
        for part in (self.look_button, self.rehearse_button, self.seconds, self.cancel_button, self.copy_button):
            line.addWidget(part)
        line.addStretch(1)
        line.addWidget(close)
        layout = QVBoxLayout(self)
        for each in (self.page, self.bar, self.words):
            layout.addWidget(each, 1 if each is self.page else 0)
        layout.addLayout(line)
        self._enable()

    def _button(self, words: str, act: Callable[[], object], tip: str) -> QPushButton:
        button = QPushButton(words)
        button.setAutoDefault(False)
        button.setToolTip(tip)
        button.clicked.connect(lambda: act())
        return button

    @property
    def is_looking(self) -> bool:
        return self._process is not None

    @property
    def text(self) -> str:
        """What is shown, as a terminal has it."""
        return "\n".join([*map(as_text, self.findings), "", self._verdict])

    def look(self) -> None:
        self._start(["doctor", "--json"], "Looking \u2026")

    def rehearse(self) -> None:
        """The stream of the window is stopped meanwhile."""
        if self._process is None:
            flags = [*self._rehearsal(), f"--soak={self.seconds.value()}"]
            self._goes_on = self._set_running(False)
            self._start(["doctor", "--json", *flags], "The rehearsal begins \u2026")

    def cancel(self) -> None:
        if self._process is not None:
            self._is_cancelled = True
            self._process.kill()

    def copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text)
        self.words.setText(f"{len(self.findings)} lines are in the clipboard.")

    def close_down(self) -> None:
        """For the end of the window."""
        self._goes_on = False
        self.cancel()
        if self._process is not None:
            self._process.waitForFinished(2000)

    # ---- inside

    def _start(self, arguments: list[str], words: str) -> None:
        if self._process is not None:
            return
        self.findings, self._verdict, self._rest, self._is_cancelled = [], "", b"", False
        self.page.clear()
        process = self._process = own_process(self)
        process.readyReadStandardOutput.connect(self._read)
        process.readyReadStandardError.connect(self._hear)
        process.finished.connect(self._finished)
        process.errorOccurred.connect(self._failed)
        self.bar.setRange(0, 0)
        self.bar.show()
        self.words.setText(words)
        process.start(self._program[0], [*self._program[1:], *arguments])
        self._enable()

    def _read(self) -> None:
        assert self._process is not None
        *lines, self._rest = (self._rest + bytes(self._process.readAllStandardOutput().data())).split(b"\n")
        for line in lines:
            try:
                if line.startswith(b"], "):
                    self._verdict = str(json.loads(b"{" + line[3:])["verdict"])
                else:
                    self._add(Finding.from_json(line.removeprefix(b",")))
            except (ValueError, KeyError):
                continue  # the line that opens the list

    def _add(self, found: Finding) -> None:
        self.findings.append(found)
        self.page.setHtml(f"<table cellpadding='4'>{''.join(map(_row, self.findings))}</table>")
        self.page.verticalScrollBar().setValue(self.page.verticalScrollBar().maximum())
        self._enable()

    def _hear(self) -> None:
        """The newest word on how far it is."""
        assert self._process is not None
        said = bytes(self._process.readAllStandardError().data()).decode("utf-8", "replace").splitlines()
        own = [line.removeprefix("sdv2live: ") for line in said if line.startswith("sdv2live: ")]
        if own:
            self.words.setText(f"{own[-1][:1].upper()}{own[-1][1:]}")
            self._verdict = own[-1]

    def _failed(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self._over(f"{self._program[0]} cannot be started: type `sdv2live doctor` in a terminal.")

    def _finished(self, code: int, how: QProcess.ExitStatus) -> None:
        self._read()
        self._hear()
        if self._is_cancelled:
            self._verdict = "Stopped before the end."
        elif how == QProcess.ExitStatus.CrashExit or not self._verdict:
            self._verdict = f"It ended without a word ({code}): type `sdv2live doctor` in a terminal."
        self._over(self._verdict)

    def _over(self, sentence: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.deleteLater()
        self.bar.hide()
        self.words.setText(f"{sentence[:1].upper()}{sentence[1:]}")
        self._enable()
        if self._goes_on:
            self._goes_on = False
            self._set_running(True)

    def _enable(self) -> None:
        for part in (self.look_button, self.rehearse_button, self.seconds):
            part.setEnabled(not self.is_looking)
        self.cancel_button.setEnabled(self.is_looking)
        self.copy_button.setEnabled(bool(self.findings))


def _row(found: Finding) -> str:
    """A row of the table; what came from outside is text there and no markup."""
    remedy = f"<br><span style='color:{theme.QUIET}'>{html.escape(found.remedy)}</span>" if found.remedy else ""
    return (
        f"<tr><td style='color:{_COLOURS[found.state]}'>{found.state.value}</td>"
        f"<td style='white-space:nowrap'>{html.escape(found.name)}</td><td>{html.escape(found.text)}{remedy}</td></tr>"
    )
