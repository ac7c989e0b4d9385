"""The stages that make the pocket model. Owns: what each stage trains, on what, and what it freezes.

Order: words (text encoder, then frozen), a (plain autoencoder; its decoder is thrown away, its encoder frozen), b (the
styled decoder, on latents of the finished targets), c (the DiT, in latents), d (decoder and DiT together, on pictures).
Each stage starts from the averaged weights of the ones before.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdv2live.engine.host_memory import keep_freed_memory
from sdv2live.engine.model.attention import BlockCausalAttention
from sdv2live.engine.model.pocket_codec import FRAMES, LATENT_CHANNELS, PocketCodec, Side, depth_to_space
from sdv2live.engine.model.wan_transformer import POCKET, WanTransformer
from sdv2live.training.bank import FreshLatents, LatentBank, latent_bank
from sdv2live.training.batches import Batch, Batches, Clips, FreshClips, PoolClips
from sdv2live.training.effects import STROKE_LOOKS
from sdv2live.training.export import WINDOW
from sdv2live.training.loop import Budget, Loop, Workers
from sdv2live.training.losses import (
    check_cost,
    check_latents,
    check_output,
    chroma,
    gradient_loss,
    picture_loss,
    psnr,
    steadiness_loss,
    texture_loss,
)
from sdv2live.training.noise import draw_noise, later_scale
from sdv2live.training.pools import LARGE, SMALL, PoolSpec
from sdv2live.training.progress import Progress
from sdv2live.training.scenes import scene_bank
from sdv2live.training.setup import Setup
from sdv2live.training.train_words import load_text, stage_words


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
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, latent: Tensor) -> Tensor:
        """[B, n, 16, h, w] -> [B, 4n, 3, 8h, 8w]."""
        rows = latent.shape[0]
        cells = self.near(depth_to_space(self.body(latent.flatten(0, 1)), FRAMES))
        return depth_to_space(depth_to_space(cells)).unflatten(0, (rows, -1))


def channels_last(network: nn.Module) -> None:
    """Convolution weights in the memory order that is fastest on CPUs and GPUs, in place."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def clips_of(setup: Setup) -> Clips:
    """Where this run's clips come from."""
    if not setup.fresh:
        return PoolClips(setup.work / "pools")
    processes = min(os.cpu_count() or 1, 16)
    return FreshClips(scene_bank(setup.work, seed=setup.seed, processes=processes).to(setup.device))


def stage_a(setup: Setup, budget: Budget) -> None:
    """Plain autoencoder, then the latents' mean and deviation into the codec's buffers."""
    keep_freed_memory()
    torch.manual_seed(setup.seed)
    codec, plain = PocketCodec(), PlainDecoder()
    for network in (codec, plain):
        channels_last(network.to(setup.device))
    batches = Batches(clips_of(setup), None, setup.device)
    loop = Loop(
        "a",
        setup.work,
        {"codec": codec, "plain": plain},
        {1.5e-3: [*codec.encoder_parameters(), *plain.parameters()]},
        budget=budget,
        seed=setup.seed,
        run=setup.run,
    )
    for rng in loop.steps():
        frames = batches.plain(rng, 4 * setup.batch, 4, 96)
        with setup.forward():
            latent, _ = codec.raw_latent(frames)
            ours = plain(latent + 0.1 * torch.randn_like(latent)).float()
        latent = latent.float()
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
            frames = batches.plain(np.random.default_rng((setup.seed, 1, index)), 4, 4, 96)
            latents.append(codec.raw_latent(frames)[0])
    stacked = torch.cat(latents).transpose(0, 2).flatten(1)
    codec.latent_mean.copy_(stacked.mean(1))
    codec.latent_std.copy_(stacked.std(1))
    loop.average["codec"] = {key: value.clone() for key, value in codec.state_dict().items()}
    loop.save()


def load_codec(setup: Setup, stage: str) -> PocketCodec:
    """The codec as a stage left it, its encoder frozen."""
    codec = PocketCodec()
    setup.load(codec, "codec", stage)
    channels_last(codec.to(setup.device))
    for parameter in codec.encoder_parameters():
        parameter.requires_grad_(False)
    return codec


