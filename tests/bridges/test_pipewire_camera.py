"""The PipeWire camera against a PipeWire of the test's own, read back by GStreamer, and every way it goes wrong."""

from __future__ import annotations

import ctypes
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bridges import pipewire_camera, pipewire_library, spa_pod
from bridges.base import OutputThread
from bridges.pipewire_camera import PipeWireCamera, widen
from bridges.virtual_camera import VirtualCamera
from sdv2live.capture.test_pattern import read_frame_number, render_pattern
from sdv2live.clock import MonotonicClock
from sdv2live.errors import UserError
from tests.bridges.pipewire_session import Session, need, need_gstreamer, use, wait_for

RATE_FPS = 30
Bytes = NDArray[np.uint8]


def fourcc(word: str) -> int:
    return int.from_bytes(word.encode(), "little")


RGB = fourcc("raw ")


# ---- without a daemon ------------------------------------------------------------------------------------------------


def test_pods_are_the_bytes_that_the_headers_say() -> None:
    # The same pod written flat, word for word, from spa/pod/pod.h: 8 bytes of header, values padded to 8.
    def word_property(key: int, value: int) -> list[int]:
        return [key, 0, 4, 3, value, 0]

    def pair_property(key: int, kind: int, first: int, second: int) -> list[int]:
        return [key, 0, 8, kind, first, second]

    words = [0x40003, 3]
    words += word_property(1, 2) + word_property(2, 1) + word_property(0x20001, 11)
    words += pair_property(0x20003, 10, 1280, 720) + pair_property(0x20004, 11, 30000, 1001)
    words += pair_property(0x20008, 10, 1, 1)
    words += word_property(0x2000C, 1) + word_property(0x2000D, 1) + word_property(0x2000E, 7)
    words += word_property(0x2000F, 1)
    expected = struct.pack(f"={len(words) + 2}I", len(words) * 4, 15, *words)
    rate = Fraction(30000, 1001)
    assert spa_pod.video_format(spa_pod.RGBA, (1280, 720), rate, spa_pod.SRGB) == expected

    # A choice's body: kind, flags, the child's size and type, then bare values, and padding after an odd number.
    words = [0x40004, 5, 1, 0, 28, 19, 1, 0, 4, 4, 4, 2, 16, 0, 2, 0, 4, 4, 1, 0, 3, 0, 4, 4, 3686400, 0]
    words += [4, 0, 4, 4, 5120, 0, 6, 0, 20, 19, 4, 0, 4, 4, 6, 0]
    assert spa_pod.buffers(3686400, 5120) == struct.pack(f"={len(words) + 2}I", len(words) * 4, 15, *words)

    words = [0x40005, 6, 1, 0, 4, 3, 1, 0, 2, 0, 4, 4, 32, 0]
    assert spa_pod.header_meta() == struct.pack(f"={len(words) + 2}I", len(words) * 4, 15, *words)


@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5, 97 * 61])
def test_widening_is_exact(pixels: int) -> None:
    rgb = np.random.default_rng(pixels).integers(0, 256, (pixels, 3), dtype=np.uint8)
    memory = np.full(pixels * 4 + 8, 7, np.uint8)
    widen(rgb.ravel(), memory[4:-4])
    assert np.array_equal(memory[4:-4].reshape(-1, 4), np.c_[rgb, np.full(pixels, 255, np.uint8)])
    assert (memory[:4] == 7).all() and (memory[-4:] == 7).all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"width": 0}, "0x48"),
        ({"height": -1}, "64x-1"),
        ({"width": 100_000}, "100000x48"),
        ({"width": 63, "fourcc": fourcc("NV12")}, "63x48"),
        ({"fps": 0}, "0 pictures"),
        ({"fps": float("nan")}, "nan pictures"),
        ({"fps": float("inf")}, "inf pictures"),
        ({"fourcc": fourcc("J400")}, "J400"),
        ({"device": "a\0b"}, "null character"),
    ],
)
def test_what_no_camera_can_be_is_refused_before_c_sees_it(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PipeWireCamera(**{"width": 64, "height": 48, "fps": 30, "fourcc": RGB, **more})


def test_without_the_library_or_with_an_old_one_it_says_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = pipewire_library.library.__wrapped__
    monkeypatch.setattr(pipewire_library, "LIBRARY", "libpipewire-of-no-such-name.so.0")
    with pytest.raises(UserError, match="sudo apt install pipewire"):
        loaded()

    class Function:
        restype, argtypes = None, ()

        def __call__(self, *_: object) -> bytes:
            return b"0.3.48"

    class Old:
        def __getattr__(self, name: str) -> Function:
            return Function()

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Old())
    with pytest.raises(UserError, match=r"needs PipeWire 0\.3\.65, and 0\.3\.48 is here"):
        loaded()


