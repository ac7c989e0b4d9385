"""Which number format the networks run in on this device. One place, decided once, before weights are loaded."""

from __future__ import annotations

import torch


def choose_device(wanted: str) -> torch.device:
    """`auto` is the first CUDA GPU where there is one, else the CPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16. `auto` takes bfloat16 only where the processor multiplies it: elsewhere it is slower.

    It is decided by what the processor says of itself and not by a timing, so that the same machine always gives
    the same picture.
    """
    if wanted != "auto":
        return torch.float32 if wanted == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if has_bfloat16 else torch.float32


def device_name(device: torch.device) -> str:
    """What to call the device in a summary."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.cpu.get_capabilities().get('cpu_name', 'CPU')}, {torch.get_num_threads()} threads"
