"""Compares an output with its source, frame by frame. Owns: the reading in step, the table, the figures and the plot.

The measures themselves are `measures`. Two frames of each video are held at a time and the curves are bounded, so the
length of a video costs time alone. Frames are paired by number, as `render` keeps them. Runs on the main thread.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sdv2live import __version__
from sdv2live.capture.base import SourceInfo
from sdv2live.capture.preprocess import FIT_MODES, fit_into
from sdv2live.capture.video_file import VideoFile
from sdv2live.errors import SourceEnded, UserError
from sdv2live.frames import Pixels
from sdv2live.measures import (
    DEFINITIONS,
    SMALLEST_SIDE_PX,
    Clip,
    Flow,
    Picture,
    choose_flow,
    correspond,
    find_clip,
    mean_squared_error,
    psnr_db,
    sharpness,
    ssim,
    temporal_difference,
    warp_error,
)
from sdv2live.progress import Progress

FRAMES_APART = 5  # the longest chunk: what the end of a run may cost; a greater difference is another run
KEPT_POINTS = 1000


def evaluate(
    source: Path,
    output: Path,
    *,
    fit: str,
    prompt: str,
    clip: Path | None,
    json_path: Path | None,
    plot_path: Path | None,
) -> int:
    """Measure `output` against `source`, print the table, write figures and plot if asked; -> exit code.

    The source is brought to the output's size as `fit` says. Where one video is up to FRAMES_APART frames longer, the
    common part is compared and that is said; where it is longer by more, they are not in step. Raises UserError.
    """
    if fit not in FIT_MODES:
        raise UserError(f"--fit {fit} is not known: choose one of {', '.join(FIT_MODES)}.")
    _check_targets(source, output, json_path, plot_path)
    source_video, output_video = VideoFile(source, loop=False), VideoFile(output, loop=False)
    try:
        infos = source_video.open(), output_video.open()
        size_wh = infos[1].size_wh
        if min(size_wh) < SMALLEST_SIDE_PX:
            raise UserError(
                f"{output} is {size_wh[0]}x{size_wh[1]}: less than {SMALLEST_SIDE_PX} pixels a side cannot be measured."
            )
        flow, flow_reason = choose_flow()
        network, clip_reason = find_clip(clip)
        comparison = Comparison(flow, network, prompt)
        progress = Progress(min((info.frame_count for info in infos if info.frame_count), default=0))
        while True:
            pixels = _next_frame(source_video), _next_frame(output_video)
            if pixels[0] is None or pixels[1] is None:
                break
            comparison.add(*(_picture(frame, size_wh, fit) for frame in pixels if frame is not None))
            progress.show(comparison.frames)
        extra = [
            _left(video) + (frame is not None)
            for video, frame in zip((source_video, output_video), pixels, strict=True)
        ]
        progress.done(comparison.frames)
    finally:
        source_video.close()
        output_video.close()
    paths = source, output
    for path, shorter, more in zip(paths, reversed(paths), extra, strict=True):
        if more > FRAMES_APART:
            raise UserError(
                f"{path} goes on for more than {FRAMES_APART} frames after the {comparison.frames} of {shorter}: "
                "frames are compared by number, so give a source and what `sdv2live render` made of the whole of it."
            )
    results = comparison.results()
    notes = _notes(comparison.frames, paths, infos, extra, (source_video, output_video))
    if results["psnr_db"] is None:
        notes.append("the output is the source, pixel for pixel: its PSNR is infinite, which JSON writes as null.")
    figures: dict[str, Any] = {
        "sdv2live": __version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **{
            name: {"file": str(path), "size_wh": list(info.size_wh), "rate_fps": round(float(info.rate_fps), 4)}
            for name, path, info in zip(("source", "output"), paths, infos, strict=True)
        },
        "fit": fit,
        "prompt": prompt,
        "frames_compared": comparison.frames,
        "flow": {**flow.description, "reason": flow_reason},
        "clip_weights": str(network.folder) if network is not None else None,
        "clip_reason": clip_reason or (None if prompt else "no --prompt was given to score the frames by"),
        **results,
        "notes": notes,
        "definitions": DEFINITIONS,
        "curves": {"frames_per_point": comparison.frames_per_point, **comparison.curves()},
    }
    print(_table(figures))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if json_path is not None:
        _write(json_path, (json.dumps(figures, indent=2, allow_nan=False) + "\n").encode())
    if plot_path is not None:
        _write(plot_path, cv2.imencode(".png", draw_plot(figures["curves"])[..., ::-1])[1].tobytes())
    return 0


class Comparison:
    """The measures over all pairs of frames so far. Keeps one pair and the curves."""

    def __init__(self, flow: Flow, clip: Clip | None, prompt: str) -> None:
        self.frames = 0
        self._flow = flow
        self._clip = clip
        self._text = clip.of_text(prompt) if clip is not None and prompt else None
        self._before: tuple[Picture, Picture] | None = None
        self._features_before: Any = None
        self._squared = Track()
        self._tracks = {name: Track() for name in DEFINITIONS if not name.endswith("_ratio")}

    def add(self, source: Picture, output: Picture) -> None:
        """Measure one pair, both of one size."""
        self.frames += 1
        squared = mean_squared_error(source.rgb, output.rgb)
        self._squared.add(squared)
        found: dict[str, float | None] = {
            "psnr_db": psnr_db(squared),
            "ssim": ssim(source.grey, output.grey),
            "sharpness": sharpness(output.grey),
            "sharpness_source": sharpness(source.grey),
        }
        if self._before is not None:
            source_before, output_before = self._before
            found["temporal_energy"] = temporal_difference(output_before.rgb, output.rgb)
            found["temporal_energy_source"] = temporal_difference(source_before.rgb, source.rgb)
            motion = correspond(self._flow, source_before, source)
            found["warp_error"] = warp_error(motion, output_before.rgb, output.rgb)
            found["warp_error_source"] = warp_error(motion, source_before.rgb, source.rgb)
            found["warp_kept_share"] = motion.kept_share
        if self._clip is not None:
            found.update(self._clip_scores(self._clip, source, output))
        self._before = source, output
        for name, track in self._tracks.items():
            track.add(found.get(name))

    def _clip_scores(self, clip: Clip, source: Picture, output: Picture) -> dict[str, float | None]:
        features = clip.of_pictures([source.rgb, output.rgb])
        before, self._features_before = self._features_before, features
        scores: dict[str, float | None] = {"clip_to_source": 100 * float(features[0] @ features[1])}
        for number, end in ((0, "_source"), (1, "")):
            if self._text is not None:
                scores["clip_score" + end] = 100 * float(features[number] @ self._text)
            if before is not None:
                scores["clip_consistency" + end] = 100 * float(features[number] @ before[number])
        return scores

    def results(self) -> dict[str, float | None]:
        """The name of every definition and its value; None where it could not be measured."""
        means = {name: track.mean for name, track in self._tracks.items()}
        # Of the mean error: the mean of the frames' own would be infinite for one frame that is kept as it was.
        squared = self._squared.mean
        means["psnr_db"] = None if squared is None else psnr_db(squared)
        for name in ("temporal_energy", "sharpness"):
            means[f"{name}_ratio"] = _ratio(means[name], means[f"{name}_source"])
        return {name: _rounded(means[name]) for name in DEFINITIONS}

    @property
    def frames_per_point(self) -> int:
        return self._squared.frames_per_point

    def curves(self) -> dict[str, list[float | None]]:
        return {name: [_rounded(value) for value in track.points()] for name, track in self._tracks.items()}


class Track:
    """One measure over the frames: its mean, and a curve of at most KEPT_POINTS points, each a mean over neighbours."""

    def __init__(self) -> None:
        self.frames_per_point = 1
        self._points: list[tuple[float, int]] = []  # sum and count of the values there are
        self._open_sum, self._open_count, self._open_frames = 0.0, 0, 0
        self._sum, self._count = 0.0, 0

    def add(self, value: float | None) -> None:
        """The next frame's value; None or an infinite one leaves a gap."""
        if self._open_frames == self.frames_per_point:
            self._points.append((self._open_sum, self._open_count))
            self._open_sum, self._open_count, self._open_frames = 0.0, 0, 0
            if len(self._points) == KEPT_POINTS:
                self._points = [
                    (a[0] + b[0], a[1] + b[1]) for a, b in zip(self._points[::2], self._points[1::2], strict=True)
                ]
                self.frames_per_point *= 2
        self._open_frames += 1
        if value is not None and math.isfinite(value):
            self._open_sum, self._open_count = self._open_sum + value, self._open_count + 1
            self._sum, self._count = self._sum + value, self._count + 1

    @property
    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None

    def points(self) -> list[float | None]:
        ends = [(self._open_sum, self._open_count)] if self._open_frames else []
        return [total / count if count else None for total, count in [*self._points, *ends]]