def test_without_a_daemon_it_says_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("pipewire")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("PIPEWIRE_REMOTE", raising=False)
    with pytest.raises(UserError, match="systemctl --user start pipewire wireplumber") as caught:
        VirtualCamera(backend="pipewire").open((64, 48), 30)
    assert "\n" not in str(caught.value)


def test_a_daemon_that_never_answers_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("pipewire")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(pipewire_camera, "OPEN_TIMEOUT_S", 0.5)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "pipewire-0"))
        listener.listen()
        with pytest.raises(UserError, match=r"no answer within .*`systemctl --user restart pipewire"):
            PipeWireCamera(width=64, height=48, fps=30, fourcc=RGB)


# ---- with one --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    need("pipewire", "wireplumber", "dbus-daemon")
    session = Session(tmp_path_factory.mktemp("pipewire"))
    try:
        session.start()
        yield session
    finally:
        session.stop()


@pytest.fixture
def session(shared_session: Session, monkeypatch: pytest.MonkeyPatch) -> Session:
    use(shared_session, monkeypatch)
    return shared_session


def send_until(
    camera: PipeWireCamera, picture: Callable[[int], Bytes], is_over: Callable[[], bool], *, timeout_s: float = 60.0
) -> int:
    """Send `picture(0)`, `picture(1)`, ... at the camera's rate until `is_over`; how many it were."""
    start_s = time.monotonic()
    count = 0
    while not is_over():
        assert time.monotonic() - start_s < timeout_s, f"not over after {timeout_s} s and {count} pictures"
        camera.send(picture(count))
        count += 1
        time.sleep(max(0.0, start_s + count / RATE_FPS - time.monotonic()))
    return count


def numbered(size: int) -> Callable[[int], Bytes]:
    """Noise whose first four bytes count."""
    noise = np.random.default_rng(5).integers(0, 256, size, dtype=np.uint8)

    def picture(index: int) -> Bytes:
        frame = np.roll(noise, index * 97)
        frame[:4] = np.frombuffer(struct.pack("<I", index & 0xFFFFFF), np.uint8)
        return frame

    return picture


