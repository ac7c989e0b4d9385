"""Several ranks against one: real processes over gloo give the picture that the same stages give in one process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sdv2live.engine import cards, pocket, rank_process, world
from sdv2live.engine.balance import RankCosts, better_plan, estimate
from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.build import build_engine, first_split
from sdv2live.engine.cards import word_on_unequal
from sdv2live.engine.catalogue import known_blocks
from sdv2live.engine.ceilings import measure_ceilings as ceilings
from sdv2live.engine.meeting_place import Address
from sdv2live.engine.model.wan_transformer import POCKET, WAN_1_3B, WAN_14B
from sdv2live.engine.orders import DecodeOrder, NoiseKey, RowOrder, StepOrder
from sdv2live.engine.pipe import Landed, LocalPipe, Pipe
from sdv2live.engine.pipeline import LOOK_AFTER_CHUNKS, Pipeline, costs_of, rule_of_moves
from sdv2live.engine.pocket import build_pocket, pocket_stage
from sdv2live.engine.precision import device_of_local_rank, device_of_rank
from sdv2live.engine.rank_process import RankProcess, start_ranks, with_meeting_place
from sdv2live.engine.rank_worker import rank_from
from sdv2live.engine.stages import StageMap, given_split
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.wan import build_wan
from sdv2live.engine.weights import open_checkpoint
from sdv2live.engine.work_counts import Card
from sdv2live.engine.world import World
from sdv2live.errors import RankLost, UserError
from sdv2live.frames import Pixels
from sdv2live.paths import assets_dir
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec
from tests.engine.wan_cases import write_weights

ROOT = Path(__file__).parents[2]
SIZE_WH = (64, 48)
SPEC = EngineSpec("pocket", SIZE_WH, threads=1, precision="float32", device="cpu")
PLAIN = ChunkSettings(mix=(("pencil drawing", 1.0),), steps=(600, 450, 300, 200), noise_max=0.7, noise_min=0.5)
CHANGES = {
    3: {"mix": (("oil painting", 1.0),)},
    5: {"steps_count": 3},
    7: {"mix": (("neon", 1.0),), "transition_chunks": 3},
    10: {"steps_count": 1, "seed": 9},
    12: {"steps_count": 4, "noise_mode": "fresh"},
    15: {"steps_count": 2, "mix": (("neon", 1.0), ("thermal camera", 2.0)), "sink_requests": 1},
    18: {"feedback": 0.2},
}
FAST = Card("H100", 788, 788, memory_gb_per_s=3020, link_gb_per_s=31.5)
SLOW = Card("RTX 4090", 165, 165, memory_gb_per_s=920, link_gb_per_s=31.5)
TORCHRUN = {"RANK": "3", "MASTER_ADDR": "there", "MASTER_PORT": "29500", "LOCAL_RANK": "1"}
NO_CHANGES: Mapping[int, dict[str, Any]] = {}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order, here and in the other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def over_processes(spec: EngineSpec, split: str, *, gpus: int = 0) -> Iterator[tuple[StreamEngine, list[RankProcess]]]:
    spec = with_meeting_place(replace(spec, gpus=gpus or len(split.split(",")), split=split))
    others = start_ranks(spec)
    try:
        engine = build_engine(spec, assets_dir())
        try:
            yield engine, others
        finally:
            engine.close()
    finally:
        for process in others:
            process.close()


def in_one_process(split: str) -> StreamEngine:
    """The plain twin: the same stages, one after another in this process, with as many micro-steps under way."""
    counts = tuple(map(int, split.split(",")))
    stages = StageMap(counts)
    folder = assets_dir() / "pocket"
    others = [pocket_stage(SPEC, folder, stages, rank, torch.device("cpu")) for rank in range(1, len(counts))]
    return build_pocket(SPEC, folder, stages=stages, pipe_of=lambda first: LocalPipe([first, *others]))


def frames_of(number: int, wanted: int) -> Pixels:
    """Blobs that move, and a cut now and then, so that motion and sinks have something to do."""
    width, height = SIZE_WH
    rows, columns = np.mgrid[:height, :width]
    made = []
    for index in range(wanted):
        phase = (4 * number + index) / 9 + 3 * (number // 11)
        made.append(
            np.stack([127 + 120 * np.sin(columns / (5 + c) + rows / 7 + phase * (c + 1)) for c in range(3)], -1)
        )
    return np.stack(made).astype(np.uint8)


def run(
    engine: StreamEngine, chunks: int, settings: ChunkSettings, changes: Mapping[int, dict[str, Any]] = NO_CHANGES
) -> list[Pixels]:
    pictures = []
    for number in range(chunks):
        settings = replace(settings, **changes.get(number, {}))
        engine.submit(Chunk(number, frames_of(number, engine.frames_wanted)), settings)
        pictures += [result.frames for result in engine.poll()]
    pictures += [result.frames for result in engine.flush()]
    assert len(pictures) == chunks
    return pictures


def same(ours: list[Pixels], theirs: list[Pixels]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("split", ["3,3", "0,6", "2,2,2"])
def test_processes_give_the_picture_of_one_process_to_the_bit(split: str) -> None:
    """One to four steps, then everything that changes while a stream runs, then a reset and all over."""
    twin = in_one_process(split)
    with over_processes(SPEC, split) as (engine, _):
        assert isinstance(engine.pipe, Pipeline) and engine.pipe.depth == len(split.split(","))
        for steps in (1, 2, 3, 4):
            settings = replace(PLAIN, steps_count=steps)
            assert same(run(engine, 9, settings), run(twin, 9, settings)), f"{steps} steps"
            engine.reset()
            twin.reset()
        assert same(run(engine, 22, PLAIN, CHANGES), run(twin, 22, PLAIN, CHANGES))
    twin.close()


def test_blocks_move_with_their_weights_and_caches_and_no_picture_shows_it() -> None:
    twin, splits = in_one_process("2,2,2"), {4: (1, 3, 2), 9: (4, 1, 1), 12: (1, 1, 4), 16: (2, 2, 2)}
    settings = replace(PLAIN, steps_count=2)
    with over_processes(SPEC, "2,2,2") as (engine, _):
        pipe = engine.pipe
        assert isinstance(pipe, Pipeline)
        asked = iter(range(100))
        pipe.better_split = lambda: splits.get(next(asked))  # type: ignore[method-assign]
        ours = run(engine, 22, settings, CHANGES)
        assert pipe.stages.counts == (2, 2, 2) and next(asked) == 22
        report = pipe.reports[0]
        assert report["blocks"] == [0, 2] and sorted(pipe.first.dit.blocks) == ["0", "1"]
        assert len(pipe.first.cache.keys) == 2
    assert same(ours, run(twin, 22, settings, CHANGES))
    twin.close()


@pytest.mark.parametrize(("rule", "found"), [("auto", (4, 2)), ("reference", (4, 2)), ("", None)])
def test_a_better_split_is_found_from_what_the_ranks_say(rule: str, found: tuple[int, int] | None) -> None:
    """Three blocks each, of 10 ms: rank 1 decodes for 40 ms beside them, rank 0 encodes for 20: 60 ms are best."""
    stages = StageMap((3, 3), 1)
    reports = [
        {"blocks": [0, 3], "chunks": 32, "encode_ms": 20.0, "blocks_ms": 30.0, "decode_ms": 0.0},
        {"blocks": [3, 6], "chunks": 32, "encode_ms": 0.0, "blocks_ms": 30.0, "decode_ms": 40.0},
    ]
    pipe = Pipeline.__new__(Pipeline)
    pipe._rule, pipe._chunks_since_look = rule, LOOK_AFTER_CHUNKS - 1
    pipe._parcels, pipe.depth = SimpleNamespace(stages=stages), 2  # type: ignore[assignment]
    pipe._newest, pipe._cards = None, ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "reports", reports)
        assert pipe.better_split() == found
        assert pipe.better_split() is None, "not again at once"


@pytest.mark.parametrize(
    ("split", "profile", "fp8", "may_move", "rule", "said"),
    [
        ("auto", "default", False, True, "auto", ""),
        ("reference", "default", False, True, "reference", ""),
        ("auto", "reference", False, True, "", "since the rings of --profile reference are not moved"),
        ("auto", "default", True, True, "", "since the weights of --fp8 are not moved"),
        ("auto", "default", False, False, "", "since LoRAs on drawn weights are not moved"),
        ("3,3", "default", True, False, "", ""),
    ],
)
def test_blocks_that_are_bound_stay_and_the_log_says_why(
    split: str, profile: str, fp8: bool, may_move: bool, rule: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    spec = replace(SPEC, profile=profile)
    runner = pocket_stage(spec, assets_dir() / "pocket", StageMap((3, 3)), 0, torch.device("cpu"))
    runner.loras = SimpleNamespace(may_move=may_move)  # type: ignore[assignment]
    assert rule_of_moves(split, runner, fp8=fp8) == rule
    assert said in caplog.text and bool(said) == bool(caplog.messages)


def test_no_split_is_made_of_times_that_are_not_known_or_are_of_another_split() -> None:
    report = {"blocks": [0, 3], "chunks": 32, "encode_ms": 20.0, "blocks_ms": 30.0, "decode_ms": 0.0}
    other = report | {"blocks": [3, 6]}
    stages = StageMap((3, 3), 1)
    hops_s = [0.0, 0.3]
    assert costs_of([report, other], stages, hops_s) == [RankCosts(0.01, 0.02, 0.0, hop_s) for hop_s in hops_s]
    assert costs_of([report], stages, hops_s) is None
    assert costs_of([report, other | {"chunks": 3}], stages, hops_s) is None
    assert costs_of([report, other | {"blocks": [2, 6]}], stages, hops_s) is None


def test_a_slow_link_is_in_a_new_split_and_keeps_blocks_where_they_are() -> None:
    """30 ms more on each way round: nobody gains by moving, as two micro-steps share 60 + 40 + 60 ms."""
    parts = [(0, 3, 20.0, 0.0), (3, 6, 0.0, 40.0)]
    reports = [
        {"blocks": [first, end], "chunks": 32, "encode_ms": encode, "blocks_ms": 30.0, "decode_ms": decode}
        for first, end, encode, decode in parts
    ]
    costs = costs_of(reports, StageMap((3, 3), 1), [0.03, 0.03])
    assert costs is not None and better_plan(StageMap((3, 3), 1), costs) is None
    assert estimate(StageMap((3, 3), 1), costs, 1)[0] == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("8,22", StageMap((8, 22), 1)),
        ("8,22@first", StageMap((8, 22), 0)),
        ("0,30", StageMap((0, 30), 0)),
        ("0,30@last", StageMap((0, 30), 1)),
        ("1,28,1@last", StageMap((1, 28, 1), 2)),
    ],
)
def test_every_split_can_be_asked_for_and_is_said_in_the_same_words(text: str, stages: StageMap) -> None:
    ranks = len(stages.counts)
    assert given_split(text, 30, ranks) == stages == given_split(str(stages), 30, ranks)


@pytest.mark.parametrize(("ring", "split"), [((FAST, SLOW), "8,22@first"), ((SLOW, FAST), "0,30@last")])
def test_the_first_split_is_for_the_cards_that_there_are(ring: tuple[Card, Card], split: str) -> None:
    """As the page on several devices has it for these."""
    spec = replace(SPEC, name="wan-1.3b", size_wh=(832, 480), vae="wan", steps_count=1, gpus=2)
    stages = first_split(spec, 30, ring)
    assert str(stages) == split
    word = word_on_unequal(ring, stages)
    slow, fast = ring.index(SLOW), ring.index(FAST)
    assert f"rank {slow} (RTX 4090) works 4.8 times slower than rank {fast} (H100)" in word and split in word
    assert word_on_unequal([FAST, FAST], stages) == ""
    assert first_split(replace(spec, name="pocket"), 6, ring) == StageMap((3, 3), 1), "its work is not counted"


class Noted(dict[str, torch.Tensor]):
    """A checkpoint that remembers what was read of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(open_checkpoint(path))
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def test_a_rank_reads_no_more_of_the_codec_than_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, Noted] = {}
    monkeypatch.setattr(pocket, "open_checkpoint", lambda path: opened.setdefault(path.name, Noted(path)))
    read = []
    for rank in range(3):
        opened.clear()
        pocket_stage(SPEC, assets_dir() / "pocket", StageMap((2, 2, 2), 2), rank, torch.device("cpu"))
        read.append(opened["codec.safetensors"].read)
    first, middle, last = read
    assert {name.partition("_")[0] for name in first - middle} == {"enc"}
    assert {name.partition("_")[0] for name in last - middle} >= {"dec"} and not any("enc_" in name for name in last)
    assert middle == first & last and first | last == set(opened["codec.safetensors"])


