"""On which device the networks run, and in which number format. One place, decided once, before weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdv2live.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Compute capability from which NVIDIA's tensor cores multiply bfloat16 (Ampere).
BFLOAT16_CAPABILITY = (8, 0)


def choose_device(wanted: str) -> torch.device:
    """`auto` is the first CUDA GPU where there is one, else the CPU. A GPU always has its number, `cuda` is the first.

    Raises UserError for a device that is not here.
    """
    if wanted == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(f"the device {wanted!r} is unknown: take auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda":
        _refuse_missing_gpu(device)
        return torch.device("cuda", device.index or 0)
    elif device.type != "cpu" and not _is_accelerator_here(device.type):
        raise UserError(f"the device {wanted!r} cannot be used here: take auto, cpu, cuda or cuda:N.")
    return device


def work_on(device: torch.device) -> None:
    """Have this thread's GPU work go to `device` where nothing else is said: events, pinned memory, kernels' timings.

    Whoever runs an engine calls it once, before anything is on the device; from then on there is one GPU for it.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


def device_of_rank(wanted: str, index: int, gpus: int) -> torch.device:
    """The device of the rank that is number `index` of `gpus` on this machine: GPUs in order, or the CPU for all.

    Raises UserError where there are fewer GPUs than that, and for one named GPU that is to be several.
    """
    device = choose_device(wanted)
    if gpus == 1 or device.type == "cpu":
        return device
    if ":" in wanted:
        raise UserError(f"--device {wanted} names one device and --gpus {gpus} wants several: leave --device away.")
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if there < gpus:
        raise UserError(f"--gpus {gpus} are more than there are: here is {there}; take --gpus {there}.")
    return torch.device(device.type, index)


def device_of_local_rank(wanted: str, index: int) -> torch.device:
    """The device of a rank that was started by hand or by torchrun as number `index` of this machine: as it is named,
    else the GPU of that number, or the CPU. Raises UserError."""
    device = choose_device(wanted)
    if device.type != "cuda" or ":" in wanted:
        return device
    if index >= (there := torch.cuda.device_count()):
        raise UserError(
            f"LOCAL_RANK {index} asks for GPU {index}, and this machine has {there}, counted from 0: start {there} "
            "ranks here at most, or name a GPU with --device."
        )
    return torch.device("cuda", index)


def threads_of_rank(wanted: int, gpus: int) -> int:
    """How many threads each of `gpus` ranks on this machine has on the CPU; wanted: by the user, 0 for our choice."""
    return wanted or max(1, torch.get_num_threads() // gpus)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The number format for `device`: one of DTYPES by name, or for `auto` the fastest that is safe there.

    It is decided by what the processor says of itself and not by a timing, so that the same machine always gives
    the same picture. Raises UserError for float16 on the CPU.
    """
    if wanted != "auto":
        return dtype_for(wanted, device.type)
    return DTYPES[formats_of(device)[0]]


def formats_of(device: torch.device) -> tuple[str, ...]:
    """The number formats that `auto` may take on `device`, the fastest first."""
    if device.type == "cuda":
        return formats_for(device.type, has_bfloat16=_has_gpu_bfloat16(device))
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return formats_for(device.type, has_bfloat16=has_bfloat16)


def formats_for(device_type: str, *, has_bfloat16: bool) -> tuple[str, ...]:
    """The rule itself. has_bfloat16: the processor multiplies bfloat16, rather than emulating it.

    Every CUDA GPU's tensor cores multiply float16, whose range is smaller: it comes second. A CPU has float32 beside.
    """
    float16 = ("float16",) if device_type == "cuda" else ()
    return (*(("bfloat16",) if has_bfloat16 else ()), *float16, "float32")


def common_format(formats: Sequence[Sequence[str]]) -> str:
    """What several devices compute in, as what hops between them is in one number format: the first of DTYPES in the
    order of speed that all of them have.

    So bfloat16 where all have it; float16 for GPUs of which some only emulate bfloat16, as the newer ones multiply
    either as fast; float32 as soon as one has nothing else, or one has bfloat16 alone and another float16 alone.
    """
    return next(name for name in formats[0] if all(name in each for each in formats))


def dtype_for(wanted: str, device_type: str) -> torch.dtype:
    """The number format that was asked for by name. Raises UserError for float16 on the CPU."""
    if wanted == "float16" and device_type == "cpu":
        raise UserError(
            "--precision float16 cannot be used on the CPU, where it is slow and partly missing: leave --precision "
            "away, or take float32."
        )
    return DTYPES[wanted]


def device_name(device: torch.device) -> str:
    """What to call the device in a summary."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.cpu.get_capabilities().get('cpu_name', 'CPU')}, {torch.get_num_threads()} threads"


def _has_gpu_bfloat16(device: torch.device) -> bool:
    if torch.version.hip is not None:  # capabilities of AMD's GPUs are numbered otherwise
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY)


def _refuse_missing_gpu(device: torch.device) -> None:
    what_to_do = "leave --device away"
    if torch.version.cuda is None and torch.version.hip is None:
        why, what_to_do = "this torch was built without CUDA", f"{what_to_do}, or install a CUDA build of torch"
    elif not torch.cuda.is_available():
        why, what_to_do = "no NVIDIA GPU with a working driver was found", f"{what_to_do}, or see what nvidia-smi says"
    elif device.index is not None and device.index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        why, what_to_do = (
            f"there is no {device}, as this machine has {count}",
            f"{what_to_do}, or take cuda:{count - 1}",
        )
    else:
        return
    raise UserError(f"no CUDA GPU can be used here: {why}; {what_to_do}.")


def _is_accelerator_here(device_type: str) -> bool:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator is not None and accelerator.type == device_type
