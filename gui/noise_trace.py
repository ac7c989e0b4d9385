"""The motion noise, seen: a trace of motion and noise over half a minute, and its two bounds as handles on it."""

from __future__ import annotations

from collections import deque

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from gui import theme
from gui.live import Knobs

KEPT = 300
GRAB_PX = 14
HANDLES = ("noise.max", "noise.min")
WORDS = {"noise.max": "still", "noise.min": "moving"}
FINE, COARSE = 0.01, 0.05


class NoiseTrace(QWidget):
    """Drag a bound, or choose it with Tab... and move it with the arrow keys (Page keys: five steps).

    Left and right choose between the two bounds; up and down move the chosen one.
    """

    def __init__(self, knobs: Knobs) -> None:
        super().__init__()
        self._knobs = knobs
        self._samples: deque[tuple[float, float]] = deque(maxlen=KEPT)  # (noise, motion)
        self._chosen = HANDLES[0]
        self._is_dragging = False
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setAccessibleName("Noise bounds")
        self.setToolTip(
            "How far the effect may go: the upper line on a still picture, the lower one in full motion. "
            "Drag a line, or use the arrow keys."
        )
        knobs.changed.connect(self._follow)

    def sizeHint(self) -> QSize:
        return QSize(320, 132)

    def minimumSizeHint(self) -> QSize:
        return QSize(200, 132)

    def add(self, noise: float, motion: float) -> None:
        """One moment more."""
        self._samples.append((noise, motion))
        self.update()

    def _follow(self, names: set[str]) -> None:
        if names & set(HANDLES):
            self.update()

    def _bound(self, name: str) -> float:
        value = self._knobs.registry.get(name)
        return float(value) if value is not None else 0.0

    def _plot(self) -> QRectF:
        return QRectF(8, 10, self.width() - 96, self.height() - 20)

    def _y(self, value: float) -> float:
        plot = self._plot()
        return plot.bottom() - value * plot.height()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        plot = self._plot()
        painter.fillRect(self.rect(), QColor(theme.PANEL))
        painter.fillRect(plot, QColor(theme.FIELD))
        top, bottom = self._y(self._bound("noise.max")), self._y(self._bound("noise.min"))
        painter.fillRect(QRectF(plot.left(), top, plot.width(), bottom - top), QColor(92, 200, 255, 36))
        self._draw_line(painter, 1, QColor(theme.WARN))
        self._draw_line(painter, 0, QColor(theme.ACCENT))
        for name in HANDLES:
            self._draw_handle(painter, name)
        font = painter.font()
        font.setPixelSize(11)
        painter.setFont(font)
        painter.setPen(QColor(theme.ACCENT))
        painter.drawText(QPointF(plot.left() + 4, plot.top() + 12), "noise")
        painter.setPen(QColor(theme.WARN))
        painter.drawText(QPointF(plot.left() + 44, plot.top() + 12), "motion")

    def _draw_line(self, painter: QPainter, which: int, colour: QColor) -> None:
        plot = self._plot()
        if len(self._samples) < 2:
            return
        step = plot.width() / (KEPT - 1)
        left = plot.right() - step * (len(self._samples) - 1)
        points = [QPointF(left + step * at, self._y(sample[which])) for at, sample in enumerate(self._samples)]
        painter.setPen(QPen(colour, 1.5))
        painter.drawPolyline(QPolygonF(points))

    def _draw_handle(self, painter: QPainter, name: str) -> None:
        plot, value = self._plot(), self._bound(name)
        y = self._y(value)
        is_chosen = self.hasFocus() and name == self._chosen
        colour = QColor(theme.ACCENT if is_chosen else theme.TEXT)
        painter.setPen(QPen(colour, 2 if is_chosen else 1))
        painter.drawLine(QPointF(plot.left(), y), QPointF(plot.right(), y))
        painter.setBrush(colour)
        painter.drawEllipse(QPointF(plot.right(), y), 5, 5)
        other = self._y(self._bound(HANDLES[1 - HANDLES.index(name)]))
        # Two labels on one spot could not be read.
        shift = 0.0 if abs(other - y) > 13 else (-7.0 if name == "noise.max" else 7.0)
        painter.drawText(QPointF(plot.right() + 9, y + 4 + shift), f"{value:.2f} {WORDS[name]}")

    def _nearest(self, y: float) -> str | None:
        near = min(HANDLES, key=lambda name: abs(self._y(self._bound(name)) - y))
        if self._bound("noise.max") == self._bound("noise.min"):
            near = "noise.max" if y <= self._y(self._bound("noise.max")) else "noise.min"
        return near if abs(self._y(self._bound(near)) - y) <= GRAB_PX else None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        near = self._nearest(event.position().y())
        if near is not None and event.button() == Qt.MouseButton.LeftButton:
            self._chosen, self._is_dragging = near, True
            self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        y = event.position().y()
        if self._is_dragging:
            plot = self._plot()
            self._knobs.set(self._chosen, round((plot.bottom() - y) / plot.height(), 2))
        is_near = self._is_dragging or self._nearest(y) is not None
        self.setCursor(Qt.CursorShape.SizeVerCursor if is_near else Qt.CursorShape.ArrowCursor)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._is_dragging = False

    def keyPressEvent(self, event: QKeyEvent) -> None:
        keys = Qt.Key
        moves = {keys.Key_Up: FINE, keys.Key_Down: -FINE, keys.Key_PageUp: COARSE, keys.Key_PageDown: -COARSE}
        key = keys(event.key())
        if key in (keys.Key_Left, keys.Key_Right):
            self._chosen = HANDLES[0 if key == keys.Key_Left else 1]
            self.update()
        elif key in moves:
            self._knobs.set(self._chosen, round(self._bound(self._chosen) + moves[key], 2))
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.update()
