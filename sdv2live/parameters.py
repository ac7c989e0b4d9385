"""THE TABLE: each live or start-up parameter once. Owns names, kinds, defaults, ranges and words.

From a row come the OSC address, the command-line flag, the preset key, the window's control and the reference
page. Nothing of these is written by hand a second time. Rules that tie two rows together are in `reconcile`.
This file knows no thread and no engine; values are coerced and checked by `coerce`, kept by `registry.py`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from sdv2live import weighted_files
from sdv2live.filters import parse_chain, range_words, steps_at
from sdv2live.limits import MAX_LORAS, MAX_STEPS, MOST_LORA_STRENGTH

OSC_ROOT = "/sdv2live"
MAX_TEXT_CHARS = 2000
MAX_MIX_ENTRIES = 8
MAX_MIX_TEXT_CHARS = 1000  # all of a mix has to fit into the pipe to the engine at once


class Kind(StrEnum):
    """How a value is written: what `coerce` makes of it."""

    FLOAT = "float"
    INT = "int"
    BOOL = "bool"
    CHOICE = "choice"
    TEXT = "text"
    INTS = "ints"  # strictly falling integers, as a tuple
    FLOATS = "floats"  # numbers in any order, as a tuple
    MIX = "mix"  # ((text, weight), ...), weights above 0
    FILES = "files"  # ((path, weight), ...), as weighted_files.py spells them
    SIZE = "size"  # (width, height)
    SOURCE = "source"  # where frames come from, as capture/select.py spells it; by OSC no file
    CHAIN = "chain"  # steps of filters.py, as their canonical text; a row's choices are the steps it may have
    TRIGGER = "trigger"  # the value is how often it was pulled


class When(StrEnum):
    """When a change acts."""

    CHUNK = "next chunk"
    FRAME = "next frame"
    START = "start"


Value = float | int | bool | str | tuple[int, ...] | tuple[float, ...] | tuple[tuple[str, float], ...] | None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row. default None means: what the engine (or the source) brings."""

    name: str
    kind: Kind
    default: Value
    doc: str
    when: When = When.CHUNK
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    flag: str = ""  # where the command line has a shorter word than the name
    clears: str = ""  # setting this one empties that one: the last of two rivals wins
    in_preset: bool = True

    @property
    def osc_addresses(self) -> tuple[str, ...]:
        """Every address it answers to, the full one first; none for what is fixed at the start."""
        if self.when is When.START:
            return ()
        full = f"{OSC_ROOT}/{self.name.replace('.', '/')}"
        short = f"{OSC_ROOT}/{self.flag.removeprefix('--')}" if self.flag else full
        return (full,) if short == full else (full, short)

    @property
    def cli_flag(self) -> str:
        return self.flag or "--" + re.sub(r"[._]", "-", self.name)


