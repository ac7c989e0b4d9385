"""The stages that make the pocket model. Owns: losses, guards, and what each stage trains and freezes.

Order: words (text encoder, then frozen), a (plain autoencoder; its decoder is thrown away, its encoder frozen), b (the
styled decoder, on latents of the finished targets), c (the DiT, in latents), d (decoder and DiT together, on pictures).
Each stage starts from the averaged weights of the ones before.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdv2live.engine.model.attention import BlockCausalAttention
from sdv2live.engine.model.pocket_codec import FRAMES, LATENT_CHANNELS, PocketCodec, Side
from sdv2live.engine.model.pocket_text import PocketTextEncoder
from sdv2live.engine.model.wan_transformer import POCKET, WanTransformer
from sdv2live.training import words
from sdv2live.training.batches import Batches
from sdv2live.training.data import LARGE, SMALL, PoolSpec
from sdv2live.training.loop import Budget, Loop, Workers, averaged, keep_freed_memory

LATENT_STD_RANGE = (0.2, 1.0)


class GuardError(RuntimeError):
    """A network went where training must not go on."""


class PlainDecoder(nn.Module):
    """Latent to pictures with no style, no source and no memory, so that the latent must carry everything."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, 96, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(96, 96, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(96, FRAMES * 4 * 40, 1),
        )
        self.near = nn.Sequential(
            nn.Conv2d(40, 40, 3, padding=1), nn.SiLU(), nn.Conv2d(40, 40, 3, padding=1), nn.SiLU(), nn.Conv2d(40, 48, 1)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=1.4 / (layer.in_channels * layer.kernel_size[0] ** 2) ** 0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, latent: Tensor) -> Tensor:
        """[B, n, 16, h, w] -> [B, 4n, 3, 8h, 8w]."""
        rows = latent.shape[0]
        x = self.body(latent.flatten(0, 1)).unflatten(1, (FRAMES, -1)).flatten(0, 1)
        return F.pixel_shuffle(self.near(F.pixel_shuffle(x, 2)), 4).unflatten(0, (rows, -1))


def chroma(x: Tensor) -> Tensor:
    return x - x.mean(-3, keepdim=True)


