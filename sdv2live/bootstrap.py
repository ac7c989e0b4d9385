"""A start on any machine. Owns: which sub-command needs which modules, and in which Python it runs.

Standard library alone; it runs first, on the main thread, before anything else of the product. What is
there already costs a look for each module and no more. What is missing in a checkout is put into the
checkout's `.venv`, and this process goes on in it. How things get into `.venv` is `installer.py`'s affair.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sdv2live.errors import UserError
from sdv2live.paths import checkout_root

# Set for the process that a start goes on in, so that a start can never go round in circles:
# "trusted" = a ready .venv was found, "installed" = something was just installed into it.
GUARD_VARIABLE = "SDV2LIVE_BOOTSTRAP"

# What pip calls a module's package, where the two names differ.
PACKAGE_OF_MODULE = {
    "cv2": "opencv-python-headless",
    "cv2_enumerate_cameras": "cv2-enumerate-cameras",
    "pythonosc": "python-osc",
    "PySide6": "PySide6-Essentials",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
# The same bound as in pyproject.toml; an older torch can be imported and then fails much later.
OLDEST_TORCH = (2, 11)


@dataclass(frozen=True)
class Needs:
    """`modules`: it cannot run without them. `along`: installed with them, and it runs without."""

    modules: tuple[str, ...] = ()
    along: tuple[str, ...] = ()


_ENGINE = ("torch", "numpy", "einops", "safetensors")
_LIVE = (*_ENGINE, "cv2", "av")
_CAMERAS = () if sys.platform == "linux" else ("cv2_enumerate_cameras",)  # Linux tells without
_TEXT_ENCODER = ("transformers", "tokenizers", "ftfy")  # of the Wan engines
_TRAINING = ("skimage", "sklearn", "matplotlib")
_NOTHING = Needs()

NEEDS_OF_COMMAND: Mapping[str, Needs] = {
    "live": Needs(_LIVE, along=("PySide6", "mss", *_CAMERAS, "pyvirtualcam", "huggingface_hub", *_TEXT_ENCODER)),
    "render": Needs(_LIVE, along=_TEXT_ENCODER),
    "evaluate": Needs(_LIVE),
    "bench": Needs(_ENGINE),
    "prompt": Needs(_ENGINE),
    "stage": Needs(_ENGINE),
    "models": Needs((*_ENGINE, "huggingface_hub")),  # the engine's, to convert what was fetched
    "devices": Needs(("numpy", "cv2", "mss"), along=(*_CAMERAS, "pyvirtualcam")),
    "doctor": Needs(along=_LIVE),  # it says what is missing, and installs nothing
    "help": _NOTHING,
    "test": Needs(
        (
            *_LIVE,
            "mss",
            *_TEXT_ENCODER,
            "PySide6",
            "diffusers",
            "pyvirtualcam",
            "pytest",
            "pythonosc",
            "psutil",
            "ruff",
            "mypy",
            "setuptools",
            "huggingface_hub",
            *_TRAINING,
        ),
    ),
}


def needs_of(arguments: Sequence[str]) -> Needs:
    """What a command line needs. A word that is no sub-command needs nothing: it ends in a message."""
    command = arguments[0] if arguments and not arguments[0].startswith("-") else "live"
    if command != "test" and not {"-h", "--help", "--version"}.isdisjoint(arguments):
        return _NOTHING
    if command == "models" and arguments[1:2] != ["get"]:
        return _NOTHING  # what is here can be looked at, checked and removed without
    if command == "doctor" and any(word.partition("=")[0] == "--soak" for word in arguments):
        return NEEDS_OF_COMMAND["live"]
    return NEEDS_OF_COMMAND.get(command, _NOTHING)


def package_of(module: str) -> str:
    """The name that pip and pyproject.toml know a module by."""
    return PACKAGE_OF_MODULE.get(module, module)


def missing_modules(modules: Iterable[str]) -> dict[str, str]:
    """Those that this Python cannot use, each with the reason. Imports none of them."""
    missing: dict[str, str] = {}
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None:
            missing[module] = "is not installed"
        elif module == "torch" and (version := _installed_version(module, spec.origin)) and is_too_old(version):
            missing[module] = f"{version} is older than {'.'.join(map(str, OLDEST_TORCH))}"
    return missing


def is_too_old(torch_version: str) -> bool:
    """Whether a version such as `2.4.1+cu121` lies below the oldest torch that works."""
    numbers = re.match(r"(\d+)\.(\d+)", torch_version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST_TORCH


def ensure(arguments: Sequence[str]) -> None:
    """Return when this Python has what the command line needs; otherwise go on in one that has.

    Does not return where it goes on in `.venv` or has to give up (exit code 2 and one sentence).
    """
    guard = os.environ.pop(GUARD_VARIABLE, "")  # not for the processes that the product starts
    needs = needs_of(arguments)
    missing = missing_modules(needs.modules)
    root = checkout_root()
    if not missing:
        if needs.modules or not needs.along or root is None or not missing_modules(needs.along):
            return
        # Nothing has to be there, and where what would be of use is ready, it is used.
        from sdv2live import installer

        if guard or _is_running_in(root / ".venv") or not installer.is_ready(root, {}):
            return
        _go_on_in(installer.python_in(root), root, "trusted", arguments)
    try:
        if root is None:
            raise UserError(_what_to_install(missing))
        python, guard = _python_with(root, needs, missing, guard)
    except UserError as error:
        _give_up(str(error), 2)
    except KeyboardInterrupt:
        _give_up("the installation was stopped; start again to install what is missing.", 130)
    _go_on_in(python, root, guard, arguments)


def _go_on_in(python: Path, root: Path, guard: str, arguments: Sequence[str]) -> NoReturn:
    environ = {**os.environ, GUARD_VARIABLE: guard}
    # A framework build of macOS sets it, and the next Python would take itself for this one.
    environ.pop("__PYVENV_LAUNCHER__", None)
    if Path.cwd() != root:  # `-m` looks in the working folder; started from elsewhere, it needs telling
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environ.get("PYTHONPATH")]))
    raise SystemExit(replace_process([str(python), "-m", "sdv2live", *arguments], environ))


def run_tests(pytest_arguments: Sequence[str]) -> int:
    """Become pytest, in the checkout, with its arguments and its exit code."""
    root = checkout_root()
    if root is None or not (root / "tests").is_dir():
        _give_up("the tests are not part of an installed package; run them in a checkout of sdv2live.", 2)
    os.chdir(root)
    return replace_process([sys.executable, "-m", "pytest", *pytest_arguments], dict(os.environ))


def replace_process(command: list[str], environ: Mapping[str, str]) -> int:
    """Become another program. On Windows, which cannot, wait for it and return its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform != "win32":
        os.execve(command[0], command, environ)
    import subprocess  # not needed by the others, and not free

    with subprocess.Popen(command, env=environ) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the other program got it as well and decides what to do


