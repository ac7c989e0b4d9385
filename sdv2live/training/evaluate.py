"""How good the pocket model is on pictures it never saw. Owns: the runs, and what is written of them.

Knows the exported weights alone and plays them through the live engine, chunk after chunk; the clips are `held_out`,
the figures `quality`, the tables `report`. A clip is measured from its second chunk on, against the look drawn at that
noise scale: its blend with the source under 0.5. Noise is fixed over time, one seed; less than 0.5 dB is noise.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.model.pocket_codec import PocketCodec
from sdv2live.engine.model.pocket_text import STRENGTHS, PocketTextEncoder, strength_of_noise
from sdv2live.engine.model.wan_transformer import WanConfig, WanTransformer
from sdv2live.engine.pocket import build_pocket
from sdv2live.errors import UserError
from sdv2live.frames import Pixels
from sdv2live.training import quality, vocabulary
from sdv2live.training.effects import COLOURS, LOOKS
from sdv2live.training.held_out import FRAMES, held_out_clips
from sdv2live.training.losses import least_spread
from sdv2live.training.quality import Figures
from sdv2live.training.sheets import Tile, sheet, write_picture
from sdv2live.training.train import channels_last, decode_clip, denoise
from sdv2live.training.words import WEAK

SIZES_WH = ((256, 256), (384, 224))
CHUNK = 4
SHEET_COLUMNS, STRIP_COLUMNS = 2, 7
Mix = tuple[tuple[str, float], ...]
SIGMA = 0.5
NOISES, STEPS = (0.2, 0.5, 0.7), (1, 2)
ROUND = 2 * FRAMES // CHUNK  # chunks of a clip forwards and backwards
# One round to start in, one to begin from, one to come to, and one between.
DRIFT_CHUNKS, LEAST_DRIFT_CHUNKS, DRIFT_SIZE_WH = 500, 4 * ROUND, (128, 128)
PROMPTS = {name: phrases[0] for name, phrases in vocabulary.LOOK_WORDS.items()}
VARIANTS_CLIP, VARIANTS_FRAMES = "astronaut", 2 * CHUNK
SLIGHTLY = vocabulary.WEAK_WORDS[0]


@dataclass
class Model:
    """The exported networks."""

    codec: PocketCodec
    text: PocketTextEncoder
    dit: WanTransformer
    config: dict[str, object]


def load_model(folder: Path, device: torch.device) -> Model:
    """Read what `export` wrote."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    codec = PocketCodec(**config["codec"])
    text = PocketTextEncoder.from_config(config["text"])
    dit = WanTransformer(WanConfig(**config["dit"]))
    for name, network in (("codec", codec), ("text", text), ("dit", dit)):
        network.load_state_dict({k: v.float() for k, v in load_file(folder / f"{name}.safetensors").items()})
        network.to(device).eval().requires_grad_(False)
    channels_last(codec)
    return Model(codec, text, dit, config)


def to_planar(frames: Pixels) -> Tensor:
    """[T, H, W, 3] uint8 -> [1, T, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[None].float() / 127.5 - 1


def to_pixels(pictures: Tensor) -> Pixels:
    """[T, 3, H, W] in [0, 1] -> [T, H, W, 3] uint8."""
    return np.asarray((pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())


def drawn(frames: Pixels, look: str, colour: str = "none") -> Pixels:
    """The target at full strength: the look drawn, [T, H, W, 3] uint8."""
    return to_pixels(COLOURS[colour](LOOKS[look](to_planar(frames)[0] / 2 + 0.5)))


def blended(frames: Pixels, target: Pixels, strength: float) -> Pixels:
    """So much of the target over the source."""
    mixed = frames.astype(np.float32) * (1 - strength) + target.astype(np.float32) * strength
    return np.asarray(mixed.round(), np.uint8)


class Restyled(NamedTuple):
    """pictures [1, T, 3, H, W], without_latent the same with the DiT's latent [1, n, 16, h, w] put to nought."""

    pictures: Tensor
    without_latent: Tensor
    latent: Tensor


@torch.no_grad()
def restyle(model: Model, source: Tensor, prompt: str, *, sigma: float = SIGMA) -> Restyled:
    """One denoising step over a whole clip."""
    device = source.device
    latent, side = model.codec.encode(source)
    noise = torch.randn(latent[:, :1].shape, generator=torch.Generator().manual_seed(1)).to(device)
    scale = torch.full((1,), sigma, device=device)
    tokens = model.text.weakened(model.text.encode([prompt]), scale)
    clean = denoise(model.dit, torch.lerp(latent, noise.expand_as(latent), sigma), scale, tokens)
    style = model.codec.style(tokens, scale)
    ours, without = (decode_clip(model.codec, each, side, style) for each in (clean, torch.zeros_like(clean)))
    return Restyled(ours, without, clean)


