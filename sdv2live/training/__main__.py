"""`python -m sdv2live.training`: make the pocket model from nothing, or look at one. Owns the command line alone."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import torch

from sdv2live.engine.host_memory import keep_freed_memory
from sdv2live.engine.pocket_words import load_text_encoder
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir
from sdv2live.training.effects import LOOKS
from sdv2live.training.evaluate import DRIFT_CHUNKS, LEAST_DRIFT_CHUNKS, evaluate
from sdv2live.training.export import NETWORKS, export
from sdv2live.training.held_out import FRAMES
from sdv2live.training.loop import Budget
from sdv2live.training.pools import LARGE, SMALL, make_pools
from sdv2live.training.reading import words_table
from sdv2live.training.report import guards, report
from sdv2live.training.setup import Setup
from sdv2live.training.train import STAGES

# Minutes on two CPU cores; the text stage is counted in steps because it is short everywhere.
MINUTES = {"a": 11.0, "b": 37.0, "c": 36.0, "d": 30.0}
WORDS_STEPS = 4000
FROM_NOTHING = ("words", "a")


def _stage(name: str) -> str:
    if name not in STAGES:
        raise argparse.ArgumentTypeError(f"{name!r} is no stage; the stages are {', '.join(STAGES)}")
    return name


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m sdv2live.training", description="Train the pocket model.")
    commands = top.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="make the pools of training clips (2.7 GB)")
    data.add_argument("--processes", type=int, default=2)
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
        "--workers", type=int, default=1, help="threads with a batch each (stages c and d); use --threads 1"
    )
    run.add_argument(
        "--from",
        dest="model",
        type=Path,
        metavar="FOLDER",
        help="go on from the weights of an exported model, such as assets/pocket, instead of from the stages before",
    )
    run.add_argument(
        "--rate", type=float, default=1.0, help="times the learning rates of stages b, c and d (default: 1)"
    )
    run.add_argument("--batch", type=int, default=1, help="times the clips of a step; a GPU wants 16 and more")
    run.add_argument(
        "--fresh",
        action="store_true",
        help="make clips and looks on the device while training, none twice, instead of taking those of `data`; "
        "what a GPU is for",
    )
    length = run.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="minutes for each stage (default: a 2-core schedule)")
    length.add_argument("--steps", type=int, help="steps for each stage")
    evaluation = commands.add_parser("evaluate", help="figures and contact sheets on held-out pictures")
    evaluation.add_argument("--video", type=Path, help=f"also a video file, at least {FRAMES} frames")
    evaluation.add_argument("--look", action="append", choices=tuple(LOOKS), help="this one; repeatable (default: all)")
    evaluation.add_argument("--out", type=Path, help="folder for figures and contact sheets (default: a new one)")
    evaluation.add_argument(
        "--drift-chunks",
        type=int,
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
    reading = commands.add_parser("words", help="how well a model reads prompts that it was not trained on")
    for command in (evaluation, reading):
        command.add_argument("--model", type=Path, default=assets_dir() / "pocket", help="default: what ships")
    for command in (data, run, exporting):
        command.add_argument("--work", type=Path, required=True, help="folder for pools, checkpoints and sheets")
    for command in (data, run):
        command.add_argument("--seed", type=int, default=0)
    run.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for command in (run, evaluation):
        command.add_argument("--threads", type=int, default=2, help="CPU threads")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it went well."""
    top = parser()
    args = top.parse_args(arguments)
    if args.command in ("run", "evaluate"):
        torch.set_num_threads(args.threads)
    if args.command == "data":
        make_pools(args.work / "pools", (SMALL, LARGE), seed=args.seed, processes=args.processes)
    elif args.command == "run":
        if args.model and (scratch := [stage for stage in args.stages if stage in FROM_NOTHING]):
            top.error(f"stage {scratch[0]} starts from nothing: name b, c or d with --from")
        if args.model and len(args.stages) > 1:
            top.error("--from is where one stage starts: run one, export it, and start the next from that")
        for stage in args.stages:
            if args.steps or (stage == "words" and not args.minutes):
                budget = Budget(steps=args.steps or WORDS_STEPS)
            else:
                budget = Budget(minutes=args.minutes or MINUTES[stage])
            device = torch.device(args.device)
            setup = Setup(args.work, device, args.seed, args.workers, args.model, args.rate, args.batch, args.fresh)
            STAGES[stage](setup, budget)
    elif args.command == "evaluate":
        keep_freed_memory()
        out = args.out or Path(tempfile.mkdtemp(prefix="sdv2live-evaluation-"))
        looks = args.look or list(load_text_encoder(args.model).looks)
        try:
            found = evaluate(
                args.model, out, video=args.video, looks=looks, drift_chunks=args.drift_chunks, precision=args.precision
            )
        except UserError as error:
            top.error(str(error))
        print(report(found))
        print(words_table(load_text_encoder(args.model)))
        print(f"\nContact sheets and figures: {out}")
        return 0 if all(guard.holds for guard in guards(found.rows)) else 1
    elif args.command == "words":
        print(words_table(load_text_encoder(args.model)))
    else:
        print(f"{export(args.work, args.model, args.network or tuple(NETWORKS)) / 1e6:.2f} MB in {args.model}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(main())