def test_a_rank_has_only_what_it_runs() -> None:
    folder, stages = assets_dir() / "pocket", StageMap((2, 4), decode_rank=1)
    whole = pocket_stage(SPEC, folder, StageMap.on_one(6), 0, torch.device("cpu"))
    first, last = (pocket_stage(SPEC, folder, stages, rank, torch.device("cpu")) for rank in (0, 1))
    names = [set(runner.dit.state_dict()) for runner in (first, last)]
    shared = {name for name in names[0] if name.startswith(("text_embedding", "time_embedding", "time_projection"))}
    assert names[0] & names[1] == shared and names[0] | names[1] == set(whole.dit.state_dict())
    assert {name.split(".")[1] for name in names[1] if name.startswith("blocks")} == {"2", "3", "4", "5"}
    for runner in (first, last, whole):
        runner.cache.ensure_rows(1)
    assert first.cache.bytes + last.cache.bytes == whole.cache.bytes and last.cache.bytes == 2 * first.cache.bytes
    assert first.coder.state is None and last.coder.state is not None


def test_one_step_is_one_device_to_the_bit_and_more_are_within_a_grey_level() -> None:
    """The batches of one step are equal; those of more differ while a stream begins, and sums are rounded otherwise."""
    alone = build_pocket(SPEC, assets_dir() / "pocket")
    with over_processes(SPEC, "4,2") as (engine, _):
        assert same(run(engine, 9, PLAIN), run(alone, 9, replace(PLAIN, schedule="throughput")))
        latents = [landed_in(each.pipe) for each in (engine, alone)]
        for schedule in ("throughput", "latency"):
            engine.reset(), alone.reset()
            latents[0].clear(), latents[1].clear()
            settings = replace(PLAIN, steps_count=3, schedule=schedule)
            ours, theirs = np.stack(run(engine, 12, settings)), np.stack(run(alone, 12, settings))
            differences = np.abs(ours.astype(int) - theirs)
            assert differences.max() <= 1 and (differences > 0).mean() < 0.001
        # In `latency` the batches are equal too, so not a picture's rounding but the latents themselves are compared.
        assert len(latents[0]) == len(latents[1]) >= 3 * 12 and max(each.std() for each in latents[1]) > 0.5
        for ours_here, theirs_here in zip(*latents, strict=True):
            torch.testing.assert_close(ours_here, theirs_here, rtol=0, atol=1e-5)
    alone.close()