def _reasons(missing: Mapping[str, str]) -> str:
    return ", ".join(f"{package_of(module)} {reason}" for module, reason in missing.items())


def _what_to_install(missing: Mapping[str, str]) -> str:
    """The sentence for an installed package, whose Python is its user's to change."""
    bounds = {"torch": f'"torch>={OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}"'}
    names = " ".join(bounds.get(module, package_of(module)) for module in missing)
    return (
        f"this command cannot run in {sys.executable}: {_reasons(missing)}; "
        f"install what is missing with: {sys.executable} -m pip install {names}"
    )


def _python_with(root: Path, needs: Needs, missing: Mapping[str, str], guard: str) -> tuple[Path, str]:
    """The interpreter to go on in, with the guard to give it. May install; raises UserError."""
    from sdv2live import installer  # only now: a start with everything there does not pay for it

    packages = {module: package_of(module) for module in needs.modules}
    python = installer.python_in(root)
    if guard == "installed":
        raise UserError(
            f"{python} still lacks what was just installed for it: {_reasons(missing)}; "
            f"delete the folder {root / '.venv'} and start again."
        )
    if guard == "" and not _is_running_in(root / ".venv") and installer.is_ready(root, packages):
        return python, "trusted"
    installer.prepare(root, packages, along={module: package_of(module) for module in needs.along})
    return python, "installed"


def _is_running_in(venv: Path) -> bool:
    return Path(sys.prefix).resolve() == venv.resolve()


def _installed_version(package: str, origin: str | None) -> str | None:
    """The version in the name of the record beside a package, or None: without a record, its owner knows.

    `importlib.metadata` would say the same after importing a mail parser, at every start.
    """
    if origin is None:
        return None
    records = Path(origin).parent.parent.glob(f"{package}-*.dist-info")
    return next((record.name.removesuffix(".dist-info").split("-")[1] for record in records), None)


def _give_up(sentence: str, exit_code: int) -> NoReturn:
    print(f"sdv2live: {sentence}", file=sys.stderr)
    raise SystemExit(exit_code)
