"""Pictures of the real window in its states, on the clip that ships: python -m tests.gui.make_window_pictures FOLDER

With QT_SCALE_FACTOR=2 in the environment they are of a high-resolution screen. README's are `split` as window.jpg and
the others beside each other as window-states.jpg.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp()

from PySide6.QtCore import QRect, Qt, QTimer
from PySide6.QtGui import QImage, QPainter
from PySide6.QtWidgets import QApplication

from gui.main_window import MainWindow
from gui.preview import View
from gui.run import drive, make_application
from sdv2live.app import LiveApp, LiveOptions
from sdv2live.paths import assets_dir
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec

CALM = 0.2  # motion: no scene of the clip fades into the next one


def main(folder: Path) -> None:
    registry = Registry()
    registry.set_many(
        [("source.name", "clip"), ("prompt.text", "pencil drawing"), ("prompt.transition", 4)], origin="cli"
    )
    app = LiveApp(registry, LiveOptions(outputs=[], spec=engine_spec(registry), waits_for_source=False))
    make_application(assets_dir())

    def window() -> MainWindow:
        return next(w for w in QApplication.topLevelWidgets() if isinstance(w, MainWindow))

    def view(which: View) -> Callable[[], object]:
        return lambda: window().view_buttons[which].click()

    def is_running() -> bool:
        return app.session.frames_generated > 40

    def is_calm() -> bool:
        return app.session.motion < CALM

    def always() -> bool:
        return True

    def unfold() -> None:
        window().panel.folds["engine"].setChecked(True)
        window().panel.folds["noise"].setChecked(True)
        QTimer.singleShot(200, lambda: window().panel.ensureWidgetVisible(window().panel.files, 0, 80))

    # name, what is done before it, when it may be taken, and not before so many milliseconds
    steps: list[tuple[str, Callable[[], object], Callable[[], bool], int]] = [
        ("loading", lambda: None, always, 500),
        ("effect", lambda: registry.set("noise.max", 0.7, origin="gui"), is_running, 900),
        ("source", view(View.SOURCE), always, 500),
        ("split", view(View.SPLIT), is_calm, 1000),
        ("problem", lambda: registry.set("source.name", "camera:Front", origin="gui"), always, 2500),
        ("unfolded", unfold, always, 800),
        ("panic", lambda: registry.set("output.panic", True, origin="gui"), always, 500),
        ("stopped", lambda: registry.set_many([("output.panic", False), ("stream.running", False)], origin="gui"),
         always, 2500),
    ]  # fmt: skip

    def next_step() -> None:
        if not steps:
            app.request_stop()
            return
        name, act, is_time, wait_ms = steps.pop(0)
        act()

        def take() -> None:
            if not is_time():
                QTimer.singleShot(200, take)
                return
            window().grab().save(str(folder / f"{name}.png"))
            next_step()

        QTimer.singleShot(wait_ms, take)

    QTimer.singleShot(300, next_step)
    app.run(lambda: drive(app, assets=assets_dir(), state={}, history=["pencil drawing"], on_close=lambda *_: None))


def put_together(folder: Path) -> None:
    """README's two pictures."""
    smooth = Qt.TransformationMode.SmoothTransformation
    QImage(str(folder / "split.png")).save(str(folder / "window.jpg"), "JPG", 85)  # type: ignore[call-overload]
    names = ("loading", "source", "problem", "unfolded", "panic", "stopped")
    shots = [QImage(str(folder / f"{name}.png")).scaledToWidth(600, smooth) for name in names]
    width, height = shots[0].width(), shots[0].height()
    whole = QImage(2 * width + 8, 3 * height + 16, QImage.Format.Format_RGB32)
    whole.fill(Qt.GlobalColor.white)
    painter = QPainter(whole)
    for number, shot in enumerate(shots):
        painter.drawImage(QRect(number % 2 * (width + 8), number // 2 * (height + 8), width, height), shot)
    painter.end()
    whole.save(str(folder / "window-states.jpg"), "JPG", 80)  # type: ignore[call-overload]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name the folder to write the pictures to: python -m tests.gui.make_window_pictures FOLDER")
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    main(target)
    put_together(target)
