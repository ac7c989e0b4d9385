"""Which source plays and how it is seen. Owns the list of sources, read anew each time it is opened."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QInputDialog,
    QLabel,
    QMenu,
    QPushButton,
    QToolButton,
    QWidget,
)

from gui import theme
from gui.controls import control_for
from gui.live import Background, Knobs, Live
from sdv2live.status import SourceLine

FILE_CHOICE = "file:"
COLOURS = {"running": theme.GOOD, "opening": theme.WARN, "stalled": theme.WARN, "failed": theme.BAD}
VIDEOS = "Videos (*.mp4 *.mov *.mkv *.avi *.webm *.m4v);;All files (*)"


class SourcePicker(QWidget):
    """A drop-down with what there is, a line on how it is doing, and fit, mirror and turn."""

    def __init__(self, live: Live, knobs: Knobs) -> None:
        super().__init__()
        self._live, self._knobs = live, knobs
        self._background = Background()
        self._box = OpeningCombo()
        self._box.setAccessibleName("Source")
        self._box.opened.connect(self.reload)
        self._box.activated.connect(self._chosen)
        again = QToolButton()
        again.setText("\u21bb")
        again.setToolTip("Look for cameras and screens again")
        again.setAccessibleName("Look for sources again")
        again.clicked.connect(self.reload)
        browse = QPushButton("Other\u2026")
        browse.setToolTip("A video file, or a source by its spelling")
        menu = QMenu(browse)
        menu.addAction("A video file\u2026", self._browse)
        menu.addAction("A part of the screen, or another spelling\u2026", self._spell)
        browse.setMenu(menu)
        self._state = QLabel()
        self._state.setObjectName("quiet")
        self._state.setWordWrap(True)
        top = QHBoxLayout()
        top.addWidget(self._box, 1)
        top.addWidget(again)
        top.addWidget(browse)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setColumnStretch(1, 1)
        layout.addLayout(top, 0, 0, 1, 2)
        layout.addWidget(self._state, 1, 0, 1, 2)
        framing = QHBoxLayout()
        for name in ("source.fit", "source.rotate", "source.mirror"):
            control = control_for(knobs.registry.table[name], knobs, has_reset=False)
            framing.addWidget(control.label)
            framing.addWidget(control, 0 if name == "source.mirror" else 1)
        layout.addLayout(framing, 2, 0, 1, 2)
        self._labels: dict[str, str] = {}
        self._playing = str(knobs.registry.get("source.name") or "clip")
        knobs.changed.connect(self._follow)
        self._fill()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.reload()

    def reload(self) -> None:
        """List what there is; a slow driver is waited for elsewhere."""
        self._background.run(lambda: list(self._live.list_sources()), self._listed)

    def show_status(self, source: SourceLine) -> None:
        if source.spec != self._playing:
            self._playing = source.spec
            self._fill()
        words = f"{source.state}"
        if source.state == "running":
            words = f"{source.size_wh[0]}x{source.size_wh[1]}, {source.fps:.1f} fps"
            words += f", {source.details}" if source.details else ""
        self._state.setText(source.reason if source.reason and source.state != "running" else words)
        colour = COLOURS.get(source.state, theme.QUIET)
        self._state.setStyleSheet(f"color: {colour}")

    def close_down(self) -> None:
        self._background.wait(2.0)

    def _listed(self, choices: object) -> None:
        assert isinstance(choices, list)
        self._labels = {choice.spec: choice.label for choice in choices}
        view = self._box.view()
        if view is not None and view.isVisible():
            # Somebody is choosing: what is new joins at the end, and nothing moves under the hand.
            for spec, label in self._labels.items():
                if self._box.findData(spec) < 0:
                    self._box.addItem(label, spec)
        else:
            self._fill()

    def _fill(self) -> None:
        """What there is, and what plays even where it is not in the list."""
        held = self._playing
        self._box.blockSignals(True)
        self._box.clear()
        for spec, label in self._labels.items():
            self._box.addItem(label, spec)
        if held not in self._labels:
            shown = Path(held.removeprefix("file:")).name if held.startswith("file:") else held
            self._box.addItem(shown, held)
        self._box.setCurrentIndex(self._box.findData(held))
        self._box.blockSignals(False)

    def _chosen(self, index: int) -> None:
        self._knobs.set("source.name", str(self._box.itemData(index)))

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Play a video file", "", VIDEOS)
        if path:
            self._knobs.set("source.name", f"file:{path}")

    def _spell(self) -> None:
        held = str(self._knobs.registry.get("source.name") or "")
        words = "A source, for example screen:0,0,1280x720 or camera:Front:"
        spec, is_given = QInputDialog.getText(self, "Another source", words, text=held)
        if is_given and spec.strip():
            self._knobs.set("source.name", spec.strip())

    def _follow(self, names: set[str]) -> None:
        if "source.name" in names:
            self._playing = str(self._knobs.registry.get("source.name") or self._playing)
            self._fill()


class OpeningCombo(QComboBox):
    """Says when it is opened, so that its list is of now."""

    opened = Signal()

    def showPopup(self) -> None:
        self.opened.emit()
        super().showPopup()

    def wheelEvent(self, event: object) -> None:
        event.ignore()  # type: ignore[attr-defined]