def landed_in(pipe: Pipe) -> list[torch.Tensor]:
    """A list that fills with the latents of every micro-step that comes back."""
    found: list[torch.Tensor] = []
    take = pipe.take

    def keeping() -> Landed:
        landed = take()
        found.append(landed.latents.clone())
        return landed

    pipe.take = keeping  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize(
    ("vae", "split", "times_faster", "begins"),
    [("wan", "0,2", 1, "0,2@first"), ("wan-taehv", "1,1@first", 1, "1,1@first"), ("taehv", "auto", 0.001, "0,2@last")],
)
def test_a_wan_engine_over_two_processes(
    vae: str,
    split: str,
    times_faster: float,
    begins: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Small files of our own, read by each rank for itself; five frames open, and the opening has two latents.

    times_faster: what the first rank says of itself, beside the other, which says what it is.
    """
    monkeypatch.setattr(
        cards, "measure_ceilings", lambda *args, **kw: {k: v * times_faster for k, v in ceilings(*args, **kw).items()}
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = replace(SPEC, name="wan-1.3b", size_wh=(64, 48), vae=vae, steps_count=2, waits_for_text=True)
    spec = replace(spec, weights=str(write_weights(tmp_path / "weights")))
    settings = ChunkSettings(
        mix=(("a red fox", 1.0),), steps=(700, 500), steps_count=2, noise_max=0.8, noise_min=0.7, timestep_offset=-100
    )
    changes: dict[int, dict[str, Any]] = {3: {"mix": (("night", 1.0),)}, 5: {"steps_count": 1}, 6: {"seed": 3}}
    twin = build_wan(spec, pipe_of=lambda first: LocalPipe([first]))
    expected = run(twin, 8, settings, changes)
    twin.close()
    with over_processes(spec, split, gpus=2) as (engine, _):
        assert isinstance(engine.pipe, Pipeline) and str(engine.pipe.stages) == begins
        said = "the cards differ: rank 0 .* times slower than rank 1 .*; the split begins as 0,2@last"
        assert bool(re.search(said, caplog.text)) == (split == "auto")
        ours = run(engine, 8, settings, changes)
        if split == "auto":
            assert min(engine.pipe._hops_s()) > 0, "links are measured, and what hops is known"
    assert len(ours[0]) == (4 if vae == "taehv" else 5) and all(frames.std() > 1 for frames in ours)
    differences = np.abs(np.concatenate(ours).astype(int) - np.concatenate(expected))
    assert differences.max() <= 1 and (differences > 0).mean() < 0.001


UNEQUAL_RANK = """
import sys, time, torch
from sdv2live.engine import world
from sdv2live.engine.model.wan_transformer import Block
from sdv2live.engine.rank_worker import run_rank
torch.cpu.get_capabilities = lambda: {"avx512_bf16": True, "cpu_name": "a newer one"}
plain = Block.forward
def slowly(self, *given, **named):
    time.sleep(0.015)
    return plain(self, *given, **named)
Block.forward = slowly
world.PULSE_S = 0.1
run_rank(1, sys.argv[1], device_name="cpu", threads=1, on_lost=print)
"""


def test_unequal_ranks_take_one_number_format_and_blocks_leave_the_slow_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rank 1 would take bfloat16 alone, and what hops would be as long as its sender has it and be read as its receiver
    has it. A block is many times slower there, by what it measures of itself. No picture shows either."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    monkeypatch.setattr(world, "PULSE_S", 0.1)
    spec = with_meeting_place(replace(SPEC, precision="auto", world=2, split="reference"))
    twin, ours, theirs, rounds = in_one_process("3,3"), list[Pixels](), list[Pixels](), 0
    with subprocess.Popen([sys.executable, "-c", UNEQUAL_RANK, spec.master], cwd=ROOT) as other:
        try:
            engine = build_engine(spec, assets_dir())
            try:
                assert isinstance(engine.pipe, Pipeline) and engine.pipe.first.dtype == torch.float32
                while rounds < 10 and engine.pipe.stages.counts == (3, 3):
                    ours += run(engine, LOOK_AFTER_CHUNKS // 2 + 1, PLAIN)
                    rounds += 1
                ours += run(engine, 4, replace(PLAIN, steps_count=2))
                assert engine.pipe.stages.counts[0] > 3 and engine.pipe.reports[0]["blocks"][1] > 3
            finally:
                engine.close()
            assert other.wait(timeout=30) == 0
        finally:
            other.kill()
    assert "all ranks compute in float32" in caplog.text
    assert "rank 1 (a newer one, 1 threads) alone would take bfloat16. --precision asks" in caplog.text
    for chunks in [LOOK_AFTER_CHUNKS // 2 + 1] * rounds:
        theirs += run(twin, chunks, PLAIN)
    assert same(ours, theirs + run(twin, 4, replace(PLAIN, steps_count=2)))
    twin.close()


@pytest.mark.slow
def test_five_hundred_chunks() -> None:
    twin, settings = in_one_process("3,3"), replace(PLAIN, steps_count=2)
    changes = {start + first: change for start in range(0, 500, 25) for first, change in CHANGES.items()}
    with over_processes(SPEC, "3,3") as (engine, _):
        assert same(run(engine, 500, settings, changes), run(twin, 500, settings, changes))
    twin.close()


# ---- what goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_dies_is_said_and_nothing_waits_for_ever(how: signal.Signals) -> None:
    with over_processes(SPEC, "3,3") as (engine, others):
        run(engine, 3, PLAIN)
        os.kill(others[0].pid, how)
        with pytest.raises(RankLost, match="rank"):
            run(engine, 20, PLAIN)


def test_a_rank_that_stands_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "PULSE_S", 0.1)
    monkeypatch.setattr(world, "LOST_AFTER_S", 2.0)
    with over_processes(SPEC, "3,3") as (engine, others):
        run(engine, 3, PLAIN)
        os.kill(others[0].pid, signal.SIGSTOP)
        try:
            with pytest.raises(RankLost, match="rank 1 no longer answers"):
                run(engine, 20, PLAIN)
        finally:
            os.kill(others[0].pid, signal.SIGKILL)


LOADS_FOR_EVER = """
import sys, torch
from sdv2live.engine.meeting_place import Address
from sdv2live.engine.world import Pulse, World
world, _ = World.join(1, Address.parse(sys.argv[1]))
world.connect(torch.device("cpu"))
Pulse(world, on_lost=print)
world.say_stage("loading the transformer")
sys.stdin.read()
"""


def test_a_rank_that_dies_while_it_loads_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of another machine, whose process nobody here sees. How far it is, rank 0 is told."""
    monkeypatch.setattr(world, "PULSE_S", 0.1)
    monkeypatch.setattr(world, "LOST_AFTER_S", 2.0)
    spec = with_meeting_place(replace(SPEC, gpus=1, world=2, split="3,3"))
    command = [sys.executable, "-c", LOADS_FOR_EVER, spec.master]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as other:

        def say(stage: str) -> None:
            if stage == "rank 1: loading the transformer":
                other.kill()

        try:
            with pytest.raises(RankLost, match="rank 1 no longer answers"):
                build_engine(spec, assets_dir(), say=say)
            assert other.wait(timeout=10) == -signal.SIGKILL
        finally:
            other.kill()


def test_a_rank_that_never_joins_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "JOIN_LIMIT_S", 2.0)
    spec = with_meeting_place(replace(SPEC, gpus=1, world=2, split="3,3", master=""))
    with pytest.raises(RankLost, match=r"rank 1 of 2 did not join at 127\.0\.0\.1:\d+ within 2 s"):
        build_engine(spec, assets_dir())


