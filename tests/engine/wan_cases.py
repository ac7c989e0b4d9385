"""Shared by the tests of the Wan engines: golden cases of kind `wan_vae`, a weights folder at a small size, a guard
against waiting for the device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdv2live.engine.model.taehv import TAEHV
from sdv2live.engine.model.wan_transformer import WanConfig, WanTransformer
from sdv2live.engine.model.wan_vae import WanVAE, WanVaeConfig
from sdv2live.engine.umt5 import UMT5Size
from sdv2live.engine.weights import random_weights_
from tests.engine.test_umt5 import original_shapes, write_tokenizer
from tests.engine.toy import CPU, drawn_

SMALL_DIT = WanConfig(dim=48, ffn_dim=96, num_heads=2, num_layers=2, freq_dim=32, text_dim=24, text_len=16)
SMALL_VAE = WanVaeConfig(base_dim=8)
SMALL_TEXT = UMT5Size(vocab_size=48, d_model=24, d_kv=5, d_ff=40, num_layers=2, num_heads=3)
DIT_FILE = "wan_causal_dmd_v2v/model.pt"
VAE_FILE, TAEHV_FILE = "Wan2.1_VAE.pth", "taew2_1.pth"
TEXT_FILE, TOKENIZER = "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl"
SIZES_FILE = "sdv2live.json"


def write_weights(folder: Path, dit_config: WanConfig = SMALL_DIT) -> Path:
    """A Wan engine's folder in the released layout, small, with drawn weights of which every file is whole.

    The sizes stand in sdv2live.json; TAEHV has only one size, and its first grow layer has room for two frames, as
    the released file's.
    """
    (folder / DIT_FILE).parent.mkdir(parents=True)
    dit = _drawn(WanTransformer(dit_config), seed=1)
    torch.save({"generator": {f"model.{name}": tensor for name, tensor in dit.items()}}, folder / DIT_FILE)
    torch.save(_drawn(WanVAE(SMALL_VAE), seed=2), folder / VAE_FILE)
    taehv = _drawn(TAEHV(), seed=3, dtype=torch.float16)
    grow = "decoder.7.conv.weight"
    taehv[grow] = torch.cat([torch.full_like(taehv[grow], 9.0), taehv[grow]])
    torch.save(taehv, folder / TAEHV_FILE)
    generator = torch.Generator().manual_seed(4)
    shapes = original_shapes(SMALL_TEXT)
    text = {name: (0.3 * torch.randn(shape, generator=generator)).bfloat16() for name, shape in shapes.items()}
    torch.save(text, folder / TEXT_FILE)
    (folder / TOKENIZER).parent.mkdir()
    write_tokenizer(folder / TOKENIZER)
    fixed = ("in_dim", "out_dim")
    dit_sizes = {name: size for name, size in asdict(dit_config).items() if name not in fixed}
    sizes = {"dit": dit_sizes, "vae": {"base_dim": SMALL_VAE.base_dim}, "text": asdict(SMALL_TEXT)}
    (folder / SIZES_FILE).write_text(json.dumps(sizes))
    return folder


def _drawn(network: torch.nn.Module, *, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return dict(random_weights_(network, seed=seed, dtype=dtype, device=CPU).state_dict())


def small_vae(base_dim: int = 8, salt: str = "") -> WanVAE:
    """The VAE at a small width, with weights drawn by name."""
    return drawn_(WanVAE(WanVaeConfig(base_dim=base_dim)), salt)


def encode_in(vae: WanVAE, video: Tensor, chunks: list[int]) -> Tensor:
    """A fresh stream of `video` [1, 3, T, H, W], cut into these numbers of frames."""
    state = vae.new_encoder_state((video.shape[4], video.shape[3]))
    return torch.cat([vae.encode(part, state) for part in video.split(chunks, 2)], 2)


def decode_in(vae: WanVAE, latents: Tensor, chunks: list[int]) -> Tensor:
    """A fresh stream of `latents` [1, 16, F, h, w], cut into these numbers of latent frames."""
    state = vae.new_decoder_state((latents.shape[4] * 8, latents.shape[3] * 8))
    return torch.cat([vae.decode(part, state) for part in latents.split(chunks, 2)], 2)


def run_wan_vae_case(spec: dict, tensors: dict[str, Tensor]) -> None:
    """Stream the case both ways; raises AssertionError where a value is off by 1e-4 of the largest or more."""
    vae = small_vae(spec["base_dim"], spec["weight_salt"])
    assert sorted(vae.state_dict()) == sorted(spec["keys"])
    latent_chunks = [-(-frames // 4) for frames in spec["chunks"]]
    latents = encode_in(vae, tensors["video"], spec["chunks"])
    assert_close(latents, tensors["latent"])
    assert_close(decode_in(vae, tensors["latent"], latent_chunks), tensors["decoded"])


def assert_close(ours: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Shapes alike, and no value further off than `tolerance` of the largest expected one."""
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= tolerance * expected.abs().max()


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait for a device: a value read, or a shape or a copy that hangs on one."""

    FORBIDDEN = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "lift_fresh")

    is_lifted = False

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Within the block anything may be read."""
        self.is_lifted = True
        try:
            yield
        finally:
            self.is_lifted = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert self.is_lifted or not name.startswith((*self.FORBIDDEN, "unique")), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def one_thread() -> Iterator[None]:
    """Pictures of a few pixels are split among threads at a loss, and a great one where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
