"""A program with a window's loop that reads one screen on a thread, as the app does, and prints what it saw as JSON.

Arguments: for how many seconds it reads, and for how many of its frames its GUI thread is blocked.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from PySide6.QtCore import QTimer

from gui.run import make_application
from gui.screen_capture import QtScreenSource, ScreenDesk
from sdv2live.errors import UserError
from sdv2live.paths import assets_dir

PATIENCE_S = 30.0


def main(seconds: float, blocked_frames: int) -> None:
    application = make_application(assets_dir())
    desk = ScreenDesk(application)
    source = QtScreenSource(desk)
    seen: dict[str, object] = {"problem": "", "frames": 0, "while_blocked": 0, "sizes": [], "again": ""}
    opened, blocked, enough = threading.Event(), threading.Event(), threading.Event()
    if not blocked_frames:
        enough.set()

    def read() -> None:
        try:
            info = source.open()
            seen["size"] = info.size_wh
            opened.set()
            frames = while_blocked = 0
            opened_s = time.monotonic()
            while time.monotonic() - opened_s < (seconds if enough.is_set() else PATIENCE_S):
                frame = source.read(0.5)
                if frame is None:
                    continue
                frames += 1
                while_blocked += blocked.is_set()
                height, width, _ = frame.pixels.shape
                seen.update(frames=frames, while_blocked=while_blocked, last_size=(width, height))
                seen["span_s"] = time.monotonic() - opened_s
                if while_blocked >= blocked_frames:
                    enough.set()
                seen["corners"] = [frame.pixels[y, x].tolist() for y in (10, height - 10) for x in (10, width - 10)]
                assert frame.pixels.flags.c_contiguous and frame.pixels.flags.owndata
        except UserError as error:
            seen["problem"] = str(error)
        source.close()
        if seen["problem"] and opened.is_set():
            try:
                source.open()
            except UserError as error:
                seen["again"] = str(error)

    reader = threading.Thread(target=read, name="capture")

    def beat() -> None:
        if opened.is_set() and not enough.is_set():
            blocked.set()
            enough.wait(PATIENCE_S)
            blocked.clear()
        if not reader.is_alive():
            application.quit()

    timer = QTimer()
    timer.timeout.connect(beat)
    timer.start(20)
    reader.start()
    application.exec()
    reader.join(5)
    desk.close()
    seen["left"] = [thread.name for thread in threading.enumerate() if thread.name == "capture"]
    print(json.dumps(seen))


main(float(sys.argv[1]), int(sys.argv[2]))
