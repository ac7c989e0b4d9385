"""Memory counted before anything is loaded: what the engine then takes, to the byte, and what is said where it is
too much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sdv2live.engine import memory
from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.catalogue import smaller_sizes, window_of
from sdv2live.engine.compile import HeldTexts
from sdv2live.engine.memory import (
    Alive,
    Footprint,
    check_memory,
    count_memory,
    count_share,
    smaller_specs,
)
from sdv2live.engine.model.wan_transformer import WAN_1_3B, WAN_14B, TextContext, WanTransformer
from sdv2live.engine.model.wan_vae import WanVaeConfig
from sdv2live.engine.stages import StageMap
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.wan import build_wan, wan_stage
from sdv2live.errors import UserError
from tests.engine.toy import CPU
from tests.engine.wan_cases import SMALL_DIT, SMALL_VAE, one_thread

GB = 10**9
SMALL_SPEC = EngineSpec(
    "wan-1.3b", (64, 48), steps_count=2, precision="float32", device="cpu", random_weights=True, waits_for_text=True
)
LIVE = EngineSpec("wan-1.3b", (832, 480), steps_count=2)


@pytest.fixture
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """wan-1.3b at a small size, where no folder says otherwise."""
    from sdv2live.engine import wan_files

    monkeypatch.setitem(wan_files._RELEASED, "wan-1.3b", SMALL_DIT)
    monkeypatch.setattr(wan_files, "WanVaeConfig", lambda: SMALL_VAE)
    monkeypatch.setattr(memory, "free_bytes", lambda _: None)  # nothing is counted before the engine is built


def networks_of(engine: StreamEngine) -> list[nn.Module]:
    codec = engine.pipe.first.codec
    return list(dict.fromkeys((engine.pipe.first.dit, codec._encoder, codec._decoder)))


def run_chunks(engine: StreamEngine, count: int, *, schedule: str = "throughput") -> None:
    """Moving pictures, each chunk with a prompt of its own."""
    width, height = engine.traits.size_wh
    settings = ChunkSettings(steps=(900, 800, 700), steps_count=2, schedule=schedule)
    for number in range(count):
        frames = np.random.default_rng(number).integers(0, 256, (engine.frames_wanted, height, width, 3), np.uint8)
        engine.submit(Chunk(number, frames), replace(settings, mix=((f"prompt {number}", 1.0),)))
        engine.poll()


# ---- what is counted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vae", "precision"), [("wan", "float32"), ("wan-taehv", "bfloat16"), ("taehv", "float32")])
def test_weights_and_caches_are_foretold_to_the_byte(small_sizes: None, vae: str, precision: str) -> None:
    spec = replace(SMALL_SPEC, vae=vae, precision=precision)
    with one_thread():
        engine = build_wan(spec)
        run_chunks(engine, 2)
    dtype = getattr(torch, precision)
    counted = count_memory(spec, SMALL_DIT, SMALL_VAE, dtype=dtype)
    parameters = [each for network in networks_of(engine) for each in network.parameters()]
    assert {each.dtype for each in parameters} == {dtype}
    assert counted.weights == sum(each.nbytes for each in parameters)
    state = engine.pipe.first.coder.state
    past = [*state.encoder.past, *state.decoder.past]
    assert counted.caches == engine.cache_bytes + sum(each.nbytes for each in past)
    engine.close()


@pytest.mark.parametrize(("vae", "stages"), [("wan", StageMap((1, 1), 1)), ("wan-taehv", StageMap((0, 1, 1), 0))])
def test_a_ranks_share_is_foretold_to_the_byte(small_sizes: None, vae: str, stages: StageMap) -> None:
    spec = replace(SMALL_SPEC, vae=vae)
    whole = count_memory(spec, SMALL_DIT, SMALL_VAE, dtype=torch.float32)
    for rank in range(stages.ranks):
        share = count_share(whole, spec, SMALL_DIT, SMALL_VAE, dtype=torch.float32, stages=stages, rank=rank)
        runner = wan_stage(spec, stages, rank, CPU)
        runner.cache.ensure_rows(spec.steps_count)
        codec = runner.codec
        networks = [each for each in (runner.dit, codec._encoder, codec._decoder) if each is not None]  # type: ignore[attr-defined]
        assert share.weights == sum(each.nbytes for network in dict.fromkeys(networks) for each in network.parameters())
        halves = (runner.coder.state.encoder, runner.coder.state.decoder)
        past = [each for half in halves if half is not None for each in half.past]
        assert share.caches == runner.cache.bytes + sum(each.nbytes for each in past)
        assert share.working == whole.working


@pytest.mark.parametrize(("profile", "steps"), [("default", 1), ("default", 3), ("reference", 2)])
def test_two_blocks_are_run_for_all_and_nothing_is_lost_by_it(
    monkeypatch: pytest.MonkeyPatch, profile: str, steps: int
) -> None:
    """A network of blocks that are all run and all their own gives the same count."""
    spec = replace(SMALL_SPEC, vae="taehv", profile=profile, steps_count=steps)
    # Wide enough for the blocks, and not the codec, to be where memory peaks.
    dit = replace(SMALL_DIT, dim=480, ffn_dim=4800, num_heads=20, num_layers=5)
    quick = count_memory(spec, dit, SMALL_VAE, dtype=torch.float32)
    monkeypatch.setattr(memory, "_Alike", WanTransformer)
    assert count_memory(spec, dit, SMALL_VAE, dtype=torch.float32) == quick


@pytest.mark.parametrize(("vae", "schedule"), [("wan", "throughput"), ("wan-taehv", "latency"), ("taehv", "latency")])
def test_a_run_needs_what_is_counted(small_sizes: None, vae: str, schedule: str) -> None:
    """A real stream at a small size, its tensors on the CPU counted while they live."""
    spec = replace(SMALL_SPEC, vae=vae)
    counted = count_memory(spec, SMALL_DIT, SMALL_VAE, dtype=torch.float32)
    with one_thread():
        engine = build_wan(spec)
        parameters = [each for network in networks_of(engine) for each in network.parameters()]
        with torch.inference_mode(), Alive(kept=parameters, device="cpu", is_fused=False) as alive:
            engine.reset()  # so that what the state holds is made within
            run_chunks(engine, 4, schedule=schedule)
    working = alive.most_bytes - counted.weights - counted.caches
    assert counted.working == pytest.approx(working, rel=0.08)
    engine.close()


def test_what_graphs_hold_is_counted_on_a_gpu(small_sizes: None) -> None:
    """The texts, by the bytes of what a captured part holds; and what coding needs, by the tensors of a real stream."""
    spec = replace(SMALL_SPEC, vae="taehv", compile="on")
    plain, compiled = (
        count_memory(replace(spec, compile=each), SMALL_DIT, SMALL_VAE, dtype=torch.float32, overlaps=True)
        for each in ("off", "on")
    )
    kept = torch.zeros(1, SMALL_DIT.text_len, SMALL_DIT.num_heads, SMALL_DIT.dim // SMALL_DIT.num_heads)
    context = TextContext(*[(kept,) * SMALL_DIT.num_layers] * 2)
    held = HeldTexts(context, spec.steps_count).of(spec.steps_count)
    texts = sum(each.nbytes for each in (*held.keys, *held.values))
    with one_thread():
        engine = build_wan(replace(spec, compile="off"))
        runner, parameters = engine.pipe.first, [each for part in networks_of(engine) for each in part.parameters()]
        with torch.inference_mode(), Alive(kept=parameters, device="cpu", is_fused=False) as alive:
            runner.encoding, runner.decoding = (memory._CountedLane(alive, name) for name in ("encoding", "decoding"))
            run_chunks(engine, 4)
    engine.close()
    coding = alive.most_in("encoding") + alive.most_in("decoding")
    assert compiled.working - plain.working - texts == pytest.approx(coding, rel=0.15)
    assert (compiled.weights, compiled.caches) == (plain.weights, plain.caches)
    assert count_memory(spec, SMALL_DIT, SMALL_VAE, dtype=torch.float32).working <= plain.working, "not on a CPU"


@pytest.mark.parametrize(("vae", "most_gb"), [("wan", 11), ("taehv", 8)])
def test_the_released_1_3b_at_480p(vae: str, most_gb: float) -> None:
    counted = count_memory(replace(LIVE, vae=vae), WAN_1_3B, WanVaeConfig(), dtype=torch.bfloat16)
    print(f"wan-1.3b, 832x480, two steps, bfloat16, --vae {vae}: {counted.total / GB:.2f} GB, {counted}")
    assert counted.total <= most_gb * GB
    # Weights, KV of two rows (engine.md, 4.1) and the codec's memory (engine.md, 6) alone are most of it.
    assert counted.weights > 2 * 1_418_996_800
    assert counted.caches - 2 * 1.725e9 == pytest.approx(3.01e9 if vae == "wan" else 0.117e9, rel=0.02)


def test_the_released_14b_is_counted_without_being_built() -> None:
    spec = EngineSpec("wan-14b", (832, 480), steps_count=1, vae="taehv")
    counted = count_memory(spec, WAN_14B, WanVaeConfig(), dtype=torch.bfloat16)
    print(f"wan-14b, 832x480, one step, bfloat16, --vae taehv: {counted.total / GB:.2f} GB, {counted}")
    assert 2 * 14_288_491_584 < counted.weights < 2 * 14_288_491_584 + 30e6
    assert counted.total < 40 * GB


# ---- what is said ------------------------------------------------------------------------------------------------


def sentence(
    monkeypatch: pytest.MonkeyPatch,
    spec: EngineSpec,
    *,
    free_gb: float,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.bfloat16,
    native: torch.dtype = torch.bfloat16,
) -> str:
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(free_gb * GB))
    monkeypatch.setattr(memory, "choose_dtype", lambda wanted, _: native)
    with pytest.raises(UserError) as refused:
        check_memory(spec, SMALL_DIT, SMALL_VAE, device=device, dtype=dtype)
    message = str(refused.value)
    assert message.endswith(".") and ". " not in message and "\n" not in message, "one sentence"
    return message


def rough_count(spec: EngineSpec, dtype: torch.dtype = torch.bfloat16) -> Footprint:
    """In place of the real count, for what is said of it: pixels, steps, the window, the codec and the format."""
    share = spec.size_wh[0] * spec.size_wh[1] / (832 * 480)
    codec_gb = {"wan": 4.5, "wan-taehv": 2.5, "taehv": 1.0}[spec.vae]
    window = (spec.window_frames or 6) / 6
    wide = dtype.itemsize / 2
    return Footprint(int(wide * 3 * GB), int(wide * share * (1.75 * spec.steps_count * window + codec_gb) * GB), 0)


@pytest.fixture
def counted_roughly(monkeypatch: pytest.MonkeyPatch) -> list[EngineSpec]:
    """The specs that were counted."""
    counted: list[EngineSpec] = []

    def count(spec: EngineSpec, *rest: object, dtype: torch.dtype, **_: object) -> Footprint:
        counted.append(spec)
        return rough_count(spec, dtype)

    monkeypatch.setattr(memory, "count_memory", count)
    return counted


LAST = "--vae taehv --steps 1 --window-frames 4"


@pytest.mark.parametrize(
    ("free_gb", "advice"),
    [
        (10.9, "--vae wan-taehv or --vae taehv would fit."),
        (8.6, "--vae taehv or --vae taehv --steps 1 would fit."),
        (7.5, f"--vae taehv --steps 1 or {LAST} would fit."),
        (6.0, f"{LAST} or --size 384x224 would fit."),
        (5.3, f"--size 384x224 or {LAST} --size 640x368 would fit."),
        (4.1, f"{LAST} --size 384x224 would fit."),
        (3.2, "nothing smaller of it fits: take a smaller engine."),
        (0.1, "nothing smaller of it fits: take a smaller engine."),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    monkeypatch: pytest.MonkeyPatch, counted_roughly: list[EngineSpec], free_gb: float, advice: str
) -> None:
    message = sentence(monkeypatch, LIVE, free_gb=free_gb)
    room_gb = max(free_gb - memory.CPU_MARGIN_BYTES / GB, 0)
    expected = f"wan-1.3b at 832x480 with 2 steps and --vae wan needs 11.0 GB and {room_gb:.1f} GB are free on cpu: "
    assert message == expected + advice


def test_no_more_is_counted_than_is_said(monkeypatch: pytest.MonkeyPatch, counted_roughly: list[EngineSpec]) -> None:
    sentence(monkeypatch, LIVE, free_gb=10.9)
    assert len(counted_roughly) == 3, "itself, and the two that fit"


def test_a_gpu_keeps_more_for_itself(monkeypatch: pytest.MonkeyPatch, counted_roughly: list[EngineSpec]) -> None:
    margin_gb = memory.GPU_MARGIN_BYTES / GB
    message = sentence(monkeypatch, LIVE, free_gb=10.9 + margin_gb, device=torch.device("cuda:1"))
    assert "10.9 GB are free on cuda:1" in message
    monkeypatch.setattr(memory, "free_bytes", lambda _: int((11.1 + margin_gb) * GB))
    check_memory(LIVE, SMALL_DIT, SMALL_VAE, device=torch.device("cuda:1"), dtype=torch.bfloat16)


def test_where_the_system_does_not_say_what_is_free_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, counted_roughly: list[EngineSpec]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: None)
    check_memory(LIVE, SMALL_DIT, SMALL_VAE, device=CPU, dtype=torch.float32)
    assert counted_roughly == []


def tried(spec: EngineSpec, dtype: str = "bfloat16", native: str = "bfloat16") -> list[str]:
    """The words of what is tried, each checked against the spec that it stands for."""
    found = smaller_specs(spec, getattr(torch, dtype), getattr(torch, native))
    for words, each in found:
        asked = words.split()
        flags = dict(zip(asked[::2], asked[1::2], strict=True))
        assert each.vae == flags.get("--vae", spec.vae)
        assert each.steps_count == int(flags.get("--steps", spec.steps_count))
        assert each.window_frames == int(flags.get("--window-frames", spec.window_frames))
        assert each.precision == flags.get("--precision", spec.precision)
        assert "x".join(map(str, each.size_wh)) == flags.get("--size", "x".join(map(str, spec.size_wh)))
        window_of(each)
    assert len({words for words, _ in found}) == len(found)
    return [words for words, _ in found]


def test_what_is_tried_instead_comes_in_order_and_says_itself() -> None:
    in_order = [
        "--vae wan-taehv",
        "--vae taehv",
        "--steps 1",
        "--vae taehv --steps 1",
        "--window-frames 4",
        "--vae taehv --steps 1 --window-frames 4",
        "--size 640x368",
        "--size 512x288",
        "--size 384x224",
        "--vae taehv --steps 1 --window-frames 4 --size 640x368",
        "--vae taehv --steps 1 --window-frames 4 --size 512x288",
        "--vae taehv --steps 1 --window-frames 4 --size 384x224",
    ]
    assert tried(LIVE) == in_order
    assert [words for words, _ in smaller_specs(replace(LIVE, compile="on"), torch.bfloat16, torch.bfloat16)] == [
        "--compile off",
        *in_order,
    ]
    smallest = EngineSpec("wan-1.3b", (384, 224), steps_count=1, vae="taehv", window_frames=4)
    assert tried(smallest) == []
    assert tried(replace(smallest, window_frames=5)) == ["--window-frames 4"]
    assert tried(replace(smallest, window_frames=21)) == ["--window-frames 6", "--window-frames 4"]
    assert tried(replace(smallest, window_frames=9, sink_frames=7)) == ["--window-frames 8"]
    assert tried(replace(smallest, window_frames=4, sink_frames=0, profile="reference")) == []


def test_a_narrower_number_format_is_tried_first_where_the_device_is_made_for_it() -> None:
    wide = replace(LIVE, precision="float32")
    for native in ("bfloat16", "float16"):
        words = tried(wide, "float32", native)
        assert words == [f"--precision {native}", *(f"--precision {native} {more}" for more in tried(LIVE))]
    imitated = tried(LIVE, "float32", "float32")
    assert imitated == [*tried(LIVE), "--precision bfloat16", *(f"--precision bfloat16 {more}" for more in tried(LIVE))]


@pytest.mark.parametrize(
    ("free_gb", "native", "advice"),
    [
        (11.6, torch.bfloat16, "--precision bfloat16 or --precision bfloat16 --vae wan-taehv would fit."),
        (11.6, torch.float32, f"{LAST} or --size 384x224 would fit."),
        (4.1, torch.float32, f"--precision bfloat16 {LAST} --size 384x224 would fit."),
    ],
)
def test_precision_is_part_of_the_advice(
    monkeypatch: pytest.MonkeyPatch,
    counted_roughly: list[EngineSpec],
    free_gb: float,
    native: torch.dtype,
    advice: str,
) -> None:
    spec = replace(LIVE, precision="float32")
    assert sentence(monkeypatch, spec, free_gb=free_gb, dtype=torch.float32, native=native).endswith(f": {advice}")


@pytest.mark.parametrize("size_wh", [(480, 832), (512, 512), (1920, 1088), (1088, 1920), (640, 384)])
def test_smaller_sizes_have_the_shape_that_was_asked_for(size_wh: tuple[int, int]) -> None:
    sizes = smaller_sizes(size_wh)
    assert len(sizes) >= 2 and sizes == sorted(sizes, key=lambda size: -size[0] * size[1])
    width, height = size_wh
    for w, h in sizes:
        assert w % 16 == h % 16 == 0 and 384 * 224 <= w * h < width * height
        assert abs(w * height / (h * width) - 1) < 0.06
    assert smaller_sizes((480, 832)) == [(368, 640), (288, 512), (224, 384)]


def test_what_is_free_is_read_from_the_system() -> None:
    free = memory.free_bytes(CPU)
    assert free is None or 0 < free < 1 << 50
