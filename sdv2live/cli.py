"""The command line. Owns: sub-commands and their flags; the flags of parameters come from the table.

Every error that the user can put right is one sentence on standard error and exit code 2. Rooms are imported by the
sub-command that needs them, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sdv2live import __version__
from sdv2live.errors import RankLost, UserError, one_line
from sdv2live.parameters import TABLE, Kind, Parameter, range_text
from sdv2live.registry import COMMAND_LINE, Registry

if TYPE_CHECKING:
    from sdv2live.last_session import LastSession

USAGE_ERROR = 2
DEMO_SECONDS = 20.0
COMMANDS = ("live", "render", "evaluate", "bench", "prompt", "models", "devices", "doctor", "stage")
_NOT_IN_RENDER = ("output.", "stream.", "osc.", "source.", "camera.", "record.", "schedule")
_YET_IN_RENDER = ("source.fit", "source.mirror", "source.rotate", "output.filters")


def main(argv: list[str] | None = None) -> int:
    """Run one command; -> its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except UserError as error:
        print(f"sdv2live: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("sdv2live: stopped", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    from sdv2live import logs

    if arguments[:1] == ["test"]:
        from sdv2live import bootstrap

        return bootstrap.run_tests(arguments[1:])
    wants_top = arguments[:1] in (["--help"], ["-h"], ["--version"])
    if not wants_top and (not arguments or arguments[0].startswith("-")):
        arguments.insert(0, "live")
    options = _parser().parse_args(arguments)
    logs.set_up(verbose=options.verbose)
    return int(options.run(options))


class _Parser(argparse.ArgumentParser):
    """argparse, with one sentence in place of the usage for a mistyped line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` lists what there is.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sdv2live",
        description="A live AI video effect. Without a command: live.",
        epilog="`sdv2live COMMAND --help` lists the flags of a command; `sdv2live test` runs the tests of a checkout.",
    )
    parser.add_argument("--version", action="version", version=f"sdv2live {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{" + ",".join(COMMANDS) + ",test}")

    live = commands.add_parser("live", help="restyle a source live (default)", allow_abbrev=False)
    live.add_argument("--headless", action="store_true", help="without a window")
    live.add_argument("--output", action="append", metavar="O", help="camera[:NAME], file:PATH, null; repeatable")
    live.add_argument("--preset", metavar="NAME", help="start with this look")
    live.add_argument("--seconds", type=_seconds, metavar="N", help="stop N seconds after the first picture")
    live.add_argument("--json", type=Path, metavar="FILE", help="write the run's numbers to FILE at its end")
    live.add_argument("-y", "--overwrite", action="store_true", help="let a file output replace a file of its name")
    _add_parameters(live, TABLE.values())
    live.set_defaults(run=_live)

    render = commands.add_parser("render", help="restyle a file, every frame of it", allow_abbrev=False)
    render.add_argument("input", metavar="IN", help="a video file")
    render.add_argument("out", metavar="OUT", type=Path, help="the .mp4 file to write")
    render.add_argument("--preset", metavar="NAME", help="start with this look")
    render.add_argument("-y", "--overwrite", action="store_true", help="replace OUT if it exists")
    rows = [row for row in TABLE.values() if not row.name.startswith(_NOT_IN_RENDER) or row.name in _YET_IN_RENDER]
    _add_parameters(render, rows)
    render.set_defaults(run=_render)

    bench = commands.add_parser("bench", help="measure the engine on this machine", allow_abbrev=False)
    bench.add_argument("--chunks", type=int, default=24, metavar="N", help="chunks to time (default 24)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    bench.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw the time of each stage into FILE.svg")
    bench.add_argument("--no-compile", action="store_true", help="do not time the stages compiled, which takes long")
    bench.add_argument("--compare", choices=["reference"], help="time the published package beside it, if installed")
    bench.add_argument("--app", action="store_true", help="time the app's own work on a frame too (needs OpenCV)")
    bench.add_argument("--note", metavar="TEXT", default="", help="words on this run that go into the figures")
    _add_parameters(bench, [row for row in TABLE.values() if row.name.startswith(("engine.", "steps.", "schedule"))])
    bench.set_defaults(run=_bench)

    evaluate = commands.add_parser("evaluate", help="measure an output against its source", allow_abbrev=False)
    evaluate.add_argument("source", metavar="SOURCE", type=Path, help="the video that was restyled")
    evaluate.add_argument("out", metavar="OUTPUT", type=Path, help="the restyled video, frame for frame")
    evaluate.add_argument("--prompt", metavar="TEXT", default="", help="what was asked for, for the CLIP score")
    evaluate.add_argument("--fit", metavar="MODE", default="crop", help="crop (default), letterbox or stretch")
    evaluate.add_argument("--clip", type=Path, metavar="FOLDER", help="a CLIP model saved by transformers")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    evaluate.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves into FILE.png")
    evaluate.set_defaults(run=_evaluate)

    from sdv2live.models.command import add_parser as add_models_parser

    models = commands.add_parser("models", help="fetch, check and remove the Wan engines' files", allow_abbrev=False)
    add_models_parser(models)
    models.set_defaults(run=_models)

    prompt = commands.add_parser("prompt", help="say what the engine pocket understands of texts", allow_abbrev=False)
    prompt.add_argument("texts", metavar="TEXT", nargs="+", help="a prompt; one with gaps goes in quotes")
    prompt.add_argument("--json", action="store_true", help="as JSON, for programs")
    prompt.set_defaults(run=_prompt)

    devices = commands.add_parser("devices", help="list cameras, screens, virtual cameras and GPUs", allow_abbrev=False)
    devices.add_argument("--json", action="store_true", help="as JSON, for programs")
    devices.set_defaults(run=_devices)

    from sdv2live.doctor.command import add_flags as add_doctor_flags

    doctor = commands.add_parser("doctor", help="say what works here, and rehearse a show", allow_abbrev=False)
    add_doctor_flags(doctor, _seconds)
    _add_parameters(doctor, TABLE.values())
    doctor.set_defaults(run=_doctor)

    stage = commands.add_parser("stage", help="lend this machine's device to a run elsewhere", allow_abbrev=False)
    stage.add_argument("--rank", type=int, metavar="N", help="which rank this is, from 1 (default: RANK)")
    stage.add_argument("--master", metavar="HOST:PORT", help="where the run is (default: MASTER_ADDR:MASTER_PORT)")
    stage.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cuda:1, cpu and so on")
    stage.add_argument("--threads", type=int, default=0, metavar="N", help="processor threads; 0 (default): all cores")
    stage.set_defaults(run=_stage)

    for command in (live, render, bench, evaluate, prompt, devices, doctor, stage):
        command.add_argument("-v", "--verbose", action="store_true", help="say more")
    return parser


def _add_parameters(parser: argparse.ArgumentParser, rows: Iterable[Parameter]) -> None:
    """One flag for each row; values stay text until the registry checks them."""
    group = parser.add_argument_group("parameters")
    for row in rows:
        words = f"{row.doc} ({range_text(row)})".replace("%", "%%")
        match row.kind:
            case Kind.TRIGGER:
                continue
            case Kind.BOOL:
                group.add_argument(row.cli_flag, dest=row.name, action=argparse.BooleanOptionalAction, help=words)
            case Kind.MIX:
                group.add_argument(row.cli_flag, dest=row.name, nargs="+", metavar="TEXT WEIGHT", help=words)
            case Kind.FILES:
                group.add_argument(row.cli_flag, dest=row.name, nargs="+", metavar="PATH[:WEIGHT]", help=words)
            case Kind.FLOATS:
                group.add_argument(row.cli_flag, dest=row.name, nargs="+", metavar="NUMBER", help=words)
            case _:
                group.add_argument(row.cli_flag, dest=row.name, metavar=row.kind.name, help=words)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds above 0")
    return seconds


def _registry(options: argparse.Namespace, last: LastSession | None = None) -> tuple[Registry, list[str]]:
    """The registry as the command line asks for it, and the names it set. Raises UserError.

    last: what the last session had, for everything that the command line leaves open.
    """
    registry = Registry()
    given = {name: getattr(options, name) for name in TABLE if getattr(options, name, None) is not None}
    engine_names = [(name, given[name]) for name in given if name.startswith("engine.")]
    registry.set_strictly(engine_names, origin=COMMAND_LINE)
    from sdv2live.settings import engine_spec

    if last is not None:
        last.apply_engine(registry)
    from sdv2live.auto.measuring import begin

    begin(registry)
    engine_spec(registry)  # brings the engine's defaults, which ranges such as steps.count depend on
    if getattr(options, "preset", None):
        from sdv2live.presets import apply_preset

        apply_preset(registry, options.preset, origin=COMMAND_LINE)
    registry.set_strictly([(n, v) for n, v in given.items() if not n.startswith("engine.")], origin=COMMAND_LINE)
    if last is not None:
        last.apply(registry)
    return registry, list(given)


def _live(options: argparse.Namespace) -> int:
    if not options.headless and _has_display():
        from sdv2live.window import run_window

        return run_window(options, _registry)
    registry, given = _registry(options)
    from bridges.select import make_output
    from sdv2live.app import LiveOptions, run_live
    from sdv2live.settings import engine_spec

    specs, seconds = options.output, options.seconds
    if not specs and not options.headless:
        specs, seconds = _demo(seconds)
    _check_files(str(registry.get("source.name") or ""), specs or [], options.json)
    from sdv2live.auto.measuring import prepare

    prepare(registry, source=str(registry.get("source.name") or "clip"), say=_show)
    outputs = [make_output(spec, overwrite=options.overwrite) for spec in specs or ["null"]]
    code = run_live(
        registry,
        LiveOptions(
            outputs=outputs,
            spec=engine_spec(registry),
            seconds=seconds,
            json_path=options.json,
            osc_port_is_asked="osc.port" in given,
        ),
    )
    for output in outputs:
        path = getattr(output, "path", None)
        if path is not None and path.exists():
            print(f"written: {path}")
    return code


def _show(words: str) -> None:
    print(f"sdv2live: {words}", file=sys.stderr, flush=True)


def _has_display() -> bool:
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _check_files(source: str, outputs: list[str], json_path: Path | None) -> None:
    """No file may be written twice, or read and written, and the summary needs a folder: before anything is touched."""
    paths = [Path(spec.removeprefix("file:")).expanduser().resolve() for spec in outputs if spec.startswith("file:")]
    twice = next((path for number, path in enumerate(paths) if path in paths[:number]), None)
    if twice is not None:
        raise UserError(f"two outputs write to {twice}: give each a file of its own.")
    source_path = Path(source.removeprefix("file:")).expanduser().resolve()
    if source and source_path in paths:
        raise UserError(f"{source_path} is the source and an output at once: write to another file.")
    _check_summary(json_path)


def _check_summary(path: Path | None, *, flag: str = "--json") -> None:
    """Said before the run, not after it."""
    if path is not None and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
        raise UserError(f"{flag} {path} cannot be written: name a file in a folder that is there and yours.")


def _demo(seconds: float | None) -> tuple[list[str], float]:
    """Nothing was said: the clip for a while, into a file of the working folder, which is named."""
    seconds = seconds or DEMO_SECONDS
    target = Path.cwd() / "sdv2live-demo.mp4"
    if not os.access(target.parent, os.W_OK):
        raise UserError(f"{target.parent} cannot be written to: start sdv2live in another folder, or give --output.")
    print(
        f"sdv2live runs for {seconds:g} s into a video file of this folder (there is no display for a window); "
        "--output and --seconds say otherwise, Ctrl-C ends it.",
        file=sys.stderr,
    )
    return [f"file:{target}"], seconds


def _render(options: argparse.Namespace) -> int:
    registry, _ = _registry(options)
    from sdv2live.render import render

    return render(registry, options.input, options.out, overwrite=options.overwrite)


def _evaluate(options: argparse.Namespace) -> int:
    from sdv2live.evaluate import evaluate

    return evaluate(
        options.source,
        options.out,
        fit=options.fit,
        prompt=options.prompt,
        clip=options.clip,
        json_path=options.json,
        plot_path=options.plot,
    )


def _bench(options: argparse.Namespace) -> int:
    registry, _ = _registry(options)
    _check_summary(options.json)
    _check_summary(options.chart, flag="--chart")
    from sdv2live.bench import BenchOptions, bench

    return bench(
        registry,
        BenchOptions(
            chunks=options.chunks,
            json_path=options.json,
            chart_path=options.chart,
            compiles=not options.no_compile,
            compares=options.compare == "reference",
            times_app=options.app,
            note=options.note,
        ),
    )


def _prompt(options: argparse.Namespace) -> int:
    from sdv2live.prompt_report import report_prompts

    return report_prompts(options.texts, as_json=options.json)


def _stage(options: argparse.Namespace) -> int:
    from sdv2live.engine.rank_worker import rank_from, run_rank

    rank, master, index = rank_from(options.rank, options.master, os.environ)

    def end(reason: str) -> None:
        print(f"sdv2live: rank {rank} ends: {reason}.", file=sys.stderr, flush=True)
        os._exit(1)

    def say(stage: str) -> None:
        print(f"sdv2live: rank {rank}: {stage}", file=sys.stderr, flush=True)

    try:
        run_rank(
            rank,
            master,
            device_name=options.device,
            index=index,
            threads=options.threads,
            say=say,
            on_lost=end,
        )
    except (RankLost, RuntimeError) as error:
        end(one_line(error)[:200])
    return 0


def _models(options: argparse.Namespace) -> int:
    from sdv2live.models.command import run

    return run(options)


def _devices(options: argparse.Namespace) -> int:
    from bridges.virtual_camera import camera_report
    from sdv2live.devices import as_json, as_text, report

    found, notes = report(camera_report())
    print(as_json(found, notes) if options.json else as_text(found, notes))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from sdv2live.doctor.command import run

    return run(options, _registry)


if __name__ == "__main__":
    raise SystemExit(main())
