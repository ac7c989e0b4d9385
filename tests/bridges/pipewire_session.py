"""A PipeWire of the test's own: daemon, session manager and D-Bus in a temporary folder, all ended afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import pytest

# Debian's package for each tool that a test may want.
PACKAGES = {
    "pipewire": "pipewire",
    "wireplumber": "wireplumber",
    "dbus-daemon": "dbus",
    "gst-launch-1.0": "gstreamer1.0-tools",
    "gst-inspect-1.0": "gstreamer1.0-tools",
    "gdbus": "libglib2.0-bin",
    "chromium": "chromium",
    "/usr/libexec/xdg-desktop-portal": "xdg-desktop-portal",
    "/usr/libexec/xdg-permission-store": "xdg-desktop-portal",
}
# wireplumber 0.4 ends at once on a machine without logind, unless it is told that there is none; 0.5 has a profile.
HEADLESS_LUA = """
bluez_monitor.enabled = false
bluez_monitor.properties["with-logind"] = false
"""
# Without folders of services nothing is started behind the test's back.
SESSION_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
"""


def need(*tools: str) -> None:
    """Skip, with the command that installs what is missing."""
    if sys.platform != "linux":
        pytest.skip("PipeWire is on Linux only")
    missing = sorted({PACKAGES[tool] for tool in tools if shutil.which(tool) is None})
    if missing:
        pytest.skip(f"run `sudo apt install {' '.join(missing)}`")


def need_gstreamer() -> None:
    need("gst-launch-1.0", "gst-inspect-1.0")
    if subprocess.run(["gst-inspect-1.0", "pipewiresrc"], capture_output=True).returncode:
        pytest.skip("run `sudo apt install gstreamer1.0-pipewire`")


def wait_for(what: Callable[[], object], *, timeout_s: float = 60.0, why: str = "") -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {why or what}"
        time.sleep(0.02)


class Session:
    """The three processes; `env` is what a client's environment needs on top of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "run"
        self.runtime.mkdir(mode=0o700)
        lua = folder / "home/.config/wireplumber/bluetooth.lua.d/80-headless.lua"
        lua.parent.mkdir(parents=True)
        lua.write_text(HEADLESS_LUA)
        self.bus = self.runtime / "bus"
        (folder / "bus.conf").write_text(SESSION_BUS.format(path=self.bus))
        self.env = {
            "XDG_RUNTIME_DIR": str(self.runtime),
            "HOME": str(folder / "home"),
            "XDG_CONFIG_HOME": str(folder / "home/.config"),
            "XDG_STATE_HOME": str(folder / "home/.local/state"),
            "XDG_DATA_HOME": str(folder / "home/.local/share"),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.bus}",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self._daemon: subprocess.Popen[bytes] | None = None
        self._manager: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.run("dbus-daemon", "--config-file", str(self.folder / "bus.conf"), "--nofork", "--nopidfile")
        wait_for(self.bus.exists, why="dbus-daemon")
        self.start_pipewire()

    def start_pipewire(self) -> None:
        self._daemon = self.run("pipewire")
        wait_for((self.runtime / "pipewire-0").exists, why="pipewire")
        version = subprocess.run(["wireplumber", "--version"], capture_output=True, text=True).stdout
        self._manager = self.run("wireplumber", *([] if "libwireplumber 0.4" in version else ["-p", "video-only"]))
        time.sleep(0.3)
        assert self._manager.poll() is None, (self.folder / "wireplumber.log").read_text()

    def kill_pipewire(self) -> None:
        for process in (self._daemon, self._manager):
            assert process is not None
            self.end(process)
        (self.runtime / "pipewire-0").unlink(missing_ok=True)

    def run(
        self, *command: str, env: dict[str, str] | None = None, stdout: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """A process of this session, which ends with it at the latest. What it says is in a file named for it."""
        with (self.folder / f"{Path(command[0]).name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **self.env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=stdout or log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def gst(self, *elements: str, count: int = -1, caps: str = "video/x-raw") -> subprocess.Popen[bytes]:
        """A GStreamer pipeline that reads `count` pictures of the camera into `elements`; -1 is for ever."""
        # Without caps behind it pipewiresrc never asks for a stream.
        source = ("pipewiresrc", "target-object=sdv2live", "always-copy=true", f"num-buffers={count}", "!", caps, "!")
        return self.run("gst-launch-1.0", "-q", *source, *elements)

    def end(self, *processes: subprocess.Popen[bytes]) -> None:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop(self) -> None:
        self.end(*reversed(self._processes))


def use(session: Session, monkeypatch: pytest.MonkeyPatch, *, names: Iterable[str] = ("XDG_RUNTIME_DIR",)) -> None:
    """This process becomes a client of `session`."""
    for name in ("PIPEWIRE_REMOTE", "PIPEWIRE_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in names:
        monkeypatch.setenv(name, session.env[name])
