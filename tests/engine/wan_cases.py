"""Golden cases of kind `wan_vae`: weights, streaming and comparison, as shared by the tests that meet them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdv2live.engine.model.wan_vae import WanVAE, WanVaeConfig
from tests.engine.toy import drawn_


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