@pytest.mark.parametrize(
    ("word", "gst_format", "size_wh", "bytes_sent"),
    [
        ("raw ", "RGBA", (1280, 720), 3 * 1280 * 720),
        ("raw ", "RGBA", (98, 61), 3 * 98 * 61),
        ("ABGR", "RGBA", (832, 480), 4 * 832 * 480),
        ("NV12", "NV12", (640, 360), 640 * 360 * 3 // 2),
        ("I420", "I420", (640, 360), 640 * 360 * 3 // 2),
        ("YUY2", "YUY2", (640, 360), 640 * 360 * 2),
    ],
)
def test_every_byte_arrives_in_order(
    session: Session, tmp_path: Path, word: str, gst_format: str, size_wh: tuple[int, int], bytes_sent: int
) -> None:
    need_gstreamer()
    width, height = size_wh
    picture = numbered(bytes_sent)
    camera = PipeWireCamera(width=width, height=height, fps=RATE_FPS, fourcc=fourcc(word), device="sdv2live")
    assert camera.device() == "sdv2live"
    out = tmp_path / "frames"
    # The caps refuse every format, size and rate but this one.
    caps = f"video/x-raw,format={gst_format},width={width},height={height},framerate={RATE_FPS}/1"
    reader = session.gst("filesink", f"location={out}", count=30, caps=caps)
    try:
        send_until(camera, picture, lambda: reader.poll() is not None)
    finally:
        camera.close()
        session.end(reader)
    got = np.fromfile(out, np.uint8)
    frame_bytes = bytes_sent * 4 // 3 if word == "raw " else bytes_sent
    assert len(got) == 30 * frame_bytes
    indices = []
    for frame in got.reshape(30, frame_bytes):
        if word == "raw ":
            assert (frame[3::4] == 255).all()
            frame = np.ascontiguousarray(frame.reshape(-1, 4)[:, :3]).ravel()
        index = struct.unpack("<I", frame[:4].tobytes())[0]
        assert np.array_equal(frame, picture(index)), index
        indices.append(index)
    assert indices == sorted(set(indices)) and indices[-1] - indices[0] < 60


def test_two_programs_watch_at_once(session: Session, tmp_path: Path) -> None:
    need_gstreamer()
    told: list[bool] = []
    camera = PipeWireCamera(width=320, height=180, fps=RATE_FPS, fourcc=RGB, on_watched=told.append)
    picture = numbered(320 * 180 * 3)
    readers = [
        session.gst("filesink", f"location={tmp_path / str(n)}", count=count) for n, count in enumerate((20, 60))
    ]
    try:
        send_until(camera, picture, lambda: all(reader.poll() is not None for reader in readers))
        send_until(camera, picture, lambda: told == [True, False], timeout_s=30)
        assert not camera.is_watched
    finally:
        camera.close()
        session.end(*readers)
    for n, count in enumerate((20, 60)):
        frames = np.fromfile(tmp_path / str(n), np.uint8).reshape(-1, 320 * 180, 4)
        assert len(frames) == count
        for frame in frames[:, :, :3]:
            rgb = np.ascontiguousarray(frame).ravel()
            assert np.array_equal(rgb, picture(struct.unpack("<I", rgb[:4].tobytes())[0]))


def test_a_program_that_comes_and_goes(session: Session) -> None:
    need_gstreamer()
    told: list[bool] = []
    camera = PipeWireCamera(width=160, height=90, fps=RATE_FPS, fourcc=RGB, on_watched=told.append)
    picture = numbered(160 * 90 * 3)
    try:
        for round_ in range(20):
            reader = session.gst("fakesink")
            send_until(camera, picture, lambda: camera.is_watched)
            send_until(camera, picture, iter([False] * 3 + [True]).__next__)
            reader.kill() if round_ % 2 else reader.terminate()
            reader.wait()
            send_until(camera, picture, lambda: not camera.is_watched)
        camera.send(picture(0))
    finally:
        camera.close()
    assert told == [True, False] * 20


def test_a_program_that_hangs_costs_nobody_else_the_picture(session: Session) -> None:
    need_gstreamer()
    camera = PipeWireCamera(width=160, height=90, fps=RATE_FPS, fourcc=RGB)
    picture = numbered(160 * 90 * 3)
    hung = session.gst("fakesink")
    try:
        send_until(camera, picture, lambda: camera.is_watched)
        hung.send_signal(signal.SIGSTOP)
        reader = session.gst("fakesink", count=30)
        send_until(camera, picture, lambda: reader.poll() is not None)
        assert reader.returncode == 0
    finally:
        camera.close()
        hung.kill()
        hung.wait()


def test_a_camera_whose_buffers_never_come_back_is_opened_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_gstreamer()
    monkeypatch.setattr(pipewire_camera, "STUCK_S", 0.3)
    camera = PipeWireCamera(width=160, height=90, fps=RATE_FPS, fourcc=RGB)
    picture = numbered(160 * 90 * 3)
    reader = session.gst("fakesink")

    class Stuck:
        def __getattr__(self, name: str) -> Any:
            return getattr(pipewire_library.library(), name)

        def pw_stream_dequeue_buffer(self, _stream: int) -> None:
            return None

    try:
        send_until(camera, picture, lambda: camera.is_watched)
        monkeypatch.setattr(camera, "_lib", Stuck())
        with pytest.raises(UserError, match="held up by a program that watches: it is opened again"):
            send_until(camera, picture, lambda: False, timeout_s=30)
        with pytest.raises(UserError, match="held up"):
            camera.send(picture(0))
    finally:
        camera.close()
        session.end(reader)


def test_a_program_that_wants_another_format_disturbs_nobody(session: Session) -> None:
    need_gstreamer()
    if not pipewire_library.library().pw_get_library_version().startswith(b"0."):
        pytest.skip("PipeWire 1.4 lets it hold up the others until the camera is opened again")
    told: list[bool] = []
    camera = PipeWireCamera(width=160, height=90, fps=RATE_FPS, fourcc=RGB, on_watched=told.append)
    picture = numbered(160 * 90 * 3)
    other = "video/x-raw,format=NV12,width=640,height=480"
    stranger = session.gst("fakesink", caps=other)
    began_s = time.monotonic()
    send_until(camera, picture, lambda: stranger.poll() is not None or time.monotonic() - began_s > 1)
    session.end(stranger)
    reader = session.gst("fakesink")
    try:
        send_until(camera, picture, lambda: camera.is_watched)
        stranger = session.gst("fakesink", caps=other)
        began_s = time.monotonic()
        send_until(camera, picture, lambda: stranger.poll() is not None or time.monotonic() - began_s > 2)
        session.end(stranger)
        later = session.gst("fakesink", count=10)
        send_until(camera, picture, lambda: later.poll() is not None)
        assert later.returncode == 0 and reader.poll() is None and told == [True]
    finally:
        camera.close()
        session.end(reader)


def test_nobody_watching_costs_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    camera = PipeWireCamera(width=1280, height=720, fps=RATE_FPS, fourcc=RGB, on_watched=told.append)
    picture = np.zeros(1280 * 720 * 3, np.uint8)
    handed_over: list[object] = []
    monkeypatch.setattr(camera, "_hand_over", handed_over.append)
    for _ in range(1000):
        camera.send(picture)
    camera.close()
    assert told == [] and handed_over == [], "neither PipeWire nor a pixel is touched"


def test_a_lost_daemon_is_noticed_and_the_camera_is_back_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("pipewire", "wireplumber", "dbus-daemon")
    need_gstreamer()
    session = Session(tmp_path)
    use(session, monkeypatch)
    size_wh = (160, 90)
    thread = OutputThread(
        VirtualCamera(backend="pipewire", size_wh=size_wh), size_wh=size_wh, rate_fps=RATE_FPS, clock=MonotonicClock()
    )
    stop = threading.Event()

    def tick() -> None:
        count = 0
        while not stop.wait(1 / RATE_FPS):
            thread.offer(render_pattern(count, size_wh), count)
            count += 1

    ticker = threading.Thread(target=tick)
    try:
        session.start()
        thread.start()
        ticker.start()
        for _ in range(2):
            out = tmp_path / "frames"
            reader = session.gst("filesink", f"location={out}", count=10)
            assert reader.wait(15) == 0
            frames = np.fromfile(out, np.uint8).reshape(-1, 90, 160, 4)
            numbers = [read_frame_number(np.ascontiguousarray(frame[:, :, :3])) for frame in frames]
            assert len(numbers) == 10 and numbers == sorted(set(numbers), key=lambda number: number or 0)
            session.kill_pipewire()
            wait_for(lambda: thread.status.state == "failed", why="the loss was not noticed")
            assert "systemctl --user start pipewire" in thread.status.reason
            session.start_pipewire()
            wait_for(lambda: thread.status.state == "running", why="it was not opened again")
    finally:
        stop.set()
        if ticker.is_alive():
            ticker.join()
        thread.stop()
        session.stop()


def test_it_is_closed_while_another_thread_sends(session: Session) -> None:
    need_gstreamer()
    reader = session.gst("fakesink")
    picture = np.zeros(320 * 180 * 3, np.uint8)
    try:
        for round_ in range(10):
            camera = PipeWireCamera(width=320, height=180, fps=RATE_FPS, fourcc=RGB)
            ended: list[str] = []

            def send(camera: PipeWireCamera = camera, ended: list[str] = ended) -> None:
                try:
                    while True:
                        camera.send(picture)
                except RuntimeError as error:
                    ended.append(str(error))

            senders = [threading.Thread(target=send) for _ in range(2)]
            for sender in senders:
                sender.start()
            if round_ == 0:
                wait_for(lambda camera=camera: camera.is_watched, why="the reader")
            time.sleep(0.05)
            camera.close()
            camera.close()
            for sender in senders:
                sender.join(5)
            assert ended == ["the PipeWire camera is closed"] * 2
            if round_ == 0:
                session.end(reader)
                reader = session.gst("fakesink")
    finally:
        session.end(reader)


@pytest.mark.parametrize("frame", [np.zeros(10, np.uint8), np.zeros(64 * 48 * 3), np.zeros((48, 64, 3), np.uint8)])
def test_what_is_no_such_picture_is_refused(session: Session, frame: Any) -> None:
    camera = PipeWireCamera(width=64, height=48, fps=30, fourcc=RGB)
    try:
        with pytest.raises(ValueError, match="9216 bytes"):
            camera.send(frame)
        camera.send(np.zeros(64 * 48 * 3, np.uint8))
    finally:
        camera.close()


def test_names_of_any_kind_arrive(session: Session) -> None:
    need("pipewire")
    for name in ('a "quoted" = {name}', "Kamera für Zoë 🎥", "x" * 2000, "\n", "=\\"):
        camera = PipeWireCamera(width=64, height=48, fps=30, fourcc=RGB, device=name)
        assert camera.device() == name
        camera.close()


def test_a_program_that_forgets_to_close_ends_cleanly(session: Session) -> None:
    code = """
import gc, threading, numpy as np
from bridges.pipewire_camera import PipeWireCamera
fourcc = int.from_bytes(b"raw ", "little")
for _ in range(3):
    PipeWireCamera(width=64, height=48, fps=30, fourcc=fourcc)
gc.collect()
camera = PipeWireCamera(width=64, height=48, fps=30, fourcc=fourcc)
def send():
    while True:
        camera.send(np.zeros(64 * 48 * 3, np.uint8))
threading.excepthook = lambda args: None
threading.Thread(target=send, daemon=True).start()
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=None,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert ended.returncode == 0 and not re.search("Traceback|Fatal", ended.stderr), ended.stderr
