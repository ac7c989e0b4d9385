"""The right side: what is turned most on top, and everything else of the table below it. Owns the order of things.

Every row of the table is here once: those that have a place of their own are named in PLACED, all others are built
into the group of their name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QLabel, QPushButton, QScrollArea, QToolButton, QVBoxLayout, QWidget

from gui.camera_picker import CameraPicker
from gui.controls import control_for
from gui.live import Knobs, Live
from gui.looks import Looks
from gui.noise_trace import NoiseTrace
from gui.prompt_box import PromptBox
from gui.source_picker import SourcePicker
from sdv2live.frames import Shown
from sdv2live.parameters import Kind, Parameter, When

PLACED = (
    "source.name", "source.fit", "source.mirror", "source.rotate", "prompt.text", "prompt.transition", "steps.count",
    "noise.max", "noise.min", "output.wet", "output.bypass", "output.freeze", "output.panic", "output.camera",
    "output.record", "stream.running", "stream.paused", "engine.restart",
)  # fmt: skip
GROUPS = {
    "prompt": "Prompts, mixed and to come",
    "steps": "Denoising steps",
    "noise": "Noise, in detail",
    "seed": "Seed, feedback, filters and schedule",
    "sinks": "Memory of old pictures",
    "stream": "Stream",
    "engine": "Engine",
    "outputs": "Virtual camera and recording",
    "start": "At the next start",
}
_SAME_GROUP = {
    "feedback": "seed",
    "schedule": "seed",
    "input": "seed",
    "output": "seed",
    "lora": "engine",
    "camera": "outputs",
    "record": "outputs",
}


class ControlPanel(QScrollArea):
    """Scrolls; as wide as its contents."""

    def __init__(self, live: Live, knobs: Knobs, picture: Callable[[], Shown | None]) -> None:
        super().__init__()
        self._knobs = knobs
        self.source = SourcePicker(live, knobs)
        self.camera = CameraPicker(live, knobs)
        self.prompt = PromptBox(knobs)
        self.looks = Looks(knobs, picture)
        self.trace = NoiseTrace(knobs)
        inside = QWidget()
        inside.setObjectName("panel")
        self._layout = QVBoxLayout(inside)
        self._layout.setContentsMargins(14, 12, 14, 12)
        self._layout.setSpacing(6)
        self._add("Source", self.source)
        self._add("Prompt", self.prompt)
        self._layout.addWidget(self._rows(["prompt.transition"]))
        self._add("Looks", self.looks)
        self._add("Effect", self._rows(["steps.count", "output.wet"]))
        self._add("Noise: how far the effect may go", self.trace)
        self.folds: dict[str, QToolButton] = {}
        for group, rows in grouped(knobs.registry.table.values()).items():
            self._add_fold(group, rows)
        self._layout.addStretch(1)
        self.setWidget(inside)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(400)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)

    def close_down(self) -> None:
        self.source.close_down()
        self.camera.close_down()
        self.looks.close_down()

    def _add(self, title: str, widget: QWidget) -> None:
        heading = QLabel(title)
        heading.setObjectName("heading")
        heading.setContentsMargins(0, 6, 0, 0)
        self._layout.addWidget(heading)
        self._layout.addWidget(widget)

    def _add_fold(self, group: str, rows: list[Parameter]) -> None:
        body = self._rows([row.name for row in rows])
        body.hide()
        fold = QToolButton()
        fold.setObjectName("bare")
        fold.setText(_fold_words(group, is_open=False))
        fold.setCheckable(True)
        fold.toggled.connect(body.setVisible)
        fold.toggled.connect(lambda is_open: fold.setText(_fold_words(group, is_open)))
        self.folds[group] = fold
        self._layout.addWidget(fold)
        if group == "engine":
            apply = QPushButton("Restart the engine with these")
            apply.setToolTip("What stands here acts when the engine starts (Ctrl+R)")
            apply.clicked.connect(lambda: self._knobs.set("engine.restart", 1))
            body.layout().addWidget(apply, len(rows), 0, 1, 2)  # type: ignore[union-attr, call-arg]
            self.files = QPushButton("Engine files\u2026")
            self.files.setToolTip("What the Wan engines need: see, fetch and remove it (F12)")
            body.layout().addWidget(self.files, len(rows) + 1, 0, 1, 2)  # type: ignore[union-attr, call-arg]
            self.doctor = QPushButton("What works here\u2026")
            self.doctor.setToolTip("Try what a show needs, and rehearse one (Ctrl+D)")
            body.layout().addWidget(self.doctor, len(rows) + 2, 0, 1, 2)  # type: ignore[union-attr, call-arg]
        self._layout.addWidget(body)

    def _rows(self, names: Iterable[str]) -> QWidget:
        box = QWidget()
        grid = QGridLayout(box)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnStretch(1, 1)
        for number, name in enumerate(names):
            row = self._knobs.registry.table[name]
            control = self.camera if name == self.camera.row.name else control_for(row, self._knobs)
            is_tall = control.row.kind is Kind.MIX
            edge = Qt.AlignmentFlag.AlignTop if is_tall else Qt.AlignmentFlag.AlignVCenter
            grid.addWidget(control.label, number, 0, edge | Qt.AlignmentFlag.AlignLeft)
            grid.addWidget(control, number, 1)
        return box


def _fold_words(group: str, is_open: bool) -> str:
    return ("\u25be  " if is_open else "\u25b8  ") + GROUPS[group]


def grouped(rows: Iterable[Parameter]) -> dict[str, list[Parameter]]:
    """The rows without a place of their own, by group, in the order of GROUPS."""
    found: dict[str, list[Parameter]] = {group: [] for group in GROUPS}
    for row in rows:
        if row.name in PLACED:
            continue
        first = row.name.partition(".")[0]
        is_late = row.when is When.START and first not in ("engine", "camera", "record")
        found["start" if is_late else _SAME_GROUP.get(first, first)].append(row)
    return found
