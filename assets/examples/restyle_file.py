"""Restyle a video file from Python and change the prompt half way: python restyle_file.py IN.mp4 OUT.mp4"""

import sys
from fractions import Fraction

import av

from sdv2live import Stream


def pictures_of(path):
    """Every picture of the file, [H, W, 3] uint8 RGB."""
    with av.open(path) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def main(source: str, target: str) -> None:
    frames = list(pictures_of(source))
    with Stream(prompt="pencil drawing", settings={"prompt.transition": 4}) as stream, av.open(target, "w") as out:
        width, height = stream.size_wh
        video = out.add_stream("libx264", rate=Fraction(16))
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"

        def first_half_then_the_rest():
            for number, frame in enumerate(frames):
                if number == len(frames) // 2:
                    stream.set("prompt.text", "thermal camera")
                yield frame

        for picture in stream(first_half_then_the_rest()):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
    print(f"{len(frames)} frames restyled: {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
