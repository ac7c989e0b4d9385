"""The dialog of engine files, by its buttons: against the hub of these tests, with the command line that it starts."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QMessageBox, QPushButton

from gui.main_window import MainWindow
from gui.models_dialog import ModelsDialog
from gui.run import make_application
from sdv2live.models.manifest import MODELS, find
from sdv2live.models.store import State, Store
from sdv2live.paths import assets_dir
from sdv2live.settings import engine_spec
from tests.gui.conftest import StillLive, settle, wait_for
from tests.models.hub import Hub
from tests.models.test_processes import PROGRAM

NAME = "wan-1.3b"


class Desk:
    """The dialog and somebody before it."""

    def __init__(self, application: QApplication, dialog: ModelsDialog, store: Store) -> None:
        self.application, self.dialog, self.store = application, dialog, store

    def choose(self, words: str) -> None:
        found = [item for item in self._items() if item.text(0).strip() == words]
        self.dialog.tree.setCurrentItem(found[0])

    def press(self, button: QPushButton) -> None:
        assert button.isEnabled()
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    def state(self, words: str) -> str:
        return next(item.text(1) for item in self._items() if item.text(0).strip() == words)

    def wait(self, state: str, words: str = NAME) -> None:
        wait_for(self.application, lambda: self.state(words) == state, f"{words} is {state}")

    def wait_said(self, part: str) -> None:
        wait_for(self.application, lambda: part in self.dialog.words.text(), f"{part!r} is said")

    def _items(self) -> list[object]:
        tree = self.dialog.tree
        return [tree.topLevelItem(row) for row in range(tree.topLevelItemCount())]


@pytest.fixture
def desk(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name, value in (("HF_ENDPOINT", hub.endpoint), ("HF_HOME", str(tmp_path / "hf"))):
        monkeypatch.setenv(name, value)
    manifest = tmp_path / "manifest"
    manifest.write_bytes(pickle.dumps(dict(MODELS)))
    application = make_application(assets_dir())
    store = Store(tmp_path / "models")
    dialog = ModelsDialog(store, program=(sys.executable, "-c", PROGRAM, str(manifest)))
    dialog.show()
    desk = Desk(application, dialog, store)
    desk.wait("not here")
    yield desk
    dialog.close()
    dialog.close_down()
    dialog.deleteLater()
    settle(application)


def test_an_engine_is_fetched_and_removed_with_its_buttons(
    desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.choose(NAME)
    assert desk.dialog.get_button.text() == f"Get {NAME}" and not desk.dialog.remove_button.isEnabled()
    desk.press(desk.dialog.get_button)
    assert not desk.dialog.get_button.isEnabled() and desk.dialog.cancel_button.isEnabled()
    desk.wait("here")
    assert f"{NAME} is here" in desk.dialog.words.text()
    assert desk.state("TAEHV") == "here" and desk.state("wan-14b") == "4 of 5 files here"
    assert not desk.dialog.get_button.isEnabled() and not desk.dialog.bar.isVisible()
    asked: list[str] = []

    def answer(button: QMessageBox.StandardButton) -> None:
        monkeypatch.setattr(QMessageBox, "question", lambda *words: asked.append(words[2]) or button)

    answer(QMessageBox.StandardButton.No)
    desk.press(desk.dialog.remove_button)
    settle(desk.application)
    assert "text-encoder" in asked[0] and find(MODELS[NAME], desk.store.folder) is not None
    answer(QMessageBox.StandardButton.Yes)
    desk.press(desk.dialog.remove_button)
    desk.wait("not here")
    assert "are free again" in desk.dialog.words.text() and find(MODELS[NAME], desk.store.folder) is None


def test_a_fetch_is_cancelled_and_gone_on_with_while_the_window_lives(
    desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "60")
    hub.fails("GET cdn", "stall")
    desk.choose("text encoder")
    desk.press(desk.dialog.get_button)
    desk.wait_said("fetching text-encoder: ")  # a hub that stalls stalls nothing here
    wait_for(desk.application, lambda: desk.dialog.bar.value() > 0, "the bar moves")
    desk.press(desk.dialog.cancel_button)
    desk.wait_said("what was fetched is kept")
    wait_for(desk.application, lambda: desk.state("text encoder").endswith(" fetched"), "a part is shown")
    hub.go_on.set()
    assert desk.store.look(MODELS["text-encoder"]).state == State.PARTLY
    desk.press(desk.dialog.get_button)
    desk.wait("here", "text encoder")
    assert hub.asked("GET", "cdn")[-1].range is not None


def test_what_goes_wrong_is_said_in_the_sentence_of_the_command_line(desk: Desk, hub: Hub) -> None:
    hub.fails("HEAD hub", "401", "always")
    desk.choose("Wan VAE")
    desk.press(desk.dialog.get_button)
    desk.wait_said("(401)")
    assert "hf auth login" in desk.dialog.words.text() and desk.dialog.get_button.isEnabled()


def test_a_program_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    application = make_application(assets_dir())
    dialog = ModelsDialog(Store(tmp_path), program=("/nowhere/python",))
    dialog.get(NAME)
    wait_for(application, lambda: "cannot be started" in dialog.words.text(), "it is said")
    assert not dialog.is_fetching
    dialog.close_down()
    dialog.deleteLater()
    settle(application)


def test_f12_opens_it_from_the_window(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    application = make_application(assets_dir())
    live = StillLive()
    engine_spec(live.registry)
    window = MainWindow(live)
    window.show()
    settle(application)
    QTest.keyClick(window, Qt.Key.Key_F12)
    wait_for(application, lambda: window.models is not None and window.models.isVisible(), "the dialog is open")
    window.close()
    window.deleteLater()
    settle(application)
