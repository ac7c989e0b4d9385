"""The picture in the window. Owns: effect, source or both beside each other, without a copy of a pixel.

Pulls the newest picture when the window has time for one: a blocked window costs pictures here and nowhere else.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from PySide6.QtCore import QPoint, QRect, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from gui import theme
from sdv2live.frames import Pixels, Shown
from sdv2live.queues import LatestSlot

PULL_MS = 16


class View(StrEnum):
    EFFECT = "effect"
    SOURCE = "source"
    SPLIT = "split"


class Preview(QWidget):
    """Shows what is in `slot`, letterboxed; in the split view the border is moved with the mouse or the arrow keys."""

    double_clicked = Signal()

    def __init__(self, slot: LatestSlot[Shown]) -> None:
        super().__init__()
        self._slot = slot
        self._shown: Shown | None = None
        self._images: dict[str, tuple[Pixels, QImage]] = {}
        self._view = View.EFFECT
        self._border = 0.5
        self.pictures = 0
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(320, 240)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Preview")
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._pull)
        self._timer.start(PULL_MS)

    def sizeHint(self) -> QSize:
        return QSize(720, 540)

    @property
    def view(self) -> View:
        return self._view

    def set_view(self, view: View) -> None:
        self._view = view
        self.update()

    @property
    def newest(self) -> Shown | None:
        return self._shown

    def stop(self) -> None:
        self._timer.stop()

    def _pull(self) -> None:
        shown = self._slot.take(timeout_s=0)
        if shown is None:
            return
        is_news = self._shown is None or shown.picture is not self._shown.picture
        is_news = is_news or (self._view is not View.EFFECT and shown.source is not self._shown.source)  # type: ignore[union-attr]
        self._shown = shown
        if is_news:
            self.pictures += 1
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor("#0b0c0f"))
        shown = self._shown
        if shown is None:
            painter.setPen(QColor(theme.QUIET))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "starting")
            return
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        picture = self._image("picture", shown.picture)
        place = self._place(picture)
        if self._view is View.EFFECT or shown.source is None:  # without a source the picture is a card that says why
            painter.drawImage(place, picture)
            return
        source = self._image("source", shown.source)
        if self._view is View.SOURCE:
            painter.drawImage(self._place(source), source)
            return
        x = place.left() + round(place.width() * self._border)
        painter.drawImage(place, picture)
        painter.setClipRect(QRect(place.topLeft(), QPoint(x - 1, place.bottom())))
        painter.fillRect(place, QColor("#0b0c0f"))
        painter.drawImage(place, source)
        painter.setClipping(False)
        painter.setPen(QPen(QColor(theme.TEXT), 2))
        painter.drawLine(x, place.top(), x, place.bottom())

    def _image(self, which: str, pixels: Pixels) -> QImage:
        """A QImage on the array's own memory; the array is kept for as long as the image."""
        kept = self._images.get(which)
        if kept is None or kept[0] is not pixels:
            array = np.ascontiguousarray(pixels)
            height, width = array.shape[:2]
            kept = (pixels, QImage(array.data, width, height, array.strides[0], QImage.Format.Format_RGB888))
            self._images[which] = kept
        return kept[1]

    def _place(self, image: QImage) -> QRect:
        size = image.size().scaled(self.size(), Qt.AspectRatioMode.KeepAspectRatio)
        return QRect(QPoint((self.width() - size.width()) // 2, (self.height() - size.height()) // 2), size)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.double_clicked.emit()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.mouseMoveEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._view is View.SPLIT and self._shown is not None and event.buttons() & Qt.MouseButton.LeftButton:
            place = self._place(self._image("picture", self._shown.picture))
            self._move_border((event.position().x() - place.left()) / max(place.width(), 1))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        steps = {Qt.Key.Key_Left: -0.02, Qt.Key.Key_Right: 0.02}
        step = steps.get(Qt.Key(event.key()))
        if step is None or self._view is not View.SPLIT:
            super().keyPressEvent(event)
            return
        self._move_border(self._border + step)

    def _move_border(self, share: float) -> None:
        self._border = min(max(share, 0.0), 1.0)
        self.update()