# fmt: off
def _rows() -> tuple[Parameter, ...]:
    chunk, frame, start = When.CHUNK, When.FRAME, When.START
    return (
        Parameter("prompt.text", Kind.TEXT, "pencil drawing", "What the picture should become.", chunk,
                  flag="--prompt", clears="prompt.mix"),
        Parameter("prompt.mix", Kind.MIX, (), "Several prompts at once, each with its weight; empty: prompt.text.",
                  chunk, minimum=0.0, maximum=100.0),
        Parameter("prompt.transition", Kind.INT, 0, "Chunks over which a new prompt is blended in; 0 is a cut.", chunk,
                  minimum=0, maximum=64, step=1, unit="chunks"),
        Parameter("prompt.next", Kind.TEXT, "", "A prompt to get ready while the present one is shown.", chunk,
                  in_preset=False),
        Parameter("steps.count", Kind.INT, None, "How many denoising steps of the list a chunk takes.", chunk,
                  minimum=1, maximum=MAX_STEPS, step=1, flag="--steps"),
        Parameter("steps.list", Kind.INTS, None, "The timesteps visited, noisiest first.", chunk,
                  minimum=25, maximum=1000, step=1),
        Parameter("noise.max", Kind.FLOAT, None, "Noise put on a still picture: how far the effect may go.", chunk,
                  minimum=0.05, maximum=1.0, step=0.01),
        Parameter("noise.min", Kind.FLOAT, None, "Noise put on a picture in full motion.", chunk,
                  minimum=0.05, maximum=1.0, step=0.01),
        Parameter("noise.sensitivity", Kind.FLOAT, 0.2, "How much change between frames counts as full motion.", chunk,
                  minimum=0.01, maximum=2.0, step=0.01),
        Parameter("noise.smoothing", Kind.FLOAT, 0.9, "How fast the noise follows the motion; 1 is at once.", chunk,
                  minimum=0.01, maximum=1.0, step=0.01),
        Parameter("noise.mode", Kind.CHOICE, None,
                  "Noise over time: a fresh draw each chunk, one fixed draw, or a slowly varying one.", chunk,
                  choices=("fresh", "fixed", "slow")),
        Parameter("noise.rate", Kind.FLOAT, 0.1, "With noise.mode slow: how fast the noise changes.", chunk,
                  minimum=0.0, maximum=1.0, step=0.01),
        Parameter("noise.timestep_offset", Kind.INT, None, "Added to the timestep that the model is told first.", chunk,
                  minimum=-300, maximum=100, step=1),
        Parameter("seed", Kind.INT, 1, "Start of all random numbers: the same seed gives the same picture.", chunk,
                  minimum=0, maximum=2**31 - 1, step=1),
        Parameter("seed.transition", Kind.INT, 0, "Chunks over which a new seed is blended in; 0 is a cut.", chunk,
                  minimum=0, maximum=64, step=1, unit="chunks"),
        Parameter("feedback.amount", Kind.FLOAT, 0.0,
                  "How much of the last effect is mixed into the next picture before it is restyled.", chunk,
                  minimum=0.0, maximum=0.95, step=0.01, flag="--feedback"),
        Parameter("lora.strengths", Kind.FLOATS, (),
                  "How strong each LoRA of engine.lora is, in their order; one that is not named has its own weight.",
                  chunk, minimum=-MOST_LORA_STRENGTH, maximum=MOST_LORA_STRENGTH, step=0.05),
        Parameter("schedule", Kind.CHOICE, "auto", "Order of the steps: one after another, or batched over chunks.",
                  chunk, choices=("auto", "latency", "throughput")),
        Parameter("input.filters", Kind.CHAIN, "", "Filters on the source's picture before it is restyled, in order.",
                  chunk, choices=steps_at("pre")),
        Parameter("output.filters", Kind.CHAIN, "", "Filters on the finished picture, in order.", frame,
                  choices=steps_at("post")),
        Parameter("sinks.follow_prompt", Kind.BOOL, True,
                  "A new prompt also replaces the sink frames, the old pictures that the model looks back at.", chunk),
        Parameter("sinks.similarity", Kind.FLOAT, None,
                  "A sink frame less like the picture than this is replaced; -1: never for that.", chunk,
                  minimum=-1.0, maximum=1.0, step=0.01),
        Parameter("sinks.refresh", Kind.TRIGGER, 0, "Replace the sink frames now.", chunk, in_preset=False),
        Parameter("output.wet", Kind.FLOAT, 1.0, "From the camera (0) to the effect (1).", frame,
                  minimum=0.0, maximum=1.0, step=0.01),
        Parameter("output.bypass", Kind.BOOL, False, "Show the camera instead of the effect.", frame, in_preset=False),
        Parameter("output.freeze", Kind.BOOL, False, "Hold the picture that is shown now.", frame, in_preset=False),
        Parameter("output.panic", Kind.BOOL, False, "Show a plain card at once: neither camera nor effect.", frame,
                  in_preset=False),
        Parameter("output.camera", Kind.BOOL, False, "The virtual camera is on, for OBS, Zoom and browsers.", frame,
                  in_preset=False),
        Parameter("output.record", Kind.BOOL, False, "Record the picture into a new video file.", frame,
                  in_preset=False),
        Parameter("stream.reset", Kind.TRIGGER, 0, "Start the stream anew: caches, positions and noise.", chunk,
                  in_preset=False),
        Parameter("stream.paused", Kind.BOOL, False, "Make no new pictures; outputs go on with the last one.", chunk,
                  in_preset=False),
        Parameter("stream.running", Kind.BOOL, True,
                  "Source and engine are on; off frees the camera and the memory, and outputs show a card.", frame,
                  in_preset=False),
        Parameter("engine.restart", Kind.TRIGGER, 0, "End the engine and start it as its parameters say now.", frame,
                  in_preset=False),
        Parameter("source.name", Kind.SOURCE, None,
                  "Where frames come from: camera[:NAME], screen[:N], clip, pattern, none, file:PATH.", frame,
                  flag="--source", in_preset=False),
        Parameter("source.fit", Kind.CHOICE, "crop", "How a source of another shape is brought to the engine's size.",
                  frame, choices=("crop", "letterbox", "stretch"), flag="--fit", in_preset=False),
        Parameter("source.mirror", Kind.BOOL, False, "Show the source as in a mirror.", frame, flag="--mirror",
                  in_preset=False),
        Parameter("source.rotate", Kind.CHOICE, "0", "Turn the source clockwise, before it is mirrored.", frame,
                  choices=("0", "90", "180", "270"), unit="degrees", flag="--rotate", in_preset=False),
        Parameter("source.loop", Kind.BOOL, True, "Start a played file again at its end.", start, in_preset=False),
        Parameter("source.rate", Kind.FLOAT, None,
                  "Most source frames used a second; default: what engine and outputs take.",
                  start, minimum=1.0, maximum=120.0, step=1.0, unit="fps", in_preset=False),
        Parameter("engine.name", Kind.CHOICE, "pocket",
                  "Which engine makes the pictures; auto: what holds the rate here, measured at the start.", start,
                  choices=("pocket", "wan-1.3b", "wan-14b", "auto"), flag="--engine", in_preset=False),
        Parameter("engine.size", Kind.SIZE, None, "Size of the engine's picture, multiples of 16.", start,
                  minimum=64, maximum=2048, step=16, unit="pixels", flag="--size", in_preset=False),
        Parameter("engine.precision", Kind.CHOICE, "auto", "Number format of the networks; auto: the fastest here.",
                  start, choices=("auto", "float32", "bfloat16", "float16"), flag="--precision", in_preset=False),
        Parameter("engine.compile", Kind.CHOICE, "auto",
                  "Compile the networks first, which takes a minute; auto: off, until it was seen on a GPU.",
                  start, choices=("auto", "off", "on"), flag="--compile", in_preset=False),
        Parameter("engine.fp8", Kind.BOOL, False,
                  "Multiply in FP8 on a GPU that can (Ada, Hopper, later): faster at 14B, and a little coarser.", start,
                  flag="--fp8", in_preset=False),
        Parameter("engine.device", Kind.TEXT, "auto", "Where the engine runs: auto, cpu, cuda, cuda:1 and so on.",
                  start, flag="--device", in_preset=False),
        Parameter("engine.weights", Kind.TEXT, "", "Folder with a Wan engine's files; empty: where models are kept.",
                  start, flag="--weights", in_preset=False),
        Parameter("engine.lora", Kind.FILES, (),
                  "LoRA files (.safetensors) that are merged into a Wan engine's transformer, each with its weight.",
                  start, minimum=-MOST_LORA_STRENGTH, maximum=MOST_LORA_STRENGTH, flag="--lora", in_preset=False),
        Parameter("engine.random_weights", Kind.BOOL, False,
                  "Run a Wan engine with drawn weights: for timing; the picture means nothing.", start,
                  flag="--random-weights", in_preset=False),
        Parameter("engine.vae", Kind.CHOICE, "wan", "A Wan engine's encoder and decoder; TAEHV is smaller and faster.",
                  start, choices=("wan", "wan-taehv", "taehv"), flag="--vae", in_preset=False),
        Parameter("engine.normalise_latents", Kind.BOOL, False,
                  "Normalise what a Wan engine encodes; off, as in the reference, keeps more of the source.", start,
                  flag="--normalise-latents", in_preset=False),
        Parameter("engine.window_frames", Kind.INT, None, "Latent frames that the model looks back at, this one too.",
                  start, minimum=2, maximum=21, step=1, flag="--window-frames", in_preset=False),
        Parameter("engine.sink_frames", Kind.INT, None, "How many of them stay: the first ones.", start,
                  minimum=0, maximum=20, step=1, flag="--sink-frames", in_preset=False),
        Parameter("engine.threads", Kind.INT, 0, "Processor threads of the engine; 0: all cores.", start,
                  minimum=0, maximum=256, step=1, flag="--threads", in_preset=False),
        Parameter("engine.gpus", Kind.INT, 1,
                  "Over how many GPUs of this machine the engine is split; without any, over processes.", start,
                  minimum=1, maximum=8, step=1, flag="--gpus", in_preset=False),
        Parameter("engine.split", Kind.TEXT, "auto",
                  "How many blocks of the transformer each GPU has, such as 10,20, and which GPU decodes, such as "
                  "10,20@first or @last; auto: by measured times; reference: once, by the reference's rule.", start,
                  flag="--split", in_preset=False),
        Parameter("engine.world", Kind.INT, 0,
                  "How many ranks there are on all machines together; 0: those of this machine alone.", start,
                  minimum=0, maximum=64, step=1, flag="--world", in_preset=False),
        Parameter("engine.master", Kind.TEXT, "",
                  "Where ranks of several machines meet, HOST:PORT of this one; empty: on loopback.", start,
                  flag="--master", in_preset=False),
        Parameter("engine.profile", Kind.CHOICE, "default",
                  "Positions and sinks of the KV cache: default, or as the StreamDiffusionV2 reference has them.",
                  start, choices=("default", "reference"), flag="--profile", in_preset=False),
        Parameter("output.rate", Kind.INT, 30, "Pictures a second that the outputs get.", start,
                  minimum=1, maximum=120, step=1, unit="fps", in_preset=False),
        Parameter("camera.device", Kind.TEXT, "",
                  "Which virtual camera: a back-end or a device; empty: what this machine has.", start,
                  in_preset=False),
        Parameter("record.folder", Kind.TEXT, "", "Where recordings go; empty: sdv2live in the folder for videos.",
                  start, in_preset=False),
        Parameter("osc.port", Kind.INT, 9000, "UDP port for OSC on this machine; 0 turns OSC off.", start,
                  minimum=0, maximum=65535, step=1, in_preset=False),
    )
