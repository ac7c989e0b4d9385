"""Plays a video file: the sources `file:PATH` and `clip`. Owns: the container, its decoder and media time.

Knows nothing of when a frame is shown: it decodes as fast as it is asked, and the capture thread keeps the
file's own clock. Runs on the thread that opened it. A file is untrusted: only local files are read, sizes are
bounded, and what cannot be decoded is counted and passed over.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace

from sdv2live.capture.base import Source, SourceFrame, SourceInfo
from sdv2live.errors import SourceEnded, UserError, one_line
from sdv2live.frames import Pixels

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

DECODE_ERRORS_IN_ROW = 30
LARGEST_SIDE = 8192
MISSING_PERIODS = 3.5  # a promise that is this many frames too long is rounding, more is a file that was cut off
FALLBACK_RATE_FPS = Fraction(25)
# Above this a step between time stamps is a broken stamp, not a picture that is held.
LONGEST_HOLD_S = 60.0
# AVColorSpace numbers as a frame carries them -> the matrix that swscale is to use.
MATRIX_OF_COLORSPACE = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.SMPTE170M,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


class VideoFile(Source):
    """A file, or the bundled clip. With `loop` it starts again at its end, and media time counts on.

    decode_errors counts packets that could not be decoded.
    """

    is_live = False

    def __init__(self, path: str | Path, *, loop: bool, name: str | None = None) -> None:
        self._path = Path(path)
        self._loop = loop
        self._name = name or f"file:{path}"
        self._container: InputContainer | None = None
        self._frames: Iterator[VideoFrame] | None = None
        self._first: VideoFrame | None = None
        self._period_s = float(1 / FALLBACK_RATE_FPS)
        self._said: set[str] = set()
        self._clear_pass()
        self._last_media_s = -1.0
        self.decode_errors = 0

    def open(self) -> SourceInfo:
        check_is_readable_file(self._path)
        stream = self._start_pass()
        rate_fps = nominal_rate(stream)
        self._period_s = float(1 / rate_fps)
        promised = expected_frames(stream, rate_fps)
        if self._is_cut_off(stream):
            self.close()
            raise UserError(
                f"{self._path} was cut off: its last pictures are missing; copy or export it again, or choose another "
                "file."
            )
        self.close()
        self._start_pass()
        first = self._next_decoded()
        if first is None:
            self.close()
            raise UserError(f"{self._path} has no picture that can be decoded: choose another file or export it again.")
        self._first = first
        height, width = displayed_shape(first)
        count = None if self._loop or promised == 0 else promised
        return SourceInfo(self._name, (width, height), rate_fps, count)

    def read(self, timeout_s: float = 1.0) -> SourceFrame | None:
        if self._frames is None:
            raise SourceEnded(self._name)
        frame, self._first = self._first, None
        frame = frame or self._next_decoded()
        if frame is None:
            if not self._loop:
                self.close()
                raise SourceEnded(self._name)
            self._start_pass()
            frame = self._next_decoded()
            if frame is None:
                self.close()
                raise UserError(f"{self._path} could be played once and not again: was it changed while it played?")
        self._last_media_s = self._media_time_s(frame)
        return SourceFrame(to_rgb(frame, self._path), self._last_media_s)

    def close(self) -> None:
        self._frames = None
        self._first = None
        if self._container is not None:
            container, self._container = self._container, None
            container.close()

    def _clear_pass(self) -> None:
        """What belongs to one run through the file."""
        self._errors_in_row = 0
        self._last_pts_s: float | None = None

    def _start_pass(self) -> VideoStream:
        """Open the file from its start. Opened anew rather than sought in, which a damaged file may not allow."""
        self.close()
        try:
            # `file:` keeps a name like `concat:a|b` from being read as a protocol, the list keeps a playlist's
            # text from naming anything that is not a local file.
            self._container = av.open(f"file:{self._path}", options={"protocol_whitelist": "file"})
        except (FFmpegError, OSError, ValueError) as error:
            raise UserError(
                f"{self._path} cannot be played ({plain_reason(error)}): it is not a video, or was cut off while it "
                "was written; choose another file."
            ) from error
        pictures = [s for s in self._container.streams.video if not is_still_cover(s)]
        if not pictures:
            self.close()
            raise UserError(f"{self._path} has no moving picture, only sound or a cover: choose a video file.")
        stream = pictures[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if max(width, height) > LARGEST_SIDE:
            self.close()
            raise UserError(
                f"{self._path} is {width}x{height}, larger than {LARGEST_SIDE} a side: scale it down before playing it."
            )
        stream.codec_context.thread_count = 2
        self._clear_pass()
        self._frames = self._decode(self._container, stream)
        return stream

    def _is_cut_off(self, stream: VideoStream) -> bool:
        """Whether the file says that it is longer than it is. Reads from the last key frame on; decodes nothing.

        A file that makes no promise, such as a recording that a crash ended, is whole.
        """
        container = self._container
        promised_s = promised_end_s(stream)
        if container is None or promised_s is None or stream.time_base is None:
            return False
        end_s = float("-inf")
        try:
            container.seek(round(promised_s / stream.time_base), stream=stream, backward=True)
            for packet in container.demux(stream):
                if packet.pts is not None and packet.size and not packet.is_corrupt:
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * stream.time_base))
        except (FFmpegError, OSError):
            pass  # whatever stopped it: what counts is how far it came
        return promised_s - end_s > MISSING_PERIODS * self._period_s

    def _next_decoded(self) -> VideoFrame | None:
        try:
            return next(self._frames, None) if self._frames is not None else None
        except UserError:
            self.close()
            raise

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        """The frames of one pass in order of showing. Ends at the file's end, or where it was cut off."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (FFmpegError, OSError) as error:
                self.decode_errors += 1
                self._say_once("%s ends early: %s", self._path, plain_reason(error))
                return
            try:
                frames = packet.decode()
            except (FFmpegError, ValueError) as error:
                self._count_decode_error(error)
                continue
            for frame in frames:
                self._errors_in_row = 0
                yield frame

    def _count_decode_error(self, error: Exception) -> None:
        self.decode_errors += 1
        self._errors_in_row += 1
        self._say_once("%s: a damaged part is passed over (%s)", self._path, plain_reason(error))
        if self._errors_in_row > DECODE_ERRORS_IN_ROW:
            raise UserError(
                f"{self._path} is damaged: more than {DECODE_ERRORS_IN_ROW} pictures in a row could not be decoded; "
                "export it again or choose another file."
            ) from error

    def _media_time_s(self, frame: VideoFrame) -> float:
        """Seconds since the first frame of the first pass; each frame later than the one before."""
        pts_s = float(frame.pts * frame.time_base) if frame.pts is not None and frame.time_base else None
        step_s = self._period_s
        if pts_s is not None and self._last_pts_s is not None:
            measured_s = pts_s - self._last_pts_s
            if 0 < measured_s <= LONGEST_HOLD_S:
                step_s = measured_s
        # A frame without a stamp is taken as one period after the last, so that the next stamp still fits.
        self._last_pts_s = pts_s if pts_s is not None else (self._last_pts_s or 0.0) + self._period_s
        return 0.0 if self._last_media_s < 0 else self._last_media_s + step_s

    def _say_once(self, words: str, *values: object) -> None:
        """A warning that a loop does not repeat each time round."""
        if words not in self._said:
            self._said.add(words)
            log.warning(words, *values)


