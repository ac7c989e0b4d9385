"""The PipeWire camera as a web page sees it: headless Chromium's getUserMedia, 30 pictures a second, right colours."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridges.virtual_camera import VirtualCamera
from sdv2live.frames import Pixels
from tests.bridges.pipewire_session import Session, need, use, wait_for

PORTAL, PERMISSIONS = "/usr/libexec/xdg-desktop-portal", "/usr/libexec/xdg-permission-store"
SIZE_WH = (1280, 720)
RATE_FPS = 30
SECONDS = 4
BITS, BLOCK_ROWS = 64, 40
# By quarters, in reading order: colours far enough apart that a wrong matrix or range shows.
QUARTERS = [(230, 30, 30), (20, 230, 20), (40, 60, 220), (235, 225, 60)]
PAGE = """<!doctype html><video id=video autoplay muted playsinline></video><script>
const BITS = %(bits)d, SECONDS = %(seconds)d;
const tell = (words) => fetch('/result', {method: 'POST', body: JSON.stringify(words)});
async function camera() {
  // A browser may ask before the desktop's own services have seen the camera.
  for (let tries = 0; ; tries++) {
    try {
      return await navigator.mediaDevices.getUserMedia({video: {width: %(width)d, height: %(height)d}});
    } catch (error) {
      if (tries === 20) throw error;
      await new Promise((later) => setTimeout(later, 250));
    }
  }
}
async function main() {
  const stream = await camera();
  const track = stream.getVideoTracks()[0];
  const video = document.getElementById('video');
  video.srcObject = stream;
  const strip = new OffscreenCanvas(BITS, 1).getContext('2d', {willReadFrequently: true});
  const whole = new OffscreenCanvas(4, 4).getContext('2d', {willReadFrequently: true});
  strip.imageSmoothingEnabled = whole.imageSmoothingEnabled = false;
  const numbers = [], times = [];
  let colours = null;
  const frame = (now, about) => {
    const width = video.videoWidth, height = video.videoHeight;
    strip.drawImage(video, 0, height - 20, width, 1, 0, 0, BITS, 1);
    const bits = strip.getImageData(0, 0, BITS, 1).data;
    let number = 0n;
    for (let i = 0; i < BITS; i++) number = number * 2n + (bits[4 * i] > 127 ? 1n : 0n);
    // The first callback may come before a canvas sees the picture.
    if (number === 0n && numbers.length === 0) { video.requestVideoFrameCallback(frame); return; }
    numbers.push(number.toString());
    times.push(now);
    if (now - times[0] < SECONDS * 1000) { video.requestVideoFrameCallback(frame); return; }
    whole.drawImage(video, 0, 0, 4, 4);
    colours = [[0, 0], [3, 0], [0, 2], [3, 2]].map(([x, y]) => [...whole.getImageData(x, y, 1, 1).data].slice(0, 3));
    tell({label: track.label, settings: track.getSettings(), size: [width, height], numbers, times, colours});
  };
  video.requestVideoFrameCallback(frame);
}
main().catch((error) => tell({error: error.name + ': ' + error.message}));
</script>"""


def picture(count: int) -> Pixels:
    """Four coloured quarters, and at the bottom `count` as 64 black and white blocks, most significant first."""
    width, height = SIZE_WH
    pixels = np.empty((height, width, 3), np.uint8)
    for index, colour in enumerate(QUARTERS):
        top, left = index // 2 * height // 2, index % 2 * width // 2
        pixels[top : top + height // 2, left : left + width // 2] = colour
    bits = [count >> (BITS - 1 - bit) & 1 for bit in range(BITS)]
    pixels[-BLOCK_ROWS:] = np.repeat(np.array(bits, np.uint8) * 255, width // BITS)[None, :, None]
    return pixels


@contextmanager
def page_server(page: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The page's address and the results that it posts, on a free port of this machine."""
    results: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(page.encode())

        def do_POST(self) -> None:
            results.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(b"")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", results
        finally:
            server.shutdown()
            thread.join()