# fmt: on


TABLE: Mapping[str, Parameter] = MappingProxyType({row.name: row for row in _rows()})


class InvalidValue(ValueError):
    """A value that no rule can bring into range; the message says why, without the parameter's name."""


@dataclass(frozen=True, slots=True)
class Coerced:
    """value is inside the range; note says what was changed to get there, or is empty."""

    value: Value
    note: str = ""


def coerce(row: Parameter, value: object) -> Coerced:
    """Bring `value` to the row's kind and range.

    Numbers may come as text (command line) or as another number type (OSC); NaN and infinities are refused first.
    Raises InvalidValue where the kind does not fit at all.
    """
    match row.kind:
        case Kind.FLOAT:
            return _clamped(row, _number(value))
        case Kind.INT:
            return _clamped(row, round(_number(value)))
        case Kind.BOOL:
            return Coerced(_boolean(value))
        case Kind.TRIGGER:
            return Coerced(int(_number(value) > 0))
        case Kind.CHOICE:
            return Coerced(_choice(row, value))
        case Kind.TEXT | Kind.SOURCE:
            return _text(value)
        case Kind.INTS:
            return _falling_ints(row, value)
        case Kind.FLOATS:
            return _floats(row, value)
        case Kind.MIX:
            return _mix(row, value)
        case Kind.FILES:
            return _files(row, value)
        case Kind.SIZE:
            return Coerced(_size(row, value))
        case Kind.CHAIN:
            return Coerced(_chain(row, value))


