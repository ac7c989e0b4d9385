"""Makes the thumbnails of the shipped presets: `python -m sdv2live.training.make_thumbnails [--out FOLDER]`.

Plays the shipped clip through each look as `render` does and keeps one frame beside its preset, the same frame for
all. Owns the choice of the frame, the size and the quality.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from sdv2live.api import Stream
from sdv2live.capture.select import open_source
from sdv2live.errors import SourceEnded
from sdv2live.frames import Pixels
from sdv2live.paths import presets_dir
from sdv2live.presets import MAX_THUMBNAIL_BYTES, apply_preset_file
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec

SIDE = 192
QUALITY = 88
FIRST_FRAME = 0  # the portrait, before it fades into the next shot
FRAMES_RUN = 32  # until noise, cache and trails have settled


def frames_of(source_spec: str, *, first: int, count: int) -> list[Pixels]:
    """`count` frames of a source from its frame `first` on: [H, W, 3] uint8 RGB each."""
    source = open_source(source_spec, loop=False)
    source.open()

    def all_frames() -> Iterator[Pixels]:
        while True:
            try:
                frame = source.read()
            except SourceEnded:
                return
            if frame is not None:
                yield frame.pixels.copy()

    try:
        return list(itertools.islice(all_frames(), first, first + count))
    finally:
        source.close()


def restyled(frames: list[Pixels], preset: Path) -> Pixels:
    """The last of the frames as it looks with the preset: [SIDE, SIDE, 3] uint8 RGB."""
    registry = Registry()
    engine_spec(registry)
    apply_preset_file(registry, preset)
    with Stream.of(registry) as stream:
        *_, last = stream(frames)
    return np.asarray(cv2.resize(last, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sdv2live.training.make_thumbnails")
    parser.add_argument("--out", type=Path, default=presets_dir(), help="folder to write to (default: beside them)")
    parser.add_argument("--source", default="clip", help="clip or file:PATH")
    options = parser.parse_args()
    frames = frames_of(options.source, first=FIRST_FRAME, count=FRAMES_RUN)
    for preset in sorted(presets_dir().glob("*.json")):
        is_made, data = cv2.imencode(".jpg", restyled(frames, preset)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if not is_made or len(data) > MAX_THUMBNAIL_BYTES:
            raise SystemExit(f"no thumbnail of {preset} within {MAX_THUMBNAIL_BYTES} bytes could be made")
        out = options.out / f"{preset.stem}.jpg"
        out.write_bytes(data.tobytes())
        print(f"written: {out}, {len(data)} bytes")


if __name__ == "__main__":
    main()
