"""From a word to a source. Owns: the spelling of `--source`; knows every kind of source, opens none.

Runs on whichever thread composes the app.
"""

from __future__ import annotations

from pathlib import Path

from sdv2live.capture.base import Source
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir

KINDS = "clip, pattern, none or file:PATH"


def open_source(spec: str, *, loop: bool) -> Source:
    """The source that `spec` names, made and not yet opened; UserError where it names none.

    `loop`: a played file starts again at its end.
    """
    # Imported by need: `pattern` and `none` run where PyAV is not installed.
    if spec in ("pattern", "none"):
        from sdv2live.capture.test_pattern import EmptySource, PatternSource

        return PatternSource() if spec == "pattern" else EmptySource()
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


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
