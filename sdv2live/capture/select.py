"""From a word to a source, and which words this machine has an answer to. Owns: the spelling of `--source`.

Knows every kind of source, opens none. Runs on whichever thread composes the app.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdv2live.capture.base import Source
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir

log = logging.getLogger(__name__)

KINDS = "camera, camera:NAME, screen, screen:N, screen:X,Y,WxH, clip, pattern, none or file:PATH"
# A picker must open at once, also where a driver does not answer.
LISTING_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True)
class SourceChoice:
    """spec: what `open_source` takes, the same after a restart. label: for people."""

    spec: str
    label: str


def open_source(spec: str, *, loop: bool) -> Source:
    """The source that `spec` names, made and not yet opened; UserError where it names none.

    `loop`: a played file starts again at its end.
    """
    # Imported by need: `pattern` and `none` run where PyAV is not installed.
    if spec in ("pattern", "none"):
        from sdv2live.capture.test_pattern import EmptySource, PatternSource

        return PatternSource() if spec == "pattern" else EmptySource()
    kind, colon, rest = spec.partition(":")
    if kind in ("camera", "screen"):
        return _device_source(kind, rest, has_colon=bool(colon))
    is_file_spec = spec.startswith("file:")
    path = Path(spec.removeprefix("file:")).expanduser()
    if spec == "clip":
        path = assets_dir() / "clip.mp4"
    elif is_file_spec and not spec.removeprefix("file:"):
        raise UserError("The source `file:` names no file: write file:PATH with the path of a video.")
    elif not spec or (not is_file_spec and not _exists(path)):
        raise UserError(f"There is no source {spec!r}: choose {KINDS}.")
    try:
        from sdv2live.capture.video_file import VideoFile
    except ImportError as error:
        raise UserError(f"The source {spec!r} needs PyAV ({error}): run `pip install av`.") from error

    return VideoFile(path, loop=loop, name=spec if spec == "clip" else f"file:{path}")


def list_sources() -> list[SourceChoice]:
    """What can be chosen here and now, for a picker. Never raises, and answers within about a second."""
    cameras = _within_limit("cameras", _camera_choices)
    screens = _within_limit("screens", _screen_choices)
    fixed = [
        SourceChoice("clip", "Sample clip"),
        SourceChoice("pattern", "Test pattern"),
        SourceChoice("none", "No picture"),
    ]
    return [*cameras(), *screens(), *fixed]


def _device_source(kind: str, rest: str, *, has_colon: bool) -> Source:
    if has_colon and not rest:
        raise UserError(f"The source `{kind}:` names no {kind}: write `{kind}` for the first, or choose {KINDS}.")
    if kind == "camera":
        from sdv2live.capture.webcam import Webcam

        return Webcam(rest)
    try:
        from sdv2live.capture.screen import ScreenSource
    except ImportError as error:
        raise UserError(f"The source `screen` needs mss ({error}): run `pip install mss`.") from error

    return ScreenSource(rest)


def _camera_choices() -> list[SourceChoice]:
    from sdv2live.capture.cameras import list_cameras

    return [SourceChoice(f"camera:{camera.id}", camera.name) for camera in list_cameras()]


def _screen_choices() -> list[SourceChoice]:
    from sdv2live.capture.screen import is_wayland, list_screens

    if sys.platform == "linux" and is_wayland(os.environ):
        return [SourceChoice("screen", "Screen (the desktop asks which)")]
    return [
        SourceChoice(f"screen:{screen.number}", f"{screen.name}, {screen.region.width}x{screen.region.height}")
        for screen in list_screens()
    ]


def _within_limit(what: str, ask: Callable[[], list[SourceChoice]]) -> Callable[[], list[SourceChoice]]:
    """Start asking on a thread; -> what waits for the answer, an empty one where it does not come in time."""
    answer: list[SourceChoice] = []

    def run() -> None:
        try:
            answer.extend(ask())
        except UserError as error:
            log.debug("no %s: %s", what, error)
        except Exception:  # a thread's top: a list of what there is must come, whatever a driver does
            log.warning("the %s could not be listed", what, exc_info=True)

    thread = threading.Thread(target=run, name=f"list {what}", daemon=True)
    deadline_s = time.monotonic() + LISTING_LIMIT_S
    thread.start()

    def wait() -> list[SourceChoice]:
        thread.join(max(deadline_s - time.monotonic(), 0.0))
        return [] if thread.is_alive() else answer

    return wait


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