def asking(look: str) -> Mix:
    """The prompt of a look alone."""
    return ((PROMPTS[look], 1.0),)


class Player:
    """The live engine over clips of one size, each from a fresh start. precision: as `--precision` has it."""

    def __init__(self, folder: Path, size_wh: tuple[int, int], precision: str = "auto") -> None:
        self._engine = build_pocket(EngineSpec("pocket", size_wh, precision=precision), folder)
        self._chunks = 0
        self._steps = tuple(json.loads((folder / "config.json").read_text("utf-8"))["runtime"]["steps"])

    def play(self, frames: Pixels, mix: Mix, *, noise: float = SIGMA, steps: int = 1, seed: int = 1) -> Pixels:
        """What a live run shows of the frames, a multiple of 4 of them."""
        settings = ChunkSettings(
            mix=mix, steps=self._steps, steps_count=steps, noise_max=noise, noise_min=noise, seed=seed
        )
        return np.concatenate(list(self.stream(np.split(frames, len(frames) // CHUNK), settings)))

    def stream(self, chunks: Iterable[Pixels], settings: ChunkSettings) -> Iterator[Pixels]:
        """Chunk by chunk."""
        self._engine.reset()
        for chunk in chunks:
            self._chunks += 1
            self._engine.submit(Chunk(self._chunks, np.ascontiguousarray(chunk)), settings)
            for result in self._engine.poll():
                yield result.frames


@dataclass(frozen=True)
class Row:
    """One look on one clip at one size. figures by "noise / steps"; zero_cost_db: what a latent of nought costs.

    Standard deviations: encoded_std of the encoder's latents as they are, latent_std of the transformer's, normalised,
    least_spread of a picture as `losses` has it.
    """

    clip: str
    size_wh: tuple[int, int]
    look: str
    figures: dict[str, Figures]
    zero_cost_db: float
    encoded_std: float
    latent_std: float
    least_spread: float


@dataclass(frozen=True)
class Variant:
    """One look in a colour, or at less strength (SLIGHTLY), against its target; nothing_ is the source. PSNR in dB."""

    clip: str
    size_wh: tuple[int, int]
    look: str
    variant: str
    psnr: float
    nothing_psnr: float


@dataclass(frozen=True)
class Knobs:
    """What the knobs do to a look on one picture, in grey levels of 255 unless said.

    flicker: of a still picture. strengths: distance from the source by rising noise. largest_step: of a blend from oil
    in ten steps, as a share of the way. seeds: distance between two seeds; seed_psnr: their PSNR to the target, in dB.
    drift_db: PSNR to the target in the last tenth of all chunks less that in the first; None if it was left out.
    """

    look: str
    flicker: float
    strengths: list[float]
    largest_step: float
    seeds: float
    seed_psnr: tuple[float, float]
    drift_db: float | None


@dataclass
class Evaluation:
    """What was found. drift_chunks: how many each look's drift was measured over, 0 if it was left out."""

    drift_chunks: int
    rows: list[Row] = field(default_factory=list)
    variants: list[Variant] = field(default_factory=list)
    knobs: list[Knobs] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As strict JSON, whole or not at all; a figure that cannot be told is null."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(_or_null(asdict(self)), indent=1, allow_nan=False), encoding="utf-8")
        os.replace(part, path)


def _or_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _or_null(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_or_null(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress:
    """Tells on standard error what was done and about how long the rest takes. total: of the costs of all that is."""

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock, self._started_s, self._done = total, clock, clock(), 0.0

    def did(self, cost: float, what: str) -> None:
        self._done += cost
        left_s = (self._clock() - self._started_s) * (self._total - self._done) / self._done
        share = 100 * self._done / self._total
        print(f"evaluate: {what}: {share:.0f} % done, some {left_s / 60:.0f} min left", file=sys.stderr, flush=True)


def row_cost(size_wh: tuple[int, int]) -> float:
    """Of a row, in pixels restyled by one step; the figures take about as long as two plays."""
    return size_wh[0] * size_wh[1] * FRAMES * (len(NOISES) * sum(STEPS) + 4)


def variants_cost() -> float:
    """Of a look's variants."""
    return SIZES_WH[0][0] * SIZES_WH[0][1] * VARIANTS_FRAMES * (len(COLOURS) + 1)


def knobs_cost(drift_chunks: int) -> float:
    """Of a look's knobs."""
    (width, height), (small_width, small_height) = SIZES_WH[0], DRIFT_SIZE_WH
    return width * height * 48 * CHUNK + small_width * small_height * drift_chunks * CHUNK


def evaluate(
    folder: Path, out: Path, *, video: Path | None, looks: list[str], drift_chunks: int, precision: str = "auto"
) -> Evaluation:
    """All looks on all held-out clips and sizes; writes evaluation.json, anew after each clip, and sheets into `out`.

    drift_chunks: LEAST_DRIFT_CHUNKS and more; 0 leaves drift out. Raises UserError, before anything runs, for a number
    between and for a video that is none.
    """
    if drift_chunks and drift_chunks < LEAST_DRIFT_CHUNKS:
        raise UserError(
            f"{drift_chunks} chunks are too few to tell drift: give --drift-chunks {LEAST_DRIFT_CHUNKS} or more, or 0 "
            "to leave it out."
        )
    clips_of = {size_wh: held_out_clips(video, size_wh) for size_wh in (*SIZES_WH, DRIFT_SIZE_WH)}
    model = load_model(folder, torch.device("cpu"))
    out.mkdir(parents=True, exist_ok=True)
    found, path = Evaluation(drift_chunks), out / "evaluation.json"
    clips = clips_of[SIZES_WH[0]]
    rows_cost = len(clips) * sum(map(row_cost, SIZES_WH))
    progress = Progress(len(looks) * (rows_cost + variants_cost() + knobs_cost(drift_chunks)))
    for size_wh in SIZES_WH:
        player, size = Player(folder, size_wh, precision), f"{size_wh[0]}x{size_wh[1]}"
        for clip, frames in clips_of[size_wh].items():
            shown: list[tuple[str, Pixels, Pixels]] = []
            for look in looks:
                row, target, ours = row_of(player, model, clip, frames, look)
                found.rows.append(row)
                shown.append((look, target, ours))
                progress.did(row_cost(size_wh), f"{size}, {clip}, {look}")
            tiles = [(look, np.hstack([frames[-4], target, ours])) for look, target, ours in shown]
            write_picture(out / f"looks-{clip}-{size}.jpg", sheet(tiles, SHEET_COLUMNS))
            write_picture(out / f"strip-{clip}-{size}.jpg", sheet([(x, ours) for x, _, ours in shown], STRIP_COLUMNS))
            found.write(path)
    player = Player(folder, SIZES_WH[0], precision)
    for clip, frames in clips.items():
        write_picture(out / f"colours-{clip}.jpg", sheet(list(colour_tiles(player, frames)), SHEET_COLUMNS))
    for look in looks:
        found.variants += variants_of(player, VARIANTS_CLIP, clips[VARIANTS_CLIP][:VARIANTS_FRAMES], look)
        progress.did(variants_cost(), f"colours, {look}")
    found.write(path)
    small = Player(folder, DRIFT_SIZE_WH, precision)
    loop = list(clips_of[DRIFT_SIZE_WH].values())[-1]
    for look in looks:
        drift_db = drift(small, loop, look, drift_chunks) if drift_chunks else None
        found.knobs.append(knobs_of(player, clips["chelsea"], look, drift_db))
        found.write(path)
        progress.did(knobs_cost(drift_chunks), f"knobs, {look}")
    return found


def row_of(player: Player, model: Model, clip: str, frames: Pixels, look: str) -> tuple[Row, Pixels, Pixels]:
    """A look on a clip at all noises and steps; beside it a frame of the target and ours at SIGMA and one step."""
    source, full, figures = frames[CHUNK:], drawn(frames, look), {}
    motions = quality.motions(source)
    shown = {}
    for noise in NOISES:
        target = blended(frames, full, float(strength_of_noise(torch.tensor(noise))))[CHUNK:]
        for steps in STEPS:
            ours = player.play(frames, asking(look), noise=noise, steps=steps)[CHUNK:]
            figures[f"{noise} / {steps}"] = quality.figures_of(ours, target, source, motions)
            shown[noise, steps] = target[-4], ours[-4]
    planar = to_planar(frames)
    with torch.no_grad():
        encoded_std = float(model.codec.raw_latent(planar)[0].std())
    pictures, without, latent = restyle(model, planar, PROMPTS[look])
    with_latent, without_latent = (to_pixels((x[0, CHUNK:] + 1) / 2) for x in (pictures, without))
    cost_db = quality.psnr(with_latent, full[CHUNK:]) - quality.psnr(without_latent, full[CHUNK:])
    height, width = frames.shape[1:3]
    row = Row(clip, (width, height), look, figures, cost_db, encoded_std, float(latent.std()), least_spread(pictures))
    return (row, *shown[SIGMA, 1])


def variants_of(player: Player, clip: str, frames: Pixels, look: str) -> Iterator[Variant]:
    """A look in each colour, and with less strength, at SIGMA and one step."""
    plain = LOOKS[look](to_planar(frames)[0] / 2 + 0.5)
    height, width = frames.shape[1:3]
    targets = {colour: (in_colour(look, colour), to_pixels(COLOURS[colour](plain))) for colour in COLOURS}
    weak = blended(frames, to_pixels(plain), STRENGTHS[WEAK])
    for variant, (prompt, target) in {**targets, SLIGHTLY: (f"{SLIGHTLY} {PROMPTS[look]}", weak)}.items():
        ours = player.play(frames, ((prompt, 1.0),))
        found = (quality.psnr(each[CHUNK:], target[CHUNK:]) for each in (ours, frames))
        yield Variant(clip, (width, height), look, variant, *found)


def in_colour(look: str, colour: str) -> str:
    """The prompt of a look in a colour."""
    return PROMPTS[look] if colour == "none" else f"{vocabulary.COLOUR_WORDS[colour][0]} {PROMPTS[look]}"


def knobs_of(player: Player, frames: Pixels, look: str, drift_db: float | None) -> Knobs:
    """Turn each knob on a still picture."""
    still, short = np.repeat(frames[:1], 8 * CHUNK, 0), np.repeat(frames[:1], 2 * CHUNK, 0)
    target = drawn(frames[:1], look)

    def apart(one: Pixels, two: Pixels) -> float:
        return float(np.abs(one.astype(np.float32) - two).mean())

    strengths = [
        apart(player.play(short, asking(look), noise=noise)[-1:], still[:1])
        for noise in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ]
    other = PROMPTS["oil"] if look != "oil" else PROMPTS["pencil"]
    blend = [
        player.play(short, ((other, 1 - share), (PROMPTS[look], share)))[-1:]
        for share in np.linspace(0.001, 0.999, 11).tolist()
    ]
    steps = [apart(one, two) for one, two in itertools.pairwise(blend)]
    seeds = [player.play(short, asking(look), seed=seed)[-1:] for seed in (1, 2)]
    return Knobs(
        look=look,
        flicker=quality.flicker(player.play(still, asking(look))[4 * CHUNK :]),
        strengths=strengths,
        largest_step=max(steps) / max(apart(blend[0], blend[-1]), 1e-3),
        seeds=apart(*seeds),
        seed_psnr=(quality.psnr(seeds[0], target), quality.psnr(seeds[1], target)),
        drift_db=drift_db,
    )


def drift(player: Player, frames: Pixels, look: str, chunks: int) -> float:
    """A clip forwards and backwards without end; the last tenth of the chunks against the first, in dB."""
    there_and_back = np.concatenate([frames, frames[::-1]])
    target = drawn(there_and_back, look)
    pieces, wanted = (np.split(x, len(x) // CHUNK) for x in (there_and_back, target))
    settings = ChunkSettings(mix=asking(look), noise_max=SIGMA, noise_min=SIGMA)
    played = player.stream(itertools.islice(itertools.cycle(pieces), chunks), settings)
    found = [quality.psnr(ours, wanted[k % len(pieces)]) for k, ours in enumerate(played)]
    tenth = max(1, chunks // 10 // len(pieces)) * len(pieces)
    # From the second round on: the first begins without a past.
    return float(np.mean(found[-tenth:]) - np.mean(found[len(pieces) : len(pieces) + tenth]))


def colour_tiles(player: Player, frames: Pixels) -> Iterator[Tile]:
    """Source, target and ours of an oil painting in each colour."""
    for colour in COLOURS:
        target = drawn(frames[-4:-3], "oil", colour)[0]
        yield colour, np.hstack([frames[-4], target, player.play(frames, ((in_colour("oil", colour), 1.0),))[-4]])
