"""The looks: presets as pictures. Applies, saves, renames and deletes them, with undo. Owns no file format.

The GUI thread waits for no disk: files are read and written in the background, values are set here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from PySide6.QtCore import QBuffer, QIODevice, QPoint, QSize, Qt, Signal
from PySide6.QtGui import QIcon, QImage, QKeyEvent, QPixmap
from PySide6.QtWidgets import (
    QHBoxLayout,
    QInputDialog,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QMessageBox,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from gui.live import Background, Knobs
from sdv2live.errors import UserError
from sdv2live.frames import Shown
from sdv2live.presets import (
    DeletedPreset,
    Look,
    Preset,
    delete_preset,
    find_preset,
    list_presets,
    read_look,
    rename_preset,
    save_preset,
    set_look,
)

THUMBNAIL_PX = 192
SHOWN_PX = 68
T = TypeVar("T")


class Looks(QWidget):
    """A grid of presets. picture() is what is shown now, for a new look's thumbnail."""

    failed = Signal(str)
    said = Signal(str)

    def __init__(self, knobs: Knobs, picture: Callable[[], Shown | None]) -> None:
        super().__init__()
        self._knobs, self._picture = knobs, picture
        self._listing = Background()
        # What is clicked is done in the order of the clicks, and all of it.
        self._acts = Background(keeps_all=True)
        self._deleted: DeletedPreset | None = None
        self._list = _Grid()
        self._list.setAccessibleName("Looks")
        self._list.setViewMode(QListWidget.ViewMode.IconMode)
        self._list.setIconSize(QSize(SHOWN_PX, SHOWN_PX))
        self._list.setGridSize(QSize(SHOWN_PX + 20, SHOWN_PX + 26))
        self._list.setResizeMode(QListWidget.ResizeMode.Adjust)
        self._list.setMovement(QListWidget.Movement.Static)
        self._list.setWordWrap(True)
        self._list.setFixedHeight(2 * (SHOWN_PX + 26) + 12)
        self._list.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._list.customContextMenuRequested.connect(self._show_menu)
        self._list.itemClicked.connect(self._apply)
        self._list.entered_item.connect(self._apply)
        self._list.delete_asked.connect(self._delete)
        save = QPushButton("Save look\u2026")
        save.setToolTip("Keep how it looks now under a name (Ctrl+S)")
        save.clicked.connect(self.save_as)
        self._undo = QToolButton()
        self._undo.setText("Undo delete")
        self._undo.clicked.connect(self._restore)
        self._undo.hide()
        line = QHBoxLayout()
        line.addWidget(save)
        line.addWidget(self._undo)
        line.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._list)
        layout.addLayout(line)
        self.reload()

    @property
    def names(self) -> list[str]:
        """The looks that can be used, in the order they are shown."""
        items = [self._list.item(row) for row in range(self._list.count())]
        return [item.text() for item in items if self._preset(item).is_readable]

    def reload(self) -> None:
        """Read the folders again, off the GUI thread."""
        self._listing.run(_presets_with_pictures, self._show)

    def apply(self, name: str) -> None:
        """Soon: it is read in the background, and set at once on the GUI thread."""
        registry = self._knobs.registry

        def use(look: Look) -> None:
            set_look(registry, look, origin="preset")
            self.said.emit(f"look: {name}")

        self._do(lambda: read_look(registry, find_preset(name)), use)

    def save_as(self) -> None:
        """Ask for a name and keep the look under it."""
        name, is_given = QInputDialog.getText(self, "Save look", "Name of the look:")
        if not is_given or not name.strip():
            return
        is_there = any(name.strip() == self._list.item(row).text() for row in range(self._list.count()))
        question = f"There is a look {name.strip()!r} already. Replace it?"
        if not is_there or QMessageBox.question(self, "Save look", question) == QMessageBox.StandardButton.Yes:
            self.save(name.strip(), overwrite=is_there)

    def save(self, name: str, *, overwrite: bool = False) -> None:
        """Soon, and as it is now."""
        registry, shown = self._knobs.registry, self._picture()
        held = registry.snapshot()

        def save() -> None:
            thumbnail = _jpeg(shown) if shown is not None else None
            save_preset(registry, name, overwrite=overwrite, thumbnail=thumbnail, held=held)

        self._do(save, lambda _: self.said.emit(f"look saved: {name}"), is_change=True)

    def close_down(self) -> None:
        self._acts.wait(2.0)
        self._listing.wait(2.0)

    def _show(self, found: object) -> None:
        assert isinstance(found, list)
        self._list.clear()
        for preset, picture in found:
            icon = QIcon(QPixmap.fromImage(picture)) if picture is not None else QIcon(_plain())
            item = QListWidgetItem(icon, preset.name)
            item.setData(Qt.ItemDataRole.UserRole, preset)
            item.setToolTip(preset.reason or (preset.name if preset.is_own else f"{preset.name} (comes with sdv2live)"))
            if not preset.is_readable:
                item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEnabled)
            self._list.addItem(item)

    def _preset(self, item: QListWidgetItem) -> Preset:
        preset = item.data(Qt.ItemDataRole.UserRole)
        assert isinstance(preset, Preset)
        return preset

    def _apply(self, item: QListWidgetItem) -> None:
        if self._preset(item).is_readable:
            self.apply(item.text())

    def _show_menu(self, at: QPoint) -> None:
        item = self._list.itemAt(at)
        if item is None:
            return
        menu, is_own = QMenu(self), self._preset(item).is_own
        menu.addAction("Use", lambda: self._apply(item))
        menu.addAction("Rename\u2026", lambda: self._rename(item)).setEnabled(is_own)
        menu.addAction("Delete", lambda: self._delete(item)).setEnabled(is_own)
        menu.exec(self._list.mapToGlobal(at))
        menu.deleteLater()

    def _rename(self, item: QListWidgetItem) -> None:
        name, is_given = QInputDialog.getText(self, "Rename look", "New name:", text=item.text())
        old, name = item.text(), name.strip()
        if is_given and name and name != old:
            self._do(lambda: rename_preset(old, name), is_change=True)

    def _delete(self, item: QListWidgetItem) -> None:
        name = item.text()

        def keep(deleted: DeletedPreset) -> None:
            self._deleted = deleted
            self._undo.setText(f"Undo delete of {name}")
            self._undo.show()

        self._do(lambda: delete_preset(name), keep, is_change=True)

    def _restore(self) -> None:
        deleted, self._deleted = self._deleted, None
        self._undo.hide()
        if deleted is not None:
            self._do(deleted.restore, is_change=True)

    def _do(
        self, work: Callable[[], T], then: Callable[[T], None] = lambda _: None, *, is_change: bool = False
    ) -> None:
        """work() in the background, since a disk may take its time, then(its result) here. is_change: of the files."""

        def tried() -> Callable[[], None]:
            try:
                result = work()
            except UserError as error:
                return partial(self.failed.emit, str(error))
            return partial(then, result)

        def finish(outcome: object) -> None:
            assert callable(outcome)
            try:
                outcome()
            except UserError as error:
                self.failed.emit(str(error))
            if is_change:
                self.reload()

        self._acts.run(tried, finish)


