"""The strip on top that says what is wrong and what to do; nothing is ever wrong in silence."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QToolButton

PASSING_MS = 12_000


class Notice(QFrame):
    """Shows what holds (`hold`: gone when it is mended) and what happened (`tell`: gone after a while, or by the x)."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("notice")
        self._held: tuple[str, ...] = ()
        self._hidden: tuple[str, ...] = ()
        self._told = ""
        self._is_quiet = False
        self._label = QLabel()
        self._label.setWordWrap(True)
        self._label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._label.setAccessibleName("What is wrong")
        away = QToolButton()
        away.setObjectName("bare")
        away.setText("\u2715")
        away.setToolTip("Hide this")
        away.setAccessibleName("Hide the message")
        away.clicked.connect(self._put_away)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(10, 6, 6, 6)
        layout.addWidget(self._label, 1)
        layout.addWidget(away)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._forget)
        self.hide()

    @property
    def text(self) -> str:
        return self._label.text() if self.isVisible() else ""

    def hold(self, problems: Sequence[str]) -> None:
        """What is wrong now; the same words stay hidden once they were put away, until they change."""
        if tuple(problems) != self._held:
            self._held, self._hidden = tuple(problems), tuple(p for p in self._hidden if p in problems)
            self._show()

    def keep_quiet(self, is_quiet: bool) -> None:
        """Nothing is shown meanwhile: the picture alone is on the screen."""
        self._is_quiet = is_quiet
        self._show()

    def tell(self, sentence: str) -> None:
        self._told = sentence
        self._timer.start(PASSING_MS)
        self._show()

    def _put_away(self) -> None:
        self._hidden, self._told = self._held, ""
        self._show()

    def _forget(self) -> None:
        self._told = ""
        self._show()

    def _show(self) -> None:
        lines = [*([self._told] if self._told else []), *(p for p in self._held if p not in self._hidden)]
        self._label.setText("\n".join(_sentence(line) for line in lines))
        self.setVisible(bool(lines) and not self._is_quiet)


def _sentence(words: str) -> str:
    # A parameter's name stays as it is written everywhere.
    return words if "." in words.split(" ")[0] else words[:1].upper() + words[1:]
