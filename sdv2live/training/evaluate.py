"""How good the pocket model is on pictures it never saw. Owns: the held-out clips, the runs, the contact sheets.

Knows the exported weights alone and plays them through the live engine, chunk after chunk; the figures are `quality`,
the tables `report`. A clip is measured from its second chunk on, against the look drawn at that noise scale: its blend
with the source under 0.5. Noise is fixed over time, one seed; a difference under 0.5 dB is noise.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdv2live.engine.base import Chunk, ChunkSettings, EngineSpec
from sdv2live.engine.model.pocket_codec import PocketCodec
from sdv2live.engine.model.pocket_text import PocketTextEncoder, strength_of_noise
from sdv2live.engine.model.wan_transformer import WanConfig, WanTransformer
from sdv2live.engine.pocket import build_pocket
from sdv2live.frames import Pixels
from sdv2live.training import quality, vocabulary
from sdv2live.training.effects import COLOURS, LOOKS
from sdv2live.training.quality import Figures
from sdv2live.training.scenes import package_file, read_picture
from sdv2live.training.train import channels_last, decode_clip, denoise

SIZES_WH = ((256, 256), (384, 224))
FRAMES, CHUNK = 12, 4
VIDEO = "video"
SHEET_BAND_PX = 20
Mix = tuple[tuple[str, float], ...]
Tile = tuple[str, Pixels]  # what it is called, and it
SIGMA = 0.5
NOISES, STEPS = (0.2, 0.5, 0.7), (1, 2)
DRIFT_CHUNKS, DRIFT_SIZE_WH = 500, (128, 128)
PROMPTS = {name: phrases[0] for name, phrases in vocabulary.LOOK_WORDS.items()}


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


def still_with_motion(picture: Pixels, scale: float, size_wh: tuple[int, int]) -> Pixels:
    """A slow pan, zoom and turn over a picture, [T, H, W, 3]; scale is source pixels for an output pixel."""
    if scale > 1.3:
        picture = np.asarray(cv2.resize(picture, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA))
        scale = 1.0
    middle = np.array([picture.shape[1] / 2, picture.shape[0] / 2])
    out = np.empty((FRAMES, size_wh[1], size_wh[0], 3), np.uint8)
    for t in range(FRAMES):
        matrix = cv2.getRotationMatrix2D(middle.tolist(), 0.25 * t, (1 + 0.004 * t) / scale)
        matrix[:, 2] += np.array(size_wh) / 2 - middle + np.array([0.8, -0.5]) * t
        out[t] = cv2.warpAffine(picture, matrix, size_wh, borderMode=cv2.BORDER_REFLECT_101)
    return out


def video_frames(path: Path, count: int, size_wh: tuple[int, int]) -> Pixels:
    """The first frames of a video, its middle cut to the size's shape and resized."""
    video = cv2.VideoCapture(str(path))
    frames: list[Pixels] = []
    while len(frames) < count:
        is_read, frame = video.read()
        if not is_read:
            break
        scale = min(frame.shape[1] / size_wh[0], frame.shape[0] / size_wh[1])
        width, height = (int(side * scale) for side in size_wh)
        top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
        middle = frame[top : top + height, left : left + width]
        frames.append(np.asarray(cv2.resize(middle, size_wh, interpolation=cv2.INTER_AREA)[..., ::-1], np.uint8))
    video.release()
    if len(frames) < count:
        raise ValueError(f"{path} has {len(frames)} frames, {count} are needed")
    return np.stack(frames)


def held_out_clips(video: Path | None, size_wh: tuple[int, int]) -> dict[str, Pixels]:
    """A cat, a face, and a video if one is given: [T, H, W, 3] uint8."""
    pictures = {"chelsea": 1.1, "astronaut": 1.8}
    clips = {
        name: still_with_motion(read_picture(package_file("skimage", f"data/{name}.png")), scale, size_wh)
        for name, scale in pictures.items()
    }
    if video is not None:
        clips[VIDEO] = video_frames(video, FRAMES, size_wh)
    return clips