def test_without_nccl_the_host_carries_what_hops_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said by the rank that lacks it before it waits for the others, none of which comes here."""
    monkeypatch.setattr(world, "JOIN_LIMIT_S", 0.1)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    first = World.host(2, Address.parse(with_meeting_place(replace(SPEC, gpus=2)).master), {})
    with pytest.raises(RankLost, match="rank 1 of 2 did not join"):
        first.connect(torch.device("cuda", 0))
    assert caplog.messages == ["NCCL is missing from this torch: pictures go from GPU to GPU through the host, slower."]
    assert first.store.get("nccl/0") == b"0", "so that the others take such lines too"


def test_a_rank_that_says_nothing_of_its_card_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "JOIN_LIMIT_S", 0.1)
    first = World.host(2, Address.parse(with_meeting_place(replace(SPEC, gpus=2)).master), {})
    first.post("card/0", {"name": "a card"})
    assert first.posted("card/0") == {"name": "a card"}
    with pytest.raises(RankLost, match="nobody said 'card/1' within 0 s"):
        first.posted("card/1")
    first.store.set("failed/1", "its memory is full")
    with pytest.raises(RankLost, match="rank 1: its memory is full"):
        first.posted("card/1")


def refused(monkeypatch: pytest.MonkeyPatch, spec: EngineSpec) -> str:
    """What rank 0 says, which whoever starts the others says too, and starts none."""
    monkeypatch.setattr(rank_process, "start_child", lambda *_, **__: pytest.fail("a rank was started"))
    with pytest.raises(UserError) as by_rank_0:
        build_engine(spec, assets_dir())
    with pytest.raises(UserError) as beforehand:
        start_ranks(spec)
    assert str(by_rank_0.value) == str(beforehand.value)
    return str(beforehand.value)


def test_a_place_that_cannot_be_met_at_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        master = f"127.0.0.1:{taken.getsockname()[1]}"
        assert refused(monkeypatch, replace(SPEC, gpus=2, master=master)) == (
            f"the ranks cannot meet at {master}: the port is in use; give another one with --master HOST:PORT."
        )
    word = refused(monkeypatch, replace(SPEC, gpus=2, master="192.0.2.1:29500"))  # an address of nobody
    assert word.startswith("the ranks cannot meet at 192.0.2.1:29500: 192.0.2.1 is no address of this machine, where")


def test_a_place_to_meet_at_is_not_used_by_one_rank_alone_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    build_engine(replace(SPEC, master="192.0.2.1:29500"), assets_dir()).close()
    assert "--master 192.0.2.1:29500 is not used, since there is one rank alone: --world says" in caplog.text


def test_fewer_ranks_in_the_world_than_here_are_a_sentence() -> None:
    registry = Registry()
    registry.set_strictly([("engine.gpus", "3"), ("engine.world", "2")], origin="test")
    with pytest.raises(UserError, match=r"--world 2 counts the ranks of all machines, .* give --world 3 or more"):
        engine_spec(registry)


@pytest.mark.parametrize(
    ("split", "gpus", "words"),
    [
        ("4,4", 2, "add up to 6"),
        ("3,3@middle", 2, "@first or @last behind them"),
        ("3,3@", 2, "@first or @last behind them"),
        ("6,0", 2, "at least 1 for each rank"),
        ("three,three", 2, "write 2 numbers"),
        ("2,2,2", 2, "write 2 numbers"),
        ("auto", 7, "7 ranks are more than 6 blocks"),
    ],
)
def test_a_split_that_cannot_be_is_a_sentence(
    split: str, gpus: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in refused(monkeypatch, replace(SPEC, gpus=gpus, split=split, master="127.0.0.1:9"))


def test_blocks_are_known_without_torch_but_for_sizes_of_ones_own(tmp_path: Path) -> None:
    for name, config in (("pocket", POCKET), ("wan-1.3b", WAN_1_3B), ("wan-14b", WAN_14B)):
        assert known_blocks(EngineSpec(name, SIZE_WH, random_weights=True)) == config.num_layers
    assert known_blocks(EngineSpec("wan-1.3b", SIZE_WH, weights=str(tmp_path))) is None


def test_more_gpus_than_there_are_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of_rank("auto", 1, 2) == torch.device("cuda", 1)
    with pytest.raises(UserError, match="--gpus 3 are more than there are: here is 2; take --gpus 2"):
        device_of_rank("auto", 0, 3)
    with pytest.raises(UserError, match="leave --device away"):
        device_of_rank("cuda:1", 0, 2)


def test_a_rank_started_by_hand_or_by_torchrun_has_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of_local_rank("auto", 1) == device_of_local_rank("cuda:1", 0) == torch.device("cuda", 1)
    assert device_of_local_rank("cpu", 3) == torch.device("cpu") and device_of_local_rank("cuda:0", 3).index == 0
    with pytest.raises(UserError, match=r"^LOCAL_RANK 2 asks for GPU 2, and this machine has 2, .* with --device\.$"):
        device_of_local_rank("auto", 2)


@pytest.mark.parametrize(
    ("rank", "master", "environ", "found"),
    [
        (2, "host:1", {}, (2, "host:1", 0)),
        (None, None, TORCHRUN, (3, "there:29500", 1)),
        (1, "host:1", TORCHRUN, (1, "host:1", 1)),
        (None, "host:1", {}, "which rank is this? Add --rank N, from 1 to the number of ranks less one."),
        (0, "host:1", {}, "--rank 0: the first rank is the run itself; the others are numbered from 1."),
        (None, "host:1", TORCHRUN | {"RANK": "0"}, "--rank 0: the first rank is the run itself"),
        (1, None, {"MASTER_ADDR": "there"}, "where is the run? Add --master HOST:PORT, as the run was given it."),
    ],
)
def test_a_rank_is_said_by_flags_or_by_torchrun(
    rank: int | None, master: str | None, environ: dict[str, str], found: tuple[int, str, int] | str
) -> None:
    if isinstance(found, tuple):
        assert rank_from(rank, master, environ) == found
    else:
        with pytest.raises(UserError, match=f"^{re.escape(found)}"):
            rank_from(rank, master, environ)


@pytest.mark.parametrize("text", ["", "here", "host:", "host:0", "host:70000", ":29500", "host:a"])
def test_an_address_that_is_none_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="HOST:PORT"):
        Address.parse(text)


def test_orders_cross_as_they_are() -> None:
    noise = NoiseKey("slow", ((3, 0.6), (4, 0.8)), 7, 0.3)
    row = RowOrder(7, 1, 8, 8, 2, 1, 450, 300, noise, sink=0, copies_to=(2, 3))
    order = StepOrder(4, (row,), (DecodeOrder(6, 2, 0.55, 4),), enters=7, texts=(1, 2), contexts=(2,))
    assert StepOrder.from_json(order.to_json()) == order
