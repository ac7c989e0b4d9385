"""The doctor's checks of where pictures come from and where they go, and of OSC. Each opens what it speaks of, briefly.

A camera that gives a frame, a screen that gives a picture, a virtual camera that takes one, a port that answers.
"""

from __future__ import annotations

import os
import socket
import sys

from bridges.osc_guard import decode, encode
from bridges.osc_server import HOST, OscServer
from bridges.osc_words import PING, PONG
from bridges.virtual_camera import DEFAULT_SIZE_WH, VirtualCamera, camera_report, default_backends, remedy
from sdv2live.capture.base import Source
from sdv2live.capture.cameras import list_cameras, no_camera_sentence
from sdv2live.capture.cards import card
from sdv2live.capture.select import open_source
from sdv2live.capture.webcam import Webcam
from sdv2live.clock import MonotonicClock
from sdv2live.devices import screens_here
from sdv2live.doctor.finding import Finding, State, finding
from sdv2live.errors import UserError, one_line
from sdv2live.parameters import TABLE
from sdv2live.registry import Registry

PONG_LIMIT_S = 3.0
FRAME_LIMIT_S = 3.0
MOST_CAMERAS = 8


def cameras() -> Finding:
    """Every camera is opened and asked for a frame."""
    found = list_cameras()
    if not found:
        return finding("cameras", no_camera_sentence())
    words, troubles = [], []
    for camera in found[:MOST_CAMERAS]:
        try:
            words.append(f"{camera.name} gives {first_frame(Webcam(camera.id, cameras=lambda: found))}")
        except UserError as error:
            trouble = finding("cameras", str(error))
            words.append(trouble.text)
            troubles.append(trouble.remedy)
    if len(found) > MOST_CAMERAS:
        words.append(f"{len(found) - MOST_CAMERAS} more were not opened")
    remedies = "; ".join(dict.fromkeys(filter(None, troubles)))
    return Finding("cameras", State.WARN if troubles else State.OK, "; ".join(words), remedies)


def screens() -> Finding:
    """They are listed, and the first one gives a picture."""
    if sys.platform == "linux" and os.environ.get("WAYLAND_DISPLAY"):
        return Finding("screens", State.OK, "Wayland: the desktop asks which one is shown, in the window")
    notes: dict[str, str] = {}
    found = screens_here(notes)
    if not found:
        return finding("screens", notes["screens"])
    names = ", ".join(f"{one['name']} {one['width']}x{one['height']}" for one in found)
    try:
        picture = first_frame(open_source("screen", loop=False))
    except UserError as error:
        return finding("screens", f"{names}, but: {error}")
    return Finding("screens", State.OK, f"{names}; the first gives {picture}")


def first_frame(source: Source) -> str:
    """`640x480 at 30 fps, MJPG`, of a source that is opened, read once and closed. Raises UserError."""
    try:
        info = source.open()
        frame = source.read(FRAME_LIMIT_S)
        if frame is None:
            raise UserError(f"{info.name} was opened and gave no frame for {FRAME_LIMIT_S:g} s: choose another source.")
        height, width = frame.pixels.shape[:2]
        details = f", {info.details}" if info.details else ""
        return f"{width}x{height} at {float(info.rate_fps):.4g} fps{details}"
    finally:
        source.close()


def virtual_cameras() -> Finding:
    """The one that `--output camera` means takes a picture; the others are named with what they lack."""
    width, height = DEFAULT_SIZE_WH
    camera = VirtualCamera()
    others = [f"{backend}: {state}" for backend, state in camera_report() if backend not in default_backends(None)]
    more = f" ({'; '.join(others)})" if others else ""
    try:
        camera.open(DEFAULT_SIZE_WH, int(str(TABLE["output.rate"].default)))
        camera.write(card(DEFAULT_SIZE_WH, "sdv2live", "doctor"), 0)
        name = camera.device
    except UserError as error:
        sentence = finding("virtual cameras", str(error))
        return Finding(sentence.name, State.WARN, sentence.text + more, sentence.remedy or remedy())
    finally:
        camera.close()
    return Finding("virtual cameras", State.OK, f"{name} takes {width}x{height}{more}")


def osc() -> Finding:
    """The server on its usual port is asked over a socket, and has to answer."""
    port = int(str(TABLE["osc.port"].default))
    server = OscServer(Registry(), port=port, clock=MonotonicClock())
    try:
        server.start(fall_back=True)
    except UserError as error:
        return finding("OSC", str(error), State.FAIL)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PONG_LIMIT_S)
            client.sendto(encode(PING, ["doctor"]), (HOST, server.port))
            answer = decode(client.recv(65536)).messages[0]
        if (answer.address, answer.arguments) != (PONG, ("doctor",)):
            return Finding("OSC", State.FAIL, f"port {server.port} answered {answer.address} to a ping")
    except OSError as error:
        return Finding(
            "OSC",
            State.FAIL,
            f"what is sent to {HOST}:{server.port} is not answered ({one_line(error)})",
            "let this program through the firewall for UDP on loopback",
        )
    finally:
        server.stop()
    if server.port != port:
        return Finding(
            "OSC",
            State.WARN,
            f"port {port} is taken by another program, maybe an sdv2live that runs; {server.port} answers",
            f"send OSC to {server.port}, or give --osc-port a port that is free",
        )
    return Finding("OSC", State.OK, f"UDP {HOST}:{port} answers a ping")
