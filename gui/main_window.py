"""The window: preview on the left, knobs on the right, the show's switches below. Owns layout, keys and the pulse.

Runs on the GUI thread alone. It sets parameters and asks for a status ten times a second; nothing here waits for the
app, so that a blocked window blocks no picture and a hanging engine no window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from PySide6.QtCore import QByteArray, QEvent, QObject, Qt, QTimer
from PySide6.QtGui import QAction, QCloseEvent, QKeyEvent, QKeySequence, QShortcut, QShowEvent
from PySide6.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QMessageBox,
    QPushButton,
    QSplitter,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from gui.control_panel import ControlPanel
from gui.doctor_dialog import DoctorDialog
from gui.live import Knobs, Live
from gui.models_dialog import ModelsDialog
from gui.notice import Notice
from gui.preview import Preview, View
from gui.screen_capture import hide_from_captures
from gui.status_line import StatusLine
from gui.undo import Undo
from sdv2live.doctor.flags import flags_of
from sdv2live.models.store import Store
from sdv2live.parameters import TABLE
from sdv2live.paths import models_dir

PULSE_MS = 100
SWITCHES = (  # parameter, words, key, what it does
    ("output.bypass", "Bypass", "F6", "Show the camera instead of the effect"),
    ("output.freeze", "Freeze", "F7", "Hold the picture"),
    ("output.panic", "Panic", "F8", "Show a plain card at once: neither camera nor effect"),
    ("output.camera", "Virtual camera", "F9", "Give the picture to OBS, Zoom and browsers as a camera"),
    ("output.record", "Record", "F10", "Record the picture into a file"),
)
KEYS = (
    ("F1", "this list"),
    ("Ctrl+L", "write a prompt (Enter uses it)"),
    ("Ctrl+1 ... Ctrl+9", "use a look"),
    ("Ctrl+S", "save the look"),
    ("Ctrl+Z, Ctrl+Shift+Z", "undo and redo what was turned"),
    ("F2, F3, F4", "effect, source, both"),
    ("F5", "start and stop"),
    *((key, doc[:1].lower() + doc[1:]) for _, _, key, doc in SWITCHES),
    ("F11", "picture alone, full screen (Escape ends it)"),
    ("F12", "the Wan engines' files: see, fetch, remove"),
    ("Ctrl+D", "what works here, and a rehearsal of the show"),
    ("Ctrl+Shift+R", "start the stream anew"),
    ("Ctrl+R", "restart the engine"),
    ("Ctrl+Q", "quit"),
)


class MainWindow(QMainWindow):
    """on_over() is called once when the run has ended by itself."""

    def __init__(self, live: Live, *, on_over: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.live, self._on_over = live, on_over
        self.knobs = Knobs(live.registry)
        self.setWindowTitle("sdv2live")
        self.notice = Notice()
        self.preview = Preview(live.preview)
        self.panel = ControlPanel(live, self.knobs, lambda: self.preview.newest)
        self.status_line = StatusLine()
        self.setStatusBar(self.status_line)
        self.undo = Undo(self.knobs)
        self.models: ModelsDialog | None = None
        self.doctor: DoctorDialog | None = None
        self.panel.files.clicked.connect(self.show_models)
        self.panel.doctor.clicked.connect(self.show_doctor)
        self._recorded: object = None
        self._was_maximised = False
        left = QWidget()
        left_layout = QVBoxLayout(left)
        left_layout.setContentsMargins(10, 10, 4, 6)
        self._bars = [QWidget(), QWidget()]
        for bar, line in zip(self._bars, (self._views(), self._transport()), strict=True):
            line.setContentsMargins(0, 0, 0, 0)
            bar.setLayout(line)
        left_layout.addWidget(self._bars[0])
        left_layout.addWidget(self.preview, 1)
        left_layout.addWidget(self._bars[1])
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.addWidget(left)
        self.splitter.addWidget(self.panel)
        self.splitter.setStretchFactor(0, 1)
        self.splitter.setCollapsible(0, False)
        self.splitter.setSizes([800, 420])
        whole = QWidget()
        layout = QVBoxLayout(whole)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.notice)
        layout.addWidget(self.splitter, 1)
        self.setCentralWidget(whole)
        self.resize(1220, 800)
        self.panel.looks.failed.connect(self.notice.tell)
        self.panel.looks.said.connect(self.status_line.say)
        self.knobs.refused.connect(self.notice.tell)
        self.knobs.changed.connect(self._follow)
        self.preview.double_clicked.connect(self.toggle_full_screen)
        self._add_keys()
        self._follow({name for name, *_ in SWITCHES} | {"stream.running"})
        application = QApplication.instance()
        if application is not None:
            application.installEventFilter(self)
        self._pulse = QTimer(self)
        self._pulse.timeout.connect(self.beat)
        self._pulse.start(PULSE_MS)
        self.panel.prompt.setFocus()

    # ---- parts

    def _views(self) -> QHBoxLayout:
        line = QHBoxLayout()
        self.view_buttons: dict[View, QPushButton] = {}
        for view, key in ((View.EFFECT, "F2"), (View.SOURCE, "F3"), (View.SPLIT, "F4")):
            button = QPushButton(view.value.capitalize())
            button.setCheckable(True)
            button.setAutoExclusive(True)
            button.setToolTip(f"Show {'both beside each other' if view is View.SPLIT else f'the {view}'} ({key})")
            button.clicked.connect(lambda _=False, which=view: self.preview.set_view(which))
            QShortcut(QKeySequence(key), self, button.click)
            self.view_buttons[view] = button
            line.addWidget(button)
        self.view_buttons[View.EFFECT].setChecked(True)
        line.addStretch(1)
        full = QToolButton()
        full.setText("Full screen")
        full.setToolTip("The picture alone (F11)")
        full.clicked.connect(self.toggle_full_screen)
        line.addWidget(full)
        return line

    def _transport(self) -> QHBoxLayout:
        line = QHBoxLayout()
        self.start_button = QPushButton()
        self.start_button.setObjectName("primary")
        self.start_button.setMinimumWidth(90)
        self.start_button.clicked.connect(self.toggle_running)
        line.addWidget(self.start_button)
        self.switches: dict[str, QPushButton] = {}
        for name, words, key, doc in SWITCHES:
            button = QPushButton(words)
            button.setCheckable(True)
            button.setToolTip(f"{doc} ({key})\nOSC: {self.live.registry.table[name].osc_addresses[-1]}")
            button.setObjectName("panic" if name == "output.panic" else "")
            button.toggled.connect(lambda is_on, which=name: self.knobs.set(which, is_on))
            QShortcut(QKeySequence(key), self, button.toggle)
            self.switches[name] = button
            line.addWidget(button)
        line.addStretch(1)
        self.outputs = QLabel()
        self.outputs.setObjectName("quiet")
        self.outputs.setMinimumWidth(40)
        line.addWidget(self.outputs)
        return line

    def _add_keys(self) -> None:
        def key(keys: str | QKeySequence.StandardKey, act: Callable[[], object]) -> None:
            action = QAction(self)
            action.setShortcut(QKeySequence(keys))
            action.triggered.connect(lambda: act())
            self.addAction(action)

        key("F1", self.show_keys)
        key("F5", self.toggle_running)
        key("F11", self.toggle_full_screen)
        key("F12", self.show_models)
        key("Ctrl+D", self.show_doctor)
        key("Ctrl+L", self.panel.prompt.setFocus)
        key("Ctrl+S", self.panel.looks.save_as)
        key("Ctrl+R", lambda: self.knobs.set("engine.restart", 1))
        key("Ctrl+Shift+R", lambda: self.knobs.set("stream.reset", 1))
        key("Ctrl+Q", self.close)
        key("Ctrl+Shift+Z", self.undo.redo)
        key("Ctrl+Z", self.undo.undo)
        for number in range(1, 10):
            key(f"Ctrl+{number}", partial(self._use_look, number - 1))
        self._escape = QShortcut(QKeySequence("Escape"), self, self._leave_full_screen)
        self._escape.setEnabled(False)

    # ---- what is asked of it

    def toggle_running(self) -> None:
        self.knobs.set("stream.running", not self.knobs.registry.get("stream.running"))

    def toggle_full_screen(self) -> None:
        self._show_alone(not self.isFullScreen())

    def show_keys(self) -> None:
        box = QMessageBox(self)
        box.setWindowTitle("Keys")
        rows = "".join(f"<tr><td><b>{key}</b></td><td>&nbsp;&nbsp;{words}</td></tr>" for key, words in KEYS)
        box.setText(f"<table>{rows}</table><p>Right-click a label to copy its OSC address.</p>")
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()

    def show_models(self) -> None:
        """The engines' files, in a window of their own that goes on fetching while it is closed."""
        if self.models is None:
            self.models = ModelsDialog(Store(models_dir()), self)
        self.models.show()
        self.models.raise_()

    def show_doctor(self) -> None:
        """What works here, in a window of its own that goes on looking while it is closed."""
        if self.doctor is None:
            self.doctor = DoctorDialog(self, rehearsal=self._rehearsal, set_running=self._set_running)
        self.doctor.show()
        self.doctor.raise_()

    def beat(self) -> None:
        """Ten times a second: how is it doing?"""
        status = self.live.status()
        self.status_line.show_status(status)
        self.panel.source.show_status(status.source)
        self.panel.camera.show_status(status.camera)
        self.panel.prompt.show_unknown(status.not_understood)
        if status.engine_state == "running":
            self.panel.trace.add(status.noise_scale, status.motion)
        self.notice.hold(status.problems)
        words = [f"camera {status.camera.state}"] if status.camera is not None else []
        if status.recording is not None:
            words.append(f"recording {status.recording.written} pictures")
        self.outputs.setText("   ".join(words))
        self._tell_recorded(status.recording.path if status.recording is not None else None)
        if self.live.is_over():
            self._pulse.stop()
            self._on_over()

    def window_state(self) -> dict[str, bytes]:
        """Size, place and what was unfolded, for the next start. Full screen is for a show and not kept."""
        unfolded = [name for name, fold in self.panel.folds.items() if fold.isChecked()]
        return {
            "geometry": bytes(self.saveGeometry().data()),
            "splitter": bytes(self.splitter.saveState().data()),
            "view": self.preview.view.value.encode(),
            "unfolded": ",".join(unfolded).encode(),
        }

    def restore_window(self, state: Mapping[str, bytes]) -> None:
        """What does not fit is left as it is."""
        self.restoreGeometry(QByteArray(state.get("geometry", b"")))
        self.splitter.restoreState(QByteArray(state.get("splitter", b"")))
        for name in state.get("unfolded", b"").decode("utf-8", "replace").split(","):
            if name in self.panel.folds:
                self.panel.folds[name].setChecked(True)
        view = state.get("view", b"").decode("utf-8", "replace")
        if view in list(View):
            self.view_buttons[View(view)].click()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._follow({"source.name"})

    def closeEvent(self, event: QCloseEvent) -> None:
        self._pulse.stop()
        self.preview.stop()
        self.panel.close_down()
        if self.models is not None:
            self.models.close_down()
        if self.doctor is not None:
            self.doctor.close_down()
        self.knobs.close()
        event.accept()

    # ---- inside

    def _rehearsal(self) -> list[str]:
        """The flags of this show, on the source that plays now."""
        source = TABLE["source.name"].cli_flag
        flags = [flag for flag in flags_of(self.knobs.registry) if not flag.startswith(f"{source}=")]
        return [*flags, f"{source}={self.live.status().source.spec}"]

    def _set_running(self, is_on: bool) -> bool:
        """-> whether that was a change."""
        was_on = bool(self.knobs.registry.get("stream.running"))
        self.knobs.set("stream.running", is_on)
        return was_on != is_on

    def _follow(self, names: set[str]) -> None:
        for name in names & self.switches.keys():
            button = self.switches[name]
            button.blockSignals(True)
            button.setChecked(bool(self.knobs.registry.get(name)))
            button.blockSignals(False)
        if "stream.running" in names:
            is_on = bool(self.knobs.registry.get("stream.running"))
            self.start_button.setText("Stop" if is_on else "Start")
            self.start_button.setToolTip("Free the camera and the engine (F5)" if is_on else "Go on the air (F5)")
        if "source.name" in names and self.isVisible():
            hide_from_captures(self, str(self.knobs.registry.get("source.name")).partition(":")[0] == "screen")

    def _use_look(self, place: int) -> None:
        names = self.panel.looks.names
        if place < len(names):
            self.panel.looks.apply(names[place])

    def _tell_recorded(self, path: object) -> None:
        """When a recording has ended: where it lies."""
        if path is None and self._recorded is not None:
            self.status_line.showMessage(f"recorded: {self._recorded}", 15_000)
        self._recorded = path

    def _show_alone(self, is_alone: bool) -> None:
        for part in (self.panel, self.status_line, *self._bars):
            part.setVisible(not is_alone)
        self.notice.keep_quiet(is_alone)
        self._escape.setEnabled(is_alone)
        if is_alone:
            self._was_maximised = self.isMaximized()
            self.showFullScreen()
        elif self._was_maximised:
            self.showMaximized()
        else:
            self.showNormal()

    def _leave_full_screen(self) -> None:
        if self.isFullScreen():
            self._show_alone(False)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The keys that save a show work while a dialog is open, too."""
        if event.type() == QEvent.Type.KeyPress and QApplication.activeModalWidget() is not None:
            assert isinstance(event, QKeyEvent)
            name = {Qt.Key.Key_F6: "output.bypass", Qt.Key.Key_F7: "output.freeze", Qt.Key.Key_F8: "output.panic"}.get(
                Qt.Key(event.key())
            )
            if name is not None and not event.isAutoRepeat():
                self.knobs.set(name, not self.knobs.registry.get(name))
                return True
        return super().eventFilter(watched, event)