def decode_clip(codec: PocketCodec, latent: Tensor, side: Side, style: Tensor, keep: Tensor | None = None) -> Tensor:
    """A whole clip from a fresh memory."""
    memory = codec.new_memory(latent.shape[0], 8 * latent.shape[-2], 8 * latent.shape[-1], style.dtype, latent.device)
    return codec.decode(latent, side, style, memory, keep)


def style_of(codec: PocketCodec, batch: Batch) -> Tensor:
    """One style for the rows that are alike, [B / alike, 64]."""
    style: Tensor = codec.style(batch.tokens[:: batch.alike], batch.noise_scale[:: batch.alike])
    return style


def stage_b(setup: Setup, budget: Budget) -> None:
    """The styled decoder on latents of the finished targets, with the source ports closed now and then."""
    keep_freed_memory()
    torch.manual_seed(setup.seed)
    codec = load_codec(setup, "a")
    batches = Batches(clips_of(setup), load_text(setup), setup.device, setup.seed)
    parameters = {1.5e-3 * setup.rate: codec.decoder_parameters()}
    loop = Loop(
        "b",
        setup.work,
        {"codec": codec},
        parameters,
        budget=budget,
        seed=setup.seed,
        start=setup.start,
        run=setup.run,
        on_checkpoint=Progress({"codec": codec}, batches, _redrawn, seed=setup.seed),
    )
    for rng in loop.steps():
        batch = batches.styled(rng, 4 * setup.batch, 4 if rng.random() < 0.7 else 8, 96)
        with torch.no_grad():
            _, side = codec.encode(batch.source)
            latent = codec.normalise(codec.raw_latent(batch.target)[0])
            # What the DiT will give is not exact: a share of the rows gets up to 40 % noise.
            amount = torch.rand(latent.shape[0], 1, 1, 1, 1, device=setup.device) * 0.4
            amount = amount * (torch.rand_like(amount) < 0.2)
            latent = torch.lerp(latent, torch.randn_like(latent), amount)
            keep = (torch.rand(latent.shape[0] // batch.alike, device=setup.device) > 0.25).float()
        with setup.forward():
            ours = decode_clip(codec, latent, side, style_of(codec, batch), keep).float()
        check_output(ours, loop.step)
        loop.update(drawing_loss(ours, batch.target), psnr=psnr(ours, batch.target))


def _redrawn(nets: dict[str, Any], batch: Batch, _: np.random.Generator) -> Tensor:
    """What the decoder makes of the finished targets' latents."""
    codec: PocketCodec = nets["codec"]
    latent = codec.normalise(codec.raw_latent(batch.target)[0])
    return decode_clip(codec, latent, codec.encode(batch.source)[1], style_of(codec, batch))


def drawing_loss(ours: Tensor, target: Tensor) -> Tensor:
    """What the decoder minimises."""
    return picture_loss(ours, target) + 2 * texture_loss(ours, target) + 4 * steadiness_loss(ours, target)


def attention_for(latents: Tensor) -> BlockCausalAttention:
    """The past that each frame of a training clip may see: what the live window holds then."""
    _, frames, _, height, width = latents.shape
    held = [WINDOW.held_at(frame) for frame in range(frames)]
    return BlockCausalAttention(
        head_dim=POCKET.head_dim, grid_hw=(height // 2, width // 2), held=held, device=latents.device
    )


def denoise(dit: WanTransformer, noisy: Tensor, sigma: Tensor, tokens: Tensor) -> Tensor:
    """noisy latents [B, F, 16, h, w], sigma [B], tokens [B, 8, 128] -> estimate of the clean latents."""
    timesteps = (1000 * sigma)[:, None].expand(-1, noisy.shape[1])
    flow: Tensor = dit(noisy, timesteps, dit.encode_text(tokens), attention_for(noisy))
    return noisy - sigma.view(-1, 1, 1, 1, 1) * flow


def latents_of(setup: Setup, codec: PocketCodec, batches: Batches, spec: PoolSpec) -> LatentBank | FreshLatents:
    """Where stage c draws from."""
    clips = batches.clips
    if not isinstance(clips, PoolClips):
        return FreshLatents(codec, batches, spec)
    pool = clips.pools[spec.name]
    return latent_bank(setup.work, codec, batches, pool, variants=28, seed=setup.seed, device=setup.device)


def stage_c(setup: Setup, budget: Budget) -> None:
    """The DiT in latents: from the noised source to the target, a quarter of the steps a later denoising step."""
    keep_freed_memory()
    torch.manual_seed(setup.seed)
    codec = load_codec(setup, "a").requires_grad_(False)
    batches = Batches(clips_of(setup), load_text(setup), setup.device, setup.seed)
    small, large = (latents_of(setup, codec, batches, spec) for spec in (SMALL, LARGE))
    dit = WanTransformer(POCKET).to(setup.device)
    if setup.model is not None:
        setup.load(dit, "dit", "c")
    modules: dict[str, nn.Module] = {"dit": dit}
    loop = Loop(
        "c",
        setup.work,
        modules,
        {1e-3 * setup.rate: list(dit.parameters())},
        budget=budget,
        seed=setup.seed,
        start=setup.start,
        run=setup.run,
        betas=(0.9, 0.98),
    )
    with Workers(modules, setup.workers) as team:
        for rng in loop.steps():
            generators = rng.spawn(setup.workers)
            bank, rows = (large, 2 * setup.batch) if loop.step % 5 == 4 else (small, 6 * setup.batch)

            def loss_of(
                nets: dict[str, Any],
                worker: int,
                bank: LatentBank | FreshLatents = bank,
                rows: int = rows,
                generators: list[np.random.Generator] = generators,
            ) -> tuple[Tensor, dict[str, float]]:
                return _latent_loss(nets["dit"], bank, rows, generators[worker], setup)

            loop.apply(**team.gradients(loss_of))


def _latent_loss(
    dit: WanTransformer, bank: LatentBank | FreshLatents, rows: int, rng: np.random.Generator, setup: Setup
) -> tuple[Tensor, dict[str, float]]:
    """Distance of the DiT's clean latents from the target's."""
    source, target, tokens, sigma = bank.draw(rng, rows, setup.device)
    noise = draw_noise(rng, source, fixed_share=0.5)
    noisy = torch.lerp(source, noise, sigma.view(-1, 1, 1, 1, 1))
    if rng.random() < 0.25:
        later = later_scale(rng, sigma)
        with torch.no_grad(), setup.forward():
            start = target if rng.random() < 0.5 else denoise(dit, noisy, sigma, tokens)
        noisy, sigma = torch.lerp(start, noise, later.view(-1, 1, 1, 1, 1)), later
    with setup.forward():
        error = denoise(dit, noisy, sigma, tokens) - target
    mse = error.square().mean()
    return mse + 0.2 * error.abs().mean(), {"mse": float(mse.detach())}


def stage_d(setup: Setup, budget: Budget) -> None:
    """Decoder and DiT together, one step from the noised source to pictures."""
    keep_freed_memory()
    torch.manual_seed(setup.seed)
    codec = load_codec(setup, "b")
    batches = Batches(clips_of(setup), load_text(setup), setup.device, setup.seed)
    dit = WanTransformer(POCKET).to(setup.device)
    setup.load(dit, "dit", "c")
    modules: dict[str, nn.Module] = {"codec": codec, "dit": dit}
    parameters = {8e-4 * setup.rate: codec.decoder_parameters(), 3e-4 * setup.rate: list(dit.parameters())}
    loop = Loop(
        "d",
        setup.work,
        modules,
        parameters,
        budget=budget,
        seed=setup.seed,
        start=setup.start,
        run=setup.run,
        on_checkpoint=Progress(modules, batches, _restyled, seed=setup.seed),
    )
    with Workers(modules, setup.workers) as team:
        for rng in loop.steps():
            generators = rng.spawn(setup.workers)

            def loss_of(
                nets: dict[str, Any], worker: int, generators: list[np.random.Generator] = generators
            ) -> tuple[Tensor, dict[str, float]]:
                return _joint_loss(nets["codec"], nets["dit"], batches, generators[worker], setup, loop.step)

            loop.apply(**team.gradients(loss_of))
    for name, network in modules.items():
        network.load_state_dict(loop.average[name])
    loop.costs = latent_costs(codec, dit, batches, setup.seed)
    loop.save()
    for look, cost_db in loop.costs.items():
        check_cost(look, cost_db)


@torch.no_grad()
def latent_costs(codec: PocketCodec, dit: WanTransformer, batches: Batches, seed: int) -> dict[str, float]:
    """What a latent of nought costs each stroke look, in dB: little where the decoder would draw its look on any."""
    rng = np.random.default_rng((seed, 3))
    costs = {}
    for look in STROKE_LOOKS:
        errors = np.zeros(2)
        for _ in range(4):
            batch = batches.styled(rng, 2, 4, 128, of_large=False, look=look)
            latent, side = _one_step(codec, dit, batch, rng)
            style = style_of(codec, batch)
            errors += [
                float((decode_clip(codec, each, side, style) - batch.target).square().mean())
                for each in (latent, torch.zeros_like(latent))
            ]
        costs[look] = 10 * math.log10(errors[1] / errors[0])
    return costs


def _one_step(codec: PocketCodec, dit: WanTransformer, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Side]:
    """The DiT's latents of a batch after one step, with noise that stands still, and the source's side data."""
    source, side = codec.encode(batch.source)
    noise = draw_noise(rng, source, fixed_share=1)
    noisy = torch.lerp(source, noise, batch.noise_scale.view(-1, 1, 1, 1, 1))
    return denoise(dit, noisy, batch.noise_scale, batch.tokens), side


def _restyled(nets: dict[str, Any], batch: Batch, rng: np.random.Generator) -> Tensor:
    """What the networks make of the sources."""
    codec: PocketCodec = nets["codec"]
    latent, side = _one_step(codec, nets["dit"], batch, rng)
    return decode_clip(codec, latent, side, style_of(codec, batch))


def _joint_loss(
    codec: PocketCodec, dit: WanTransformer, batches: Batches, rng: np.random.Generator, setup: Setup, step: int
) -> tuple[Tensor, dict[str, float]]:
    """What the live engine does to a clip, against the drawn target.

    Two latents are decoded. A part of the clips is twice as long, so that the first latent, which stays in the window,
    is not always the one just before.
    """
    is_large, is_long = rng.random() < 0.2, rng.random() < 0.4
    frames, side_px = (8, 192) if is_large else (16 if is_long else 8, 128)
    batch = batches.styled(rng, 2 * setup.batch, frames, side_px, of_large=is_large)
    with torch.no_grad():
        source, side = codec.encode(batch.source)
        target = codec.normalise(codec.raw_latent(batch.target)[0])
        noise = draw_noise(rng, source, fixed_share=0.7)  # noise fixed over time is the default while running
        noisy = torch.lerp(source, noise, batch.noise_scale.view(-1, 1, 1, 1, 1))
        keep = torch.from_numpy((rng.random(len(source) // batch.alike) > 0.1).astype(np.float32)).to(setup.device)
    scale = batch.noise_scale
    if rng.random() < 0.3:  # the second of two steps, as the live engine takes them
        with torch.no_grad(), setup.forward():
            later = later_scale(rng, scale)
            first_step = denoise(dit, noisy, scale, batch.tokens)
            noisy, scale = torch.lerp(first_step, noise, later.view(-1, 1, 1, 1, 1)), later
    with setup.forward():
        latent = denoise(dit, noisy, scale, batch.tokens)
    mse = (latent - target).square().mean()
    first = int(rng.integers(latent.shape[1] - 1))
    part, wanted = slice(first, first + 2), batch.target[:, FRAMES * first : FRAMES * (first + 2)]
    with setup.forward():
        drawn = decode_clip(codec, latent[:, part], side_of(side, len(source), part), style_of(codec, batch), keep)
    ours = drawn.float()
    check_output(ours, step)
    return drawing_loss(ours, wanted) + 0.5 * mse, {"psnr": psnr(ours, wanted), "mse": float(mse.detach())}


def side_of(side: Side, rows: int, chunks: slice) -> Side:
    """The side data of some chunks of a clip."""
    frames = slice(FRAMES * chunks.start, FRAMES * chunks.stop)
    half, quarter = (x.unflatten(0, (rows, -1))[:, frames].flatten(0, 1) for x in (side.half, side.quarter))
    return Side(half, quarter)


STAGES = {"words": stage_words, "a": stage_a, "b": stage_b, "c": stage_c, "d": stage_d}
