"""`python -m sdv2live.training`: make the pocket model from nothing, or look at one. Owns the command line alone.

What the user can put right is one sentence on standard error and exit code 2, as in the app.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
from pathlib import Path

import torch

from sdv2live.engine.checkpoint import is_memory_full, open_checkpoint
from sdv2live.engine.host_memory import keep_freed_memory
from sdv2live.engine.model.pocket_text import PocketTextEncoder
from sdv2live.engine.pocket_words import load_text_encoder
from sdv2live.errors import UserError, one_line
from sdv2live.paths import assets_dir
from sdv2live.training.effects import LOOKS
from sdv2live.training.evaluate import DRIFT_CHUNKS, LEAST_DRIFT_CHUNKS, SIZES_WH, evaluate
from sdv2live.training.export import NETWORKS, export
from sdv2live.training.held_out import FRAMES, video_frames
from sdv2live.training.loop import CHECKPOINT_PERIOD_S, Budget
from sdv2live.training.losses import GuardError
from sdv2live.training.pools import LARGE, SMALL, make_pools
from sdv2live.training.reading import words_table
from sdv2live.training.report import guards, report
from sdv2live.training.setup import Setup
from sdv2live.training.train import STAGES

# Minutes on two CPU cores; the text stage is counted in steps because it is short everywhere.
MINUTES = {"a": 11.0, "b": 37.0, "c": 36.0, "d": 30.0}
WORDS_STEPS = 4000
FROM_NOTHING = ("words", "a")
USAGE_ERROR, INTERRUPTED = 2, 130
LARGEST_SEED = 2**63 - 1  # torch takes no larger one


def _stage(name: str) -> str:
    if name not in STAGES:
        raise argparse.ArgumentTypeError(f"{name!r} is no stage; the stages are {', '.join(STAGES)}")
    return name


def _count(text: str, least: int = 1, most: float = math.inf) -> int:
    if not text.strip().lstrip("+").isdecimal() or not least <= int(text) <= most:
        limit = "" if most == math.inf else f" and at most {most}"
        raise argparse.ArgumentTypeError(f"{text} is no whole number of at least {least}{limit}")
    return int(text)


def _from_nought(text: str) -> int:
    return _count(text, 0)


def _seed(text: str) -> int:
    return _count(text, 0, LARGEST_SEED)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return number


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch has both for what is not there
        why = str(error).partition("\n")[0]
        raise argparse.ArgumentTypeError(f"{name} is no device that can be used here ({why}); cpu always is") from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m sdv2live.training", description="Train the pocket model.")
    commands = top.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="make the pools of training clips (2.7 GB)")
    data.add_argument("--processes", type=_count, default=2, help="that make clips at once (default: 2)")
    run = commands.add_parser("run", help="run training stages; a stage goes on where it was cut off")
    run.add_argument(
        "stages",
        nargs="*",
        type=_stage,
        default=list(STAGES),
        metavar="STAGE",
        help=f"of {', '.join(STAGES)}; all, in this order, if none is named",
    )
    run.add_argument(
        "--workers", type=_count, default=1, help="threads with a batch each (stages c and d); use --threads 1"
    )
    run.add_argument(
        "--from",
        dest="model",
        type=Path,
        metavar="FOLDER",
        help="go on from the weights of an exported model, such as assets/pocket, instead of from the stages before",
    )
    run.add_argument(
        "--rate", type=_positive, default=1.0, help="times the learning rates of stages b, c and d (default: 1)"
    )
    run.add_argument("--batch", type=_count, default=1, help="times the clips of a step; a GPU wants 16 and more")
    run.add_argument(
        "--fresh",
        action="store_true",
        help="make clips and looks on the device while training, none twice, instead of taking those of `data`; "
        "what a GPU is for",
    )
    length = run.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=_positive, help="minutes for each stage (default: a 2-core schedule)")
    length.add_argument("--steps", type=_count, help="steps for each stage")
    evaluation = commands.add_parser("evaluate", help="figures and contact sheets on held-out pictures")
    evaluation.add_argument("--video", type=Path, help=f"also a video file, at least {FRAMES} frames")
    evaluation.add_argument("--look", action="append", choices=tuple(LOOKS), help="this one; repeatable (default: all)")
    evaluation.add_argument("--out", type=Path, help="folder for figures and contact sheets (default: a new one)")
    evaluation.add_argument(
        "--drift-chunks",
        type=_from_nought,
        default=DRIFT_CHUNKS,
        help=f"chunks of the drift test, at least {LEAST_DRIFT_CHUNKS}; 0 leaves it out (default: %(default)s)",
    )
    evaluation.add_argument(
        "--precision", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="of the live engine"
    )
    exporting = commands.add_parser("export", help="write the weights for the app")
    exporting.add_argument("--model", type=Path, required=True, help="folder to write to")
    exporting.add_argument(
        "--network",
        action="append",
        choices=tuple(NETWORKS),
        help="this one, and leave the others as they lie in the folder; repeatable (default: all)",
    )
    exporting.add_argument(
        "--anyway",
        action="store_true",
        help="even from a stage d that was cut off, or whose decoder hardly needs the transformer's latents",
    )
    reading = commands.add_parser("words", help="how well a model reads prompts that it was not trained on")
    for command in (evaluation, reading):
        command.add_argument("--model", type=Path, default=assets_dir() / "pocket", help="default: what ships")
    for command in (data, run, exporting):
        command.add_argument("--work", type=Path, required=True, help="folder for pools, checkpoints and sheets")
    for command in (data, run):
        command.add_argument("--seed", type=_seed, default=0)
    run.add_argument("--device", type=_device, default="cuda" if torch.cuda.is_available() else "cpu")
    for command in (run, evaluation):
        command.add_argument("--threads", type=_count, default=2, help="CPU threads")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it went well, 1 where a guard failed, 2 after a sentence, 130 on Ctrl-C."""
    top = parser()
    args = top.parse_args(arguments)
    if args.command == "run" and args.model:
        if scratch := [stage for stage in args.stages if stage in FROM_NOTHING]:
            top.error(f"stage {scratch[0]} starts from nothing: name b, c or d with --from")
        if len(args.stages) > 1:
            top.error("--from is where one stage starts: run one, export it, and start the next from that")
    if args.command in ("run", "evaluate"):
        torch.set_num_threads(args.threads)
    try:
        return COMMANDS[args.command](args)
    except (UserError, OSError, GuardError, FloatingPointError) as error:
        return _said(one_line(error), USAGE_ERROR)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_full(error):
            raise
        return _said("there is not enough memory: take a smaller --batch or fewer --workers.", USAGE_ERROR)
    except KeyboardInterrupt:
        return _said(f"stopped. {_kept(args)}", INTERRUPTED)