def _next_frame(video: VideoFile) -> Pixels | None:
    while True:
        try:
            frame = video.read()
        except SourceEnded:
            return None
        if frame is not None:
            return frame.pixels


def _left(video: VideoFile) -> int:
    """How many frames are still to come, counted as far as it matters."""
    return next((number for number in range(FRAMES_APART) if _next_frame(video) is None), FRAMES_APART)


def _picture(pixels: Pixels, size_wh: tuple[int, int], fit: str) -> Picture:
    width, height = size_wh
    if pixels.shape[:2] == (height, width):
        return Picture.of(pixels)
    fitted = np.empty((height, width, 3), np.uint8)
    fit_into(pixels, fitted, fit)
    return Picture.of(fitted)


def _notes(
    frames: int,
    paths: tuple[Path, Path],
    infos: tuple[SourceInfo, SourceInfo],
    extra: list[int],
    videos: tuple[VideoFile, VideoFile],
) -> list[str]:
    """What a reader of the numbers has to know."""
    notes = []
    for path, more, video in zip(paths, extra, videos, strict=True):
        if more:
            notes.append(f"{path} has {more} more frame{'s' * (more > 1)} at its end, which are not compared.")
        if video.decode_errors:
            notes.append(f"{path} is damaged: parts were passed over, and the frames may be out of step.")
    source_fps, output_fps = (float(info.rate_fps) for info in infos)
    if abs(source_fps - output_fps) > 0.01 * output_fps:
        notes.append(
            f"the source has {source_fps:.5g} fps and the output {output_fps:.5g}: paired by number, not time."
        )
    if frames == 1:
        notes.append("one frame only: warp error and temporal energy need two.")
    return notes