def names_a_file(source: str) -> bool:
    """Whether a source's spelling names a file: whoever only sends OSC does not choose files of this machine."""
    return re.fullmatch(r"(clip|pattern|none|camera|screen|window)(:.*)?", source) is None


def range_text(row: Parameter) -> str:
    """The allowed values in words, for messages and the reference page."""
    unit = f" {row.unit}" if row.unit else ""
    match row.kind:
        case Kind.CHOICE:
            return ", ".join(row.choices)
        case Kind.BOOL:
            return "0 or 1"
        case Kind.TRIGGER:
            return "any value above 0"
        case Kind.TEXT | Kind.SOURCE:
            return f"up to {MAX_TEXT_CHARS} characters"
        case Kind.INTS:
            return f"1 to {MAX_STEPS} falling numbers from {row.minimum:g} to {row.maximum:g}"
        case Kind.FLOATS:
            return f"up to {MAX_LORAS} numbers from {row.minimum:g} to {row.maximum:g}"
        case Kind.FILES:
            return f"up to {MAX_LORAS} files, PATH or PATH:WEIGHT, weights from {row.minimum:g} to {row.maximum:g}"
        case Kind.MIX:
            return f"up to {MAX_MIX_ENTRIES} texts, each with a weight from {row.minimum:g} to {row.maximum:g}"
        case Kind.SIZE:
            return f"WIDTHxHEIGHT, multiples of {row.step:g} from {row.minimum:g} to {row.maximum:g}"
        case Kind.CHAIN:
            return range_words(row.choices)
    return f"{row.minimum:.10g} to {row.maximum:.10g}{unit}"


