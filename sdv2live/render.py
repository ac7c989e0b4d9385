"""A file, every frame of it, in order, through the engine in this process. Owns: progress, the tail, the output file.

No clock and no dropped frame: the same file, seed and settings give the same bytes. Written beside its name and put in
place at the end, so that a render that is stopped leaves no half file under that name.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bridges.recorder import SUFFIXES, Recorder
from sdv2live.capture.base import Source, SourceInfo
from sdv2live.capture.cards import RANDOM_WEIGHTS_LABEL, labelled
from sdv2live.capture.preprocess import fit_into
from sdv2live.capture.select import open_source
from sdv2live.engine.base import Chunk, ChunkResult, Engine
from sdv2live.errors import SourceEnded, UserError
from sdv2live.filters import Chain, apply_chain, parse_chain, size_after
from sdv2live.frames import Pixels
from sdv2live.paths import assets_dir
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec, settings_of


def render(registry: Registry, source_spec: str, out: Path, *, overwrite: bool) -> int:
    """Restyle the file `source_spec` into `out`; -> exit code. Raises UserError."""
    if out.is_dir():
        raise UserError(f"{out} is a directory: name a file in it, for example {out / 'out.mp4'}.")
    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already: choose another name, or add -y to replace it.")
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"{out} is no video file name: end it with {' or '.join(SUFFIXES)}.")
    spec = replace(engine_spec(registry), waits_for_text=True)
    values = registry.snapshot()
    before, after = parse_chain(values["input.filters"]), parse_chain(values["output.filters"])
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
        from sdv2live.engine.build import build_engine

        if spec.threads:
            import torch

            torch.set_num_threads(spec.threads)
        engine = stack.enter_context(contextlib.closing(build_engine(spec, assets_dir())))
        progress = _Progress(info)
        written = 0
        frames = _fitted_frames(source, spec.size_wh, str(values["source.fit"]), before)
        for pixels in _restyled(engine, registry, frames):
            pixels = apply_chain(after, pixels)
            recorder.write(labelled(pixels, RANDOM_WEIGHTS_LABEL) if spec.random_weights else pixels, written)
            written += 1
            progress.show(written)
        recorder.close()
        source.close()  # out may be the source itself, and Windows replaces no file that is open
        partial.replace(out)
        progress.done(written, out)
    finally:
        stack.close()
        recorder.close()
        source.close()
        partial.unlink(missing_ok=True)
    return 0


def _fitted_frames(source: Source, size_wh: tuple[int, int], fit: str, filters: Chain) -> Iterator[Pixels]:
    width, height = size_wh
    while True:
        try:
            frame = source.read()
        except SourceEnded:
            return
        if frame is None:
            continue
        out = np.empty((height, width, 3), np.uint8)
        fit_into(frame.pixels, out, fit)
        yield apply_chain(filters, out)


def _restyled(engine: Engine, registry: Registry, frames: Iterator[Pixels]) -> Iterator[Pixels]:
    """Pictures in order, as many as frames came: the last chunk is completed by repeating its last frame, and what
    that added is cut off again."""
    settings = settings_of(registry.snapshot())
    real_of: dict[int, int] = {}
    number = 0
    waiting: list[Pixels] = []

    def pictures(results: list[ChunkResult]) -> Iterator[Pixels]:
        for result in results:
            if not result.is_finite:
                raise UserError(f"the engine made no picture of chunk {result.chunk_id}: its values are no numbers.")
            yield from result.frames[: real_of.pop(result.chunk_id)]

    def submit() -> None:
        nonlocal number
        real_of[number] = len(waiting)
        complete = waiting + [waiting[-1]] * (engine.frames_wanted - len(waiting))
        engine.submit(Chunk(number, np.stack(complete)), settings)
        number += 1
        waiting.clear()

    for frame in frames:
        waiting.append(frame)
        if len(waiting) == engine.frames_wanted:
            submit()
            yield from pictures(engine.poll())
    if waiting:
        submit()
    yield from pictures(engine.flush())


class _Progress:
    """How far a render is, with the time left, on standard error."""

    def __init__(self, info: SourceInfo) -> None:
        self._total = info.frame_count
        self._started_s = time.monotonic()
        self._shown_s = 0.0

    def show(self, written: int) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < 0.5:
            return
        self._shown_s = now_s
        rate = written / (now_s - self._started_s)
        if self._total:
            left_s = max(self._total - written, 0) / rate
            line = f"frame {written} of {self._total}, {rate:.1f} fps, {left_s:.0f} s left"
        else:
            line = f"frame {written}, {rate:.1f} fps"
        sys.stderr.write(f"\r{line:<60}" if sys.stderr.isatty() else line + "\n")
        sys.stderr.flush()

    def done(self, written: int, out: Path) -> None:
        spent_s = time.monotonic() - self._started_s
        print(f"\n{written} frames in {spent_s:.1f} s, written: {out}", file=sys.stderr)
