"""From a word to an output. Owns: the spelling of `--output`; opens nothing.

`window` is not an output: the window shows what the session shows. Runs on whichever thread composes the app.
"""

from __future__ import annotations

from pathlib import Path

from bridges.base import Output
from sdv2live.errors import UserError

KINDS = "camera, camera:BACKEND, camera:DEVICE, file:PATH or null"


def make_output(spec: str, *, overwrite: bool = False, camera_size_wh: tuple[int, int] = (1280, 720)) -> Output:
    """The output that `spec` names, made and not yet opened; UserError where it names none.

    overwrite: a recording replaces the file of that name; otherwise it takes the next free name.
    """
    kind, _, rest = spec.partition(":")
    if spec == "null":
        from bridges.null_output import NullOutput

        return NullOutput()
    if kind == "file":
        if not rest:
            raise UserError("The output `file:` names no file: write file:PATH, for example file:show.mp4.")
        try:
            from bridges.recorder import Recorder
        except ImportError as error:
            raise UserError(f"The output {spec!r} needs PyAV ({error}): run `pip install av`.") from error

        return Recorder(Path(rest).expanduser(), if_exists="overwrite" if overwrite else "rename")
    if kind == "camera":
        from bridges.virtual_camera import VirtualCamera

        return VirtualCamera.from_spec(rest, size_wh=camera_size_wh)
    raise UserError(f"There is no output {spec!r}: choose {KINDS}.")