def check_is_readable_file(path: Path) -> None:
    """Raise a UserError with a sentence of its own for each thing that is not a readable file."""
    # A path object folds the two slashes of an address into one.
    if re.match(r"[A-Za-z][\w+.-]+:/", str(path)) or "\0" in str(path):
        raise UserError(f"{str(path)!r} is not a file on this machine: give the path of a video file.")
    try:
        if path.is_dir():
            raise UserError(f"{path} is a directory: give the path of a video file in it.")
        if not path.exists():
            raise UserError(f"{path} does not exist: check the path of the video file.")
        if not path.is_file():
            raise UserError(f"{path} is a device or a pipe, not a file: give the path of a video file.")
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): check its permissions, or choose another file."
        ) from error
    if is_empty:
        raise UserError(f"{path} is empty: choose another file.")


def plain_reason(error: Exception) -> str:
    """What FFmpeg said, without its error number and the repeated path."""
    strerror = getattr(error, "strerror", None)
    return str(strerror) if strerror else one_line(error)


def is_still_cover(stream: VideoStream) -> bool:
    """Whether it is the cover picture of a sound file."""
    return bool(int(stream.disposition) & 0x400)


def nominal_rate(stream: VideoStream) -> Fraction:
    """Frames a second as the file says; the first believable of what it says."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate is not None and Fraction(1, 10) <= rate <= 480:
            return Fraction(rate)
    return FALLBACK_RATE_FPS


def expected_frames(stream: VideoStream, rate_fps: Fraction) -> int:
    """How many frames the file promises; 0 where it does not say."""
    if stream.frames > 0:
        return int(stream.frames)
    if stream.duration and stream.time_base:
        return round(stream.duration * stream.time_base * rate_fps)
    return 0


def promised_end_s(stream: VideoStream) -> float | None:
    """When the last picture ends, as the file says, on the clock of its time stamps; None where it does not say.

    Without a count of frames a duration is what was found of the stream, as in the fragments of a recording; Matroska
    keeps it in its head, where a recording that was not finished has none.
    """
    if stream.frames and stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    container = cast("InputContainer", stream.container)
    if "matroska" in container.format.name and container.duration and len(container.streams) == 1:
        return float(((container.start_time or 0) + container.duration) / av.time_base)
    return None


def quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns (0 to 3) that a phone's file asks for."""
    return round(frame.rotation / 90) % 4


def displayed_shape(frame: VideoFrame) -> tuple[int, int]:
    """(H, W) after the turn."""
    height, width = frame.height, frame.width
    return (width, height) if quarter_turns(frame) % 2 else (height, width)


def to_rgb(frame: VideoFrame, path: Path) -> Pixels:
    """[H, W, 3] uint8 RGB, C-contiguous, turned upright."""
    if max(frame.width, frame.height) > LARGEST_SIDE:
        raise UserError(f"{path} turns into {frame.width}x{frame.height} on the way: scale it down before playing it.")
    # A file that does not say its matrix: HD is BT.709 and the rest BT.601, as players assume.
    assumed = Colorspace.ITU709 if frame.height >= 720 or frame.width >= 1280 else Colorspace.ITU601
    matrix = MATRIX_OF_COLORSPACE.get(int(frame.colorspace), assumed)
    try:
        rgb = frame.to_ndarray(format="rgb24", src_colorspace=matrix, dst_color_range=ColorRange.JPEG)
    except (FFmpegError, ValueError) as error:
        raise UserError(
            f"{path} has pictures of a kind that cannot be shown ({plain_reason(error)}): export it as H.264."
        ) from error
    turned = np.rot90(rgb, quarter_turns(frame))
    return np.ascontiguousarray(turned, dtype=np.uint8)