def _table(figures: dict[str, Any]) -> str:
    """The paper's table: a measure a row, its direction, a video a column. Squared and plain grey levels of 255."""
    up, down, square = ("↑", "↓", "²") if _can_print("↑↓²") else ("(up)", "(down)", "^2")

    def cell(name: str, scale: float = 1.0, form: str = ".2f") -> str:
        value = figures.get(name)
        return "-" if value is None else format(value * scale, form)

    rows = [
        ("", "source", "output"),
        (f"CLIP Score, prompt {up}", cell("clip_score_source"), cell("clip_score")),
        (f"CLIP Score, frame to frame {up}", cell("clip_consistency_source"), cell("clip_consistency")),
        (f"CLIP Score, to the source {up}", "-", cell("clip_to_source")),
        (f"Warp Error (255{square}) {down}", cell("warp_error_source", 255**2), cell("warp_error", 255**2)),
        ("Temporal energy (255)", cell("temporal_energy_source", 255), cell("temporal_energy", 255)),
        ("Temporal energy, ratio", "1", cell("temporal_energy_ratio")),
        (f"Sharpness (255{square})", cell("sharpness_source", 255**2, ".1f"), cell("sharpness", 255**2, ".1f")),
        ("Sharpness, ratio", "1", cell("sharpness_ratio")),
        ("PSNR to the source (dB)", "-", cell("psnr_db") if figures["psnr_db"] is not None else "infinite"),
        ("SSIM to the source", "-", cell("ssim", form=".4f")),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"| {name:<{widths[0]}} | {a:>{widths[1]}} | {b:>{widths[2]}} |" for name, a, b in rows]
    lines.insert(1, f"| {'-' * widths[0]} | {'-' * (widths[1] - 1)}: | {'-' * (widths[2] - 1)}: |")
    flow = figures["flow"]["method"]
    lines += [
        "",
        f"{figures['frames_compared']} frames; flow: {flow}. PSNR and SSIM say how much of the source is kept.",
    ]
    if figures["clip_reason"]:
        lines.append(f"CLIP: {figures['clip_reason'].rstrip('.')}.")
    return "\n".join(lines)


def _can_print(text: str) -> bool:
    """Whether standard output has these letters; an older Windows console has no arrows."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _rounded(value: float | None) -> float | None:
    """Six digits; None for what JSON has no number for."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


# ---- the plot --------------------------------------------------------------------------------------------------------

PLOT_WIDTH_PX, PANEL_HEIGHT_PX = 960, 260
MARGIN_LEFT_PX, MARGIN_RIGHT_PX, MARGIN_TOP_PX, MARGIN_BOTTOM_PX = 90, 20, 36, 40
INK, GRID, OUTPUT_COLOUR, SOURCE_COLOUR = (30, 30, 30), (215, 215, 215), (200, 60, 20), (40, 100, 190)
PANELS = (
    ("PSNR of the output to the source (dB)", "psnr_db", None),
    ("Warp error (mean squared, pictures in 0..1)", "warp_error", "warp_error_source"),
    ("Temporal energy (mean absolute difference, pictures in 0..1)", "temporal_energy", "temporal_energy_source"),
)


