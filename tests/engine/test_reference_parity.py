"""Parity with the StreamDiffusionV2 reference: every golden case of a folder, one test item a case.

The folder is SDV2LIVE_GOLDEN_DIR, by default the one committed beside the tests; its format is tests/golden/README.md.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdv2live.engine.balance import reference_split
from sdv2live.engine.base import Chunk, ChunkSettings, EngineTraits
from sdv2live.engine.micro_steps import InFlight
from sdv2live.engine.model.wan_transformer import WanConfig, WanTransformer
from sdv2live.engine.noise import MotionController, NoiseSource, largest_change
from sdv2live.engine.orders import NoiseKey
from sdv2live.engine.prompts import PromptMixer
from sdv2live.engine.reference_profile import ReferenceKVCache
from sdv2live.engine.schedule import SMALLEST_FIRST, SMALLEST_GAP, first_timestep, flow_sigmas
from sdv2live.engine.stream import StreamEngine
from sdv2live.engine.text_ahead import Direct
from sdv2live.engine.window import Window
from tests.engine.toy import drawn_, one_stage
from tests.engine.wan_cases import run_wan_vae_case

FOLDER = Path(os.environ.get("SDV2LIVE_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))


def spec_of(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


class GivenLatents:
    """A codec that hands out the case's noised latents and keeps what the DiT made of them."""

    spatial_factor = 8

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._given = tensors
        self._next = 0
        self.clean: list[Tensor] = []

    def new_state(self, size_wh: tuple[int, int]) -> object:
        return None

    def prepare(self, embedding: Tensor, noise_scale: float) -> object:
        return None

    def encode(self, frames: Tensor, state: object) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._next += 1
        return self._given[f"noisy_latent.{self._next - 1}"], (torch.zeros(frames.shape[1]),)

    def as_encoded(self, latents: Tensor) -> Tensor:
        return latents

    def decode(self, latents: Tensor, side: tuple[Tensor, ...], prepared: object, state: object) -> Tensor:
        self.clean.append(latents)
        return torch.zeros(1, len(side[0]), 3, 16, 16)


class GivenTimesteps(StreamEngine):
    """Timesteps from the case."""

    opening: tuple[int, ...]
    later: tuple[int, ...]

    def _enter(self, chunk: Chunk, settings: ChunkSettings) -> InFlight:
        """The reference visits its list as it stands; ours keeps steps apart, which is the same unless they are close
        (contract.md)."""
        item = super()._enter(chunk, settings)
        wanted = self.later if item.number else self.opening
        are_apart = all(before - after >= SMALLEST_GAP for before, after in itertools.pairwise(wanted))
        if are_apart and wanted[-1] >= SMALLEST_FIRST:
            assert item.timesteps == wanted
        item.timesteps = wanted
        self._state.rows = len(wanted)
        return item


class GivenDraws(NoiseSource):
    """The reference's draws, in its order; latents come noised, and the blend of a tensor with itself changes nothing.

    steps: how many the case's list has.
    """

    def __init__(self, draws: dict[str, Tensor], steps: int) -> None:
        super().__init__()
        self._draws, self._rows = draws, steps - 1

    def of_chunk(self, key: NoiseKey, *, epoch: int, step: int, shape: tuple[int, ...]) -> Tensor:
        if step == 0 and not key.is_empty:
            return self._draws[f"noisy_latent.{key.number}"]
        rows = self._rows
        is_opening = key.number == 0 and not key.is_empty
        index = step - 1 if is_opening else rows + (key.number + step - 2) * rows + step - 1
        if f"renoise.{index}" not in self._draws:
            return torch.zeros(shape)  # the reference had stopped before this chunk was finished
        return self._draws[f"renoise.{index}"].reshape(shape)


def run_stream_case(spec: dict, tensors: dict[str, Tensor]) -> None:
    """`stream_batch` and `sequential`: in both schedules, in the reference profile."""
    for schedule in ("latency", "throughput"):
        run_stream(spec, tensors, schedule)