def _said(sentence: str, code: int) -> int:
    print(f"sdv2live.training: {sentence}", file=sys.stderr)
    return code


def _kept(args: argparse.Namespace) -> str:
    """What an interrupted command leaves, and how to go on."""
    if args.command == "data":
        return f"The clips that were finished lie in {args.work}; the same command makes the others."
    if args.command == "run":
        saved = [f"stage-{stage}.pt" for stage in args.stages if (args.work / f"stage-{stage}.pt").exists()]
        if saved:
            return (
                f"{args.work} keeps {', '.join(saved)}, saved every {CHECKPOINT_PERIOD_S:.0f} s; "
                "the same command goes on from there."
            )
    if args.command == "evaluate" and args.out and (args.out / "evaluation.json").exists():
        return f"What was measured lies in {args.out}; the same command begins anew."
    return "Nothing was kept; the same command begins anew."


def _data(args: argparse.Namespace) -> int:
    make_pools(_folder(args.work) / "pools", (SMALL, LARGE), seed=args.seed, processes=args.processes)
    return 0


def _run(args: argparse.Namespace) -> int:
    work = _folder(args.work)
    for stage in args.stages:
        if args.steps or (stage == "words" and not args.minutes):
            budget = Budget(steps=args.steps or WORDS_STEPS)
        else:
            budget = Budget(minutes=args.minutes or MINUTES[stage])
        setup = Setup(work, args.device, args.seed, args.workers, args.model, args.rate, args.batch, args.fresh)
        STAGES[stage](setup, budget)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    keep_freed_memory()
    text = _text_of(args.model)
    for name in NETWORKS:
        open_checkpoint(args.model / f"{name}.safetensors")
    if args.video:
        video_frames(args.video, SIZES_WH[0])  # a file that is none is refused before a folder is made for it
    out = args.out = _folder(args.out) if args.out else Path(tempfile.mkdtemp(prefix="sdv2live-evaluation-"))
    looks = args.look or list(text.looks)
    found = evaluate(
        args.model, out, video=args.video, looks=looks, drift_chunks=args.drift_chunks, precision=args.precision
    )
    print(report(found))
    print(words_table(text))
    print(f"\nContact sheets and figures: {out}")
    return 0 if all(guard.holds for guard in guards(found.rows)) else 1


def _words(args: argparse.Namespace) -> int:
    print(words_table(_text_of(args.model)))
    return 0


def _export(args: argparse.Namespace) -> int:
    written = export(args.work, args.model, args.network or tuple(NETWORKS), anyway=args.anyway)
    print(f"{written / 1e6:.2f} MB in {args.model}")
    return 0


def _folder(path: Path) -> Path:
    """Made if it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} is a file or lies below one: name a folder.") from None
    return path


def _text_of(model: Path) -> PocketTextEncoder:
    """The text encoder of an exported model."""
    if not (model / "config.json").is_file():
        raise UserError(f"{model} holds no exported model (there is no config.json): name the folder of one.")
    try:
        return load_text_encoder(model)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{model / 'config.json'} describes no text encoder ({why}): export it again.") from error


COMMANDS = {"data": _data, "run": _run, "evaluate": _evaluate, "export": _export, "words": _words}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(main())
