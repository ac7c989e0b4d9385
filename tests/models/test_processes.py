"""`sdv2live models` as its users start it: killed, stopped with Ctrl-C, started twice, and used by the engine."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdv2live.models.manifest import MODELS, find
from sdv2live.models.store import PART, State, Store, with_ending
from tests.models.hub import Hub

ROOT = Path(__file__).parents[2]
NAME, LIMIT_S = "text-encoder", 60.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses signals")

# The command line with the manifest of this test in place of the released one.
PROGRAM = """
import pickle, sys
from sdv2live import cli
from sdv2live.models.manifest import MODELS
MODELS.update(pickle.loads(open(sys.argv[1], 'rb').read()))
sys.exit(cli.main(sys.argv[2:]))
"""


class Machine:
    """A user's machine: an environment of its own, and the command line in it."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.hub, self._manifest = hub, folder / "manifest"
        self._manifest.write_bytes(pickle.dumps(dict(MODELS)))
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hf"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }
        self.store = Store(folder / "cache" / "sdv2live" / "models")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(self._manifest), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environ, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with self.start(*arguments) as process:
            out, said = process.communicate(timeout=LIMIT_S)
        return process.returncode, out, said

    def start_half(self) -> subprocess.Popen[str]:
        """A fetch that has half of the file and gets no further."""
        self.hub.fails("GET cdn", "stall")
        process = self.start("models", "get", NAME)
        assert self.hub.half_sent.wait(LIMIT_S)
        part = with_ending(self.store.folder / MODELS[NAME].place, PART)
        deadline_s = time.monotonic() + LIMIT_S
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return process

    @property
    def part_bytes(self) -> int:
        return self.store.look(MODELS[NAME]).bytes

    def holds_it(self) -> bool:
        path = find(MODELS[NAME], self.store.folder)
        return path is not None and path.read_bytes() == self.hub.files[MODELS[NAME].path]


@pytest.fixture
def machine(tmp_path: Path, hub: Hub) -> Machine:
    return Machine(tmp_path, hub)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_fetch_that_is_ended_half_way_goes_on_where_it_was(how: signal.Signals, machine: Machine, hub: Hub) -> None:
    with machine.start_half() as process:
        process.send_signal(how)
        _, said = process.communicate(timeout=LIMIT_S)
    if how == signal.SIGINT:
        assert process.returncode == 130 and "Traceback" not in said
        assert f"what was fetched is kept: `sdv2live models get {NAME}` goes on from there" in said
    hub.go_on.set()
    assert machine.store.look(MODELS[NAME]).state == State.PARTLY
    assert find(MODELS[NAME], machine.store.folder) is None, "half a file has no name"
    came = machine.part_bytes
    assert came >= 1 << 20
    code, out, _ = machine.run("models", "list")
    assert code == 0 and "MB fetched" in out
    code, _, said = machine.run("models", "get", NAME)
    assert code == 0, said
    assert machine.holds_it() and hub.asked("GET", "cdn")[-1].range == f"bytes={came}-"


def test_the_second_of_two_waits_for_the_first_and_fetches_nothing_itself(machine: Machine, hub: Hub) -> None:
    machine.environ["HF_HUB_DOWNLOAD_TIMEOUT"] = "60"
    with machine.start_half() as first, machine.start("models", "get", NAME) as second:
        assert second.stderr is not None
        assert "another sdv2live is changing" in second.stderr.readline()
        hub.go_on.set()
        for process in (first, second):
            _, said = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0, said
    assert machine.holds_it() and len(hub.asked("GET", "cdn")) == 1


def test_endpoint_and_proxy_are_those_of_the_environment(machine: Machine, hub: Hub) -> None:
    proxy = {"HF_ENDPOINT": "http://hub.of.this.test", "HTTP_PROXY": hub.endpoint, "NO_PROXY": "localhost"}
    machine.environ |= proxy | {"http_proxy": hub.endpoint, "no_proxy": "localhost"}
    code, _, said = machine.run("models", "get", NAME)
    assert code == 0 and machine.holds_it(), said
    assert set(hub.proxied) == {"hub.of.this.test"}


def test_a_new_user_is_told_what_to_type_and_it_works(machine: Machine, hub: Hub, tmp_path: Path) -> None:
    live = ["--headless", "--source", "pattern", "--osc-port", "0", "--seconds", "1", "--engine", "wan-1.3b"]
    render = ["render", str(ROOT / "assets" / "clip.mp4"), str(tmp_path / "out.mp4"), "--engine", "wan-1.3b"]
    for command in (live, render):
        code, _, said = machine.run(*command)
        assert code == 2 and "Traceback" not in said
        assert "`sdv2live models get wan-1.3b` fetches them" in said.strip().splitlines()[-1]
    code, _, said = machine.run("models", "get", "wan-1.3b")
    assert code == 0 and "`sdv2live --engine wan-1.3b` uses it" in said, said
    # The files are noise here: the engine finds them where they were put, and says that they are no weights. So small,
    # it fits into any memory.
    (machine.store.folder / "sdv2live.json").write_text('{"dit": {"num_layers": 1}, "vae": {"base_dim": 8}}')
    render += ["--size", "384x224", "--steps", "1"]
    code, _, said = machine.run(*render)
    place = machine.store.folder / MODELS["wan-1.3b"].place
    assert code == 2 and f"the weights {place} cannot be read" in said.strip().splitlines()[-1]