def run_stream(spec: dict, tensors: dict[str, Tensor], schedule: str) -> None:
    sizes = {field.name: spec["config"][field.name] for field in fields(WanConfig) if field.name in spec["config"]}
    config = WanConfig(**sizes)
    codec = GivenLatents(tensors)
    size_wh = (spec["latent_width"] * 8, spec["latent_height"] * 8)
    window, steps = Window(spec["kv_cache_frames"], spec["sink_frames"]), tuple(spec["denoising_steps"])
    engine = GivenTimesteps(
        traits=EngineTraits("golden", size_wh, first_chunk_frames=5, chunk_frames=4, defaults={}),
        pipe=one_stage(
            drawn_(WanTransformer(config), spec["weight_salt"]),
            codec,
            window,
            size_wh,
            new_cache=partial(ReferenceKVCache, reset_frame=spec["rope_reset_frame"]),
            noise=GivenDraws(tensors, len(steps)),
        ),
        prompts=PromptMixer(Direct(lambda text: tensors["prompt_embeds"])),
        window=window,
    )
    engine.opening = steps
    engine.later = (spec["first_timestep"] or steps[0], *steps[1:])
    for chunk in range(spec["chunks"] + 1):
        # Half a step over, so that no rounding brings it under the timestep that is meant.
        scale = ((engine.later if chunk else engine.opening)[0] + 100.5) / 1000
        settings = ChunkSettings(
            steps=steps,
            steps_count=len(steps),
            noise_max=scale,
            noise_min=scale,
            smoothing=1.0,
            noise_mode="fresh",
            timestep_offset=-100,
            schedule=schedule,
            sink_similarity=spec["adaptive_sink_threshold"],
        )
        frames = np.zeros((engine.frames_wanted, size_wh[1], size_wh[0], 3), np.uint8)
        engine.submit(Chunk(chunk, frames), settings)
        engine.poll()
    engine.flush()
    # Call c of the reference returned chunk c - N + 1; the opening came out at once.
    late = len(steps) - 1
    calls = (0, *range(spec["first_valid_output"], spec["chunks"] + 1))
    assert len(calls) > 1
    for call in calls:
        expected = tensors[f"output.{call}"]
        ours = codec.clean[call - late if call else 0]
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max(), f"{schedule}, call {call}"


def run_schedule_case(spec: dict, tensors: dict[str, Tensor]) -> None:
    sigmas = torch.tensor(flow_sigmas(spec["shift"], spec["steps"]), dtype=torch.float64)
    assert torch.allclose(sigmas, tensors["sigmas"].double(), atol=1e-6, rtol=0)
    assert torch.allclose(sigmas * 1000, tensors["timesteps"].double(), atol=1e-3, rtol=0)


def run_motion_case(spec: dict, tensors: dict[str, Tensor]) -> None:
    frames = tensors["frames"][0].permute(1, 2, 3, 0).numpy()
    controller = MotionController()
    maximum = spec["initial_noise_scale"]
    controller.open(maximum=maximum)
    for number, (scale, timestep) in enumerate(spec["chunks"]):
        change = largest_change(frames[1 + 4 * number : 5 + 4 * number], frames[4 * number], unit=1.0)
        ours, _ = controller.update(change, maximum=maximum, minimum=maximum - 0.1, sensitivity=0.2, smoothing=0.9)
        assert ours == pytest.approx(scale, abs=1e-6)
        assert first_timestep(ours, -100) == timestep


def run_split_case(spec: dict, tensors: dict[str, Tensor]) -> None:
    for case in spec["cases"]:
        counts = [end - first for first, end in case["split"]]
        ours = reference_split(counts, total_seconds=case["total_seconds"], dit_seconds=case["dit_seconds"])
        edges = [0, *itertools.accumulate(ours)]
        assert [list(pair) for pair in itertools.pairwise(edges)] == case["expected"]
        assert edges[-1] == case["num_blocks"]


RUNNERS: dict[str, Callable[[dict, dict[str, Tensor]], None]] = {
    "stream_batch": run_stream_case,
    "sequential": run_stream_case,
    "wan_vae": run_wan_vae_case,
    "motion_noise": run_motion_case,
    "flow_schedule": run_schedule_case,
    "block_split": run_split_case,
}


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_equals_the_reference(name: str) -> None:
    spec = spec_of(name)
    assert spec["kind"] in RUNNERS, f"{name} is a case of the unknown kind {spec['kind']!r}"
    tensors = FOLDER / f"{name}.safetensors"
    RUNNERS[spec["kind"]](spec, load_file(tensors) if tensors.exists() else {})


def test_there_are_cases() -> None:
    assert list(FOLDER.glob("*.json")), f"{FOLDER} holds no golden case"


def test_the_page_beside_the_cases_names_every_kind() -> None:
    page = (Path(__file__).parents[1] / "golden" / "README.md").read_text("utf-8")
    rows = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(RUNNERS)
