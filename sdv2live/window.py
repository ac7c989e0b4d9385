"""`sdv2live` with a window. Owns: what the last session brings back, which source comes first, who captures a screen,
and what the window needs of this machine.

Puts the app and `gui` together; runs on the main thread.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

from bridges.base import Output
from bridges.select import make_output
from sdv2live.app import LiveApp, LiveOptions, run_live
from sdv2live.auto.measuring import prepare, wants_auto
from sdv2live.capture.base import Source
from sdv2live.capture.select import open_source
from sdv2live.errors import UserError, one_line
from sdv2live.last_session import LastSession, load_session, save_session
from sdv2live.one_instance import take_instance_lock
from sdv2live.paths import assets_dir
from sdv2live.registry import COMMAND_LINE, Registry
from sdv2live.settings import engine_spec

log = logging.getLogger(__name__)

# Qt ends the process without a sentence of ours where its plugin for X11 misses one of these.
_X11_LIBRARIES = {"libxcb-cursor.so.0": "libxcb-cursor0", "libxkbcommon-x11.so.0": "libxkbcommon-x11-0"}

MakeSource = Callable[[str, bool], Source]
MakeRegistry = Callable[[argparse.Namespace, LastSession], tuple[Registry, list[str]]]


def run_window(options: argparse.Namespace, make_registry: MakeRegistry) -> int:
    """Show the window until it is closed; -> exit code. Raises UserError."""
    check_qt()
    lock = take_instance_lock()
    if lock is None:
        raise UserError("sdv2live has a window open already: use that one, or run this one with --headless.")
    with lock:
        last = load_session()
        registry, given = make_registry(options, last)
        _choose_engine(registry)
        outputs = _outputs(options, registry)
        with _source_maker() as make_source:
            return run_live(
                registry,
                LiveOptions(
                    outputs=outputs,
                    spec=engine_spec(registry),
                    seconds=options.seconds,
                    json_path=options.json,
                    osc_port_is_asked="osc.port" in given,
                    make_source=make_source,
                    waits_for_source=False,
                    first_source="camera",
                ),
                lambda app: _drive(app, last),
            )


def _choose_engine(registry: Registry) -> None:
    """Where it is left open and nothing is known here: in a small window of its own, which can be cancelled."""
    if not wants_auto(registry):
        return
    from gui.waiting import wait_for

    source = str(registry.get("source.name") or "camera")

    def work(say: Callable[[str], None], stop: threading.Event) -> str:
        try:
            prepare(registry, source=source, say=say, stop=stop)
        except UserError as error:
            return one_line(error)
        return ""

    sentence = wait_for(work, assets=assets_dir(), title="Finding out what this machine can do")
    if sentence:
        raise UserError(sentence)


def _drive(app: LiveApp, last: LastSession) -> None:
    from gui.run import drive

    def keep(window: dict[str, bytes], prompts: list[str]) -> None:
        try:
            save_session(app.registry, window=window, prompts=prompts, last=last)
        except UserError as error:
            log.error("%s", error)

    drive(app, assets=assets_dir(), state=dict(last.window), history=last.prompts, on_close=keep)


@contextlib.contextmanager
def _source_maker() -> Iterator[MakeSource]:
    """What makes the sources of a run, which it must outlive. On the main thread."""
    if sys.platform != "linux" or not _is_wayland():
        yield lambda spec, loop: open_source(spec, loop=loop)
        return
    from gui.run import make_application
    from gui.screen_capture import QtScreenSource, ScreenDesk

    # The first source may be a screen, and is opened before the window is there.
    application = make_application(assets_dir())

    def make(spec: str, loop: bool) -> Source:
        kind, colon, words = spec.partition(":")
        if kind != "screen" or (colon and not words):
            return open_source(spec, loop=loop)
        return QtScreenSource(desk, name=spec, number=_screen_number(spec, words))

    with contextlib.closing(ScreenDesk(application)) as desk:
        yield make


def _is_wayland() -> bool:
    try:
        from sdv2live.capture.screen import is_wayland
    except ImportError:  # no mss: `open_source` says so
        return False
    return is_wayland(os.environ)


def _screen_number(spec: str, words: str) -> int | None:
    """Raises UserError for what cannot be had of a desktop that asks."""
    from sdv2live.capture.screen import parsed_words

    number, part = parsed_words(words)
    if part is not None:
        raise UserError(
            f"The source {spec} cannot be had in a Wayland session, where the desktop asks which screen is shown: "
            "choose screen, and answer it."
        )
    return number


def _outputs(options: argparse.Namespace, registry: Registry) -> list[Output]:
    """Those of the command line; a camera among them is the one that the window switches."""
    outputs = []
    for spec in options.output or []:
        if spec.partition(":")[0] == "camera":
            registry.set("camera.device", spec.partition(":")[2], origin=COMMAND_LINE)
            registry.set("output.camera", True, origin=COMMAND_LINE)
        else:
            outputs.append(make_output(spec, overwrite=options.overwrite))
    return outputs


def check_qt() -> None:
    """Say what is missing while there is still somebody to say it."""
    if importlib.util.find_spec("PySide6") is None:
        raise UserError("The window needs PySide6: run `pip install PySide6-Essentials`, or start with --headless.")
    try:
        importlib.import_module("PySide6.QtWidgets")
    except ImportError as error:
        raise UserError(
            f"The window cannot be made ({one_line(error)}): install the library that is named, on Debian and Ubuntu "
            "with `sudo apt install libegl1 libgl1 libfontconfig1 libdbus-1-3`, or start with --headless."
        ) from error
    platform = os.environ.get("QT_QPA_PLATFORM", "")
    if sys.platform != "linux" or platform not in ("", "xcb") or os.environ.get("WAYLAND_DISPLAY"):
        return
    if not _display_answers():
        raise UserError(
            f"The display {os.environ.get('DISPLAY')} does not answer: start sdv2live on a desktop, or with --headless."
        )
    missing = [package for library, package in _X11_LIBRARIES.items() if not _loads(library)]
    if missing:
        raise UserError(
            f"The window needs {' and '.join(missing)}: run `sudo apt install {' '.join(missing)}` (or what your "
            "system calls it), or start with --headless."
        )


def _display_answers() -> bool:
    """Whether there is an X server: Qt would end the process without a word."""
    try:
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError:
        return True  # Qt brings what it needs, or says what it lacks
    xcb.xcb_connect.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(xcb.xcb_connect(None, None))
    has_failed = bool(xcb.xcb_connection_has_error(connection))
    xcb.xcb_disconnect(connection)
    return not has_failed


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
