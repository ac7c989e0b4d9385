"""Times the app's own work on a frame beside the engine: from a captured frame to the picture in a virtual camera.

Runs the functions that the app runs, in its order, on memory as the app has it: what is captured is cropped and resized
into the shared slot and kept for the mix, the result is copied into and out of its slot, and the output clock's tick
composes it, which an output then brings to its own size. What crosses to the engine's process is on both sides of it
here. Decoding a camera's or file's own format, and what a camera's driver does, are not in it. Needs OpenCV.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sdv2live.clock import FakeClock
from sdv2live.errors import UserError
from sdv2live.frames import Frame, Framing, Pixels
from sdv2live.registry import Registry
from sdv2live.stats import percentile

SIZE_WH, CAMERA_WH = (832, 480), (1280, 720)
SOURCES_WH = ((832, 480), (1280, 720), (1920, 1080))
WETS = (1.0, 0.5)
SLOTS = 4
FRAMES = 4
MOST_MS = 2.0  # a frame: what we allow ourselves
_PERIOD_S = 1 / 16


def check_app() -> None:
    """Raise UserError, before anything is loaded, where OpenCV is missing."""
    if importlib.util.find_spec("cv2") is None:
        raise UserError("bench --app times work that needs OpenCV: run `pip install opencv-python-headless`.")


def time_app(*, chunks: int = 60) -> list[dict[str, Any]]:
    """One entry a source size and wet: {"source", "wet", "stage_ms", "frame_ms"}, in milliseconds a frame.

    stage_ms: the median of `chunks` chunks of four frames; frame_ms is their sum.
    """
    return [_timed(source_wh, wet, chunks) for source_wh in SOURCES_WH for wet in WETS]


class _Outlet:
    """Takes what the tick hands over, as an output's slot does."""

    always_on = takes_any_size = True
    pixels: Pixels

    def offer(self, pixels: Pixels, tick: int) -> None:
        self.pixels = pixels


def _timed(source_wh: tuple[int, int], wet: float, chunks: int) -> dict[str, Any]:
    from sdv2live.capture.preprocess import fit_into, frame_into
    from sdv2live.engine.ipc import SharedFrames, create_memory
    from sdv2live.pacing import Picture
    from sdv2live.presenter import Presenter

    rng = np.random.default_rng(0)
    sources = [_drawn(rng, source_wh) for _ in range(FRAMES)]
    made = np.stack([_drawn(rng, SIZE_WH) for _ in range(FRAMES)])
    camera = np.zeros((CAMERA_WH[1], CAMERA_WH[0], 3), np.uint8)
    registry, clock, outlet = Registry(), FakeClock(), _Outlet()
    registry.set_strictly([("output.wet", wet)], origin="cli")
    newest = Frame(sources[0], 0.0, 0)
    presenter = Presenter(
        registry=registry,
        outlets=[outlet],
        size_wh=SIZE_WH,
        rate_fps=16,
        clock=clock,
        newest_frame=lambda: newest,
        words=lambda: "",
    )
    memory, handle = create_memory(SharedFrames.size_bytes(SIZE_WH, FRAMES, slots=SLOTS))
    shared = SharedFrames(memory, size_wh=SIZE_WH, frames=FRAMES, slots=SLOTS)
    handle.close()
    spent: dict[str, list[float]] = {}

    def timed(stage: str, work: Callable[..., Any], *args: Any) -> Any:
        started_s = time.perf_counter()
        result = work(*args)
        spent.setdefault(stage, []).append((time.perf_counter() - started_s) * 1000)
        return result

    def resize(targets: Pixels) -> None:
        for target, frame in zip(targets, sources, strict=True):
            frame_into(frame, target, Framing())

    def present(now_s: float) -> list[Pixels]:
        shown = []
        for number in range(FRAMES):
            presenter.tick(now_s + number * _PERIOD_S)
            shown.append(outlet.pixels)
        return shown

    def letterbox(shown: list[Pixels]) -> None:
        for pixels in shown:
            fit_into(pixels, camera, "letterbox")

    for number in range(chunks + 2):
        if number == 2:
            spent.clear()  # the first ones touch memory for the first time
        slot_in, slot_out = shared.chunk_in(number % SLOTS), shared.chunk_out(number % SLOTS)
        now_s = clock.now_s() + number * FRAMES * _PERIOD_S
        timed("crop and resize", resize, slot_in)
        kept = timed("keep the source", slot_in.copy)
        timed("result into shared memory", np.copyto, slot_out, made)
        effects = timed("result out of it", slot_out.copy)
        times_s = [now_s + index * _PERIOD_S for index in range(FRAMES)]
        presenter.add([Picture(*each) for each in zip(effects, kept, times_s, strict=True)], now_s)
        shown = timed("tick, mix", present, now_s)
        timed("letterbox into the camera", letterbox, shown)
    del slot_in, slot_out
    shared.close()
    stage_ms = {stage: round((percentile(times, 0.5) or 0.0) / FRAMES, 3) for stage, times in spent.items()}
    return {
        "source": list(source_wh),
        "wet": wet,
        "stage_ms": stage_ms,
        "frame_ms": round(sum(stage_ms.values()), 3),
    }


def _drawn(rng: np.random.Generator, size_wh: tuple[int, int]) -> Pixels:
    return rng.integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8)
