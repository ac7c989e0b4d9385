"""The doctor's checks of the engines and of what they run on: torch, GPU, attention, files, memory, a short run.

They ask those who decide for a start, so that what is said here is what a start does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sdv2live.devices import list_gpus
from sdv2live.doctor.finding import Finding, State, finding
from sdv2live.doctor.machine import free_at
from sdv2live.engine.base import ChunkSettings, EngineSpec
from sdv2live.engine.catalogue import default_size, traits_of
from sdv2live.errors import EngineDead, UserError, one_line
from sdv2live.models.manifest import ENGINES, GB, MODELS, command, size_text
from sdv2live.models.store import State as Files
from sdv2live.models.store import Store
from sdv2live.parameters import TABLE
from sdv2live.paths import models_dir
from sdv2live.torch_build import BUILD_VARIABLE

POCKET_CHUNKS = 12
ROOM_FOR_POCKET = 1.0 * GB  # it takes half of that, the window included


def torch_and_cuda() -> Finding:
    """Which torch this is, and whether its CUDA fits the GPU's driver."""
    from sdv2live.engine.hardware import SOUND_CUDNN, build, gpus

    made, cards = build(), list_gpus({})
    text = f"torch {made.torch}, " + (f"CUDA {made.cuda}" if made.cuda else "built for processors")
    text += f", cuDNN {cudnn_text(made.cudnn)}" if made.cudnn else ""
    if not cards:
        return Finding("torch", State.OK, text)
    if made.cuda is None:
        remedy = f"start with {BUILD_VARIABLE}=cuda in an empty .venv, or install a CUDA build of torch"
        return Finding("torch", State.FAIL, f"{text}: it does not use the {cards[0]['name']}", remedy)
    if not gpus():
        return Finding(
            "torch",
            State.FAIL,
            f"{text}: it cannot use the {cards[0]['name']} with driver {cards[0]['driver']}",
            f"update NVIDIA's driver to one for CUDA {made.cuda}, then restart",
        )
    if made.cudnn and made.cudnn < SOUND_CUDNN:
        remedy = f"update torch, which brings cuDNN {cudnn_text(SOUND_CUDNN)} or later"
        return Finding("torch", State.WARN, f"{text}, whose attention is wrong at some lengths and not used", remedy)
    return Finding("torch", State.OK, text)