def gradient_loss(ours: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the neighbour differences."""
    error = ours - target
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def picture_loss(ours: Tensor, target: Tensor) -> Tensor:
    """Distance of pictures in [-1, 1]; what lies on the target's edges counts up to four times.

    Without the edges' weight a mostly black look (neon) is learned as black.
    """
    with torch.no_grad():
        edge = F.pad(target.diff(dim=-1).abs(), (1, 0)) + F.pad(target.diff(dim=-2).abs(), (0, 0, 1, 0))
        weight = 1 + 3 * (4 * edge.mean(-3, keepdim=True)).clamp(0, 1)
    error = ours - target
    weighted = (weight * (error.abs() + error.square())).mean()
    return weighted + gradient_loss(ours, target) + 0.5 * (chroma(ours) - chroma(target)).abs().mean()


def check_latents(latent: Tensor, step: int) -> float:
    """Standard deviation of raw latents; a collapsed encoder makes the DiT decoration."""
    std = float(latent.detach().std())
    if step > 300 and not LATENT_STD_RANGE[0] <= std <= LATENT_STD_RANGE[1] * 1.5:
        raise GuardError(f"step {step}: the latent's standard deviation is {std:.3f}, outside {LATENT_STD_RANGE}")
    return std


def check_output(frames: Tensor, step: int) -> None:
    if step > 50 and float(frames.detach().std()) < 1e-3:
        raise GuardError(f"step {step}: the decoder draws one flat colour")


def psnr(ours: Tensor, target: Tensor) -> float:
    """dB, of pictures in [-1, 1]."""
    error = (ours.detach().clamp(-1, 1) - target).square().mean()
    return float(10 * torch.log10(4 / error))


def stage_a(work: Path, budget: Budget, *, seed: int, device: torch.device) -> None:
    """Plain autoencoder, then the latents' mean and deviation into the codec's buffers."""
    keep_freed_memory()
    torch.manual_seed(seed)
    codec = PocketCodec().to(device, memory_format=torch.channels_last)
    plain = PlainDecoder().to(device, memory_format=torch.channels_last)
    batches = Batches(work / "pools", None, device)
    loop = Loop(
        "a",
        work,
        {"codec": codec, "plain": plain},
        [*codec.encoder_parameters(), *plain.parameters()],
        budget=budget,
        seed=seed,
        peak_lr=1.5e-3,
    )
    for rng in loop.steps():
        if loop.step % 100 == 0:
            for pool in batches.pools.values():
                pool.refresh()
        frames = batches.plain(rng, 4, 4, 96)
        latent, _ = codec.raw_latent(frames)
        ours = plain(latent + 0.1 * torch.randn_like(latent))
        error = (ours - frames).abs().mean() + 2 * (chroma(ours) - chroma(frames)).abs().mean()
        # Each channel's mean square between 0.15 and 0.7: neither silent nor shouting over the noise.
        power = latent.square().mean((0, 1, 3, 4))
        bound = (F.relu(power - 0.7) + 3 * F.relu(0.15 - power)).mean()
        loss = error + 0.5 * gradient_loss(ours, frames) + 0.3 * bound
        loop.update(loss, std=check_latents(latent, loop.step), psnr=psnr(ours, frames))
    codec.load_state_dict(loop.average["codec"])
    latents = []
    with torch.no_grad():
        for index in range(40):
            frames = batches.plain(np.random.default_rng((seed, 1, index)), 4, 4, 96)
            latents.append(codec.raw_latent(frames)[0])
    stacked = torch.cat(latents).transpose(0, 2).flatten(1)
    codec.latent_mean.copy_(stacked.mean(1))
    codec.latent_std.copy_(stacked.std(1))
    loop.average["codec"] = {key: value.clone() for key, value in codec.state_dict().items()}
    loop.save()


def stage_words(work: Path, budget: Budget, *, seed: int, device: torch.device) -> None:
    """The text encoder as a classifier of prompts; frozen afterwards."""
    torch.manual_seed(seed)
    text = PocketTextEncoder(words.LOOK_NAMES, words.COLOUR_NAMES).to(device)
    loop = Loop(
        "words",
        work,
        {"text": text},
        list(text.parameters()),
        budget=budget,
        seed=seed,
        peak_lr=4e-3,
        betas=(0.9, 0.99),
    )
    for rng in loop.steps():
        drawn = [words.draw(rng) for _ in range(192)]
        looks, colours, unknown = text.logits([reading.text for reading in drawn])
        loss = (
            F.cross_entropy(looks, _floats([r.looks for r in drawn], device))
            + F.cross_entropy(colours, _floats([r.colours for r in drawn], device))
            + 0.5 * F.binary_cross_entropy_with_logits(unknown, _floats([r.unknown for r in drawn], device))
        )
        loop.update(loss)


def _floats(values: object, device: torch.device) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32, device=device)


def load_text(work: Path, device: torch.device) -> PocketTextEncoder:
    """The frozen text encoder."""
    text = PocketTextEncoder(words.LOOK_NAMES, words.COLOUR_NAMES)
    text.load_state_dict(averaged(work, "words", "text"))
    return text.to(device).eval().requires_grad_(False)


def prompt_tokens(text: PocketTextEncoder, *, seed: int, wordings: int = 8) -> Tensor:
    """Tokens of drawn prompts for every look and colour: [looks, colours, wordings, 8, 128], on the CPU."""
    rng = np.random.default_rng((seed, 77))
    rows = [
        text.encode([words.draw(rng, look, colour).text for _ in range(wordings)]).cpu()
        for look in range(len(words.LOOK_NAMES))
        for colour in range(len(words.COLOUR_NAMES))
    ]
    return torch.stack(rows).unflatten(0, (len(words.LOOK_NAMES), len(words.COLOUR_NAMES)))


def load_codec(work: Path, stage: str, device: torch.device) -> PocketCodec:
    """The codec as a stage left it, its encoder frozen."""
    codec = PocketCodec()
    codec.load_state_dict(averaged(work, stage, "codec"))
    codec = codec.to(device, memory_format=torch.channels_last)
    for parameter in codec.encoder_parameters():
        parameter.requires_grad_(False)
    return codec


def decode_clip(codec: PocketCodec, latent: Tensor, side: Side, style: Tensor, keep: Tensor | None = None) -> Tensor:
    """A whole clip from a fresh memory."""
    memory = codec.new_memory(latent.shape[0], 8 * latent.shape[-2], 8 * latent.shape[-1], style.dtype, latent.device)
    return codec.decode(latent, side, style, memory, keep)


def stage_b(work: Path, budget: Budget, *, seed: int, device: torch.device) -> None:
    """The styled decoder on latents of the finished targets, with the source ports closed now and then."""
    keep_freed_memory()
    torch.manual_seed(seed)
    codec = load_codec(work, "a", device)
    text = load_text(work, device)
    batches = Batches(work / "pools", prompt_tokens(text, seed=seed), device)
    loop = Loop("b", work, {"codec": codec}, codec.decoder_parameters(), budget=budget, seed=seed, peak_lr=1.5e-3)
    for rng in loop.steps():
        batch = batches.styled(rng, 4, 4 if rng.random() < 0.7 else 8, 96)
        with torch.no_grad():
            _, side = codec.encode(batch.source)
            latent = codec.normalise(codec.raw_latent(batch.target)[0])
            # What the DiT will give is not exact: a share of the rows gets up to 40 % noise.
            amount = torch.rand(latent.shape[0], 1, 1, 1, 1, device=device) * 0.4
            amount = amount * (torch.rand_like(amount) < 0.2)
            latent = torch.lerp(latent, torch.randn_like(latent), amount)
            keep = (torch.rand(latent.shape[0], device=device) > 0.25).float()
        style = codec.style(batch.tokens, batch.noise_scale)
        ours = decode_clip(codec, latent, side, style, keep)
        check_output(ours, loop.step)
        loop.update(picture_loss(ours, batch.target), psnr=psnr(ours, batch.target))


def attention_for(latents: Tensor) -> BlockCausalAttention:
    """The past that frame f of a training clip may see: frames 0 to f, as in the live window."""
    _, frames, _, height, width = latents.shape
    return BlockCausalAttention(
        head_dim=POCKET.head_dim, grid_hw=(height // 2, width // 2), frames=frames, device=latents.device
    )


def denoise(dit: WanTransformer, noisy: Tensor, sigma: Tensor, tokens: Tensor) -> Tensor:
    """noisy latents [B, F, 16, h, w], sigma [B], tokens [B, 8, 128] -> estimate of the clean latents."""
    timesteps = (1000 * sigma)[:, None].expand(-1, noisy.shape[1])
    flow = dit(noisy, timesteps, dit.encode_text(tokens), attention_for(noisy))
    return noisy - sigma.view(-1, 1, 1, 1, 1) * flow


@dataclass(frozen=True)
class LatentBank:
    """Clips encoded once, so that the DiT's training is not mostly encoding.

    source [clips, F, 16, h, w], target [clips, variants, F, 16, h, w] (half floats), tokens [clips, variants, 8, 128],
    noise_scale [clips, variants].
    """

    source: Tensor
    target: Tensor
    tokens: Tensor
    noise_scale: Tensor

    def draw(self, rng: np.random.Generator, rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """source, target, tokens, noise_scale of random clips and variants."""
        clips = torch.from_numpy(rng.integers(len(self.source), size=rows))
        variants = torch.from_numpy(rng.integers(self.target.shape[1], size=rows))
        drawn = (
            self.source[clips],
            self.target[clips, variants],
            self.tokens[clips, variants],
            self.noise_scale[clips, variants],
        )
        source, target, tokens, noise_scale = (tensor.to(device, torch.float32) for tensor in drawn)
        return source, target, tokens, noise_scale


@torch.no_grad()
def latent_bank(
    work: Path, codec: PocketCodec, batches: Batches, spec: PoolSpec, *, variants: int, seed: int, device: torch.device
) -> LatentBank:
    """The bank of a pool, made once and kept in the work folder."""
    path = work / f"bank-{spec.name}.pt"
    if path.exists():
        return LatentBank(**torch.load(path, weights_only=True))
    rows: dict[str, list[Tensor]] = {"source": [], "target": [], "tokens": [], "noise_scale": []}
    for clip in batches.pools[spec.name].ready.tolist():
        rng = np.random.default_rng((seed, 2, spec.side_px, clip))
        batch = batches.variants(rng, spec.name, clip, variants)
        rows["source"].append(codec.encode(batch.source[:1])[0][0].half())
        rows["target"].append(
            torch.cat([codec.normalise(codec.raw_latent(one)[0]) for one in batch.target.split(1)]).half()
        )
        rows["tokens"].append(batch.tokens)
        rows["noise_scale"].append(batch.noise_scale)
    bank = {name: torch.stack(tensors).cpu() for name, tensors in rows.items()}
    part = path.with_suffix(".part")
    torch.save(bank, part)
    os.replace(part, path)
    return LatentBank(**bank)


def stage_c(work: Path, budget: Budget, *, seed: int, device: torch.device) -> None:
    """The DiT in latents: from the noised source to the target, a quarter of the steps a later denoising step."""
    keep_freed_memory()
    torch.manual_seed(seed)
    codec = load_codec(work, "a", device).requires_grad_(False)
    batches = Batches(work / "pools", prompt_tokens(load_text(work, device), seed=seed), device)
    small = latent_bank(work, codec, batches, SMALL, variants=28, seed=seed, device=device)
    large = latent_bank(work, codec, batches, LARGE, variants=28, seed=seed, device=device)
    dit = WanTransformer(POCKET).to(device)
    loop = Loop(
        "c", work, {"dit": dit}, list(dit.parameters()), budget=budget, seed=seed, peak_lr=1e-3, betas=(0.9, 0.98)
    )
    for rng in loop.steps():
        bank, rows = (large, 2) if loop.step % 5 == 4 else (small, 6)
        source, target, tokens, sigma = bank.draw(rng, rows, device)
        noise = torch.randn_like(source)
        # Noise fixed over time is the default while running: half of the rows have the same in every frame.
        is_fixed = torch.rand(rows, 1, 1, 1, 1, device=device) < 0.5
        noise = torch.where(is_fixed, noise[:, :1], noise)
        noisy = torch.lerp(source, noise, sigma.view(-1, 1, 1, 1, 1))
        if rng.random() < 0.25:
            later = sigma * float(rng.uniform(0.3, 0.9))
            with torch.no_grad():
                start = target if rng.random() < 0.5 else denoise(dit, noisy, sigma, tokens)
            noisy, sigma = torch.lerp(start, noise, later.view(-1, 1, 1, 1, 1)), later
        ours = denoise(dit, noisy, sigma, tokens)
        mse = (ours - target).square().mean()
        loop.update(mse + 0.2 * (ours - target).abs().mean(), mse=float(mse.detach()))


def stage_d(work: Path, budget: Budget, *, seed: int, device: torch.device, workers: int = 2) -> None:
    """Decoder and DiT together, one step from the noised source to pictures."""
    keep_freed_memory()
    torch.manual_seed(seed)
    codec = load_codec(work, "b", device)
    batches = Batches(work / "pools", prompt_tokens(load_text(work, device), seed=seed), device)
    dit = WanTransformer(POCKET).to(device)
    dit.load_state_dict(averaged(work, "c", "dit"))
    modules: dict[str, nn.Module] = {"codec": codec, "dit": dit}
    parameters = [*codec.decoder_parameters(), *dit.parameters()]
    loop = Loop("d", work, modules, parameters, budget=budget, seed=seed, peak_lr=6e-4)
    team = Workers(modules, workers)
    for rng in loop.steps():
        generators = rng.spawn(workers)

        def loss_of(
            nets: dict[str, Any], worker: int, generators: list[np.random.Generator] = generators
        ) -> tuple[Tensor, dict[str, float]]:
            return _joint_loss(nets["codec"], nets["dit"], batches, generators[worker], loop.step)

        loop.apply(**team.gradients(loss_of))


def _joint_loss(
    codec: PocketCodec, dit: WanTransformer, batches: Batches, rng: np.random.Generator, step: int
) -> tuple[Tensor, dict[str, float]]:
    """What the live engine does to a clip, against the drawn target."""
    batch = batches.styled(rng, 2, 8 if rng.random() < 0.5 else 4, 128)
    device = batch.source.device
    with torch.no_grad():
        source, side = codec.encode(batch.source)
        target = codec.normalise(codec.raw_latent(batch.target)[0])
        shape = source[:, :1].shape if rng.random() < 0.7 else source.shape
        noise = torch.from_numpy(rng.standard_normal(shape, np.float32)).to(device).expand_as(source)
        noisy = torch.lerp(source, noise, batch.noise_scale.view(-1, 1, 1, 1, 1))
        keep = torch.from_numpy((rng.random(len(source)) > 0.1).astype(np.float32)).to(device)
    latent = denoise(dit, noisy, batch.noise_scale, batch.tokens)
    ours = decode_clip(codec, latent, side, codec.style(batch.tokens, batch.noise_scale), keep)
    check_output(ours, step)
    mse = (latent - target).square().mean()
    return picture_loss(ours, batch.target) + 0.3 * mse, {"psnr": psnr(ours, batch.target), "mse": float(mse.detach())}


STAGES = {"words": stage_words, "a": stage_a, "b": stage_b, "c": stage_c, "d": stage_d}
