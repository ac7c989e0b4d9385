"""The Wan engines' files: what is here, and fetching and removing them. Owns the process that fetches.

Fetching is `sdv2live models get NAME --json` in a process of its own: it needs no thread of the window, ends when it is
told to, and loses nothing by that. The folder is read, and cleaned up, in the background.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from PySide6.QtCore import QProcess, Qt
from PySide6.QtGui import QBrush, QColor, QShowEvent
from PySide6.QtWidgets import (
    QDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from gui import theme
from gui.live import Background
from gui.own_process import PROGRAM, own_process
from sdv2live.errors import UserError
from sdv2live.models.command import progress_text
from sdv2live.models.manifest import ENGINES, MODELS, size_text
from sdv2live.models.store import Found, State, Store, removed_with
from sdv2live.progress import Reading

COLUMNS = ("", "State", "Size", "Licence", "From")
WHOLE = 1000  # steps of the bar: bytes do not fit into its numbers
_COLOURS = {State.HERE: theme.GOOD, State.BY_HAND: theme.GOOD, State.PARTLY: theme.WARN, State.DAMAGED: theme.BAD}
_PRESENT = (State.HERE, State.BY_HAND)
NAME = Qt.ItemDataRole.UserRole


class ModelsDialog(QDialog):
    """Stays open beside the window; hidden, it goes on fetching."""

    def __init__(self, store: Store, parent: QWidget | None = None, *, program: Sequence[str] = PROGRAM) -> None:
        super().__init__(parent)
        self._store, self._program = store, tuple(program)
        self._found: dict[str, Found] = {}
        self._looking, self._removing = Background(), Background(keeps_all=True)
        self._process: QProcess | None = None
        self._name = ""
        self._is_cancelled = False
        self.setWindowTitle("Engine files")
        self.resize(900, 460)
        self.tree = QTreeWidget()
        self.tree.setHeaderLabels(list(COLUMNS))
        self.tree.setAccessibleName("Engine files")
        self.tree.setRootIsDecorated(False)
        self.tree.header().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.bar = QProgressBar()
        self.bar.setRange(0, WHOLE)
        self.bar.setTextVisible(False)
        self.bar.hide()
        self.words = QLabel(f"Files lie in {store.folder}")
        self.words.setWordWrap(True)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.words.setAccessibleName("What happens")
        self.get_button = QPushButton("Get")
        self.get_button.setObjectName("primary")
        self.get_button.clicked.connect(lambda: self.get(self.chosen))
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("What was fetched is kept: Get goes on from there")
        self.cancel_button.clicked.connect(self.cancel)
        self.remove_button = QPushButton("Remove\u2026")
        self.remove_button.clicked.connect(self._ask_to_remove)
        close = QPushButton("Close")
        close.clicked.connect(self.close)
        line = QHBoxLayout()
        for button in (self.get_button, self.cancel_button, self.remove_button):
            button.setAutoDefault(False)
            line.addWidget(button)
        line.addStretch(1)
        line.addWidget(close)
        layout = QVBoxLayout(self)
        for part in (self.tree, self.bar, self.words):
            layout.addWidget(part, 1 if part is self.tree else 0)
        layout.addLayout(line)
        self._fill()
        self.tree.currentItemChanged.connect(lambda *_: self._enable())
        self._enable()

    @property
    def chosen(self) -> str:
        """The engine or model of the chosen line."""
        item = self.tree.currentItem()
        return str(item.data(0, NAME)) if item is not None else next(iter(ENGINES))

    @property
    def is_fetching(self) -> bool:
        return self._process is not None

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.reload()

    def reload(self) -> None:
        """Look again, off the GUI thread."""
        self._looking.run(self._look, self._show)

    def get(self, name: str) -> None:
        """Fetch what is missing of a model, or of all that an engine needs."""
        if self._process is not None:
            return
        self._name, self._is_cancelled = name, False
        process = self._process = own_process(self)
        process.readyReadStandardOutput.connect(self._read)
        process.finished.connect(self._finished)
        process.errorOccurred.connect(self._failed)
        self.bar.setValue(0)
        self.bar.show()
        self._say(f"Asking for {name} \u2026")
        folder = str(self._store.folder)
        process.start(self._program[0], [*self._program[1:], "models", "get", name, "--json", "--folder", folder])
        self._enable()

    def cancel(self) -> None:
        """Stop fetching. What was written stays and is gone on with."""
        if self._process is not None:
            self._is_cancelled = True
            self._process.kill()

    def close_down(self) -> None:
        """For the end of the window."""
        self.cancel()
        if self._process is not None:
            self._process.waitForFinished(2000)
        for background in (self._looking, self._removing):
            background.wait(2.0)

    # ---- the list

    def _look(self) -> list[Found] | str:
        try:
            return [self._store.look(model) for model in MODELS.values()]
        except UserError as error:
            return str(error)

    def _show(self, found: object) -> None:
        if isinstance(found, str):
            self._say(found)
            return
        assert isinstance(found, list)
        self._found = {each.model.name: each for each in found}
        self._fill()
        self._enable()

    def _fill(self) -> None:
        chosen = self.chosen
        self.tree.clear()
        for engine, names in ENGINES.items():
            top = self._item(engine, engine, self._state_of(names), sum(map(self._size, names)), "", "")
            font = top.font(0)
            font.setBold(True)
            top.setFont(0, font)
            self.tree.addTopLevelItem(top)
            self.tree.addTopLevelItem(self._line(engine))
        heading = QTreeWidgetItem(["both", "", "", "", ""])
        heading.setFlags(Qt.ItemFlag.NoItemFlags)
        self.tree.addTopLevelItem(heading)
        self.tree.addTopLevelItems([self._line(name) for name in MODELS if name not in ENGINES])
        for row in range(self.tree.topLevelItemCount()):
            item = self.tree.topLevelItem(row)
            if item is not None and item.data(0, NAME) == chosen:
                self.tree.setCurrentItem(item)
                break

    def _line(self, name: str) -> QTreeWidgetItem:
        model, found = MODELS[name], self._found.get(name)
        state = found.state.value if found is not None else "\u2026"
        if found is not None and found.state == State.PARTLY:
            state = f"{size_text(found.bytes)} fetched"
        words = model.what.removeprefix("the ") + (f" of {name}" if name in ENGINES else "")
        source = f"{model.repository} ({model.site})"
        return self._item(name, f"    {words}", state, self._size(name), model.licence, source)

    def _item(self, name: str, words: str, state: str, size: int, licence: str, source: str) -> QTreeWidgetItem:
        item = QTreeWidgetItem([words, state, size_text(size), licence, source])
        item.setData(0, NAME, name)
        found = self._found.get(name)
        if found is not None:
            item.setForeground(1, QBrush(QColor(_COLOURS.get(found.state, theme.QUIET))))
        return item

    def _size(self, name: str) -> int:
        found = self._found.get(name)
        return found.bytes if found is not None and found.state in _PRESENT else MODELS[name].rough_bytes

    def _state_of(self, names: Sequence[str]) -> str:
        if not self._found:
            return "\u2026"  # not looked yet
        here = [name for name in names if name in self._found and self._found[name].state in _PRESENT]
        if len(here) == len(names):
            return "here"
        return f"{len(here)} of {len(names)} files here" if here else "not here"

    def _enable(self) -> None:
        names = ENGINES.get(self.chosen, (self.chosen,))
        states = [self._found[name].state for name in names if name in self._found]
        self.get_button.setText(f"Get {self.chosen}")
        self.get_button.setEnabled(not self.is_fetching and any(state not in _PRESENT for state in states))
        self.cancel_button.setEnabled(self.is_fetching)
        is_ours = any(state not in (State.MISSING, State.BY_HAND) for state in states)
        self.remove_button.setEnabled(not self.is_fetching and is_ours)

    # ---- fetching

    def _read(self) -> None:
        """The newest line of progress; older ones say nothing more."""
        assert self._process is not None
        lines = bytes(self._process.readAllStandardOutput().data()).split(b"\n")
        for line in reversed(lines):
            try:
                step = json.loads(line)
                doing, name = str(step.pop("doing")), str(step.pop("name"))
                reading = Reading(**step)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # cut in the middle, or something else
            share = reading.all_done / reading.all_total if doing == "fetching" else reading.done / reading.total
            self.bar.setValue(round(WHOLE * share))
            self._say(progress_text(doing, name, reading))
            return

    def _failed(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self._over(f"{self._program[0]} cannot be started: type `sdv2live models get {self._name}` in a terminal.")

    def _finished(self, code: int, how: QProcess.ExitStatus) -> None:
        assert self._process is not None
        said = bytes(self._process.readAllStandardError().data()).decode("utf-8", "replace").strip().splitlines()
        last = said[-1].removeprefix("sdv2live: ") if said else ""
        if self._is_cancelled:
            last = "Stopped; what was fetched is kept: Get goes on from there."
        elif how == QProcess.ExitStatus.CrashExit or not last:
            last = f"fetching {self._name} ended without a word ({code}): type `sdv2live models get {self._name}`."
        self._over(last)

    def _over(self, sentence: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.deleteLater()
        self.bar.hide()
        self._say(sentence)
        self._enable()
        self.reload()

    def _say(self, sentence: str) -> None:
        self.words.setText(sentence)

    # ---- removing

    def _ask_to_remove(self) -> None:
        name = self.chosen
        names = removed_with(name, self._found.values())
        question = f"Delete what was fetched of {', '.join(names)} from {self._store.folder}? It can be fetched again."
        if QMessageBox.question(self, "Remove", question) == QMessageBox.StandardButton.Yes:
            self._removing.run(lambda: self._remove(names), self._removed)

    def _remove(self, names: Sequence[str]) -> str:
        try:
            with self._store.lock(on_wait=lambda: None):
                removed = self._store.remove(names)
        except UserError as error:
            return str(error)
        return f"Removed {', '.join(names)}: {size_text(sum(size for _, size in removed))} are free again."

    def _removed(self, sentence: object) -> None:
        self._say(str(sentence))
        self.reload()