def reconcile(values: dict[str, Value], changed: str) -> str:
    """Apply, in place, the rules that tie rows together after `changed` was set.

    Of two bounds the one that was set pushes the other along, so that both can be moved in any order. Returns what
    it did to `changed` itself, or ''.
    """
    low, high = values.get("noise.min"), values.get("noise.max")
    if isinstance(low, float) and isinstance(high, float) and low > high and changed in ("noise.min", "noise.max"):
        values["noise.max" if changed == "noise.min" else "noise.min"] = values[changed]
    steps, count = values.get("steps.list"), values.get("steps.count")
    if isinstance(steps, tuple) and isinstance(count, int) and count > len(steps) and changed.startswith("steps."):
        values["steps.count"] = len(steps)
        return f"steps.list has {len(steps)} entries" if changed == "steps.count" else ""
    return ""


def _number(value: object) -> float:
    if isinstance(value, bool | int | float):
        number = float(value)
    elif isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise InvalidValue(f"{value[:40]!r} is not a number") from None
    else:
        raise InvalidValue(f"a number is needed, not {_kind_name(value)}")
    if not math.isfinite(number):
        raise InvalidValue("NaN and infinity are not values")
    return number


def _clamped(row: Parameter, number: float) -> Coerced:
    low = row.minimum if row.minimum is not None else number
    high = row.maximum if row.maximum is not None else number
    inside = min(max(number, low), high)
    value: Value = int(inside) if row.kind is Kind.INT else float(inside)
    return Coerced(value, "" if inside == number else f"the range is {range_text(row)}")


def _boolean(value: object) -> bool:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("on", "true", "yes"):
            return True
        if word in ("off", "false", "no"):
            return False
    return _number(value) > 0.5


def _choice(row: Parameter, value: object) -> str:
    if isinstance(value, str) and value in row.choices:
        return value
    # TouchDesigner's menus send the index.
    if isinstance(value, int | float) and not isinstance(value, bool):
        index = round(_number(value))
        if 0 <= index < len(row.choices):
            return row.choices[index]
    raise InvalidValue(f"{str(value)[:40]!r} is not one of {', '.join(row.choices)}")


def clean_text(value: str) -> str:
    """One line, no control characters, no lone surrogates, no runs of spaces."""
    visible = "".join(c if c.isprintable() or c.isspace() else " " for c in value)
    return " ".join(visible.encode("utf-8", "ignore").decode("utf-8").split())


def _text(value: object, most_chars: int = MAX_TEXT_CHARS) -> Coerced:
    if not isinstance(value, str):
        raise InvalidValue(f"a text is needed, not {_kind_name(value)}")
    text = clean_text(value)
    if len(text) <= most_chars:
        return Coerced(text)
    return Coerced(text[:most_chars], f"cut to {most_chars} characters")


def _items(value: object) -> list[object]:
    if isinstance(value, str):
        return [part for part in re.split(r"[,\s]+", value.strip()) if part]
    if isinstance(value, list | tuple):
        return list(value)
    return [value]