class _Grid(QListWidget):
    entered_item = Signal(QListWidgetItem)
    delete_asked = Signal(QListWidgetItem)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        item, keys = self.currentItem(), Qt.Key
        if item is not None and event.key() in (keys.Key_Return, keys.Key_Enter, keys.Key_Space):
            self.entered_item.emit(item)
        elif item is not None and event.key() == keys.Key_Delete:
            self.delete_asked.emit(item)
        else:
            super().keyPressEvent(event)


def _presets_with_pictures() -> list[tuple[Preset, QImage | None]]:
    found = []
    for preset in list_presets():
        picture = QImage(str(preset.thumbnail)) if preset.thumbnail is not None else QImage()
        found.append((preset, None if picture.isNull() else _square(picture)))
    return found


def _square(picture: QImage) -> QImage:
    """Its middle, as a square of the thumbnail's size."""
    sides = Qt.AspectRatioMode.KeepAspectRatioByExpanding
    scaled = picture.scaled(THUMBNAIL_PX, THUMBNAIL_PX, sides, Qt.TransformationMode.SmoothTransformation)
    left, top = (scaled.width() - THUMBNAIL_PX) // 2, (scaled.height() - THUMBNAIL_PX) // 2
    return scaled.copy(left, top, THUMBNAIL_PX, THUMBNAIL_PX)


def _jpeg(shown: Shown) -> bytes:
    pixels = shown.picture
    height, width = pixels.shape[:2]
    picture = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    _square(picture).save(buffer, "JPG", 85)  # type: ignore[call-overload]
    return bytes(buffer.data().data())


def _plain() -> QPixmap:
    plain = QPixmap(THUMBNAIL_PX, THUMBNAIL_PX)
    plain.fill(Qt.GlobalColor.darkGray)
    return plain
