"""Video files made on the spot. Nothing is downloaded, and each test has files of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sdv2live.capture.test_pattern import render_pattern
from sdv2live.frames import Pixels

VideoMaker = Callable[..., Path]


@pytest.fixture
def make_video(tmp_path: Path) -> VideoMaker:
    """make_video(name, frames=24, size_wh=(160, 96), rate=24, times=None, movflags="", pictures=None) -> its path.

    times: the frames' numbers in ticks of 1/rate, where they are not 0, 1, 2, ...
    """

    def make(
        name: str = "video.mp4",
        *,
        frames: int = 24,
        size_wh: tuple[int, int] = (160, 96),
        rate: int = 24,
        times: Sequence[int] | None = None,
        movflags: str = "",
        pictures: Sequence[Pixels] | None = None,
        codec: str = "libx264",
    ) -> Path:
        path = tmp_path / name
        images = pictures if pictures is not None else [render_pattern(index, size_wh) for index in range(frames)]
        height, width = images[0].shape[:2]
        options = {"movflags": movflags} if movflags else {}
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = Fraction(1, rate)
            stream.codec_context.time_base = Fraction(1, rate)
            if codec == "libx264":
                stream.options = {"crf": "12", "preset": "ultrafast", "g": "8", "bf": "2"}
            for index, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
                frame.pts = times[index] if times is not None else index
                frame.time_base = Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make
