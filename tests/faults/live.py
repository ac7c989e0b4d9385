"""A live run inside a test: the real app with a real engine process, at a small size, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from bridges.base import Output
from sdv2live.app import LiveApp, LiveOptions
from sdv2live.engine.base import EngineSpec
from sdv2live.frames import Pixels
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec
from sdv2live.supervisor import RestartPolicy

SMALL = EngineSpec("pocket", (64, 64))
QUICK = RestartPolicy(delays_s=(0.0,), most_failures=1000, healthy_s=0.0)
PATIENCE_S = 60.0


class Watcher(Output):
    """An output that remembers what it was given."""

    name = "watcher"

    def __init__(self) -> None:
        self.ticks: list[int] = []
        self.newest: Pixels = np.zeros((1, 1, 3), np.uint8)
        self.is_closed = False

    def open(self, size_wh: tuple[int, int], rate_fps: int) -> None:
        self.is_closed = False

    def write(self, pixels: Pixels, tick: int) -> None:
        self.ticks.append(tick)
        self.newest = pixels

    def close(self) -> None:
        self.is_closed = True


def until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition of another thread or process; the time is a limit and never a measure."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {patience_s:.0f} s: {what}"
        time.sleep(0.01)


@contextmanager
def live_app(
    *, source: str = "pattern", osc_port: int = 0, policy: RestartPolicy = QUICK, **values: object
) -> Iterator[tuple[LiveApp, Watcher]]:
    """A running app, past its first picture; ended on the way out."""
    registry = Registry()
    registry.set("osc.port", osc_port, origin="test")
    registry.set("engine.size", SMALL.size_wh, origin="test")
    engine_spec(registry)  # brings the engine's defaults, which ranges depend on
    for name, value in values.items():
        assert registry.set(name.replace("__", "."), value, origin="test").status == "accepted"
    watcher = Watcher()
    assert registry.set("source.name", source, origin="test").status == "accepted"
    options = LiveOptions(outputs=[watcher], spec=engine_spec(registry), policy=policy)
    app = LiveApp(registry, options)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            app.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="live app under test")
    thread.start()
    try:
        # Presented is not yet written: the outputs follow in their own time.
        until(
            lambda: (app.presenter.first_picture_s is not None and watcher.newest.size > 3) or bool(failures),
            "the first picture",
        )
        yield app, watcher
    finally:
        app.request_stop()
        thread.join(30)
    assert not failures, failures
    assert watcher.is_closed
