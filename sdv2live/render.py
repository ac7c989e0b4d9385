"""A file, every frame of it, in order, through the engine in this process. Owns: the output file.

No clock and no dropped frame: the same file, seed and settings give the same bytes. Written beside its name and put in
place at the end, so that a render that is stopped leaves no half file under that name.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from bridges.recorder import SUFFIXES, Recorder
from sdv2live.api import Stream
from sdv2live.capture.base import Source
from sdv2live.capture.cards import RANDOM_WEIGHTS_LABEL, labelled
from sdv2live.capture.select import open_source
from sdv2live.errors import SourceEnded, UserError
from sdv2live.filters import parse_chain, size_after
from sdv2live.frames import Pixels
from sdv2live.progress import Progress
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec, refuse_auto


def render(registry: Registry, source_spec: str, out: Path, *, overwrite: bool) -> int:
    """Restyle the file `source_spec` into `out`; -> exit code. Raises UserError."""
    if out.is_dir():
        raise UserError(f"{out} is a directory: name a file in it, for example {out / 'out.mp4'}.")
    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already: choose another name, or add -y to replace it.")
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"{out} is no video file name: end it with {' or '.join(SUFFIXES)}.")
    refuse_auto(registry, "render")
    spec = engine_spec(registry)
    after = parse_chain(str(registry.get("output.filters")))
    source = open_source(source_spec, loop=False)
    if not source.ends:
        raise UserError(f"{source_spec} never ends: render needs a video file.")
    info = source.open()
    partial = out.with_name(f"{out.stem}.partial{out.suffix}")
    recorder = Recorder(partial, if_exists="overwrite")
    stack = contextlib.ExitStack()
    try:
        recorder.open(size_after(after, spec.size_wh), info.rate_fps)
        print("sdv2live: loading the engine", file=sys.stderr)
        stream = stack.enter_context(Stream.of(registry))
        progress = Progress(info.frame_count)
        written = 0
        for pixels in stream(_frames(source)):
            recorder.write(labelled(pixels, RANDOM_WEIGHTS_LABEL) if spec.random_weights else pixels, written)
            written += 1
            progress.show(written)
        recorder.close()
        source.close()  # out may be the source itself, and Windows replaces no file that is open
        partial.replace(out)
        progress.done(written, f", written: {out}")
    finally:
        stack.close()
        recorder.close()
        source.close()
        partial.unlink(missing_ok=True)
    return 0


def _frames(source: Source) -> Iterator[Pixels]:
    while True:
        try:
            frame = source.read()
        except SourceEnded:
            return
        if frame is not None:
            yield frame.pixels