def cudnn_text(number: int) -> str:
    """91501 -> `9.15.1`; versions before 9 have one digit less for the first part."""
    major, rest = divmod(number, 10_000 if number >= 90_000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def processor() -> Finding:
    """What it multiplies fast, and how the engine computes on it."""
    from sdv2live.engine import hardware

    found = hardware.processor()
    text = f"{found.name}, {found.cores} cores, {', '.join(found.features) or 'no wide vectors'}; "
    text += f"the engine computes in {found.dtype} with {found.threads} threads"
    if not found.features:
        return Finding("processor", State.WARN, text, "expect few pictures a second from a processor of this age")
    return Finding("processor", State.OK, text)


def memory() -> Finding:
    """What is free of the machine's."""
    from sdv2live.engine.hardware import free_memory

    free = free_memory()
    if free is None:
        return Finding("memory", State.OK, "this system does not say how much is free")
    text = f"{size_text(free)} free"
    if free < ROOM_FOR_POCKET:
        return Finding("memory", State.WARN, text, "close other programs: the app and the engine pocket take 0.6 GB")
    return Finding("memory", State.OK, text)


def attention() -> Finding:
    """The kernel that a GPU runs at the shapes of wan-1.3b, chosen by timing; a processor has one."""
    from sdv2live.engine.attention_choice import choose_attention
    from sdv2live.engine.precision import choose_device, choose_dtype
    from sdv2live.engine.wan_files import sizes_of

    device = choose_device("auto")
    dit, (width, height) = sizes_of("wan-1.3b", None).dit, default_size("wan-1.3b")
    tokens = (width // 16) * (height // 16)
    choice = choose_attention(
        device,
        tokens=tokens,
        past_tokens=traits_window("wan-1.3b") * tokens,
        heads=dit.num_heads,
        head_dim=dit.head_dim,
        dtype=choose_dtype("auto", device),
    )
    if not choice.times_ms:
        return Finding("attention", State.OK, f"{choice.name}: on {device.type} nothing is timed")
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in choice.times_ms.items())
    return Finding("attention", State.OK, f"{choice.name}, the fastest at {width}x{height} of wan-1.3b: {times}")


def traits_window(name: str) -> int:
    """Latent frames that an engine looks back at."""
    from sdv2live.engine.catalogue import window_of

    return window_of(EngineSpec(name, default_size(name))).capacity


def pocket() -> Finding:
    """The engine that ships makes pictures here: its own process, its files, a second or two of work."""
    from sdv2live.trial import Trial

    name, wanted = "engine pocket", int(str(TABLE["output.rate"].default))
    spec = EngineSpec("pocket", default_size("pocket"))
    brought = traits_of(spec).defaults
    settings = ChunkSettings(steps=tuple(brought["steps.list"]), steps_count=brought["steps.count"])
    try:
        with Trial(spec) as trial:
            speed = trial.speed(settings, chunks=POCKET_CHUNKS)
    except (EngineDead, UserError) as error:
        sentence = finding(name, one_line(error), State.FAIL)
        return Finding(name, State.FAIL, sentence.text, sentence.remedy or "install sdv2live again")
    width, height = spec.size_wh
    text = f"{speed.fps:g} fps at {width}x{height} with {settings.steps_count} step on {speed.device}, just measured"
    if speed.fps < wanted:
        remedy = "close other programs, or start with --engine auto; a source of 16 fps needs less than one of 30"
        return Finding(name, State.WARN, f"{text}, and outputs run at {wanted}", remedy)
    return Finding(name, State.OK, text)


def wan(name: str) -> Finding:
    """Whether a Wan engine's files are whole, and whether it fits into the memory of its device."""
    what, store = f"engine {name}", Store(models_dir())
    try:
        found = [store.look(MODELS[part]) for part in ENGINES[name]]
    except UserError as error:
        return finding(what, str(error), State.FAIL)
    get = f"run {command('get', name, store.folder)}"
    bad = [each.model.what for each in found if each.state is Files.DAMAGED]
    if bad:
        return Finding(what, State.FAIL, f"{', '.join(bad)} in {store.folder} is damaged", get)
    here = [each for each in found if each.state in (Files.HERE, Files.BY_HAND)]
    try:
        for each in here:
            _open(each.path)
    except UserError as error:
        return finding(what, str(error), State.FAIL)
    fits, state, remedy = fit_words(name)
    if len(here) == len(found):
        return Finding(what, state, f"its files are here; {fits}", remedy)
    needed = sum(each.model.rough_bytes - each.bytes for each in found if each not in here)
    away = f"{len(here)} of {len(found)} files are here" if here else "it is not fetched"
    text = f"{away} ({size_text(max(needed, 0))}); {fits}"
    free = free_at(store.folder)
    if free is not None and free < needed:
        text += f"; {size_text(free)} free on the drive of {store.folder}"
    is_begun = any(each.state is Files.PARTLY for each in found) or any(each.model.name == name for each in here)
    return Finding(what, State.WARN, text, get) if is_begun else Finding(what, State.OK, text)


def fit_words(name: str) -> tuple[str, State, str]:
    """Whether the engine fits at its own size, decoder and steps, or what of it does; the state, and what to do."""
    from sdv2live.engine.hardware import dtype_name, gpus
    from sdv2live.engine.wan import fit_here

    (width, height), steps = default_size(name), _steps(name)
    spec = EngineSpec(name, (width, height), steps_count=steps, random_weights=True)
    is_on_gpu = bool(gpus())
    # On a processor nobody runs it live: what it would take is said, and nothing smaller is searched for.
    if not is_on_gpu:
        return (
            "there is no GPU for it, and a processor takes seconds and minutes for a picture",
            State.WARN,
            f"use the engine pocket, or a machine with a GPU as assets/docs/wan.md has them for {name}",
        )
    fit = fit_here(spec)
    words = f"{width}x{height} with {steps} steps and --vae {spec.vae} takes {size_text(fit.needed)}"
    words += f" in {dtype_name('auto', 'auto')}"
    if fit.room is not None:
        words += f" of {size_text(max(fit.room, 0))}"
    if fit.is_there:
        most = len(traits_of(spec).defaults["steps.list"])
        larger = fit_here(replace(spec, steps_count=most))
        also = f"{most} steps fit, too" if larger.is_there else f"{most} steps take {size_text(larger.needed)}"
        return f"{words}: it fits; {also}", State.OK, ""
    return f"{words}: it does not fit", State.WARN, fit.advice


def _steps(name: str) -> int:
    return int(traits_of(EngineSpec(name, default_size(name))).defaults["steps.count"])


def _open(path: Path) -> None:
    """Read a weight file's list of contents: one that was cut short is found out. Raises UserError."""
    from sdv2live.engine.checkpoint import open_checkpoint

    if path.suffix in (".safetensors", ".pt", ".pth"):
        open_checkpoint(path)
