"""Records to a video file: the output `file:PATH`. Owns: the file, its encoder and its time stamps.

H.264 in MP4, MOV or Matroska. While it is written the file is in fragments of at most a second, so that after a
crash or a power cut all but the last second plays; a clean close turns an MP4 or MOV into a plain one. The same
pictures at the same ticks give the same bytes. Knows nothing of engines. Runs on its output's thread, or on
that of `render`.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from bridges.base import Output
from sdv2live.errors import UserError, one_line
from sdv2live.frames import Pixels

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".mkv")
# Recording stops while this much is still free, so that the rest of the system, and the file's own end, have room.
DISK_RESERVE_BYTES = 256 * 1024 * 1024
DISK_CHECK_TICKS = 100
MOV_FLAGS = "hybrid_fragmented+empty_moov+default_base_moof+frag_keyframe"

IfExists = Literal["rename", "overwrite", "refuse"]


class Recorder(Output):
    """Writes pictures to `path`; where that is taken: to the next free name (rename), over it, or not at all.

    The file starts at the first picture's tick. A tick that is skipped leaves a gap of its length: the picture
    before it stands longer. path is the file really written, known once open. Sides of odd length
    are filled up by one pixel, which is what H.264 with 4:2:0 colour needs.
    """

    path: Path

    def __init__(self, path: str | Path, *, if_exists: IfExists = "rename", crf: int = 18) -> None:
        self.path = Path(path)
        self.name = f"file:{path}"
        self._wanted = Path(path)
        self._if_exists: IfExists = if_exists
        self._crf = crf
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._reformatter = VideoReformatter()
        self._padded = np.zeros((0, 0, 3), np.uint8)
        self._rate_fps = Fraction(1)
        self._first_tick: int | None = None
        self._last_tick = self._last_key_tick = -1

    def open(self, size_wh: tuple[int, int], rate_fps: int | Fraction) -> None:
        """A rate may be broken here (30000/1001): `render` keeps its file's own."""
        self.close()
        try:
            self._check_place()
            self.path = self._choose_path()
        except OSError as error:
            raise UserError(self._sentence(error)) from error
        width, height = size_wh[0] + size_wh[0] % 2, size_wh[1] + size_wh[1] % 2
        self._padded = np.zeros((height, width, 3), np.uint8)
        self._rate_fps = Fraction(rate_fps)
        self._first_tick, self._last_tick, self._last_key_tick = None, -1, -1
        if self._if_exists != "overwrite":
            self._create()

    def _create(self) -> None:
        """Make the file. One that is to be written over is left alone until there is a picture to write."""
        height, width = self._padded.shape[:2]
        # bitexact: no creation time, no version of the library and no random identity in the file.
        options = {"fflags": "+bitexact", "flush_packets": "1"}
        if self.path.suffix.lower() == ".mkv":
            options["cluster_time_limit"] = "1000"
        else:
            options["movflags"] = MOV_FLAGS
        try:
            # `file:` keeps a name with a colon from being read as a protocol.
            self._container = av.open(f"file:{self.path}", "w", format=_format_of(self.path), options=options)
            self._stream = self._add_stream(self._container, (width, height))
        except (FFmpegError, OSError, ValueError) as error:
            self.close()
            raise UserError(self._sentence(error)) from error
        # From here on the file is ours and begun: opened again, it must not be written over.
        self._if_exists = "rename"
        log.info("recording to %s", self.path)

    def write(self, pixels: Pixels, tick: int) -> None:
        if self._container is None and self._if_exists == "overwrite" and self._padded.size:
            self._create()
        container, stream = self._container, self._stream
        if container is None or stream is None:
            raise RuntimeError("the recorder is not open")
        if self._first_tick is None:
            self._first_tick = tick
        elif tick <= self._last_tick:
            # Two pictures for one moment: a file can hold the first alone.
            return
        if (tick - self._first_tick) % DISK_CHECK_TICKS == 0:
            self._check_disk()
        self._last_tick = tick
        frame = self._to_yuv(pixels)
        frame.pts, frame.time_base = tick - self._first_tick, 1 / self._rate_fps
        # A key frame at least each second of the show, however many ticks were skipped: a fragment ends there.
        is_key = self._last_key_tick < 0 or tick - self._last_key_tick >= self._rate_fps
        frame.pict_type = PictureType.I if is_key else PictureType.NONE
        if is_key:
            self._last_key_tick = tick
        try:
            container.mux(stream.encode(frame))
        except (FFmpegError, OSError) as error:
            sentence = self._sentence(error)
            self.close()
            raise UserError(sentence) from error

    def close(self) -> None:
        container, stream = self._container, self._stream
        self._container = self._stream = None
        if container is None:
            return
        errors = []
        try:
            if stream is not None and self._first_tick is not None:
                container.mux(stream.encode())
        except (FFmpegError, OSError, ValueError) as error:
            errors.append(error)
        # Even then the container is closed: that is what turns fragments into a plain file, and frees it.
        try:
            container.close()
        except (FFmpegError, OSError, ValueError) as error:
            errors.append(error)
        if errors:
            log.error("the end of %s could not be written (%s): it plays up to there", self.path, one_line(errors[0]))
        if self._first_tick is None:
            self._remove_empty()

    def _remove_empty(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s holds nothing and could not be removed: %s", self.path, one_line(error))
        else:
            log.info("nothing was recorded, %s is not kept", self.path)

    def _add_stream(self, container: OutputContainer, size_wh: tuple[int, int]) -> VideoStream:
        stream = container.add_stream("libx264", rate=self._rate_fps)
        stream.width, stream.height = size_wh
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.time_base = 1 / self._rate_fps
        codec.color_range, codec.colorspace = ColorRange.MPEG, Colorspace.ITU709
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        # zerolatency: each picture leaves the encoder at once, so that a crash loses none that waits inside.
        stream.options = {
            "crf": str(self._crf),
            "preset": "veryfast",
            "tune": "zerolatency",
            "threads": "2",
            "forced-idr": "1",
            "g": str(round(2 * self._rate_fps)),
        }
        return stream

    def _to_yuv(self, pixels: Pixels) -> av.VideoFrame:
        height, width = pixels.shape[:2]
        padded_height, padded_width = self._padded.shape[:2]
        if (height, width) != (padded_height, padded_width):
            if (height + height % 2, width + width % 2) != (padded_height, padded_width):
                raise ValueError(f"a picture of {width}x{height} for a file of {padded_width}x{padded_height}")
            self._padded[:height, :width] = pixels
            self._padded[height:] = self._padded[height - 1]
            self._padded[:, width:] = self._padded[:, width - 1 : width]
            pixels = self._padded
        return self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
            threads=1,
        )

    def _check_place(self) -> None:
        path, folder = self._wanted, self._wanted.parent
        if path.is_dir():
            raise UserError(f"{path} is a directory: name a file in it, for example {path / 'show.mp4'}.")
        if path.suffix.lower() not in SUFFIXES:
            better = path.with_suffix(".mp4").name if path.name else "show.mp4"
            raise UserError(f"{path} does not end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}: name it {better}.")
        if not folder.is_dir():
            raise UserError(f"The folder {folder} does not exist: make it first, or record elsewhere.")
        if not os.access(folder, os.W_OK):
            raise UserError(f"The folder {folder} cannot be written to: change its permissions, or record elsewhere.")
        self._check_disk()

    def _check_disk(self) -> None:
        """Stop in time: a full disk takes more with it than a recording."""
        try:
            free_bytes = shutil.disk_usage(self._wanted.parent).free
        except OSError as error:
            sentence = self._sentence(error)
            self.close()
            raise UserError(sentence) from error
        if free_bytes < DISK_RESERVE_BYTES:
            self.close()
            raise UserError(
                f"The disk of {self._wanted} has only {free_bytes // 2**20} MB left, and recording stops below "
                f"{DISK_RESERVE_BYTES // 2**20} MB: free some space, or record elsewhere."
            )

    def _choose_path(self) -> Path:
        wanted = self._wanted
        if not wanted.exists() or self._if_exists == "overwrite":
            return wanted
        if self._if_exists == "refuse":
            raise UserError(f"{wanted} exists already: give -y to replace it, or choose another name.")
        number = 2
        while (path := wanted.with_stem(f"{wanted.stem}-{number}")).exists():
            number += 1
        log.info("%s exists already, recording goes to %s", wanted, path)
        return path

    def _sentence(self, error: Exception) -> str:
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f"{self.path} cannot grow further because the disk is full: free some space, or record elsewhere."
        reason = getattr(error, "strerror", None) or one_line(error)
        return f"{self.path} cannot be written ({reason}): check the disk and its permissions, or record elsewhere."


def _format_of(path: Path) -> str:
    return {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}[path.suffix.lower()]