def start_portal(session: Session) -> None:
    """The camera portal, with leave for programs outside of a sandbox to use cameras, so that no dialog asks."""
    session.run(PERMISSIONS)
    store = ["--dest", "org.freedesktop.impl.portal.PermissionStore"]
    call = ["--object-path", "/org/freedesktop/impl/portal/PermissionStore", "--method"]
    allow = ["org.freedesktop.impl.portal.PermissionStore.SetPermission", "devices", "true", "camera", "", "['yes']"]
    wait_for(lambda: session.run("gdbus", "call", "--session", *store, *call, *allow).wait(5) == 0, why="permissions")
    session.run(PORTAL)
    where = ["--dest", "org.freedesktop.portal.Desktop", "--object-path", "/org/freedesktop/portal/desktop"]
    ask = ["--method", "org.freedesktop.DBus.Properties.Get", "org.freedesktop.portal.Camera", "version"]
    wait_for(lambda: session.run("gdbus", "call", "--session", *where, *ask).wait(5) == 0, why="the camera portal")


def start_chromium(session: Session, address: str) -> subprocess.Popen[bytes]:
    """A browser without a screen, which lets the page have every camera."""
    return session.run(
        "chromium",
        "--headless=new",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={session.folder / 'profile'}",
        "--enable-features=WebRtcPipeWireCamera",
        "--use-fake-ui-for-media-stream",
        address,
    )


def test_chromium_sees_it_at_its_rate_and_in_its_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("pipewire", "wireplumber", "dbus-daemon", "gdbus", "chromium", PORTAL, PERMISSIONS)
    session = Session(tmp_path)
    use(session, monkeypatch)
    camera = VirtualCamera(backend="pipewire", size_wh=SIZE_WH)
    first = 0xDEAD_BEEF_0000_0000
    count = 0
    written_s: list[float] = []
    try:
        session.start()
        start_portal(session)
        camera.open(SIZE_WH, RATE_FPS)
        page = PAGE % {"bits": BITS, "seconds": SECONDS, "width": SIZE_WH[0], "height": SIZE_WH[1]}
        with page_server(page) as (address, results):
            browser = start_chromium(session, address)
            start_s = time.monotonic()
            while not results and time.monotonic() - start_s < 40:
                written_s.append(time.monotonic())
                camera.write(picture(first + count), count)
                count += 1
                time.sleep(max(0.0, start_s + count / RATE_FPS - time.monotonic()))
            session.end(browser)
    finally:
        camera.close()
        session.stop()
    assert results, (tmp_path / "chromium.log").read_text()[-2000:]
    (result,) = results
    assert "error" not in result, result
    assert result["label"] == "sdv2live" and result["size"] == list(SIZE_WH)
    numbers, times = [int(number) - first for number in result["numbers"]], result["times"]
    assert all(0 <= number < count for number in numbers), "a counter was misread"
    assert numbers == sorted(numbers)
    span_s, sent = (times[-1] - times[0]) / 1000, numbers[-1] - numbers[0]
    left_out = sent + 1 - len(set(numbers))
    print(f"{(len(set(numbers)) - 1) / span_s:.2f} fps, {left_out} left out, colours {result['colours']}")
    assert result["settings"]["frameRate"] == RATE_FPS
    assert len(set(numbers)) > RATE_FPS, "a moving picture"
    # How many are written and drawn is a busy machine's affair; but what is seen keeps pace with what was written.
    assert abs(span_s - (written_s[numbers[-1]] - written_s[numbers[0]])) < 1.0
    # Chromium halves the colours' resolution and rounds; a wrong matrix or range is off by 15 and more.
    difference = np.abs(np.array(result["colours"]) - np.array(QUARTERS))
    assert difference.max() <= 6, result["colours"]
