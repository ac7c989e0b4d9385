"""The dialog of the doctor, by its buttons, with the command line that it starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from gui.doctor_dialog import DoctorDialog
from gui.main_window import MainWindow
from sdv2live.doctor.finding import Finding, State
from tests.gui.conftest import StillLive, settle, wait_for

# The real command, on a few of its checks; and one that says a line and then nothing.
QUICK = "import sys; from sdv2live import cli; sys.exit(cli.main([*sys.argv[1:], 'python', 'OSC']))"
STUCK = """
import sys, time
print('{"findings": [')
print('{"name": "<b>a</b>", "state": "fail", "text": "1 < 2", "remedy": "do & do"}', flush=True)
print("sdv2live: looking at nothing", file=sys.stderr, flush=True)
time.sleep(600)
"""
# What it was asked for, as a finding.
ECHO = """
import json, sys
print('{"findings": [')
print(json.dumps({"name": "asked", "state": "ok", "text": " ".join(sys.argv[1:]), "remedy": ""}))
print('], "verdict": "1 ok"}')
"""


def dialog_of(code: str, **more: object) -> DoctorDialog:
    return DoctorDialog(program=(sys.executable, "-c", code), **more)  # type: ignore[arg-type]


@pytest.fixture
def made(application: QApplication) -> Iterator[list[DoctorDialog]]:
    dialogs: list[DoctorDialog] = []
    yield dialogs
    for dialog in dialogs:
        dialog.close_down()
        dialog.close()
        dialog.deleteLater()
    settle(application)


def test_it_shows_what_the_command_says_and_copies_it(application: QApplication, made: list[DoctorDialog]) -> None:
    dialog = dialog_of(QUICK)
    made.append(dialog)
    dialog.show()
    QTest.mouseClick(dialog.look_button, Qt.MouseButton.LeftButton)
    assert dialog.is_looking and not dialog.look_button.isEnabled() and dialog.cancel_button.isEnabled()
    wait_for(application, lambda: not dialog.is_looking, "it has looked")
    assert [found.name for found in dialog.findings] == ["python", "OSC"]
    assert dialog.words.text().endswith("failed") and sys.executable in dialog.page.toPlainText()
    QTest.mouseClick(dialog.copy_button, Qt.MouseButton.LeftButton)
    text = application.clipboard().text()
    assert text.startswith("ok    python") and text.splitlines()[-1].endswith("0 failed")


def test_it_is_cancelled_and_markup_is_text(application: QApplication, made: list[DoctorDialog]) -> None:
    dialog = dialog_of(STUCK)
    made.append(dialog)
    dialog.look()
    wait_for(application, lambda: "nothing" in dialog.words.text() and bool(dialog.findings), "it looks")
    assert dialog.findings == [Finding("<b>a</b>", State.FAIL, "1 < 2", "do & do")]
    assert "<b>a</b>" in dialog.page.toPlainText() and "1 < 2" in dialog.page.toPlainText()
    QTest.mouseClick(dialog.cancel_button, Qt.MouseButton.LeftButton)
    wait_for(application, lambda: not dialog.is_looking, "it has stopped")
    assert dialog.words.text() == "Stopped before the end." and dialog.look_button.isEnabled()


def test_a_program_that_is_not_there(application: QApplication, made: list[DoctorDialog]) -> None:
    dialog = DoctorDialog(program=("/nowhere/python",))
    made.append(dialog)
    dialog.look()
    wait_for(application, lambda: "cannot be started" in dialog.words.text(), "it is said")
    assert not dialog.is_looking


def test_the_window_opens_it_and_stops_for_a_rehearsal(
    window: MainWindow, live: StillLive, application: QApplication, own_folder: Path
) -> None:
    QTest.keyClick(window, Qt.Key.Key_D, Qt.KeyboardModifier.ControlModifier)
    wait_for(application, lambda: window.doctor is not None and window.doctor.isVisible(), "the dialog is open")
    dialog = window.doctor
    assert dialog is not None
    dialog._program = (sys.executable, "-c", ECHO)
    live.registry.set("engine.size", "128x128", origin="gui")
    live.registry.set("source.name", "camera", origin="gui")
    states: list[object] = []
    live.registry.subscribe(lambda change: states.append(change.values.get("stream.running")))
    dialog.seconds.setValue(7)
    QTest.mouseClick(dialog.rehearse_button, Qt.MouseButton.LeftButton)
    assert live.registry.get("stream.running") is False
    wait_for(application, lambda: not dialog.is_looking, "it was rehearsed")
    assert dialog.findings[0].text == "doctor --json --size=128x128 --source=clip --soak=7"  # what plays, as it is set
    assert live.registry.get("stream.running") is True and states == [False, True]
