"""Makes the pictures of the README: `python -m sdv2live.training.make_pictures FILE [--source S]`.

Runs the real engine over a source, prompt after prompt, as a live run does, and sets one frame of each beside the
frame it came from. Owns the choice of prompts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sdv2live.capture.preprocess import fit_into
from sdv2live.capture.select import open_source
from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.build import build_engine
from sdv2live.engine.catalogue import default_size, traits_of
from sdv2live.frames import Pixels
from sdv2live.paths import assets_dir
from sdv2live.training.sheets import sheet, write_picture

PROMPTS = (
    "oil painting", "pencil drawing", "ink drawing", "neon edges", "thermal camera", "pixel art", "night",
    "vintage film", "watercolour", "flat cel cartoon", "comic halftone", "stained glass", "red pencil drawing", "sepia",
)  # fmt: skip
COLUMNS = 5


def restyled(frames: list[Pixels], prompt: str, size_wh: tuple[int, int]) -> list[Pixels]:
    """The frames as a live run with this prompt and the engine's own defaults shows them."""
    spec = EngineSpec("pocket", size_wh)
    defaults = traits_of(spec).defaults
    settings = ChunkSettings(
        mix=((prompt, 1.0),), steps=tuple(defaults["steps.list"]), steps_count=defaults["steps.count"],
        noise_max=defaults["noise.max"], noise_min=defaults["noise.min"], noise_mode=defaults["noise.mode"],
    )  # fmt: skip
    engine = build_engine(spec, assets_dir())
    made: list[Pixels] = []
    for number in range(len(frames) // 4):
        engine.submit(Chunk(number, np.stack(frames[4 * number : 4 * number + 4])), settings)
        made += [frame for result in engine.poll() for frame in result.frames]
    return made


def looks_on(source_spec: str, *, start: int, frames_run: int = 16) -> Pixels:
    """All prompts on one frame of a source: [H, W, 3] uint8 RGB."""
    size_wh = default_size("pocket")
    source = open_source(source_spec, loop=True)
    source.open()
    frames: list[Pixels] = []
    for number in range(start + frames_run):
        taken = source.read()
        if taken is not None and number >= start:
            fitted = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
            fit_into(taken.pixels, fitted)
            frames.append(fitted)
    source.close()
    tiles = [("the source", frames[-1])]
    tiles += [(prompt, restyled(frames, prompt, size_wh)[-1]) for prompt in PROMPTS]
    return sheet(tiles, COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sdv2live.training.make_pictures")
    parser.add_argument("out", type=Path, help="the PNG or JPEG file to write")
    parser.add_argument("--source", default="clip", help="clip or file:PATH")
    parser.add_argument("--start", type=int, default=16, help="first frame used")
    options = parser.parse_args()
    write_picture(options.out, looks_on(options.source, start=options.start))
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
