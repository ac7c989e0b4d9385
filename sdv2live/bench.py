"""Times the engine on this machine. Owns: the ceilings measured in the same run, the work count, and the figures.

Runs the real engine in this process, without a source or an output. Needs torch, numpy, einops and safetensors alone.
The floor is the work of a chunk at the ceilings of this device: matrix products at the measured matmul rate,
convolutions at the measured convolution rate (perf.md, 1.1, for a device where the two differ).
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from sdv2live import __version__
from sdv2live.engine.base import TIMINGS, Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.build import build_engine
from sdv2live.engine.precision import choose_device, choose_dtype, device_name
from sdv2live.engine.stream import StreamEngine
from sdv2live.errors import ChunkError, UserError, one_line
from sdv2live.paths import assets_dir
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec, settings_of
from sdv2live.stats import Series

WARM_CHUNKS = 3


def bench(registry: Registry, *, chunks: int, json_path: Path | None) -> int:
    """Measure, print a table, write JSON if asked; -> exit code. Raises UserError."""
    if not 4 <= chunks <= 100_000:
        raise UserError(f"--chunks {chunks} is outside 4 to 100000.")
    spec = replace(engine_spec(registry), waits_for_text=True)
    if spec.threads:
        torch.set_num_threads(spec.threads)
    device = choose_device(spec.device)
    dtype = choose_dtype(spec.precision, device)
    ceilings = measure_ceilings(device, dtype)
    settings = settings_of(registry.snapshot())
    started_s = time.perf_counter()
    engine = build_engine(spec, assets_dir())
    try:
        engine.warm_up()
        start_ms = (time.perf_counter() - started_s) * 1000
        show_first_picture(engine, settings)
    except ChunkError as error:
        raise UserError(f"{spec.name} made no picture: {one_line(error)}.") from None
    first_picture_ms = (time.perf_counter() - started_s) * 1000
    figures: dict[str, Any] = {
        "sdv2live": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "engine": spec.name,
        "size": list(spec.size_wh),
        "weights": "random" if spec.random_weights else "shipped" if spec.name == "pocket" else "given",
        "vae": spec.vae if spec.name != "pocket" else None,
        "compiled": engine.pipe.first.compiles,
        "fp8": engine.pipe.first.is_fp8,
        "attention": {"kernel": engine.pipe.first.attention.name, "ms": dict(engine.pipe.first.attention.times_ms)},
        "start_ms": round(start_ms, 1),
        "first_picture_ms": round(first_picture_ms, 1),
        "ceilings": ceilings,
        "runs": [],
    }
    size = "x".join(map(str, spec.size_wh))
    drawn = ", random weights" if spec.random_weights else ""
    print(f"{figures['device']}, {figures['dtype']}, torch {torch.__version__}, {spec.name} {size}{drawn}")
    print(
        f"ceilings: matmul {ceilings['matmul_gflop_per_s']:.0f} GFLOP/s, convolution "
        f"{ceilings['conv_gflop_per_s']:.0f} GFLOP/s, copy {ceilings['copy_gb_per_s']:.1f} GB/s"
    )
    print(f"first picture {first_picture_ms / 1000:.1f} s after the start of loading")
    columns = " ".join(f"{stage + ' ms':>11}" for stage in TIMINGS)
    print(f"{'steps':>5} {'schedule':>10} {'fps':>7} {columns}  p99 ms  of floor  memory GB")
    counts = (settings.steps_count,) if registry.is_user_set("steps.count") else (1, 2)
    for steps in counts:
        counted = counted_memory(replace(spec, steps_count=steps), dtype)
        for schedule in ("latency", "throughput"):
            try:
                run = time_engine(engine, settings, steps=steps, schedule=schedule, chunks=chunks)
            except ChunkError as error:
                print(f"{steps:>5} {schedule:>10} not measured: {one_line(error)}")
                continue
            run["counted_memory_bytes"] = counted
            floor_ms = _floor_ms(run.pop("gflop"), ceilings)
            run["floor_ms"] = round(floor_ms, 2)
            run["fraction_of_floor"] = round(floor_ms / run["chunk_ms"]["p50"], 3)
            figures["runs"].append(run)
            print(
                f"{steps:>5} {schedule:>10} {run['fps']:>7.1f} "
                + " ".join(f"{run[stage + '_ms']['p50']:>11.1f}" for stage in TIMINGS)
                + f"  {run['chunk_ms']['p99']:6.1f}  {run['fraction_of_floor'] * 100:>6.0f} %  "
                + _memory_words(run)
            )
    if json_path is not None:
        try:
            json_path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", "utf-8")
        except OSError as error:
            raise UserError(f"the figures cannot be written to {json_path}: {error.strerror}.") from error
        print(f"written: {json_path}", file=sys.stderr)
    return 0


def show_first_picture(engine: StreamEngine, settings: ChunkSettings) -> None:
    """The opening chunk, with what a prompt needs to be encoded; returns when its picture is on the host."""
    width, height = engine.traits.size_wh
    engine.submit(Chunk(0, np.full((engine.frames_wanted, height, width, 3), 128, np.uint8)), settings)
    engine.poll()


def counted_memory(spec: EngineSpec, dtype: torch.dtype) -> int | None:
    """Bytes that the engine of `spec` takes on its device, counted as before a start; None for the pocket engine."""
    if spec.name == "pocket":
        return None
    from sdv2live.engine.wan import footprint_of

    return footprint_of(spec, dtype=dtype).total


def _memory_words(run: dict[str, Any]) -> str:
    named = (("counted", run["counted_memory_bytes"]), ("measured", run["measured_memory_bytes"]))
    return ", ".join(f"{how} {count / 1e9:.2f}" for how, count in named if count is not None) or "not counted"


def time_engine(
    engine: StreamEngine, settings: ChunkSettings, *, steps: int, schedule: str, chunks: int
) -> dict[str, Any]:
    """Run `chunks` chunks of moving noise; wall time by stage and for the whole, and the work of a steady chunk.

    Memory is measured on a GPU alone: the most that torch had taken there at once. Raises ChunkError.
    """
    settings = replace(settings, steps_count=steps, schedule=schedule)
    width, height = engine.traits.size_wh
    frames = np.random.default_rng(0).integers(0, 256, (engine.traits.largest_chunk + 8, height, width, 3), np.uint8)
    engine.reset()
    is_on_gpu = engine.device.type == "cuda"
    if is_on_gpu:
        torch.cuda.reset_peak_memory_stats(engine.device)
    series = {stage: Series() for stage in TIMINGS}
    wall_s: list[float] = []
    work: dict[str, float] = {}
    for number in range(WARM_CHUNKS + steps + chunks):
        first = number % 8
        chunk = Chunk(number, np.ascontiguousarray(frames[first : first + engine.frames_wanted]))
        is_counted = number == WARM_CHUNKS + steps - 1
        started_s = time.perf_counter()
        engine.submit(chunk, settings)
        if is_counted:
            results, work = _counted(engine.poll)
        else:
            results = engine.poll()
        spent_s = time.perf_counter() - started_s
        if number >= WARM_CHUNKS + steps:
            wall_s.append(spent_s)
            for result in results:
                for stage in TIMINGS:
                    series[stage].add(result.stage_ms[stage])
    engine.flush()
    wall = Series()
    for spent_s in wall_s:
        wall.add(spent_s * 1000)
    stages = {f"{stage}_ms": series[stage].summary() for stage in TIMINGS}
    return {
        "steps": steps,
        "schedule": schedule,
        **stages,
        "chunk_ms": wall.summary(),
        "fps": round(engine.traits.chunk_frames * len(wall_s) / sum(wall_s), 2),
        "gflop": work,
        "cache_bytes": engine.cache_bytes,
        "measured_memory_bytes": torch.cuda.max_memory_allocated(engine.device) if is_on_gpu else None,
    }


def _counted(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Call it and count its work: {"conv": GFLOP, "matmul": GFLOP}; attention counts as matrix products."""
    with FlopCounterMode(display=False) as counter:
        result = call()
    conv = total = 0.0
    for operation, flops in counter.get_flop_counts().get("Global", {}).items():
        total += flops
        conv += flops if "conv" in str(operation) else 0
    return result, {"conv": conv / 1e9, "matmul": (total - conv) / 1e9}


