"""Which virtual camera is shown on, and how it is doing. Owns the list of them, read anew each time it is opened."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtGui import QBrush, QColor, QShowEvent, QStandardItem, QStandardItemModel
from PySide6.QtWidgets import (
    QHBoxLayout,
    QInputDialog,
    QLabel,
    QListView,
    QPushButton,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from gui import theme
from gui.controls import Control
from gui.live import Background, CameraChoice, Knobs, Live
from gui.source_picker import OpeningCombo
from sdv2live.status import OutputLine

AUTOMATIC = "Automatic"
LIST_WIDTH_PX = 420  # room for a sentence that says what to do
COLOURS = {"running": theme.GOOD, "opening": theme.WARN, "failed": theme.BAD}
STATE = Qt.ItemDataRole.ToolTipRole


class CameraPicker(Control):
    """The row `camera.device` as a list of what there is, with what is missing in grey and why."""

    def __init__(self, live: Live, knobs: Knobs) -> None:
        super().__init__(knobs.registry.table["camera.device"], knobs)
        self._live = live
        self._background = Background()

    def _make(self) -> QWidget:
        self._choices: list[CameraChoice] = []
        self._model = QStandardItemModel(self)
        self._box = OpeningCombo()
        self._box.setModel(self._model)
        view = QListView()
        view.setWordWrap(True)
        view.setMinimumWidth(LIST_WIDTH_PX)
        self._box.setView(view)
        self._box.setItemDelegate(_WithState(self._box))  # after the view, which brings its own
        self._box.setMinimumContentsLength(12)
        self._box.opened.connect(self.reload)
        self._box.activated.connect(self._chosen)
        self._state = QLabel()
        self._state.setObjectName("quiet")
        self._state.setWordWrap(True)
        other = QPushButton("Other\u2026")
        other.setToolTip("A virtual camera by its spelling")
        other.clicked.connect(self._spell)
        box, line = QWidget(), QHBoxLayout()
        line.addWidget(self._box, 1)
        line.addWidget(other)
        layout = QVBoxLayout(box)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(line)
        layout.addWidget(self._state)
        box.setFocusProxy(self._box)
        return box

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.reload()

    def reload(self) -> None:
        """List what there is; a slow system is waited for elsewhere."""
        self._background.run(lambda: list(self._live.list_virtual_cameras()), self._listed)

    def show_value(self, value: object) -> None:
        self._held = str(value or "")
        self._fill()

    def show_status(self, camera: OutputLine | None) -> None:
        words = "off (F9 turns it on)"
        if camera is not None:
            words = camera.reason if camera.reason and camera.state != "running" else camera.state
        self._state.setText(words)
        colour = COLOURS.get(camera.state if camera is not None else "", theme.QUIET)
        self._state.setStyleSheet(f"color: {colour}")

    def close_down(self) -> None:
        self._background.wait(2.0)

    def _listed(self, choices: object) -> None:
        assert isinstance(choices, list)
        self._choices = choices
        view = self._box.view()
        if view is not None and view.isVisible():
            # Somebody is choosing: what is new joins at the end, and nothing moves under the hand.
            for choice in choices:
                row = self._box.findData(choice.spec)
                if row < 0:
                    self._model.appendRow(_of(choice))
                else:
                    _dress(self._model.item(row), choice)
        else:
            self._fill()

    def _fill(self) -> None:
        """Automatic, what there is, and what is chosen even where it is not in the list."""
        self._model.clear()
        self._model.appendRow(_item("", AUTOMATIC))
        for choice in self._choices:
            self._model.appendRow(_of(choice))
        if self._box.findData(self._held) < 0:
            self._model.appendRow(_item(self._held, self._held))
        self._box.setCurrentIndex(self._box.findData(self._held))

    def _chosen(self, row: int) -> None:
        self.choose(str(self._box.itemData(row)))

    def _spell(self) -> None:
        words = "A back-end or a device, for example pipewire or /dev/video10:"
        spec, is_given = QInputDialog.getText(self, "Another virtual camera", words, text=self._held)
        if is_given:
            self.choose(spec.strip())


class _WithState(QStyledItemDelegate):
    """The open list says below each camera how it stands."""

    def initStyleOption(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        super().initStyleOption(option, index)
        if state := index.data(STATE):
            option.text = f"{option.text}\u2028{state}"


def _of(choice: CameraChoice) -> QStandardItem:
    item = _item(choice.spec, choice.label)
    _dress(item, choice)
    return item


def _item(spec: str, label: str) -> QStandardItem:
    item = QStandardItem(label)
    item.setData(spec, Qt.ItemDataRole.UserRole)
    return item


def _dress(item: QStandardItem, choice: CameraChoice) -> None:
    item.setData(choice.state, STATE)
    item.setEnabled(not choice.is_missing)
    item.setForeground(QBrush(QColor(theme.QUIET if choice.is_missing else theme.TEXT)))
