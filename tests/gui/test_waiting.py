"""The dialog before the window: it says how far the work is, and ends it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import Qt, QTimer
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from gui import waiting
from gui.waiting import Waiting, wait_for
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir

Say = Callable[[str], None]
LIMIT_S = 60.0


def test_work_is_shown_and_its_result_comes_back(application: QApplication, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SHOWN_AFTER_MS", 0)
    goes_on, seen = threading.Event(), []

    def work(say: Say, stop: threading.Event) -> int:
        say("measuring")
        assert goes_on.wait(LIMIT_S)
        return 7

    def look() -> None:
        dialogs = [each for each in application.topLevelWidgets() if isinstance(each, Waiting) and each.isVisible()]
        if dialogs and dialogs[0].words.text() == "measuring":
            seen.append(dialogs[0].windowTitle())
            goes_on.set()

    timer = QTimer()
    timer.timeout.connect(look)
    timer.start(10)
    assert wait_for(work, assets=assets_dir(), title="A title") == 7
    timer.stop()
    assert seen == ["A title"]


@pytest.mark.parametrize("way", ["button", "escape", "close"])
def test_it_is_cancelled_and_waits_for_the_work_to_end(
    way: str, application: QApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SHOWN_AFTER_MS", 0)

    def work(say: Say, stop: threading.Event) -> str:
        assert stop.wait(LIMIT_S)
        return "stopped"

    def cancel() -> None:
        visible = [each for each in application.topLevelWidgets() if isinstance(each, Waiting) and each.isVisible()]
        if not visible:
            return
        timer.stop()
        if way == "button":
            QTest.mouseClick(visible[0].cancel, Qt.MouseButton.LeftButton)
        elif way == "escape":
            QTest.keyClick(visible[0], Qt.Key.Key_Escape)
        else:
            visible[0].close()

    timer = QTimer()
    timer.timeout.connect(cancel)
    timer.start(10)
    assert wait_for(work, assets=assets_dir(), title="A title") == "stopped"


def test_what_goes_wrong_is_raised_where_it_was_asked_for(application: QApplication) -> None:
    def work(say: Say, stop: threading.Event) -> None:
        raise UserError("It cannot be had: take another.")

    with pytest.raises(UserError, match="cannot be had"):
        wait_for(work, assets=assets_dir(), title="A title")