def _falling_ints(row: Parameter, value: object) -> Coerced:
    items = _items(value)
    if not 1 <= len(items) <= MAX_STEPS:
        raise InvalidValue(f"1 to {MAX_STEPS} numbers are needed, not {len(items)}")
    results = [_clamped(row, round(_number(item))) for item in items]
    numbers = tuple(int(_number(result.value)) for result in results)
    if any(later >= earlier for earlier, later in itertools.pairwise(numbers)):
        raise InvalidValue("each number must be smaller than the one before")
    return Coerced(numbers, next((result.note for result in results if result.note), ""))


def _floats(row: Parameter, value: object) -> Coerced:
    items = [part for item in (() if value is None else _items(value)) for part in _items(item)]
    if len(items) > MAX_LORAS:
        raise InvalidValue(f"up to {MAX_LORAS} numbers are taken, not {len(items)}")
    results = [_clamped(row, _number(item)) for item in items]
    note = next((result.note for result in results if result.note), "")
    return Coerced(tuple(_number(result.value) for result in results), note)


def _files(row: Parameter, value: object) -> Coerced:
    items = value.split(weighted_files.PARTING) if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise InvalidValue(f"a list of files is needed, not {_kind_name(value)}")
    notes: list[str] = []
    files: list[tuple[str, float]] = []
    for item in items:
        if isinstance(item, str) and not item.strip():
            continue
        try:
            path, weight = weighted_files.read(item)
        except ValueError as error:
            raise InvalidValue(str(error)) from None
        number = _clamped(row, weight)
        notes += [number.note] if number.note else []
        files.append((path, _number(number.value)))
    if len(files) > MAX_LORAS:
        raise InvalidValue(f"up to {MAX_LORAS} files are taken, not {len(files)}")
    return Coerced(tuple(files), notes[0] if notes else "")


def _mix(row: Parameter, value: object) -> Coerced:
    if not isinstance(value, list | tuple):
        raise InvalidValue(f"a list of texts and weights is needed, not {_kind_name(value)}")
    items = [part for item in value for part in (item if isinstance(item, list | tuple) else (item,))]
    if len(items) % 2 or len(items) > 2 * MAX_MIX_ENTRIES:
        raise InvalidValue(f"up to {MAX_MIX_ENTRIES} texts are needed, each followed by its weight")
    notes: list[str] = []
    entries: list[tuple[str, float]] = []
    for text, weight in zip(items[::2], items[1::2], strict=True):
        words, number = _text(text, MAX_MIX_TEXT_CHARS), _clamped(row, _number(weight))
        notes += [note for note in (words.note, number.note) if note]
        entries.append((str(words.value), _number(number.value)))
    if entries and not any(weight > 0 for _, weight in entries):
        raise InvalidValue("one weight at least must be above 0")
    return Coerced(tuple(entries), notes[0] if notes else "")


def _size(row: Parameter, value: object) -> tuple[int, int]:
    items = re.split(r"[xX]", value) if isinstance(value, str) else _items(value)
    if len(items) != 2:
        raise InvalidValue("a size is WIDTHxHEIGHT, for example 256x256")
    width, height = (round(_number(item)) for item in items)
    low, high, step = int(row.minimum or 0), int(row.maximum or 0), int(row.step or 1)
    for number in (width, height):
        if not low <= number <= high:
            raise InvalidValue(f"{width}x{height} is outside {low} to {high}")
    if width % step or height % step:
        below = f"{width // step * step}x{height // step * step}"
        above = f"{-(-width // step) * step}x{-(-height // step) * step}"
        raise InvalidValue(f"{width}x{height} is no multiple of {step} both ways; the nearest are {below} and {above}")
    return width, height


def _chain(row: Parameter, value: object) -> str:
    if value is None or value == ():  # OSC's nil empties it, as it does a mix
        return ""
    if not isinstance(value, str):
        raise InvalidValue(f"a text is needed, not {_kind_name(value)}")
    try:
        return str(parse_chain(value, row.choices))
    except ValueError as error:
        raise InvalidValue(str(error)) from None


def _kind_name(value: object) -> str:
    names = {str: "a text", bytes: "bytes", list: "a list", tuple: "a list", dict: "an object", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)
