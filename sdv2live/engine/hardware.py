"""What torch knows of this machine, for people: its build, the processor, the GPUs. Decides nothing.

What the engine makes of it (device, number format, attention kernel) is decided where it is used, and asked there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from sdv2live.engine.host_memory import free_bytes
from sdv2live.engine.precision import choose_device, choose_dtype

# Before it cuDNN's attention had a fault with lengths that are no multiples of 128, and a video's seldom are.
SOUND_CUDNN = 91501
# What the fast convolutions and products of a processor are written for, best last.
PROCESSOR_FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "sve", "bf16")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device as torch sees it. capability: of compute, such as (9, 0)."""

    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Build:
    """cuda, cudnn: versions that torch was built with, None without; cudnn as a number, 91501 for 9.15.1."""

    torch: str
    cuda: str | None
    cudnn: int | None


@dataclass(frozen=True, slots=True)
class Processor:
    """features: out of PROCESSOR_FEATURES. dtype: the number format that the engine takes here by itself."""

    name: str
    cores: int
    threads: int
    features: tuple[str, ...]
    dtype: str


def build() -> Build:
    """Which torch this is."""
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None  # type: ignore[no-untyped-call]
    return Build(torch.__version__, torch.version.cuda or torch.version.hip, cudnn)


def gpus() -> list[Gpu]:
    """The CUDA devices that torch can use; may wait for a driver for as long as that likes."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        free = free_bytes(torch.device("cuda", index)) or 0
        found.append(Gpu(properties.name, (properties.major, properties.minor), properties.total_memory, free))
    return found


def processor() -> Processor:
    """The host's processor as torch uses it."""
    known = torch.cpu.get_capabilities()
    return Processor(
        name=str(known.get("cpu_name", "processor")),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        features=tuple(name for name in PROCESSOR_FEATURES if known.get(name)),
        dtype=dtype_name("auto", "cpu"),
    )


def free_memory() -> int | None:
    """Bytes that are free of the host's memory; None where the system does not say."""
    return free_bytes(torch.device("cpu"))


def dtype_name(precision: str, device: str) -> str:
    """The number format for `--precision` on `--device`, by its name. Raises UserError."""
    return str(choose_dtype(precision, choose_device(device))).removeprefix("torch.")
