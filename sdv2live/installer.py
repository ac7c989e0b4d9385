"""What a checkout's `.venv` holds. Owns: making it, filling it, its stamp, and the lock on it.

Standard library alone; knows nothing of sub-commands. Runs on the main thread of the bootstrap.

`.venv/sdv2live.json` is the stamp. It says `making` while a new `.venv` is filled, `adding` while something
is put into a good one, and `ready` at the very end, so that an installation that was killed or failed is
never taken for a good one: a half-made `.venv` of ours is emptied and made again. A `.venv` that somebody
else made is never emptied; what it lacks is added to it.

The lock is the system's own on an open file, so it ends with the processes that hold it and is never stale.
pip holds it too, because it may outlive us when we are killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType

from sdv2live import pip_runner, torch_build
from sdv2live.errors import UserError, one_line
from sdv2live.file_lock import held

STAMP_NAME = "sdv2live.json"
LOCK_NAME = "sdv2live.lock"

# Run by a .venv's own Python: its version, whether it has pip, and each package's version if it is there.
_PROBE = """
import importlib.metadata, importlib.util, json, sys
def version(module, package):
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
packages = json.loads(sys.argv[1])
print(json.dumps({
    "python": "%d.%d" % sys.version_info[:2],
    "has_pip": importlib.util.find_spec("pip") is not None,
    "versions": {module: version(module, package) for module, package in packages.items()},
}))
"""


@dataclass(frozen=True)
class Pins:
    """Package -> exact version. `direct` may be asked for, `indirect` comes along with those."""

    direct: Mapping[str, str]
    indirect: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Changes with every pin."""
        text = json.dumps([sorted(self.direct.items()), sorted(self.indirect.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Stamp:
    """How far a `.venv` has come. `modules` are those that were there when `ready` was written."""

    step: str
    is_ours: bool
    python: str
    pins: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Probe:
    python: str
    has_pip: bool
    versions: Mapping[str, str | None]


def read_pins(root: Path) -> Pins:
    """The pins in the checkout's pyproject.toml."""
    with open(root / "pyproject.toml", "rb") as file:
        table = tomllib.load(file)["tool"]["sdv2live"]
    return Pins(direct=table["pins"], indirect=table["indirect-pins"])


def python_in(root: Path) -> Path:
    """The interpreter of the checkout's `.venv`, there or not."""
    venv = root / ".venv"
    return venv / "Scripts" / "python.exe" if sys.platform == "win32" else venv / "bin" / "python"


def read_stamp(venv: Path) -> Stamp | None:
    """The stamp, or None where there is none that can be read."""
    try:
        fields = json.loads((venv / STAMP_NAME).read_text(encoding="utf-8"))
        return Stamp(**{**fields, "modules": tuple(fields["modules"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_stamp(venv: Path, stamp: Stamp) -> None:
    """Put the stamp there at once and whole: a reader sees the old one or the new one."""
    beside = venv / (STAMP_NAME + ".new")
    beside.write_text(json.dumps(asdict(stamp)), encoding="utf-8")
    beside.replace(venv / STAMP_NAME)


def is_ready(root: Path, packages: Mapping[str, str]) -> bool:
    """Whether `.venv` was filled with these modules from today's pins. Reads two small files."""
    stamp = read_stamp(root / ".venv")
    return (
        stamp is not None
        and stamp.step == "ready"
        and set(packages) <= set(stamp.modules)
        and stamp.pins == read_pins(root).digest
        and python_in(root).exists()
    )


def prepare(root: Path, packages: Mapping[str, str], along: Mapping[str, str] | None = None) -> None:
    """Make `.venv` if need be and install what is missing of `packages` (module -> package) into it.

    `along` is installed too, but a failure there is only reported. Blocks for as long as pip takes, and
    before that while another process installs into the same `.venv`. Raises UserError, one sentence.
    """
    venv = root / ".venv"
    try:
        venv.mkdir(exist_ok=True)
        waiting = partial(say, f"another start of sdv2live is installing into {venv}; waiting for it …")
        with held(venv / LOCK_NAME, on_wait=waiting) as lock, _ended_by_sigterm():
            # Another process may have done the work while this one waited for the lock. One that runs
            # inside .venv already knows better than the stamp: it has just looked for its modules.
            if is_ready(root, packages) and not lock.is_first:
                return
            _Installation(root, lock.descriptor).run(packages, along or {})
    except OSError as error:
        raise UserError(
            f"Installing into {venv} failed on {error.filename or venv}: {error.strerror or one_line(error)}; "
            "make room and see that the folder may be written to, then start again."
        ) from error


class _Installation:
    """One installation into one `.venv`, under its lock."""

    def __init__(self, root: Path, lock_descriptor: int) -> None:
        self._root = root
        self._venv = root / ".venv"
        self._python = python_in(root)
        self._pins = read_pins(root)
        self._pip = pip_runner.Pip(self._python, keep_open=lock_descriptor)

    def run(self, packages: Mapping[str, str], along: Mapping[str, str]) -> None:
        earlier = read_stamp(self._venv)
        wanted = {**packages, **along}
        stamp, probe = self._usable_venv(wanted)
        todo = [
            module
            for module in sorted(wanted, key=lambda name: list(self._pins.direct).index(wanted[name]))
            if _is_to_install(probe.versions[module], self._pins.direct[wanted[module]], is_ours=stamp.is_ours)
        ]
        done = set(wanted) - set(todo)
        if earlier is not None and earlier.pins == self._pins.digest and stamp.step == "adding":
            done |= set(earlier.modules) - set(todo)  # there for another command, and still there
        constraints = self._write_constraints()
        for number, module in enumerate(todo, start=1):
            try:
                self._install(wanted[module], f"installing {number} of {len(todo)}", constraints)
                done.add(module)
            except UserError as error:
                if module in along:
                    say(f"{error} Going on without it.")
                    continue
                if stamp.step == "adding":  # what was good before still is; only this is tried again
                    write_stamp(self._venv, replace(stamp, step="ready", modules=tuple(sorted(done))))
                raise
        write_stamp(self._venv, replace(stamp, step="ready", modules=tuple(sorted(done))))
        if todo:
            say(f"{self._venv} is ready.")

    def _usable_venv(self, packages: Mapping[str, str]) -> tuple[Stamp, _Probe]:
        """Keep the `.venv` that is there, or make one; either way a stamp that says `not ready` lies in it."""
        stamp = read_stamp(self._venv)
        is_venv = (self._venv / "pyvenv.cfg").is_file()
        if stamp is None and not is_venv and any(path.name != LOCK_NAME for path in self._venv.iterdir()):
            raise UserError(
                f"{self._venv} holds files and is no virtual environment, so nothing was installed; "
                "move it away and start again."
            )
        is_ours = stamp is not None and stamp.is_ours
        probe = self._probe(packages) if is_venv else None
        is_half_made = is_ours and stamp is not None and stamp.step != "ready"
        is_broken = is_venv and (probe is None or (stamp is not None and stamp.python != probe.python))
        if is_venv and not is_ours and (is_broken or (probe is not None and _is_old(probe.python))):
            raise UserError(
                f"{self._venv} was made by somebody else and its Python "
                f"{'does not run any more' if is_broken or probe is None else f'is {probe.python}, older than 3.11'}, "
                "so nothing was installed; delete or move that folder and start again."
            )
        if is_half_made:
            say(f"{self._venv} was left half-made by an earlier try; starting clean.")
        elif is_broken:
            say(f"{self._venv} does not work any more (was its Python removed or replaced?); making it again.")
        if probe is None or is_half_made or is_broken:
            return self._make(packages)
        say(f"keeping {self._venv} and adding what is missing.")
        stamp = Stamp(step="adding", is_ours=is_ours, python=probe.python, pins=self._pins.digest)
        write_stamp(self._venv, stamp)
        if not probe.has_pip:
            self._run_python("-m", "ensurepip", doing="putting pip into it")
        return stamp, probe

    def _make(self, packages: Mapping[str, str]) -> tuple[Stamp, _Probe]:
        say(f"making {self._venv} with {_base_python(self._venv)} …")
        stamp = Stamp(step="making", is_ours=True, python="", pins=self._pins.digest)
        write_stamp(self._venv, stamp)
        for path in self._venv.iterdir():
            if path.name in {LOCK_NAME, STAMP_NAME}:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        self._run_python("-m", "venv", str(self._venv), doing="making it", python=_base_python(self._venv))
        probe = self._probe(packages)
        if probe is None or not probe.has_pip:
            raise UserError(
                f"{self._venv} was made, but its Python does not run or has no pip; "
                f"try another Python than {_base_python(self._venv)}."
            )
        return replace(stamp, python=probe.python), probe

    def _install(self, package: str, progress: str, constraints: Path) -> None:
        version = self._pins.direct[package]
        requirement = f"{package}=={version}"
        try:
            if package == "torch":
                build = torch_build.wanted_build(sys.platform, os.environ)
                say(f"{progress}: torch {version} ({torch_build.LABELS[build]}) …")
                torch_build.install(self._pip, version, build, sys.platform)
            else:
                say(f"{progress}: {package} {version} …")
            self._pip.install("--constraint", str(constraints), requirement)
        except pip_runner.PipError as error:
            raise UserError(f"Installing {package} {version} into {self._venv} failed: {error}") from error

    def _write_constraints(self) -> Path:
        path = self._venv / "sdv2live-constraints.txt"
        pins = {**self._pins.indirect, **self._pins.direct}
        path.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()), encoding="utf-8")
        return path

    def _probe(self, packages: Mapping[str, str]) -> _Probe | None:
        """Ask the `.venv`'s Python what it has; None if it does not run."""
        command = [str(self._python), "-c", _PROBE, json.dumps(dict(packages))]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            return _Probe(**json.loads(answer.stdout))
        except (OSError, subprocess.SubprocessError, ValueError, TypeError):
            return None

    def _run_python(self, *arguments: str, doing: str, python: str = "") -> None:
        command = [python or str(self._python), *arguments]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if result.returncode != 0:
            hint = "install your system's package for it (python3-venv on Debian and Ubuntu)"
            needs_package = "ensurepip" in result.stdout
            raise UserError(
                f"{self._venv} cannot be used: {doing} failed: {pip_runner.last_line(result.stdout)}; "
                f"{hint if needs_package else 'try another Python 3.11 or newer'} and start again."
            )


def say(sentence: str) -> None:
    """Progress goes where errors go: what a command prints on stdout may be read by a program."""
    print(f"sdv2live: {sentence}", file=sys.stderr, flush=True)


def _is_to_install(version: str | None, pin: str, *, is_ours: bool) -> bool:
    """In our own `.venv` the pin holds; in one that somebody else made, whatever is there is good."""
    return version is None or (is_ours and version.partition("+")[0] != pin)


def _base_python(venv: Path) -> str:
    """The Python to make `.venv` with: this one, unless it is the `.venv`'s own, which is about to go."""
    if Path(sys.prefix).resolve() != venv.resolve():
        return sys.executable
    base = Path(sys.base_prefix)
    name = "python{}.{}".format(*sys.version_info)
    return str(base / "python.exe" if sys.platform == "win32" else base / "bin" / name)


def _is_old(python: str) -> bool:
    """Whether a version such as `3.9` lies below the oldest Python that works."""
    major, minor = python.split(".")
    return (int(major), int(minor)) < (3, 11)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack instead of ending us at once, so that pip is ended as well."""

    def leave(_signal_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
