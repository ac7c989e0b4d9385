"""Times the engine on this machine. Owns: the ceilings measured in the same run, the work count, and the figures.

Runs the real engine in this process, without a source or an output, then each stage by itself (bench_stages.py). Needs
torch, numpy, einops and safetensors alone.
What a floor is, bench_floor.py says; over several ranks there is none, and a run is held against the ranks' own times
(bench_ranks.py).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdv2live import __version__
from sdv2live.bench_app import MOST_MS, check_app, time_app
from sdv2live.bench_chart import stage_chart
from sdv2live.bench_floor import Work, against_floor, counted_by_stage
from sdv2live.bench_ranks import (
    against_ranks,
    held_split,
    rank_entries,
    rank_words,
    settle,
    split_words,
    stages_left_out,
)
from sdv2live.bench_reference import check_reference, compare
from sdv2live.bench_stages import time_stages
from sdv2live.engine.base import TIMINGS, Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.build import build_engine
from sdv2live.engine.ceilings import finish, measure_ceilings
from sdv2live.engine.precision import device_name, device_of_rank, work_on
from sdv2live.engine.rank_process import start_ranks, with_meeting_place
from sdv2live.engine.stream import StreamEngine
from sdv2live.errors import ChunkError, EngineDead, RankLost, UserError, one_line
from sdv2live.paths import assets_dir
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec, refuse_auto, settings_of
from sdv2live.stats import Series

WARM_CHUNKS = 3
OPENINGS = 5


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure. note: words that go into the figures, such as what else the machine was doing."""

    chunks: int = 24
    json_path: Path | None = None
    chart_path: Path | None = None
    compiles: bool = True
    compares: bool = False
    times_app: bool = False
    note: str = ""


def bench(registry: Registry, options: BenchOptions) -> int:
    """Measure, print tables, write what was asked for; -> exit code. Raises UserError."""
    if not 4 <= options.chunks <= 100_000:
        raise UserError(f"--chunks {options.chunks} is outside 4 to 100000.")
    refuse_auto(registry, "bench")
    spec = with_meeting_place(replace(engine_spec(registry), waits_for_text=True))
    if spec.threads:
        torch.set_num_threads(spec.threads)
    if spec.ranks > 1 and options.compares:
        raise UserError("--compare runs on one device: leave --gpus away.")
    if options.compares:
        check_reference(spec)
    if options.times_app:
        check_app()
    device = device_of_rank(spec.device, 0, spec.gpus)
    work_on(device)
    figures = _head(spec, device, options.note)
    settings = settings_of(registry.snapshot())
    with ExitStack() as stack:
        try:
            return _measured(registry, options, spec, figures, settings, stack)
        except (EngineDead, RankLost) as error:
            raise UserError(f"{spec.name} could not be measured over {spec.ranks} ranks: {one_line(error)}.") from None


def _measured(
    registry: Registry,
    options: BenchOptions,
    spec: EngineSpec,
    figures: dict[str, Any],
    settings: ChunkSettings,
    stack: ExitStack,
) -> int:
    """With the engine built; `stack` ends it, and its other ranks."""
    started_s = time.perf_counter()
    for rank in start_ranks(spec):
        stack.callback(rank.close)
    engine = build_engine(spec, assets_dir())
    stack.callback(engine.close)
    network = engine.pipe.first.dit.config
    figures["transformer"] = {"width": network.dim, "blocks": network.num_layers}
    try:
        engine.warm_up()
        figures["start_ms"] = round((time.perf_counter() - started_s) * 1000, 1)
        show_first_picture(engine, settings)
        figures["first_picture_ms"] = round((time.perf_counter() - started_s) * 1000, 1)
        figures["opening_ms"] = time_opening(engine, settings)
    except ChunkError as error:
        raise UserError(f"{spec.name} made no picture: {one_line(error)}.") from None
    stage = engine.pipe.first
    dtype = stage.dtype  # of several ranks all take the same, which rank 0 alone might not
    figures["dtype"] = str(dtype).removeprefix("torch.")
    figures["compiled"], figures["fp8"] = stage.compiles, stage.is_fp8
    figures["attention"] = {"kernel": stage.attention.name, "ms": dict(stage.attention.times_ms)}
    figures["ceilings"] = ceilings = measure_ceilings(engine.device, dtype)
    title = title_of(figures)
    print(title)
    print(
        f"ceilings: matmul {ceilings['matmul_gflop_per_s']:.0f} GFLOP/s, convolution "
        f"{ceilings['conv_gflop_per_s']:.0f} GFLOP/s, copy {ceilings['copy_gb_per_s']:.1f} GB/s"
        + (f", FP8 {ceilings['fp8_gflop_per_s']:.0f} GFLOP/s" if "fp8_gflop_per_s" in ceilings else "")
    )
    print(f"attention: {_attention_words(figures['attention'])}")
    print(
        f"first picture {figures['first_picture_ms'] / 1000:.1f} s after the start of loading, and "
        f"{figures['opening_ms']:.0f} ms after the first chunk of a stream that is warm"
    )
    counts = (settings.steps_count,) if registry.is_user_set("steps.count") else (1, 2)
    if spec.ranks > 1:
        settle(engine, settings, steps=max(counts))
    with held_split(engine):
        figures["runs"] = _schedules(engine, spec, settings, ceilings, dtype, counts=counts, chunks=options.chunks)
    figures["ranks"], figures["loras"] = engine.reports, engine.loras
    for rank_report in engine.reports:
        print(rank_words(rank_report))
    figures["stages"] = []
    _keep(figures, options)  # what comes now may fail, and is the lesser part
    if spec.ranks == 1:
        figures["stages"] = _stages(engine, settings, ceilings, compiles=options.compiles)
    else:
        figures["stages_left_out"] = stages_left_out(spec.ranks)
        print(figures["stages_left_out"])
    _raise_ceilings(figures, measure_ceilings(engine.device, dtype))
    if options.compares:
        figures["compare"] = _compared(engine, settings, spec, dtype, chunks=options.chunks)
    if options.times_app:
        figures["app"] = _app()
    if options.chart_path is not None:
        entries = figures["stages"] if spec.ranks == 1 else rank_entries(figures["ranks"])
        _write(options.chart_path, stage_chart(title, entries))
    _keep(figures, options)
    for path in (options.chart_path, options.json_path):
        if path is not None:
            print(f"written: {path}", file=sys.stderr)
    return 0


