"""What somebody does who has never seen it: the clicks and keys of assets/docs/first-steps.md, on the real program.

The window is on an X server, the camera a PipeWire one, and what arrives is looked at in Chromium.
"""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from gui.main_window import MainWindow
from sdv2live.capture.test_pattern import read_frame_number
from sdv2live.frames import Pixels
from tests.bridges.pipewire_session import Session, need, use
from tests.bridges.test_chromium_camera import PERMISSIONS, PORTAL, page_server, start_chromium, start_portal
from tests.capture import x_display
from tests.gui.conftest import StillLive
from tests.gui.test_real_window import launched, point_of

pytestmark = pytest.mark.slow
PATIENCE_S = 60.0
PAGE = """<!doctype html><video id=video autoplay muted playsinline></video><script>
const tell = (words) => fetch('/result', {method: 'POST', body: JSON.stringify(words)});
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
async function main() {
  const video = document.getElementById('video');
  video.srcObject = await navigator.mediaDevices.getUserMedia({video: true});
  await video.play();
  for (let shot = 0; shot < 200; shot++) {
    await wait(300);
    const canvas = document.createElement('canvas');
    canvas.width = video.videoWidth; canvas.height = video.videoHeight;
    canvas.getContext('2d').drawImage(video, 0, 0);
    await tell({picture: canvas.toDataURL('image/png')});
  }
}
main().catch((error) => tell({error: error.name + ': ' + error.message}));
</script>"""


def decoded(result: dict[str, str]) -> Pixels:
    assert "error" not in result, result
    data = base64.b64decode(result["picture"].partition(",")[2])
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return np.ascontiguousarray(bgr[:, :, ::-1])


def test_from_the_first_start_to_a_picture_in_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: MainWindow, live: StillLive
) -> None:
    need("pipewire", "wireplumber", "dbus-daemon", "gdbus", "chromium", PORTAL, PERMISSIONS, "xdotool")
    window.resize(1220, 800)
    live.registry.set_many([("noise.max", 0.6), ("noise.min", 0.5)], origin="test")
    (tmp_path / "session").mkdir()
    session = Session(tmp_path / "session")
    use(session, monkeypatch, names=("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"))
    with x_display.running((1400, 900)) as display:
        try:
            session.start()
            start_portal(session)
            with launched(display.name, tmp_path) as screen, page_server(PAGE) as (address, results):
                screen.do("windowmove", screen.window(), 0, 0)
                screen.until("state", "running")

                def newest(wanted: object, what: str) -> Pixels:
                    """The first picture in the browser from now on that is as it should be."""
                    assert callable(wanted)
                    seen, deadline_s = len(results), time.monotonic() + PATIENCE_S
                    while time.monotonic() < deadline_s:
                        for result in results[seen:]:
                            pixels = decoded(result)
                            seen += 1
                            if wanted(pixels):
                                if folder := os.environ.get("SDV2LIVE_LOOK"):  # to look at what a browser showed
                                    cv2.imwrite(f"{folder}/{what.replace(' ', '-')}.png", pixels[:, :, ::-1])
                                return pixels
                        time.sleep(0.05)
                    raise AssertionError(f"never seen in the browser: {what}")

                # 1. a prompt  2. a bound of the noise  3. keep the look  4. the virtual camera
                screen.do("mousemove", *point_of(window.panel.prompt._text, window, 40, 20), "click", 1)
                screen.do("key", "ctrl+a")
                screen.do("type", "--delay", 15, "thermal camera")
                screen.do("key", "Return")
                screen.until("prompt", "thermal camera")
                trace = window.panel.trace
                screen.do("mousemove", *point_of(trace, window, 60, trace._y(0.6)), "mousedown", 1)
                for value in (0.64, 0.68, 0.7):
                    screen.do("mousemove", *point_of(trace, window, 60, trace._y(value)))
                screen.do("mouseup", 1)
                screen.until("noise/max", lambda value: abs(float(value) - 0.7) < 0.03)
                screen.do("key", "ctrl+s")
                screen.do("search", "--sync", "--onlyvisible", "--name", "Save look")
                screen.do("windowfocus", "--sync", screen.do("search", "--onlyvisible", "--name", "Save look"))
                screen.do("type", "--delay", 15, "My look")
                screen.do("key", "Return")
                deadline_s = time.monotonic() + PATIENCE_S
                while not list(tmp_path.rglob("My look.jpg")):
                    assert time.monotonic() < deadline_s, "the look is kept, with its picture"
                    time.sleep(0.05)
                assert list(tmp_path.rglob("My look.json"))
                screen.do("windowfocus", screen.window())
                screen.do("key", "F9")
                screen.until("output/camera", 1)
                browser = start_chromium(session, address)
                # The effect arrives, in the middle of black sides; and the source itself, as soon as it is asked for.
                effect = newest(lambda p: p[:, 320:960].std() > 20 and p[:, :200].max() < 30, "the effect")
                assert effect.shape == (720, 1280, 3)
                screen.do("key", "F6")
                first = read_frame_number(newest(lambda p: p[:, :200].max() > 100, "the camera itself"))
                second = read_frame_number(newest(lambda p: read_frame_number(p) not in (None, first), "the next one"))
                assert first is not None and second is not None and second > first
                screen.do("key", "F8")
                newest(lambda p: p.std() < 40 and 15 < p.mean() < 80, "the card of a panic")
                session.end(browser)
                screen.do("key", "ctrl+q")
                assert screen.process.wait(30) == 0
        finally:
            session.stop()
