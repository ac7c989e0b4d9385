"""One control for one row of the parameter table. Owns: which widget a kind of value gets; knows no layout.

A control shows what the registry holds and sets it at once. What is typed is set when it is finished (Enter, or the
focus goes), so that nobody performs half a word.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication, QWheelEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QSlider,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from gui.live import Knobs
from sdv2live import weighted_files
from sdv2live.filters import steps_at
from sdv2live.parameters import MAX_MIX_ENTRIES, Kind, Parameter, When, range_text

SLIDER_STEPS = 1000
SIZES = ("256x256", "384x224", "512x288", "512x512", "640x368", "832x480")


class Control(QWidget):
    """label, widget and reset button of one row; `show_value` is called with what holds."""

    def __init__(self, row: Parameter, knobs: Knobs, *, has_reset: bool = True) -> None:
        super().__init__()
        self.row, self.knobs = row, knobs
        self.label = QLabel(label_of(row))
        self.label.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.label.customContextMenuRequested.connect(self._show_menu)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.customContextMenuRequested.connect(self._show_menu)
        self._reset = QToolButton()
        self._reset.setObjectName("bare")
        self._reset.setText("\u21ba")
        self._reset.setToolTip("Back to the default")
        self._reset.setAccessibleName(f"Reset {label_of(row)}")
        self._reset.clicked.connect(lambda: knobs.reset(row.name))
        self.editor = self._make()
        self.editor.setAccessibleName(label_of(row))
        self.editor.setAccessibleDescription(row.doc)
        self.label.setBuddy(self.editor)
        words = tooltip_of(row)
        for widget in (self, self.label):
            widget.setToolTip(words)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.editor, 1)
        if has_reset and row.kind is not Kind.TRIGGER:
            layout.addWidget(self._reset)
        knobs.changed.connect(self._follow)
        self.refresh()

    def _make(self) -> QWidget:
        raise NotImplementedError

    def show_value(self, value: Any) -> None:
        raise NotImplementedError

    def refresh(self) -> None:
        value = self.knobs.registry.get(self.row.name)
        self._reset.setEnabled(value != self.knobs.registry.default(self.row.name))
        self.show_value(value)

    def choose(self, value: object) -> None:
        self.knobs.set(self.row.name, value)

    def _follow(self, names: set[str]) -> None:
        if self.row.name in names:
            self.refresh()

    def _show_menu(self, at: QPoint) -> None:
        menu = QMenu(self)
        menu.addAction("Back to the default", lambda: self.knobs.reset(self.row.name))
        for address in self.row.osc_addresses:
            menu.addAction(f"Copy {address}", partial(QGuiApplication.clipboard().setText, address))
        menu.exec(self.mapToGlobal(at))
        menu.deleteLater()


class NumberControl(Control):
    """A slider and a field; without a range or a value, the field alone."""

    def _make(self) -> QWidget:
        row, box = self.row, QWidget()
        layout = QHBoxLayout(box)
        layout.setContentsMargins(0, 0, 0, 0)
        self._low, self._high = float(row.minimum or 0), float(row.maximum or 0)
        self._step = float(row.step or 0.01)
        self._field: QDoubleSpinBox | QSpinBox
        if row.kind is Kind.INT:
            self._field = _QuietSpin()
            self._field.setRange(int(self._low), int(self._high))
            self._field.setSingleStep(int(self._step))
        else:
            self._field = _QuietDouble()
            self._field.setDecimals(2 if self._step < 1 else 0)
            self._field.setRange(self._low, self._high)
            self._field.setSingleStep(self._step)
        self._field.setKeyboardTracking(False)
        self._field.setMinimumWidth(56 + 8 * len(row.unit))
        self._field.setSuffix(f" {row.unit}" if row.unit else "")
        self._field.valueChanged.connect(self._typed)
        self._slider = _QuietSlider(Qt.Orientation.Horizontal)
        self._slider.setRange(0, min(round((self._high - self._low) / self._step), SLIDER_STEPS))
        self._slider.setAccessibleName(label_of(row))
        self._slider.valueChanged.connect(self._slid)
        self._has_slider = (self._high - self._low) / self._step <= SLIDER_STEPS
        if self._has_slider:
            layout.addWidget(self._slider, 1)
        layout.addWidget(self._field, 0 if self._has_slider else 1)
        box.setFocusProxy(self._slider if self._has_slider else self._field)
        return box

    def show_value(self, value: Any) -> None:
        number = self._low if value is None else float(value)
        for widget in (self._field, self._slider):
            widget.blockSignals(True)
        self._field.setSpecialValueText("auto" if value is None else "")
        self._show_number(number)
        self._slider.setValue(round((number - self._low) / (self._high - self._low) * self._slider.maximum()))
        for widget in (self._field, self._slider):
            widget.blockSignals(False)

    def _show_number(self, number: float) -> None:
        if isinstance(self._field, QDoubleSpinBox):
            self._field.setValue(number)
        else:
            self._field.setValue(int(number))

    def _typed(self, value: float) -> None:
        self.choose(round(float(value), 6))

    def _slid(self, place: int) -> None:
        self.choose(round(self._low + place * (self._high - self._low) / self._slider.maximum(), 6))


class BoolControl(Control):
    def _make(self) -> QWidget:
        self._box = QCheckBox()
        self._box.toggled.connect(self.choose)
        return self._box

    def show_value(self, value: Any) -> None:
        self._box.blockSignals(True)
        self._box.setChecked(bool(value))
        self._box.blockSignals(False)


class ChoiceControl(Control):
    def _make(self) -> QWidget:
        self._box = _QuietCombo()
        self._box.addItems(list(self.row.choices))
        self._box.activated.connect(lambda: self.choose(self._box.currentText()))
        return self._box

    def show_value(self, value: Any) -> None:
        self._box.setCurrentText("" if value is None else str(value))
        if value is None:
            self._box.setCurrentIndex(-1)
            self._box.setPlaceholderText("auto")


class TextControl(Control):
    """Texts, number lists, and whatever has a spelling of its own."""

    empty_words = ""  # what an empty field says in grey

    def _make(self) -> QWidget:
        self._field = QLineEdit()
        self._field.editingFinished.connect(self._finished)
        return self._field

    def _with_plus(self, words: str) -> tuple[QWidget, QPushButton]:
        """The field with a button beside it that adds something; words: what, for those who do not see it."""
        box, field, add = QWidget(), TextControl._make(self), QPushButton("+")
        layout = QHBoxLayout(box)
        layout.setContentsMargins(0, 0, 0, 0)
        add.setAccessibleName(words)
        layout.addWidget(field, 1)
        layout.addWidget(add)
        box.setFocusProxy(field)
        return box, add

    def show_value(self, value: Any) -> None:
        self._text = text_of(value)
        self._field.setText(self._text)
        self._field.setPlaceholderText("auto" if value is None else self.empty_words)

    def _finished(self) -> None:
        text = self._field.text().strip()
        if text != self._text:
            self.choose(text)
            self.refresh()


class SizeControl(Control):
    def _make(self) -> QWidget:
        self._box = _QuietCombo()
        self._box.setEditable(True)
        self._box.addItems(SIZES)
        self._box.textActivated.connect(self._chosen)
        line = self._box.lineEdit()
        assert line is not None
        line.editingFinished.connect(lambda: self._chosen(self._box.currentText()))
        return self._box

    def show_value(self, value: Any) -> None:
        self._text = "" if value is None else f"{value[0]}x{value[1]}"
        self._box.setCurrentText(self._text)
        line = self._box.lineEdit()
        if line is not None:
            line.setPlaceholderText("the engine's own")

    def _chosen(self, text: str) -> None:
        if text.strip() and text != self._text:
            self.choose(text)
            self.refresh()


class ChainControl(TextControl):
    """A chain of filters as text, with a button that adds a step."""

    empty_words = "none"

    def _make(self) -> QWidget:
        box, add = self._with_plus(f"Add a step to {label_of(self.row)}")
        menu = QMenu(add)
        for step in self.row.choices or steps_at("post"):
            menu.addAction(step, partial(self._add, step))
        add.setMenu(menu)
        return box

    def _add(self, step: str) -> None:
        self.choose(", ".join(part for part in (self._text, step) if part))


class FilesControl(TextControl):
    """Files as text, each with its weight, and a button that adds one."""

    empty_words = "none"

    def _make(self) -> QWidget:
        box, add = self._with_plus(f"Add a file to {label_of(self.row)}")
        add.clicked.connect(self._add)
        return box

    def show_value(self, value: Any) -> None:
        super().show_value(weighted_files.PARTING.join(f" {weighted_files.spelled(file)}" for file in value).strip())

    def _add(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, label_of(self.row), filter="LoRA (*.safetensors)")
        if path:
            self.choose([*self.knobs.registry.get(self.row.name), (path, 1.0)])


class MixControl(Control):
    """Several prompts with a weight each; an empty line below takes the next one."""

    def _make(self) -> QWidget:
        self._box = QWidget()
        self._lines = QVBoxLayout(self._box)
        self._lines.setContentsMargins(0, 0, 0, 0)
        self._fields: list[tuple[QLineEdit, QDoubleSpinBox]] = []
        for number in range(MAX_MIX_ENTRIES):
            line, layout = QWidget(), QHBoxLayout()
            layout.setContentsMargins(0, 0, 0, 0)
            line.setLayout(layout)
            text, weight = QLineEdit(), _QuietDouble()
            text.setPlaceholderText("another prompt")
            text.setAccessibleName(f"Prompt {number + 1} of the mix")
            weight.setAccessibleName(f"Weight of prompt {number + 1}")
            weight.setRange(0.05, 100.0)
            weight.setSingleStep(0.1)
            weight.setKeyboardTracking(False)
            text.editingFinished.connect(self._finished)
            weight.valueChanged.connect(self._finished)
            layout.addWidget(text, 1)
            layout.addWidget(weight)
            self._lines.addWidget(line)
            self._fields.append((text, weight))
        self._box.setFocusProxy(self._fields[0][0])
        return self._box

    def show_value(self, value: Any) -> None:
        self._mix = tuple(value or ())
        for number, (text, weight) in enumerate(self._fields):
            words, share = self._mix[number] if number < len(self._mix) else ("", 1.0)
            for widget in (text, weight):
                widget.blockSignals(True)
            text.setText(words)
            weight.setValue(share)
            for widget in (text, weight):
                widget.blockSignals(False)
            line = text.parentWidget()
            if line is not None:
                line.setVisible(number <= len(self._mix))

    def _finished(self) -> None:
        mix = tuple((text.text().strip(), weight.value()) for text, weight in self._fields if text.text().strip())
        if mix != self._mix:
            self.choose(mix)
            self.refresh()


class TriggerControl(Control):
    def _make(self) -> QWidget:
        button = QPushButton(label_of(self.row))
        button.clicked.connect(lambda: self.choose(1))
        return button

    def show_value(self, value: Any) -> None:
        """A trigger has no value to show."""


def control_for(row: Parameter, knobs: Knobs, *, has_reset: bool = True) -> Control:
    """has_reset: with a button of its own for it; the menu has it in any case."""
    kinds: dict[Kind, type[Control]] = {
        Kind.FLOAT: NumberControl,
        Kind.INT: NumberControl,
        Kind.BOOL: BoolControl,
        Kind.CHOICE: ChoiceControl,
        Kind.TEXT: TextControl,
        Kind.SOURCE: TextControl,
        Kind.INTS: TextControl,
        Kind.FLOATS: TextControl,
        Kind.FILES: FilesControl,
        Kind.MIX: MixControl,
        Kind.SIZE: SizeControl,
        Kind.CHAIN: ChainControl,
        Kind.TRIGGER: TriggerControl,
    }
    return kinds[row.kind](row, knobs, has_reset=has_reset)


LABELS = {
    "steps.count": "Steps",
    "output.wet": "Camera to effect",
    "prompt.next": "Get ready",
    "prompt.mix": "Mix",
    "engine.vae": "VAE",
    "engine.lora": "LoRA files",
    "lora.strengths": "LoRA strengths",
}


def label_of(row: Parameter) -> str:
    """`noise.timestep_offset` -> `Timestep offset`; the group is said by its heading."""
    if row.name in LABELS:
        return LABELS[row.name]
    words = row.name.partition(".")[2] or row.name
    return words.replace(".", " ").replace("_", " ").capitalize()


def tooltip_of(row: Parameter) -> str:
    lines = [row.doc, f"Range: {range_text(row)}. Acts at: {row.when}."]
    lines += [f"OSC: {address}" for address in row.osc_addresses[-1:]]
    lines += [f"Flag: {row.cli_flag}"] if row.when is When.START else []
    return "\n".join(lines)


def text_of(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


class _QuietSlider(QSlider):
    """Scrolling the panel must not turn what happens to lie under the wheel."""

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()


class _QuietCombo(QComboBox):
    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()


class _QuietSpin(QSpinBox):
    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()


class _QuietDouble(QDoubleSpinBox):
    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()
