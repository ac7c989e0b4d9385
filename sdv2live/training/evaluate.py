"""How good the pocket model is on pictures it never saw. Owns: the held-out clips, the table and the contact sheets.

Knows the exported weights alone, as the engine does. PSNR is to the drawn target, in dB, over 16-frame windows of one
denoising step with noise fixed over time; a difference under 0.5 dB is noise.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdv2live.engine.model.pocket_codec import PocketCodec
from sdv2live.engine.model.pocket_text import PocketTextEncoder
from sdv2live.engine.model.wan_transformer import WanConfig, WanTransformer
from sdv2live.training import vocabulary
from sdv2live.training.data import Picture, package_file, read_picture
from sdv2live.training.effects import COLOURS, LOOKS
from sdv2live.training.losses import psnr
from sdv2live.training.train import channels_last, decode_clip, denoise

SIDE_PX, FRAMES = 256, 16
SIGMA = 0.5
Z_COST_LOOKS = ("oil", "cel")
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


def still_with_motion(picture: Picture, scale: float, *, is_moving: bool = True) -> Picture:
    """A slow pan, zoom and turn over a picture, [T, S, S, 3]; scale is source pixels for an output pixel."""
    if scale > 1.3:
        picture = cv2.resize(picture, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        scale = 1.0
    out = np.empty((FRAMES, SIDE_PX, SIDE_PX, 3), np.uint8)
    for t in range(FRAMES):
        moved = t * is_moving
        matrix = cv2.getRotationMatrix2D(
            (picture.shape[1] / 2, picture.shape[0] / 2), 0.25 * moved, (1 + 0.004 * moved) / scale
        )
        matrix[:, 2] += (
            np.array([SIDE_PX - picture.shape[1], SIDE_PX - picture.shape[0]]) / 2 + np.array([0.8, -0.5]) * moved
        )
        out[t] = cv2.warpAffine(picture, matrix, (SIDE_PX, SIDE_PX), borderMode=cv2.BORDER_REFLECT_101)
    return out


def video_frames(path: Path, count: int) -> Picture:
    """The first frames of a video, centre-cropped to a square and resized."""
    video = cv2.VideoCapture(str(path))
    frames: list[Picture] = []
    while len(frames) < count:
        is_read, frame = video.read()
        if not is_read:
            break
        side = min(frame.shape[:2])
        top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
        square = frame[top : top + side, left : left + side]
        frames.append(cv2.resize(square, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)[..., ::-1])
    video.release()
    if len(frames) < count:
        raise ValueError(f"{path} has {len(frames)} frames, {count} are needed")
    return np.stack(frames)


def held_out_clips(video: Path | None) -> dict[str, Picture]:
    clips = {
        "chelsea": still_with_motion(read_picture(package_file("skimage", "data/chelsea.png")), 1.1),
        "astronaut": still_with_motion(read_picture(package_file("skimage", "data/astronaut.png")), 1.8),
    }
    if video is not None:
        clips["video"] = video_frames(video, FRAMES)
    return clips


def to_planar(frames: Picture) -> Tensor:
    """[T, S, S, 3] uint8 -> [1, T, 3, S, S] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[None].float() / 127.5 - 1


@torch.no_grad()
def restyle(model: Model, source: Tensor, prompt: str, *, sigma: float = SIGMA) -> tuple[Tensor, Tensor]:
    """One denoising step over a 16-frame clip -> (pictures, the same with the DiT's latent put to nought)."""
    device = source.device
    tokens = model.text.encode([prompt])
    latent, side = model.codec.encode(source)
    noise = torch.randn(latent[:, :1].shape, generator=torch.Generator().manual_seed(1)).to(device)
    scale = torch.full((1,), sigma, device=device)
    clean = denoise(model.dit, torch.lerp(latent, noise.expand_as(latent), sigma), scale, tokens)
    style = model.codec.style(tokens, scale)
    return decode_clip(model.codec, clean, side, style), decode_clip(model.codec, torch.zeros_like(clean), side, style)


