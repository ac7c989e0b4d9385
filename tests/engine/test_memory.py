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
from sdv2live.engine.memory import Alive, Footprint, check_memory, count_memory, smaller_specs
from sdv2live.engine.model.wan_transformer import WAN_1_3B, WAN_14B, WanTransformer
from sdv2live.engine.model.wan_vae import WanVaeConfig
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.wan import build_wan
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
    codec = engine._codec
    return list(dict.fromkeys((engine._dit, codec._encoder, codec._decoder)))


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
    state = engine._state.codec_state
    past = [*state.encoder.past, *state.decoder.past]
    assert counted.caches == engine.cache_bytes + sum(each.nbytes for each in past)
    engine.close()


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


def sentence(monkeypatch: pytest.MonkeyPatch, spec: EngineSpec, *, free_gb: float, device: torch.device = CPU) -> str:
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(free_gb * GB))
    with pytest.raises(UserError) as refused:
        check_memory(spec, SMALL_DIT, SMALL_VAE, device=device, dtype=torch.float32)
    message = str(refused.value)
    assert message.endswith(".") and ". " not in message and "\n" not in message, "one sentence"
    return message


def rough_count(spec: EngineSpec, *_: object, **__: object) -> Footprint:
    """In place of the real count, for what is said of it: pixels, steps and the codec."""
    share = spec.size_wh[0] * spec.size_wh[1] / (832 * 480)
    codec_gb = {"wan": 4.5, "wan-taehv": 2.5, "taehv": 1.0}[spec.vae]
    return Footprint(3 * GB, int(share * (1.75 * spec.steps_count + codec_gb) * GB), 0)


@pytest.fixture
def counted_roughly(monkeypatch: pytest.MonkeyPatch) -> list[EngineSpec]:
    """The specs that were counted."""
    counted: list[EngineSpec] = []

    def count(spec: EngineSpec, *rest: object, **options: object) -> Footprint:
        counted.append(spec)
        return rough_count(spec)

    monkeypatch.setattr(memory, "count_memory", count)
    return counted


@pytest.mark.parametrize(
    ("free_gb", "advice"),
    [
        (10.9, "--vae wan-taehv or --vae taehv would fit."),
        (8.6, "--vae taehv or --vae taehv --steps 1 would fit."),
        (7.5, "--vae taehv --steps 1 or --size 512x288 would fit."),
        (5.5, "--size 384x224 or --vae taehv --steps 1 --size 640x368 would fit."),
        (4.3, "--vae taehv --steps 1 --size 384x224 would fit."),
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
    check_memory(LIVE, SMALL_DIT, SMALL_VAE, device=torch.device("cuda:1"), dtype=torch.float32)


def test_where_the_system_does_not_say_what_is_free_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, counted_roughly: list[EngineSpec]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: None)
    check_memory(LIVE, SMALL_DIT, SMALL_VAE, device=CPU, dtype=torch.float32)
    assert counted_roughly == []


def test_what_is_tried_instead_comes_in_order_and_says_itself() -> None:
    assert [words for words, _ in smaller_specs(LIVE)] == [
        "--vae wan-taehv",
        "--vae taehv",
        "--steps 1",
        "--vae taehv --steps 1",
        "--size 640x368",
        "--size 512x512",
        "--size 512x288",
        "--size 384x224",
        "--vae taehv --steps 1 --size 640x368",
        "--vae taehv --steps 1 --size 512x512",
        "--vae taehv --steps 1 --size 512x288",
        "--vae taehv --steps 1 --size 384x224",
    ]
    for words, spec in smaller_specs(LIVE):
        asked = words.split()
        flags = dict(zip(asked[::2], asked[1::2], strict=True))
        assert spec.vae == flags.get("--vae", LIVE.vae)
        assert spec.steps_count == int(flags.get("--steps", LIVE.steps_count))
        assert "x".join(map(str, spec.size_wh)) == flags.get("--size", "832x480")
    smallest = EngineSpec("wan-1.3b", (384, 224), steps_count=1, vae="taehv")
    assert smaller_specs(smallest) == []
    sizes = [spec.size_wh for words, spec in smaller_specs(replace(smallest, size_wh=(640, 384)))]
    assert sizes == [(640, 368), (512, 288), (384, 224)], "only what has fewer pixels"


def test_what_is_free_is_read_from_the_system() -> None:
    free = memory.free_bytes(CPU)
    assert free is None or 0 < free < 1 << 50