def _floor_ms(gflop: dict[str, float], ceilings: dict[str, float]) -> float:
    seconds = gflop["conv"] / ceilings["conv_gflop_per_s"] + gflop["matmul"] / ceilings["matmul_gflop_per_s"]
    return seconds * 1000


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """What this device reaches, in this dtype, on one large matrix product, one large convolution and one copy."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    image = torch.randn(4, 96, 128, 128, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.randn(96, 96, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    source = torch.empty(64 * 2**20, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    conv_flop = 2 * 4 * 128 * 128 * 96 * 96 * 9
    return {
        "matmul_gflop_per_s": round(2 * side**3 / _best_s(lambda: a @ b, device) / 1e9, 1),
        "conv_gflop_per_s": round(
            conv_flop / _best_s(lambda: torch.nn.functional.conv2d(image, kernel, padding=1), device) / 1e9, 1
        ),
        "copy_gb_per_s": round(2 * source.numel() / _best_s(lambda: target.copy_(source), device) / 1e9, 2),
    }


@torch.inference_mode()
def _best_s(call: Callable[[], object], device: torch.device, tries: int = 9) -> float:
    """The shortest of several runs: a ceiling is what the device can do when nobody disturbs it."""
    times_s = []
    for _ in range(tries):
        started_s = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times_s.append(time.perf_counter() - started_s)
    return min(times_s)