@dataclass
class Row:
    """One look on one clip, PSNR in dB: doing nothing, ours, perfect latents, latents of nought, ours at half strength.

    still_flicker: mean difference of following frames of a still picture, in grey levels of 255; the target's is 0.
    """

    clip: str
    look: str
    nothing: float
    ours: float
    oracle: float
    zero: float
    half: float
    still_flicker: float


@torch.no_grad()
def evaluate(folder: Path, out: Path, *, video: Path | None, device: torch.device) -> list[Row]:
    """All looks on all held-out clips; writes evaluation.json and a contact sheet a clip into `out`."""
    model = load_model(folder, device)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for clip_name, frames in held_out_clips(video).items():
        source = to_planar(frames).to(device)
        still = source[:, :1].expand(-1, 8, -1, -1, -1).contiguous()
        tiles = []
        for look in LOOKS:
            prompt = PROMPTS[look]
            target = LOOKS[look](source[0] / 2 + 0.5)[None] * 2 - 1
            ours, zero = restyle(model, source, prompt)
            style = model.codec.style(model.text.encode([prompt]), torch.full((1,), SIGMA, device=device))
            perfect = model.codec.normalise(model.codec.raw_latent(target)[0])
            oracle = decode_clip(model.codec, perfect, model.codec.encode(source)[1], style)
            blend = torch.lerp(source, target, 0.5)[:, :8]
            half = restyle(model, source[:, :8], prompt, sigma=SIGMA / 2)[0]
            quiet = restyle(model, still, prompt)[0][:, 4:].clamp(-1, 1)
            rows.append(
                Row(
                    clip_name,
                    look,
                    min(psnr(source, target), 99.0),
                    psnr(ours, target),
                    psnr(oracle, target),
                    psnr(zero, target),
                    psnr(half, blend),
                    float(quiet.diff(dim=1).abs().mean()) * 127.5,
                )
            )
            tiles.append(torch.cat([source[0, 9], target[0, 9], ours[0, 9]], 2))
        _write_sheet(out / f"looks-{clip_name}.png", tiles)
        grades = []
        for colour in COLOURS:
            phrase = PROMPTS["oil"] if colour == "none" else f"{vocabulary.COLOUR_WORDS[colour][0]} {PROMPTS['oil']}"
            target = COLOURS[colour](LOOKS["oil"](source[0, 9:10] / 2 + 0.5))[0] * 2 - 1
            grades.append(torch.cat([source[0, 9], target, restyle(model, source[:, 8:12], phrase)[0][0, 1]], 2))
        _write_sheet(out / f"colours-{clip_name}.png", grades)
    (out / "evaluation.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    return rows


def _write_sheet(path: Path, tiles: list[Tensor]) -> None:
    """Source | target | ours, two columns of them."""
    half = (len(tiles) + 1) // 2
    padded = [*tiles, torch.full_like(tiles[0], -1)] if len(tiles) % 2 else tiles
    sheet = torch.cat([torch.cat(padded[:half], 1), torch.cat(padded[half:], 1)], 2)
    picture = ((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]))


def table(rows: list[Row]) -> str:
    """The rows as Markdown, with what the DiT's latent is worth (ours minus zero)."""
    lines = [
        "| clip | look | nothing | ours | perfect latents | latent of nought costs | half strength | flicker |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r.clip} | {r.look} | {r.nothing:.1f} | {r.ours:.1f} | {r.oracle:.1f} | {r.ours - r.zero:.1f} "
        f"| {r.half:.1f} | {r.still_flicker:.2f} |"
        for r in rows
    ]
    for look in Z_COST_LOOKS:
        cost = float(np.mean([r.ours - r.zero for r in rows if r.look == look]))
        lines.append(
            f"\n{look}: a latent of nought costs {cost:.1f} dB ({'at least' if cost >= 1 else 'UNDER'} the 1 dB asked)."
        )
    return "\n".join(lines)