def _keep(figures: dict[str, Any], options: BenchOptions) -> None:
    if options.json_path is not None:
        _write(options.json_path, json.dumps(figures, indent=2, allow_nan=False) + "\n")


def title_of(figures: dict[str, Any]) -> str:
    """One line on what was measured where."""
    drawn = ", random weights" if figures["weights"] == "random" else ""
    size = "x".join(map(str, figures["size"]))
    return (
        f"{figures['device']}, {figures['dtype']}, torch {figures['versions']['torch']}, "
        f"{figures['engine']} {size}{drawn}"
    )


def _head(spec: EngineSpec, device: torch.device, note: str) -> dict[str, Any]:
    """Where, when and of what the figures are. `load` is the machine's before the run, where the system tells."""
    return {
        "kind": "bench",
        "date_utc": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "versions": {
            "sdv2live": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "system": platform.platform(),
        "device": device_name(device),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "note": note,
        "threads": torch.get_num_threads(),
        "engine": spec.name,
        "size": list(spec.size_wh),
        "weights": "random" if spec.random_weights else "shipped" if spec.name == "pocket" else "given",
        "source": "random frames",
        "vae": spec.vae if spec.name != "pocket" else None,
    }


def _attention_words(attention: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in attention["ms"].items())
    return f"{attention['kernel']} ({times})" if times else str(attention["kernel"])


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.0%}"


def _raise_ceilings(figures: dict[str, Any], found: dict[str, float]) -> None:
    """A ceiling is the best that was seen, since the machine may have been busy the other time. Those that turn out
    higher at the end hold for the whole run, and are said where that changes much."""
    before = figures["ceilings"]
    figures["ceilings"] = ceilings = {name: max(value, found[name]) for name, value in before.items()}
    for run in figures["runs"]:
        if "work" in run:
            run |= against_floor(run["work"].values(), run["chunk_ms"]["p50"], ceilings)
    for entry in figures["stages"]:
        if "ms" in entry:
            entry |= against_floor([entry["work"]], entry["ms"], ceilings)
    if any(ceilings[name] > 1.1 * before[name] for name in before):
        print(
            "the machine was busier at the start: its ceilings are matmul "
            f"{ceilings['matmul_gflop_per_s']:.0f} and convolution {ceilings['conv_gflop_per_s']:.0f} GFLOP/s, and "
            "what is written is a fraction of these"
        )


def _schedules(
    engine: StreamEngine,
    spec: EngineSpec,
    settings: ChunkSettings,
    ceilings: dict[str, float],
    dtype: torch.dtype,
    *,
    counts: tuple[int, ...],
    chunks: int,
) -> list[dict[str, Any]]:
    """Whole chunks in both schedules, printed as they come."""
    columns = " ".join(f"{stage + ' ms':>11}" for stage in TIMINGS)
    print(f"{'steps':>5} {'schedule':>10} {'fps':>7} {columns}  p99 ms  of floor  memory GB")
    runs = []
    for steps in counts:
        counted_bytes = counted_memory(replace(spec, steps_count=steps), dtype)
        for schedule in ("latency", "throughput"):
            try:
                run = time_engine(engine, settings, steps=steps, schedule=schedule, chunks=chunks)
            except ChunkError as error:
                print(f"{steps:>5} {schedule:>10} not measured: {one_line(error)}")
                continue
            run["counted_memory_bytes"] = counted_bytes
            if spec.ranks > 1:
                del run["work"]  # the first rank's share alone
                run |= against_ranks(engine.reports, run, chunk_frames=engine.traits.chunk_frames)
            else:
                run |= against_floor(run["work"].values(), run["chunk_ms"]["p50"], ceilings)
            runs.append(run)
            print(
                f"{steps:>5} {schedule:>10} {run['fps']:>7.1f} "
                + " ".join(f"{_stage_ms(run, stage):>11}" for stage in TIMINGS)
                + f"  {run['chunk_ms']['p99']:6.1f}  {_percent(run.get('fraction_of_floor')):>8}  "
                + _memory_words(run)
            )
            if "split" in run:
                print(f"{'':>16} {split_words(run)}")
    return runs


