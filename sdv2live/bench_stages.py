"""Times the stages of a chunk one by one. Owns: how a stage runs.

A stage is timed on the networks that the engine runs, with the arguments that they got in a steady chunk: as it is
(eager), compiled by torch, and replayed as a CUDA graph where there is one. Nothing else of the engine runs with it.
What an engine has compiled or captured for itself is left aside: it makes no calls that could be noted or counted.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from sdv2live.bench_floor import against_floor, counted, held_by
from sdv2live.engine.base import STAGES, Chunk, ChunkSettings
from sdv2live.engine.captures import CAPTURES
from sdv2live.engine.ceilings import Call, timed_s
from sdv2live.engine.compile import plainly
from sdv2live.engine.stream import StreamEngine
from sdv2live.errors import one_line
from sdv2live.stats import percentile

MODES = ("eager", "compiled", "graph")
TRIES = 15
COMPILERS = ("c++", "g++", "clang++", "cl")


@plainly()
def time_stages(
    engine: StreamEngine, settings: ChunkSettings, ceilings: Mapping[str, float], *, compiles: bool
) -> list[dict[str, Any]]:
    """One entry a stage and mode: {"stage", "mode"} and ms, fps, floor_ms, fraction_of_floor, or the reason why not.

    `denoise` is one step of one chunk. ms: the median of calls that take turns with those of the other modes. The
    engine has run before: its window is full. Raises ChunkError.
    """
    entries: list[dict[str, Any]] = []
    for stage, call in stage_calls(engine, settings).items():
        with torch.inference_mode():
            _, work = counted(call, held_by(engine.pipe.first))
        found = {mode: _in_mode(mode, call, engine.device, compiles=compiles) for mode in MODES}
        timed = take_turns({mode: each for mode, each in found.items() if not isinstance(each, str)}, engine.device)
        for mode, reason in found.items():
            entry: dict[str, Any] = {"stage": stage, "mode": mode}
            if mode in timed:
                ms = timed[mode] * 1000
                entry |= {"ms": round(ms, 2), "fps": round(engine.traits.chunk_frames * 1000 / ms, 1), "work": work}
                entry |= against_floor([work], ms, ceilings)
            else:
                entry["reason"] = str(reason)
            entries.append(entry)
    return entries


def stage_calls(engine: StreamEngine, settings: ChunkSettings) -> dict[str, Call]:
    """Each stage's networks as they were called in one steady chunk, to be called again with the same tensors.

    What a call writes (a slot of the KV cache, a codec's memory) it writes again: the same place, the same work.
    """
    width, height = engine.traits.size_wh
    frames = np.random.default_rng(1).integers(0, 256, (engine.frames_wanted, height, width, 3), np.uint8)
    stage = engine.pipe.first  # of the engine that is measured, so that nothing is built twice
    with (
        plainly(),
        _noted(stage.codec, "encode", "decode") as coded,
        _noted(stage.dit, "embed", "run_blocks", "finish") as denoised,
    ):
        item = engine.encode(Chunk(0, frames), replace(settings, steps_count=1, schedule="latency"))
        engine.denoise(item)
        engine.decode(item)
    return dict(zip(STAGES, (partial(_again, calls) for calls in (coded[:1], denoised, coded[1:])), strict=True))


_Noted = list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]


@contextmanager
def _noted(owner: object, *names: str) -> Iterator[_Noted]:
    """Within the block, every call of these methods is noted down, in order."""
    calls: _Noted = []

    def note(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls.append((method, args, kwargs))
        return method(*args, **kwargs)

    for name in names:
        setattr(owner, name, partial(note, getattr(owner, name)))
    try:
        yield calls
    finally:
        for name in names:
            delattr(owner, name)


def _again(calls: _Noted) -> Any:
    """The calls once more, each with what the one before gives in place of its first argument."""
    (method, args, kwargs), *rest = calls
    result = method(*args, **kwargs)
    for method, args, kwargs in rest:
        result = method(result, *args[1:], **kwargs)
    return result


# ---- how a stage runs --------------------------------------------------------------------------------------------


def _in_mode(mode: str, call: Call, device: torch.device, *, compiles: bool) -> Call | str:
    """The call, ready to be timed; or why it cannot be run this way."""
    with torch.inference_mode():
        if mode == "eager":
            call()
            return call
        if mode == "graph":
            return _graphed(call, device) if device.type == "cuda" else "a CUDA graph needs a CUDA GPU"
        return _compiled(call, device) if compiles else "left away by --no-compile"


def _compiled(call: Call, device: torch.device) -> Call | str:
    if device.type == "cpu" and not (os.environ.get("CXX") or any(map(shutil.which, COMPILERS))):
        return f"no C++ compiler was found: none of {', '.join(COMPILERS)}, and CXX is not set"
    # In this process: workers of torch's own would outlast the measurement and take its cores.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    try:
        with warnings.catch_warnings():  # what the compiler cannot do well shows in the time
            warnings.simplefilter("ignore")
            compiled: Call = torch.compile(call, dynamic=False)
            for _ in range(2):
                compiled()
    except (RuntimeError, OSError, ImportError) as error:
        return f"torch.compile failed: {one_line(error)}"
    return compiled


def _graphed(call: Call, device: torch.device) -> Call | str:
    """Captured after calls on a side stream, as torch's notes on CUDA graphs ask for."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    try:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream(device).wait_stream(stream)
        with CAPTURES.capturing(), torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        return f"it cannot be captured: {one_line(error)}"
    return graph.replay


# ---- time -----------------------------------------------------------------------------------------------


@torch.inference_mode()
def take_turns(calls: Mapping[str, Call], device: torch.device, *, tries: int = TRIES) -> dict[str, float]:
    """The median seconds of each; they take turns, so that whatever else the machine does falls on all alike."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(tries):
        for name, call in calls.items():
            spent[name].append(timed_s(call, device))
    return {name: percentile(seconds, 0.5) or 0.0 for name, seconds in spent.items()}