def draw_plot(curves: dict[str, Any]) -> Pixels:
    """[H, W, 3] uint8 RGB: a panel a measure over the frames, with the output's line and the source's."""
    canvas = np.full((PANEL_HEIGHT_PX * len(PANELS), PLOT_WIDTH_PX, 3), 255, np.uint8)
    for number, (title, output_name, source_name) in enumerate(PANELS):
        panel = canvas[number * PANEL_HEIGHT_PX : (number + 1) * PANEL_HEIGHT_PX]
        lines = [("output", curves[output_name], OUTPUT_COLOUR)]
        if source_name is not None:
            lines.insert(0, ("source", curves[source_name], SOURCE_COLOUR))
        _draw_panel(panel, title, lines, curves["frames_per_point"])
    return canvas


def _draw_panel(
    panel: Pixels, title: str, lines: Sequence[tuple[str, list[float | None], tuple[int, int, int]]], step: int
) -> None:
    right, bottom = PLOT_WIDTH_PX - MARGIN_RIGHT_PX, PANEL_HEIGHT_PX - MARGIN_BOTTOM_PX
    _write_text(panel, title, (MARGIN_LEFT_PX, 24))
    values = [value for _, curve, _ in lines for value in curve if value is not None]
    if not values:
        _write_text(panel, "no value to draw", (MARGIN_LEFT_PX + 20, PANEL_HEIGHT_PX // 2))
        return
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1.0
    # From 0 where that costs little height: an error's size is its distance from there.
    low, high = 0.0 if 0 <= low < spread else low - 0.05 * spread, high + 0.05 * spread
    last = max(len(lines[0][1]) - 1, 1)

    def place(index: float, value: float) -> tuple[int, int]:
        x = MARGIN_LEFT_PX + (right - MARGIN_LEFT_PX) * index / last
        return round(x), round(bottom - (bottom - MARGIN_TOP_PX) * (value - low) / (high - low))

    for tick in range(5):
        value = low + (high - low) * tick / 4
        y = place(0, value)[1]
        cv2.line(panel, (MARGIN_LEFT_PX, y), (right, y), GRID, 1)
        _write_text(panel, f"{value:.3g}", (8, y + 4))
        index = last * tick / 4
        x = place(index, low)[0]
        cv2.line(panel, (x, bottom), (x, bottom + 5), INK, 1)
        _write_text(panel, f"{index * step:.0f}", (x - 8, bottom + 18))
    _write_text(panel, "frame", ((MARGIN_LEFT_PX + right) // 2 - 20, bottom + 34))
    cv2.rectangle(panel, (MARGIN_LEFT_PX, MARGIN_TOP_PX), (right, bottom), INK, 1)
    for number, (name, curve, colour) in enumerate(lines):
        before: tuple[int, int] | None = None
        for index, drawn in enumerate(curve):
            here = None if drawn is None else place(index, drawn)
            if here is not None:
                cv2.line(panel, before or here, here, colour, 2, cv2.LINE_AA)
            before = here
        legend_x = right - 90 * (len(lines) - number)
        cv2.line(panel, (legend_x, 20), (legend_x + 24, 20), colour, 2, cv2.LINE_AA)
        _write_text(panel, name, (legend_x + 30, 24))


def _write_text(panel: Pixels, text: str, place: tuple[int, int]) -> None:
    cv2.putText(panel, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)


# ---- files and progress ----------------------------------------------------------------------------------------------


def _check_targets(source: Path, output: Path, json_path: Path | None, plot_path: Path | None) -> None:
    """Said before the run, not after it; and neither video is overwritten."""
    taken = [path.resolve() for path in (source, output)]
    for flag, path in (("--json", json_path), ("--plot", plot_path)):
        if path is None:
            continue
        if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
            raise UserError(f"{flag} {path} cannot be written: name a file in a folder that is there and yours.")
        if path.resolve() in taken:
            raise UserError(f"{flag} {path} is another file of this command: give it a name of its own.")
        taken.append(path.resolve())
    if plot_path is not None and plot_path.suffix.lower() != ".png":
        raise UserError(f"--plot {plot_path} is no picture file name: end it with .png.")


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another file.") from error
    print(f"written: {path}", file=sys.stderr)