def _stage_ms(run: dict[str, Any], stage: str) -> str:
    """Of several ranks, what another one does is not seen from the first."""
    return "elsewhere" if stage in run.get("elsewhere", ()) else f"{run[stage + '_ms']['p50']:.1f}"


def _stages(
    engine: StreamEngine, settings: ChunkSettings, ceilings: dict[str, float], *, compiles: bool
) -> list[dict[str, Any]]:
    """Each stage alone, printed; none where one of them fails, which costs nothing else."""
    if compiles:
        print("each stage alone, also compiled, which takes up to minutes the first time (--no-compile leaves it away)")
    try:
        entries = time_stages(engine, settings, ceilings, compiles=compiles)
    except (ChunkError, RuntimeError) as error:
        print(f"the stages alone were not measured: {one_line(error)}")
        return []
    for entry in entries:
        words = f"{entry['stage']:>8} {entry['mode']:>9} "
        if "ms" in entry:
            words += (
                f"{entry['ms']:>8.1f} ms {entry['fps']:>7.1f} fps {entry['fraction_of_floor'] * 100:>4.0f} % of floor"
            )
        else:
            words += entry["reason"]
        print(words)
    return entries


def _compared(
    engine: StreamEngine, settings: ChunkSettings, spec: EngineSpec, dtype: torch.dtype, *, chunks: int
) -> dict[str, Any]:
    """The published package beside ours, printed."""
    try:
        found = compare(engine, settings, spec, dtype=dtype, chunks=chunks)
    except ChunkError as error:
        raise UserError(f"our engine failed beside the reference: {one_line(error)}.") from None
    print(
        f"beside {found['package']}, {found['steps']} steps in a stream batch, the same weights, chunk by chunk in turn"
    )
    for name, attention in (("ours", found["our_attention"]), ("reference", found["reference_attention"])):
        each = found[name]
        print(
            f"{name:>10} {each['chunk_ms']:>9.1f} ms a chunk {each['fps']:>8.2f} fps, {each['gflop']:.1f} GFLOP, "
            + ", ".join(f"{stage} {ms:.0f}" for stage, ms in each["stage_ms"].items())
            + f"; attention: {attention}"
        )
    print(f"ours is {found['ratio']:.2f} times as fast")
    return found


def _app() -> list[dict[str, Any]]:
    """The app's own work beside the engine, printed."""
    entries = time_app()
    print(f"our own work beside the engine, ms a frame at 832x480 (at most {MOST_MS:g} is the aim)")
    for entry in entries:
        stages = ", ".join(f"{stage} {ms:.2f}" for stage, ms in entry["stage_ms"].items())
        print(f"  {'x'.join(map(str, entry['source'])):>9}, wet {entry['wet']:g}: {entry['frame_ms']:.2f}: {stages}")
    return entries


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"the figures cannot be written to {path}: {error.strerror}.") from error


def show_first_picture(engine: StreamEngine, settings: ChunkSettings) -> None:
    """The opening chunk, with what a prompt needs to be encoded; returns when its picture is on the host."""
    width, height = engine.traits.size_wh
    engine.submit(Chunk(0, np.full((engine.frames_wanted, height, width, 3), 128, np.uint8)), settings)
    engine.flush()


def time_opening(engine: StreamEngine, settings: ChunkSettings) -> float:
    """Milliseconds from a stream's first chunk to its picture on the host, all being loaded and warm: the median of a
    few. Raises ChunkError."""
    spent_ms = []
    for _ in range(OPENINGS):
        engine.reset()
        finish(engine.device)
        started_s = time.perf_counter()
        show_first_picture(engine, settings)
        spent_ms.append((time.perf_counter() - started_s) * 1000)
    return round(statistics.median(spent_ms), 1)


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
    work: dict[str, Work] = {}
    for number in range(WARM_CHUNKS + steps + chunks):
        first = number % 8
        chunk = Chunk(number, np.ascontiguousarray(frames[first : first + engine.frames_wanted]))
        is_counted = number == WARM_CHUNKS + steps - 1
        started_s = time.perf_counter()
        engine.submit(chunk, settings)
        if is_counted:
            results, work = counted_by_stage(engine.pipe.first, engine.poll)
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
        "work": work,
        "cache_bytes": engine.cache_bytes,
        "measured_memory_bytes": torch.cuda.max_memory_allocated(engine.device) if is_on_gpu else None,
    }
