"""The window's own part, driven as a person would: keys and mouse in, parameters out; parameters in, pictures out."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QInputDialog,
    QLineEdit,
    QPushButton,
    QSlider,
    QSpinBox,
)

from gui import looks as looks_room
from gui.control_panel import PLACED, grouped
from gui.controls import control_for, label_of
from gui.live import Background, Knobs
from gui.main_window import MainWindow
from gui.noise_trace import NoiseTrace
from gui.preview import Preview, View
from gui.status_line import StatusLine
from sdv2live.frames import Shown
from sdv2live.parameters import TABLE, Kind
from sdv2live.presets import Look, apply_preset, list_presets
from sdv2live.queues import LatestSlot
from sdv2live.registry import Registry
from sdv2live.status import OutputLine, RankLine
from tests.gui.conftest import STATUS, Camera, Choice, StillLive, settle, wait_for

KEYS = Qt.Key


# ---- the table --------------------------------------------------------------------------------------------------


def test_every_row_has_one_place_in_the_window() -> None:
    groups = grouped(TABLE.values())
    built = [row.name for rows in groups.values() for row in rows]
    assert sorted([*built, *PLACED]) == sorted(TABLE)


SAMPLES: dict[str, tuple[object, object]] = {
    "noise.smoothing": (0.5, 0.5),
    "seed": (7, 7),
    "sinks.follow_prompt": (False, False),
    "noise.mode": ("fixed", "fixed"),
    "steps.list": ((900, 600, 300), "900, 600, 300"),
    "prompt.next": ("night", "night"),
    "prompt.mix": ((("night", 1.0), ("ink", 0.5)), None),
    "engine.size": ((512, 288), "512x288"),
    "input.filters": ("blur:2", None),
    "source.rate": (12.0, 12.0),
    "lora.strengths": ((0.5, -1.0), "0.5, -1.0"),
    "engine.lora": ((("/looks/ink.safetensors", 0.8), ("b", 1.0)), "/looks/ink.safetensors:0.8; b"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_control_shows_what_anyone_sets(application: QApplication, live: StillLive, name: str) -> None:
    knobs = Knobs(live.registry)
    control = control_for(TABLE[name], knobs)
    value, shown = SAMPLES[name]
    live.registry.set(name, value, origin="osc")
    settle(application)
    texts = [field.text() for field in control.findChildren(QLineEdit)]
    boxes = [box.currentText() for box in control.findChildren(QComboBox)]
    checks = [box.isChecked() for box in control.findChildren(QCheckBox)]
    expected = str(live.registry.get(name)) if shown is None and TABLE[name].kind is Kind.CHAIN else shown
    match TABLE[name].kind:
        case Kind.MIX:
            assert texts[0] == "night" and "ink" in texts
        case Kind.BOOL:
            assert checks == [expected]
        case Kind.CHOICE | Kind.SIZE:
            assert boxes == [expected]
        case Kind.FLOAT | Kind.INT:
            assert any(str(expected).rstrip("0").rstrip(".") in text for text in texts)
        case _:
            assert expected in texts
    knobs.reset(name)
    settle(application)
    assert live.registry.get(name) == live.registry.default(name) and not live.registry.is_user_set(name)
    knobs.close()


def test_a_file_is_added_to_those_that_are_there(
    application: QApplication, live: StillLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = Knobs(live.registry)
    control = control_for(TABLE["engine.lora"], knobs)
    field = control.findChildren(QLineEdit)[0]
    assert field.placeholderText() == "none" and field.text() == ""
    field.setText("/looks/ink.safetensors:0.5")
    QTest.keyClick(field, KEYS.Key_Return)
    chosen = iter([("/looks/film.safetensors", ""), ("", "")])  # the second time the dialog is closed
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, **__: next(chosen))
    plus = control.findChildren(QPushButton)[0]
    for _ in range(2):
        plus.click()
        assert live.registry.get("engine.lora") == (("/looks/ink.safetensors", 0.5), ("/looks/film.safetensors", 1.0))
    knobs.close()


def test_what_is_typed_is_set_at_enter_and_nonsense_is_said(window: MainWindow, live: StillLive) -> None:
    control = next(c for c in window.panel.findChildren(type(control_for(TABLE["steps.list"], window.knobs)))
                   if c.row.name == "steps.list")  # fmt: skip
    field = control.findChildren(QLineEdit)[0]
    field.setText("800, 400")
    assert live.registry.get("steps.list") != (800, 400), "not while it is typed"
    QTest.keyClick(field, KEYS.Key_Return)
    assert live.registry.get("steps.list") == (800, 400)
    field.setText("400, 800")
    QTest.keyClick(field, KEYS.Key_Return)
    assert live.registry.get("steps.list") == (800, 400) and "steps.list" in window.notice.text
    assert field.text() == "800, 400", "the field shows what holds"


def test_a_slider_sets_while_it_moves(window: MainWindow, live: StillLive) -> None:
    slider = next(s for s in window.panel.findChildren(QSlider) if s.accessibleName() == label_of(TABLE["output.wet"]))
    slider.setValue(slider.maximum() // 4)
    assert live.registry.get("output.wet") == pytest.approx(0.25, abs=0.01)
    QTest.keyClick(slider, KEYS.Key_Right)
    assert live.registry.get("output.wet") > 0.25


def test_a_value_that_nobody_chose_reads_auto(window: MainWindow, live: StillLive) -> None:
    field = next(s for s in window.panel.findChildren(QSpinBox) if s.accessibleName() == "")
    assert field is not None
    row = TABLE["engine.window_frames"]
    control = control_for(row, window.knobs)
    assert control.findChildren(QSpinBox)[0].text() == "auto"
    live.registry.set(row.name, 4, origin="osc")
    control.refresh()
    assert control.findChildren(QSpinBox)[0].text() == "4"


# ---- prompt, looks, noise ----------------------------------------------------------------------------------------


def test_a_prompt_is_used_with_enter_and_kept(window: MainWindow, live: StillLive) -> None:
    text = window.panel.prompt._text
    text.setPlainText("a red  fox")
    assert live.registry.get("prompt.text") != "a red fox", "not while it is typed"
    QTest.keyClick(text, KEYS.Key_Return)
    assert live.registry.get("prompt.text") == "a red fox"
    text.setPlainText("never mind")
    QTest.keyClick(text, KEYS.Key_Escape)
    assert text.toPlainText() == "a red fox"
    text.setPlainText("night")
    QTest.keyClick(text, KEYS.Key_Return)
    assert window.panel.prompt.history[:2] == ["night", "a red fox"]
    QTest.keyClick(text, KEYS.Key_Up)
    QTest.keyClick(text, KEYS.Key_Up)
    assert text.toPlainText() == "a red fox"
    QTest.keyClick(text, KEYS.Key_Down)
    assert text.toPlainText() == "night"


def test_unknown_words_are_said_beside_the_prompt(window: MainWindow, live: StillLive) -> None:
    box = window.panel.prompt
    assert not box._unknown.isVisibleTo(box)
    live.change(not_understood="'wombat' means nothing to the engine pocket: the picture follows oil.")
    window.beat()
    assert box._unknown.isVisibleTo(box) and box._unknown.text() == live.now.not_understood
    assert box._unknown.heightForWidth(200) > box._unknown.heightForWidth(2000), "it goes on in the next line"
    live.change(not_understood="")
    window.beat()
    assert not box._unknown.isVisibleTo(box)


def test_osc_does_not_take_the_word_out_of_a_mouth(
    window: MainWindow, live: StillLive, application: QApplication
) -> None:
    text = window.panel.prompt._text
    window.activateWindow()
    text.setFocus()
    wait_for(application, text.hasFocus, "focus")
    text.setPlainText("half a wo")
    live.registry.set("prompt.text", "thermal", origin="osc")
    settle(application)
    assert text.toPlainText() == "half a wo"
    QTest.keyClick(text, KEYS.Key_Escape)
    assert text.toPlainText() == "thermal"


def test_the_bounds_are_dragged_and_moved_with_keys(window: MainWindow, live: StillLive) -> None:
    trace: NoiseTrace = window.panel.trace
    live.registry.set_many([("noise.min", 0.3), ("noise.max", 0.6)], origin="osc")
    start = QPoint(60, round(trace._y(0.6)))
    QTest.mousePress(trace, Qt.MouseButton.LeftButton, pos=start)
    for value in (0.7, 0.8):
        QTest.mouseMove(trace, QPoint(60, round(trace._y(value))))
    QTest.mouseRelease(trace, Qt.MouseButton.LeftButton, pos=QPoint(60, round(trace._y(0.8))))
    assert live.registry.get("noise.max") == pytest.approx(0.8, abs=0.02)
    assert live.registry.get("noise.min") == 0.3
    QTest.keyClick(trace, KEYS.Key_Right)  # the lower bound
    QTest.keyClick(trace, KEYS.Key_Up)
    QTest.keyClick(trace, KEYS.Key_PageUp)
    assert live.registry.get("noise.min") == pytest.approx(0.36)
    for _ in range(30):
        QTest.keyClick(trace, KEYS.Key_PageUp)
    assert live.registry.get("noise.min") == live.registry.get("noise.max") == 1.0, "one bound pushes the other"


def test_looks_are_used_saved_deleted_and_brought_back(
    window: MainWindow, live: StillLive, application: QApplication
) -> None:
    looks = window.panel.looks
    wait_for(application, lambda: len(looks.names) >= 8, "the shipped looks")
    QTest.keyClick(window, KEYS.Key_4, Qt.KeyboardModifier.ControlModifier)
    wait_for(application, lambda: live.registry.is_user_set("prompt.text"), "the fourth look")
    used = live.registry.get("prompt.text")
    live.registry.set("prompt.text", "my own words", origin="gui")
    looks.save("Mine")
    live.registry.set("prompt.text", "words that came later", origin="gui")
    wait_for(application, lambda: "Mine" in looks.names, "the new look")
    mine = next(preset for preset in list_presets() if preset.name == "Mine")
    assert mine.is_own
    looks.apply("thermal")
    wait_for(application, lambda: live.registry.get("prompt.text") != "words that came later", "another look")
    looks.apply("Mine")
    wait_for(application, lambda: live.registry.get("prompt.text") == "my own words" != used, "the saved moment")
    item = next(looks._list.item(row) for row in range(looks._list.count()) if looks._list.item(row).text() == "Mine")
    looks._delete(item)
    wait_for(application, lambda: "Mine" not in looks.names, "gone")
    assert looks._undo.isVisible()
    looks._undo.click()
    wait_for(application, lambda: "Mine" in looks.names, "back")
    looks.save("../outside")
    wait_for(application, lambda: "name" in window.notice.text, "the refusal")
    failures: list[str] = []
    looks.failed.connect(failures.append)
    looks.apply("no such look")
    wait_for(application, lambda: failures != [], "the refusal")
    assert failures[0].startswith("there is no preset 'no such look': choose one of ")


def test_a_slow_disk_holds_up_no_window_and_changes_no_order(
    window: MainWindow, live: StillLive, application: QApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    asked: list[str] = []
    threads: set[int] = set()
    read = looks_room.read_look

    def slowly(registry: Registry, path: Path) -> Look:
        asked.append(path.stem)
        threads.add(threading.get_ident())
        assert answers.wait(60)
        return read(registry, path)

    monkeypatch.setattr(looks_room, "read_look", slowly)
    looks = window.panel.looks
    seen: list[str] = []
    looks.said.connect(seen.append)
    for name in ("thermal", "ink", "thermal", "neon"):
        looks.apply(name)
    looks.save("Order")
    wait_for(application, lambda: asked == ["thermal"], "the first one is being read")
    assert seen == [] and not live.registry.is_user_set("prompt.text"), "and the window is here"
    answers.set()
    wait_for(application, lambda: len(seen) == 5, "all of them")
    assert seen == ["look: thermal", "look: ink", "look: thermal", "look: neon", "look saved: Order"]
    wanted = Registry()
    apply_preset(wanted, "neon")
    assert live.registry.get("prompt.text") == wanted.get("prompt.text")
    assert threading.get_ident() not in threads


def test_undo_takes_back_a_whole_move_and_a_whole_look(
    window: MainWindow, live: StillLive, application: QApplication
) -> None:
    before = live.registry.get("output.wet")
    for value in (0.9, 0.7, 0.5):
        window.knobs.set("output.wet", value)
    window.knobs.set("noise.mode", "slow")
    live.registry.set("seed", 99, origin="osc")
    window.undo.undo()
    assert live.registry.get("noise.mode") != "slow" and live.registry.get("output.wet") == 0.5
    window.undo.undo()
    assert live.registry.get("output.wet") == before and live.registry.get("seed") == 99, "OSC's is OSC's"
    window.undo.redo()
    assert live.registry.get("output.wet") == 0.5
    wanted = dict(live.registry.snapshot().values)
    window.panel.looks.apply("thermal")
    wait_for(application, lambda: dict(live.registry.snapshot().values) != wanted, "the look")
    window.undo.undo()
    assert dict(live.registry.snapshot().values) == wanted


# ---- the picture -------------------------------------------------------------------------------------------------


def picture(seed: int, size_wh: tuple[int, int] = (320, 240)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8)


@pytest.fixture
def preview(application: QApplication) -> Iterator[Preview]:
    preview = Preview(LatestSlot())
    preview.resize(320, 240)
    preview.show()
    yield preview
    preview.stop()
    preview.close()
    preview.deleteLater()
    settle(application)


def grabbed(preview: Preview) -> np.ndarray:
    image = preview.grab().toImage().convertToFormat(preview.grab().toImage().Format.Format_RGB888)
    raw = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return raw[:, : image.width() * 3].reshape(image.height(), image.width(), 3).copy()


def test_the_preview_shows_the_very_pixels_of_all_three_views(preview: Preview, application: QApplication) -> None:
    effect, source = picture(1), picture(2)
    preview._slot.put(Shown(effect, source))
    wait_for(application, lambda: preview.pictures == 1, "the picture")
    assert (grabbed(preview) == effect).all()
    preview.set_view(View.SOURCE)
    assert (grabbed(preview) == source).all()
    preview.set_view(View.SPLIT)
    both = grabbed(preview)
    assert (both[:, :150] == source[:, :150]).all() and (both[:, 170:] == effect[:, 170:]).all()
    for _ in range(5):
        QTest.keyClick(preview, KEYS.Key_Left)
    moved = grabbed(preview)
    assert (moved[:, 140:] == effect[:, 140:]).all() and (moved[:, :120] == source[:, :120]).all()


def test_the_picture_is_not_copied(preview: Preview) -> None:
    effect = picture(3)
    preview._shown = Shown(effect, None)
    assert (grabbed(preview) == effect).all()
    effect[:] = 17
    assert (grabbed(preview) == 17).all(), "the image stands on the array's own memory"


def test_a_slow_window_takes_the_newest_picture_alone(preview: Preview, application: QApplication) -> None:
    for seed in range(50):
        preview._slot.put(Shown(picture(seed), None))
    wait_for(application, lambda: preview.pictures > 0, "a picture")
    settle(application)
    assert preview.pictures == 1 and (grabbed(preview) == picture(49)).all()


def test_painting_loses_no_reference_to_none(preview: Preview, application: QApplication) -> None:
    """A PySide6 release lost one with each call, and the process aborted after some thousand."""
    preview._shown = Shown(picture(4), None)
    before = sys.getrefcount(None)
    for _ in range(1000):
        preview.update()
        application.processEvents()
    assert sys.getrefcount(None) > before - 200


# ---- the rest ----------------------------------------------------------------------------------------------------


def test_a_flood_from_other_threads_is_heard_as_a_few_changes(
    window: MainWindow, live: StillLive, application: QApplication
) -> None:
    heard: list[set[str]] = []
    window.knobs.changed.connect(heard.append)

    def flood() -> None:
        for number in range(2000):
            live.registry.set("noise.max", 0.1 + number / 4000, origin="osc")

    threads = [threading.Thread(target=flood) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle(application)
    assert 1 <= len(heard) <= 5 and all("noise.max" in names for names in heard)


def test_the_switches_follow_whoever_turns_them(window: MainWindow, live: StillLive, application: QApplication) -> None:
    live.registry.set("output.bypass", True, origin="osc")
    settle(application)
    assert window.switches["output.bypass"].isChecked()
    QTest.keyClick(window, KEYS.Key_F6)
    assert live.registry.get("output.bypass") is False
    QTest.keyClick(window, KEYS.Key_F8)
    assert live.registry.get("output.panic") is True and window.switches["output.panic"].isChecked()
    QTest.keyClick(window, KEYS.Key_F5)
    settle(application)
    assert live.registry.get("stream.running") is False and window.start_button.text() == "Start"


def test_the_source_picker_lists_what_there_is_and_sets_it(
    window: MainWindow, live: StillLive, application: QApplication
) -> None:
    picker = window.panel.source
    wait_for(application, lambda: picker._box.count() == 2, "the list")
    live.choices = (*live.choices, Choice("camera:usb-1", "Front camera"))
    picker.reload()
    wait_for(application, lambda: picker._box.count() == 3, "the camera")
    picker._box.setFocus()
    QTest.keyClick(picker._box, KEYS.Key_Down)
    QTest.keyClick(picker._box, KEYS.Key_Down)
    assert live.registry.get("source.name") == "camera:usb-1"
    live.registry.set("source.name", "file:/shows/opening.mp4", origin="osc")
    settle(application)
    assert picker._box.currentText() == "opening.mp4"


def test_what_is_wrong_stands_on_top_until_it_is_mended(window: MainWindow, live: StillLive) -> None:
    sentence = "The camera Front is in use by another program: close that one."
    live.change(problems=(sentence,))
    window.beat()
    assert window.notice.text == sentence
    window.notice._put_away()
    window.beat()
    assert window.notice.text == "", "put away, it stays away"
    live.change(problems=(sentence, "The engine: it died"))
    window.beat()
    assert "it died" in window.notice.text and "Front" not in window.notice.text
    live.change(problems=())
    window.beat()
    assert not window.notice.isVisible()


def test_a_recording_that_ended_is_named(window: MainWindow, live: StillLive, tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "show.mp4"
    live.change(recording=OutputLine("file", "running", "", 90, 0, path))
    window.beat()
    assert "90" in window.outputs.text()
    live.change(recording=None)
    window.beat()
    assert str(path) in window.status_line.currentMessage()


def test_the_window_comes_back_as_it_was(window: MainWindow, live: StillLive, application: QApplication) -> None:
    window.resize(780, 640)
    window.panel.folds["engine"].setChecked(True)
    window.view_buttons[View.SPLIT].click()
    settle(application)
    state = window.window_state()
    other = MainWindow(live)
    other.restore_window(state)
    other.show()
    settle(application)
    assert (other.width(), other.height()) == (window.width(), window.height())
    assert other.panel.folds["engine"].isChecked() and other.preview.view is View.SPLIT
    other.restore_window({"geometry": b"nonsense", "splitter": b"\0", "unfolded": b"\xff,nothing", "view": b"x"})
    other.close()
    other.deleteLater()


def test_full_screen_shows_the_picture_alone_and_escape_ends_it(window: MainWindow, application: QApplication) -> None:
    QTest.keyClick(window, KEYS.Key_F11)
    settle(application)
    assert window.isFullScreen() and not window.panel.isVisible() and not window.start_button.isVisible()
    QTest.keyClick(window, KEYS.Key_Escape)
    settle(application)
    assert not window.isFullScreen() and window.panel.isVisible() and window.start_button.isVisible()


def test_everything_has_a_name_and_can_be_reached_with_the_keyboard(window: MainWindow) -> None:
    for fold in window.panel.folds.values():
        fold.setChecked(True)
    for kind in (QSlider, QCheckBox, QComboBox):
        for widget in window.panel.findChildren(kind):
            assert widget.focusPolicy() & Qt.FocusPolicy.TabFocus, widget
            parent = widget
            while parent is not None and not parent.accessibleName():
                parent = parent.parentWidget()
            assert parent is not None, widget
    assert QPointF(0, 0) is not None


def test_a_run_that_ends_by_itself_ends_the_window(
    application: QApplication, live: StillLive, own_folder: object
) -> None:
    over: list[bool] = []
    window = MainWindow(live, on_over=lambda: over.append(True))
    live.is_finished = True
    window.beat()
    assert over == [True]
    window.close()
    window.deleteLater()


def test_two_refreshes_at_once_end_with_the_newer(application: QApplication) -> None:
    background, first = Background(), threading.Event()
    seen: list[object] = []
    background.run(lambda: first.wait(20), seen.append)
    background.run(lambda: 1 / 0, seen.append)
    background.run(lambda: "newest", seen.append)
    first.set()
    wait_for(application, lambda: len(seen) == 2, "both")
    assert seen == [True, "newest"]
    background.run(lambda: 1 / 0, seen.append)
    wait_for(application, lambda: not background.is_busy, "the failure is over")
    background.run(lambda: "again", seen.append)
    wait_for(application, lambda: seen[-1] == "again", "work goes on")


def test_the_keys_that_save_a_show_work_in_a_dialog(
    window: MainWindow, live: StillLive, application: QApplication
) -> None:
    dialog = QInputDialog(window)
    dialog.setModal(True)
    dialog.show()
    wait_for(application, lambda: QApplication.activeModalWidget() is dialog, "the dialog")
    QTest.keyClick(dialog, KEYS.Key_F8)
    assert live.registry.get("output.panic") is True and dialog.isVisible()
    dialog.close()


@pytest.fixture
def camera_box(window: MainWindow, application: QApplication) -> QComboBox:
    window.panel.folds["outputs"].setChecked(True)
    box = window.panel.camera._box
    wait_for(application, lambda: box.count() == 3, "the virtual cameras")
    return box


def test_a_virtual_camera_is_picked_by_hand_by_osc_and_by_its_spelling(
    window: MainWindow,
    live: StillLive,
    application: QApplication,
    camera_box: QComboBox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box, other = camera_box, window.panel.camera.findChild(QPushButton)
    assert box.currentText().startswith("Automatic") and live.registry.get("camera.device") == ""
    box.setFocus()
    QTest.keyClick(box, KEYS.Key_Down)
    assert live.registry.get("camera.device") == "pipewire"
    QTest.keyClick(box, KEYS.Key_Down)
    assert live.registry.get("camera.device") == "pipewire", "what is missing cannot be chosen"
    live.registry.set("camera.device", "/dev/video7", origin="osc")
    settle(application)
    assert box.currentText() == "/dev/video7", "also what is not in the list"
    monkeypatch.setattr(QInputDialog, "getText", lambda *words, **more: (" /dev/video42 ", True))
    other.click()
    settle(application)
    assert live.registry.get("camera.device") == box.currentText() == "/dev/video42"
    monkeypatch.setattr(QInputDialog, "getText", lambda *words, **more: ("", False))
    other.click()
    settle(application)
    assert live.registry.get("camera.device") == box.currentText() == "/dev/video42"
    QTest.keyClick(box, KEYS.Key_Home)
    settle(application)
    assert live.registry.get("camera.device") == "" and box.count() == 3


def test_the_list_of_virtual_cameras_is_of_now_and_says_what_is_missing(
    window: MainWindow, live: StillLive, application: QApplication, camera_box: QComboBox
) -> None:
    box = camera_box
    camera_box.showPopup()
    QTest.keyClick(box.view(), KEYS.Key_Down)
    live.cameras = (Camera("/dev/video9", "Stage"), *live.cameras)
    window.panel.camera.reload()
    wait_for(application, lambda: box.count() == 4, "the new one")
    assert box.view().currentIndex().row() == 1, "nothing moves under the hand"
    missing = box.model().index(2, 0)
    assert missing.data(Qt.ItemDataRole.ToolTipRole) == "It is not there."
    assert not missing.flags() & Qt.ItemFlag.ItemIsEnabled
    box.hidePopup()
    live.change(camera=OutputLine("camera", "failed", "A virtual camera (v4l2) does not exist.", 0, 0, None))
    window.beat()
    assert window.panel.camera._state.text() == "A virtual camera (v4l2) does not exist."
    live.change(camera=OutputLine("camera", "running", "", 9, 0, None))
    window.beat()
    assert window.panel.camera._state.text() == "running"


def test_a_list_that_is_open_does_not_move_under_the_hand(
    window: MainWindow, live: StillLive, application: QApplication
) -> None:
    picker = window.panel.source
    wait_for(application, lambda: picker._box.count() == 2, "the list")
    picker._box.showPopup()
    QTest.keyClick(picker._box.view(), KEYS.Key_Down)
    live.choices = (Choice("camera:new", "New camera"), *live.choices)
    picker.reload()
    wait_for(application, lambda: picker._box.count() == 3, "the new one")
    QTest.keyClick(picker._box.view(), KEYS.Key_Return)
    settle(application)
    assert live.registry.get("source.name") == "pattern"


def test_undo_does_not_stop_at_a_switch_that_was_turned_back(window: MainWindow, live: StillLive) -> None:
    window.knobs.set("output.wet", 0.4)
    window.knobs.set("output.freeze", True)
    window.knobs.set("output.freeze", False)
    window.undo.undo()
    window.undo.undo()
    window.undo.undo()
    assert live.registry.get("output.wet") == live.registry.default("output.wet")


def test_the_status_line_tells_how_busy_each_of_several_devices_is(application: QApplication) -> None:
    line = StatusLine()
    ranks = (
        RankLine(0, "cuda:0", 0, 12, 0.81, 14.5, 9.25, 0.0),
        RankLine(1, "cuda:1", 12, 30, 0.97, 0.0, 13.0, 21.0),
    )
    line.show_status(replace(STATUS, device="NVIDIA H100", ranks=ranks))
    label = line._labels["engine"]
    assert "(2 ranks: cuda:0 81%, cuda:1 97%)" in label.text()
    assert "rank 1 on cuda:1: blocks 13 to 30, busy 97% of the time (blocks 13.0 ms, decode 21.0 ms)" in label.toolTip()
    line.show_status(STATUS)
    assert "ranks" not in label.text() + label.toolTip()
