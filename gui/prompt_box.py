"""The prompt: typed or chosen from earlier ones, set with Enter. Owns the history of this session and the last."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QMenu, QPlainTextEdit, QToolButton, QVBoxLayout, QWidget

from gui.live import Knobs

KEPT = 50
SHOWN_CHARS = 60


class PromptBox(QWidget):
    """Enter sets it, Shift+Enter begins a line, Escape takes back what was typed, Up and Down go through history."""

    def __init__(self, knobs: Knobs) -> None:
        super().__init__()
        self._knobs = knobs
        self._history: list[str] = []  # newest first
        self._place = -1
        self._text = _PromptEdit()
        self._text.setAccessibleName("Prompt")
        self._text.setPlaceholderText("What should the picture become?")
        self._text.setToolTip("Enter: use it. Shift+Enter: new line. Up and Down: earlier prompts.")
        self._text.setFixedHeight(56)
        self._text.setTabChangesFocus(True)
        self._text.entered.connect(self._enter)
        self._text.left_alone.connect(self._take_back)
        self._text.history_asked.connect(self._go)
        self._text.textChanged.connect(self._show_hint)
        self._hint = QLabel()
        self._hint.setObjectName("quiet")
        self._unknown = QLabel()
        self._unknown.setObjectName("warning")
        self._unknown.setWordWrap(True)
        self._unknown.setAccessibleName("What the engine does not understand")
        self._unknown.hide()
        earlier = QToolButton()
        earlier.setText("\u25be")
        earlier.setToolTip("Earlier prompts")
        earlier.setAccessibleName("Earlier prompts")
        earlier.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._menu = QMenu(earlier)
        self._menu.aboutToShow.connect(self._fill_menu)
        earlier.setMenu(self._menu)
        line = QHBoxLayout()
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self._text, 1)
        line.addWidget(earlier)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(line)
        layout.addWidget(self._hint)
        layout.addWidget(self._unknown)
        self.setFocusProxy(self._text)
        knobs.changed.connect(self._follow)
        self._show()

    @property
    def history(self) -> list[str]:
        return list(self._history)

    def remember(self, texts: Sequence[str]) -> None:
        """Prompts of earlier sessions, newest first."""
        self._history = list(dict.fromkeys([*self._history, *texts]))[:KEPT]

    def show_unknown(self, sentence: str) -> None:
        """Which words of the prompt that holds mean nothing to the engine; '' where all do."""
        if sentence != self._unknown.text():
            self._unknown.setText(sentence)
            self._unknown.setVisible(bool(sentence))

    def _enter(self) -> None:
        text = " ".join(self._text.toPlainText().split())
        if text:
            self._knobs.set("prompt.text", text)
            self._note(text)
        self._show()

    def _note(self, text: str) -> None:
        self._history = list(dict.fromkeys([text, *self._history]))[:KEPT]
        self._place = -1

    def _take_back(self) -> None:
        self._place = -1
        self._show()

    def _go(self, step: int) -> None:
        place = self._place + step
        if place < -1 or place >= len(self._history):
            return
        self._place = place
        self._text.setPlainText(self._held() if place < 0 else self._history[place])
        self._text.moveCursor(self._text.textCursor().MoveOperation.End)

    def _held(self) -> str:
        mix = self._knobs.registry.get("prompt.mix")
        return " + ".join(text for text, _ in mix) if mix else str(self._knobs.registry.get("prompt.text"))

    def _follow(self, names: set[str]) -> None:
        # Whoever is typing keeps what is typed: OSC must not take the word out of their mouth.
        is_typing = self._text.hasFocus() and self._text.toPlainText().strip() != self._shown
        if names & {"prompt.text", "prompt.mix"}:
            if not self._knobs.registry.get("prompt.mix"):
                self._note(str(self._knobs.registry.get("prompt.text")))
            if not is_typing:
                self._show()

    def _show(self) -> None:
        self._shown = self._held()
        self._text.setPlainText(self._shown)
        self._show_hint()

    def _show_hint(self) -> None:
        is_other = " ".join(self._text.toPlainText().split()) != " ".join(self._shown.split())
        self._hint.setText("Enter uses it, Escape takes it back" if is_other else "")

    def _fill_menu(self) -> None:
        self._menu.clear()
        for text in self._history[:20] or ["nothing yet"]:
            shown = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "\u2026"
            action = self._menu.addAction(shown.replace("&", "&&"))
            action.setEnabled(bool(self._history))
            action.triggered.connect(lambda _=False, words=text: self._knobs.set("prompt.text", words))


class _PromptEdit(QPlainTextEdit):
    entered = Signal()
    left_alone = Signal()
    history_asked = Signal(int)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        keys, cursor = Qt.Key, self.textCursor()
        is_shifted = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        if event.key() in (keys.Key_Return, keys.Key_Enter) and not is_shifted:
            self.entered.emit()
        elif event.key() == keys.Key_Escape:
            self.left_alone.emit()
        elif event.key() == keys.Key_Up and cursor.blockNumber() == 0:
            self.history_asked.emit(1)
        elif event.key() == keys.Key_Down and cursor.blockNumber() == self.blockCount() - 1:
            self.history_asked.emit(-1)
        else:
            super().keyPressEvent(event)