def to_planar(frames: Pixels) -> Tensor:
    """[T, H, W, 3] uint8 -> [1, T, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[None].float() / 127.5 - 1


def drawn(frames: Pixels, look: str, colour: str = "none") -> Pixels:
    """The target at full strength: the look drawn, [T, H, W, 3] uint8."""
    target = COLOURS[colour](LOOKS[look](to_planar(frames)[0] / 2 + 0.5))
    return np.asarray((target.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())


def blended(frames: Pixels, target: Pixels, noise: float) -> Pixels:
    """As much of the target over the source as a noise scale asks for."""
    strength = float(strength_of_noise(torch.tensor(noise)))
    mixed = frames.astype(np.float32) * (1 - strength) + target.astype(np.float32) * strength
    return np.asarray(mixed.round(), np.uint8)


@torch.no_grad()
def restyle(model: Model, source: Tensor, prompt: str, *, sigma: float = SIGMA) -> tuple[Tensor, Tensor]:
    """One denoising step over a whole clip -> (pictures, the same with the DiT's latent put to nought)."""
    device = source.device
    latent, side = model.codec.encode(source)
    noise = torch.randn(latent[:, :1].shape, generator=torch.Generator().manual_seed(1)).to(device)
    scale = torch.full((1,), sigma, device=device)
    tokens = model.text.weakened(model.text.encode([prompt]), scale)
    clean = denoise(model.dit, torch.lerp(latent, noise.expand_as(latent), sigma), scale, tokens)
    style = model.codec.style(tokens, scale)
    return decode_clip(model.codec, clean, side, style), decode_clip(model.codec, torch.zeros_like(clean), side, style)


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
    """One look on one clip at one size. figures by "noise / steps"; zero_cost_db: what a latent of nought costs."""

    clip: str
    size_wh: tuple[int, int]
    look: str
    figures: dict[str, Figures]
    zero_cost_db: float


@dataclass(frozen=True)
class Knobs:
    """What the knobs do to a look on one picture, in grey levels of 255 unless said.

    flicker: of a still picture. strengths: distance from the source by rising noise. largest_step: of a blend from oil
    in ten steps, as a share of the way. seeds: distance between two seeds; seed_psnr: their PSNR to the target, in dB.
    drift_db: PSNR to the target in the last tenth of DRIFT_CHUNKS chunks less that in the first.
    """

    look: str
    flicker: float
    strengths: list[float]
    largest_step: float
    seeds: float
    seed_psnr: tuple[float, float]
    drift_db: float


@dataclass
class Evaluation:
    rows: list[Row] = field(default_factory=list)
    knobs: list[Knobs] = field(default_factory=list)


def evaluate(
    folder: Path, out: Path, *, video: Path | None, looks: list[str], drift_chunks: int, precision: str = "auto"
) -> Evaluation:
    """All looks on all held-out clips and sizes; writes evaluation.json and contact sheets into `out`.

    drift_chunks: 0 leaves drift out.
    """
    model = load_model(folder, torch.device("cpu"))
    out.mkdir(parents=True, exist_ok=True)
    found = Evaluation()
    for size_wh in SIZES_WH:
        player = Player(folder, size_wh, precision)
        for clip, frames in held_out_clips(video, size_wh).items():
            motions = quality.motions(frames[CHUNK:])
            tiles: list[Tile] = []
            for look in looks:
                print(f"evaluate: {size_wh[0]}x{size_wh[1]}, {clip}, {look}", file=sys.stderr, flush=True)
                figures, full = {}, drawn(frames, look)
                for noise in NOISES:
                    target = blended(frames, full, noise)[CHUNK:]
                    for steps in STEPS:
                        ours = player.play(frames, asking(look), noise=noise, steps=steps)[CHUNK:]
                        figures[f"{noise} / {steps}"] = quality.figures_of(ours, target, frames[CHUNK:], motions)
                        if (noise, steps) == (SIGMA, 1):
                            tiles.append((look, np.hstack([frames[-4], target[-4], ours[-4]])))
                found.rows.append(Row(clip, size_wh, look, figures, zero_cost_db(model, frames, full, look)))
            write_sheet(out / f"looks-{clip}-{size_wh[0]}x{size_wh[1]}.jpg", tiles)
    player = Player(folder, SIZES_WH[0], precision)
    clips = held_out_clips(video, SIZES_WH[0])
    for clip, frames in clips.items():
        write_sheet(out / f"colours-{clip}.jpg", list(colour_tiles(player, frames)))
    small = Player(folder, DRIFT_SIZE_WH, precision)
    loop = held_out_clips(video, DRIFT_SIZE_WH)[list(clips)[-1]]
    for look in looks:
        print(f"evaluate: knobs, {look}", file=sys.stderr, flush=True)
        drift_db = drift(small, loop, look, drift_chunks) if drift_chunks else float("nan")
        found.knobs.append(knobs_of(player, clips["chelsea"], look, drift_db))
    (out / "evaluation.json").write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")
    return found


def zero_cost_db(model: Model, frames: Pixels, target: Pixels, look: str) -> float:
    """What it costs when the decoder is given a latent of nought, in dB of PSNR to the target."""
    ours, zero = restyle(model, to_planar(frames), PROMPTS[look])
    with_latent, without = (
        ((x[0, CHUNK:].clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy() for x in (ours, zero)
    )
    return quality.psnr(with_latent, target[CHUNK:]) - quality.psnr(without, target[CHUNK:])


def knobs_of(player: Player, frames: Pixels, look: str, drift_db: float) -> Knobs:
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
        prompt = PROMPTS["oil"] if colour == "none" else f"{vocabulary.COLOUR_WORDS[colour][0]} {PROMPTS['oil']}"
        target = drawn(frames[-4:-3], "oil", colour)[0]
        yield colour, np.hstack([frames[-4], target, player.play(frames, ((prompt, 1.0),))[-4]])


def write_sheet(path: Path, tiles: list[Tile]) -> None:
    """Source | target | ours, named, two columns of them."""
    named = []
    for name, pixels in tiles:
        band = np.zeros((SHEET_BAND_PX, pixels.shape[1], 3), np.uint8)
        cv2.putText(band, name, (6, SHEET_BAND_PX - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        named.append(np.vstack([band, pixels]))
    half = (len(named) + 1) // 2
    padded = [*named, np.zeros_like(named[0])] if len(named) % 2 else named
    sheet = np.hstack([np.vstack(padded[:half]), np.vstack(padded[half:])])
    cv2.imwrite(str(path), np.ascontiguousarray(sheet[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
