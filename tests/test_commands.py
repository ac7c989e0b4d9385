"""The commands as a user has them: files through render, a live run to the end, what a mistake gets."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest
import torch

from sdv2live import cli
from sdv2live.capture.test_pattern import render_pattern
from sdv2live.paths import assets_dir

ROOT = Path(__file__).parents[1]
SMALL = ["--size", "64x64"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of the test pattern: clip-N.mp4 has N frames of 96x64 at 16 fps."""
    folder = tmp_path_factory.mktemp("clips")
    for count in (1, 4, 5, 6, 80, 81, 82):
        with av.open(str(folder / f"clip-{count}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=16)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for number in range(count):
                picture = av.VideoFrame.from_ndarray(render_pattern(number, (96, 64)), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    return folder


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("count", [1, 4, 5, 6, 80, 81, 82])
def test_render_gives_as_many_frames_as_it_got(clips: Path, tmp_path: Path, count: int) -> None:
    out = tmp_path / "out.mp4"
    assert cli.main(["render", str(clips / f"clip-{count}.mp4"), str(out), *SMALL, "--prompt", "night"]) == 0
    frames = decoded(out)
    assert len(frames) == count and frames[0].shape == (64, 64, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4"], "no half file is left"


def test_render_twice_gives_the_same_bytes_and_another_seed_does_not(clips: Path, tmp_path: Path) -> None:
    source = str(clips / "clip-6.mp4")
    made = {}
    for name, extra in (("a", []), ("b", []), ("c", ["--seed", "2", "--noise-mode", "fresh"])):
        out = tmp_path / f"{name}.mp4"
        assert cli.main(["render", source, str(out), *SMALL, "--prompt", "oil painting", *extra]) == 0
        made[name] = out.read_bytes()
    assert made["a"] == made["b"] != made["c"]


def test_render_over_two_ranks_gives_the_bytes_of_one_device(clips: Path, tmp_path: Path) -> None:
    """The command's own processes: one step in float32, where batches are equal and so sums are rounded alike."""
    plain = ["--prompt", "neon", "--steps", "1", "--precision", "float32", "--device", "cpu", "--threads", "1"]
    made = []
    threads = torch.get_num_threads()
    try:
        for gpus in ("1", "2"):
            out = tmp_path / f"{gpus}.mp4"
            command = ["render", str(clips / "clip-82.mp4"), str(out), *SMALL, *plain, "--gpus", gpus]
            assert cli.main(command) == 0
            made.append(out.read_bytes())
    finally:
        torch.set_num_threads(threads)
    assert made[0] == made[1] and len(decoded(out)) == 82


def test_render_keeps_frames_in_order(clips: Path, tmp_path: Path) -> None:
    """Left as it is ("" asks for nothing, little noise), each picture is most like the source frame of its number."""
    out = tmp_path / "o.mp4"
    plain = ["--prompt", "", "--noise-max", "0.05", "--size", "96x64"]
    assert cli.main(["render", str(clips / "clip-82.mp4"), str(out), *plain]) == 0
    source = np.stack([render_pattern(number, (96, 64)) for number in range(82)]).astype(float)
    nearest = [int(((source - picture) ** 2).mean((1, 2, 3)).argmin()) for picture in decoded(out)]
    assert len(nearest) == 82 and max(abs(found - number) for number, found in enumerate(nearest)) <= 1


def test_render_has_the_filters_and_bench_has_not(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.mp4"
    filters = ["--input-filters", "mirror", "--output-filters", "grey, upscale:2"]
    assert cli.main(["render", str(clips / "clip-4.mp4"), str(out), *SMALL, *filters]) == 0
    frames = decoded(out)
    assert len(frames) == 4 and frames[0].shape == (128, 128, 3)
    assert max(int(np.ptp(frame.astype(int), axis=2).max()) for frame in frames) <= 12, "grey, but for the codec"
    for command, wrong in (
        (["bench"], filters[2:]),
        (["bench"], filters[:2]),
        (["render", "a", "b"], ["--output-wet", "1"]),
    ):
        capsys.readouterr()
        assert cli.main([*command, *wrong]) == 2
        assert f"unrecognized arguments: {wrong[0]}" in said(capsys)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    return text.splitlines()[-1]


@pytest.fixture
def bad(tmp_path: Path, clips: Path) -> dict[str, str]:
    """Paths that something is wrong with."""
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video\n" * 50)
    whole = (clips / "clip-80.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:200])
    # Whole index, two thirds of the pictures: it would play for a while.
    bundled = (assets_dir() / "clip.mp4").read_bytes()
    (tmp_path / "short.mp4").write_bytes(bundled[: len(bundled) * 2 // 3])
    return {
        "missing": str(tmp_path / "nowhere.mp4"),
        "folder": str(tmp_path),
        "empty": str(tmp_path / "empty.mp4"),
        "text": str(tmp_path / "text.mp4"),
        "cut": str(tmp_path / "cut.mp4"),
        "short": str(tmp_path / "short.mp4"),
        "good": str(clips / "clip-4.mp4"),
        "out": str(tmp_path / "o.mp4"),
        "no folder": str(tmp_path / "nowhere" / "o.mp4"),
    }


MISTAKES = [
    (["live", "--source", "file:{missing}"], "nowhere.mp4"),
    (["live", "--source", "file:{folder}"], "directory"),
    (["live", "--source", "file:{empty}"], "empty.mp4"),
    (["live", "--source", "file:{text}"], "text.mp4"),
    (["live", "--source", "file:{cut}"], "cut.mp4"),
    (["live", "--source", "file:{short}"], "short.mp4 was cut off"),
    (["live", "--source", "webcam9"], "choose"),
    (["live", "--output", "printer"], "choose"),
    (["live", "--output", "file:{no folder}"], "does not exist"),
    (["live", "--preset", "nope"], "no preset 'nope'"),
    (["live", "--preset", "../../etc/passwd"], "no preset"),
    (["live", "--engine", "wan-99b"], "pocket"),
    (["live", "--nose-max", "1"], "--nose-max"),
    (["live", "--noise-max", "7"], "0.05 to 1"),
    (["live", "--noise-max", "nan"], "NaN"),
    (["live", "--noise-max", "much"], "not a number"),
    (["live", "--noise-min", "0.9", "--noise-max", "0.2"], "noise.m"),
    (["live", "--steps", "9"], "2 entries"),
    (["live", "--steps-list", "300,600"], "smaller"),
    (["live", "--size", "250x256"], "240x256 and 256x256"),
    (["live", "--size", "big"], "256x256"),
    (["live", "--seconds", "0"], "above 0"),
    (["live", "--seconds", "soon"], "above 0"),
    (["paint"], "paint"),
    (["render", "{missing}", "{out}"], "nowhere.mp4"),
    (["render", "{folder}", "{out}"], "directory"),
    (["render", "{cut}", "{out}"], "cut.mp4"),
    (["render", "{short}", "{out}"], "short.mp4 was cut off"),
    (["render", "{good}", "{no folder}"], "does not exist"),
    (["render", "{good}", "{good}"], "-y"),
    (["render", "{good}", "{out}.txt"], ".mp4"),
    (["render", "pattern", "{out}"], "ends"),
    (["render", "{good}", "{folder}", "-y"], "directory"),
    (["live", "--output", "file:{out}", "--output", "file:{out}"], "two outputs"),
    (["live", "--source", "file:{good}", "--output", "file:{good}", "-y"], "source and an output"),
    (["live", "--json", "{no folder}"], "--json"),
    (["bench", "--json", "{no folder}"], "--json"),
    (["bench", "--chunks", "1"], "4 to 100000"),
]


@pytest.mark.parametrize(("command", "expected"), MISTAKES, ids=[" ".join(c)[:40] for c, _ in MISTAKES])
def test_a_mistake_gets_one_sentence_and_exit_code_2(
    command: list[str], expected: str, bad: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [part.format(**bad) for part in command]
    if arguments[0] == "live":
        arguments += ["--headless", "--osc-port", "0"]
    before = sorted(os.listdir(bad["folder"]))
    assert cli.main(arguments) == 2
    sentence = said(capsys)
    assert sentence.startswith("sdv2live: ") and expected in sentence and len(sentence) < 600
    assert sorted(os.listdir(bad["folder"])) == before, "nothing is left in the folder"


def test_a_port_asked_for_and_taken_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        assert cli.main(["live", "--headless", "--source", "none", "--osc-port", str(port)]) == 2
        assert str(port) in said(capsys)


def run_live(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env["PYTHONPATH"] = str(ROOT)
    return subprocess.Popen(
        [sys.executable, "-m", "sdv2live", *arguments],
        cwd=cwd,
        env=env,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_live_run_to_its_end(clips: Path, tmp_path: Path) -> None:
    process = run_live(
        "--headless",
        "--source",
        f"file:{clips / 'clip-80.mp4'}",
        "--output",
        "file:out.mp4",
        "--output",
        "null",
        "--prompt",
        "pencil drawing",
        "--seconds",
        "3",
        "--json",
        "run.json",
        "--osc-port",
        "0",
        *SMALL,
        cwd=tmp_path,
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary = json.loads((tmp_path / "run.json").read_text())
    promised = (
        "frames_in frames_generated frames_out engine_fps output_fps new_frame_interval_ms chunk_ms age_ms ttff_ms "
        "change_to_picture_ms "
        "dropped lagged repeated skipped restarts engine device settings"
    )
    assert set(promised.split()) <= set(summary)
    assert set(summary["age_ms"]) == {"p50", "p95", "p99"}
    assert summary["settings"]["prompt.text"] == "pencil drawing" and summary["engine"] == "pocket"
    assert summary["frames_generated"] % 4 == 0 and summary["frames_generated"] > 0
    written = len(decoded(tmp_path / "out.mp4"))
    assert 0 < written <= summary["frames_out"]
    assert "out.mp4" in out and "Traceback" not in err
    memory = summary["peak_memory_bytes"]
    assert memory is None or 50e6 < memory < 1.5e9


@pytest.mark.parametrize(("count", "more"), [(6, []), (1, []), (82, ["--schedule", "throughput", "--steps", "2"])])
def test_the_end_of_a_live_file_is_not_lost(clips: Path, tmp_path: Path, count: int, more: list[str]) -> None:
    """A tail that fills no chunk is completed, and what is in flight at the end comes out."""
    process = run_live(
        "--headless",
        *("--source", f"file:{clips / f'clip-{count}.mp4'}", "--no-source-loop", "--json", "run.json"),
        *("--osc-port", "0", *SMALL, *more),
        cwd=tmp_path,
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["frames_in"] == count
    assert run["frames_generated"] == run["frames_used"] == count - run["dropped"] and run["frames_lost"] == 0
    assert run["frames_generated"] >= min(count, 8), "on a loaded machine some may be dropped, and they are counted"


def test_a_mistyped_source_does_not_touch_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "show.mp4"
    kept.write_bytes(b"precious")
    arguments = ["live", "--headless", "--source", f"file:{tmp_path / 'typo.mp4'}", "--output", f"file:{kept}", "-y"]
    assert cli.main([*arguments, "--osc-port", "0"]) == 2
    assert "typo.mp4" in said(capsys) and kept.read_bytes() == b"precious"


def test_seconds_end_a_run_that_never_gets_a_frame(tmp_path: Path) -> None:
    process = run_live("--headless", "--source", "none", "--seconds", "1", "--osc-port", "0", *SMALL, cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="X11 is Linux's")
def test_a_display_that_does_not_answer_is_said_before_anything_starts(tmp_path: Path) -> None:
    environment = {**os.environ, "DISPLAY": ":987", "QT_QPA_PLATFORM": "xcb", "HOME": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "sdv2live", "--osc-port", "0"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and ":987 does not answer" in run.stderr and "Traceback" not in run.stderr
    assert list(tmp_path.rglob("*.json")) == []


def test_without_a_word_the_clip_is_recorded_and_the_file_named(tmp_path: Path) -> None:
    process = run_live("--seconds", "1", "--osc-port", "0", *SMALL, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    path = next(tmp_path.glob("*.mp4"))
    assert str(path) in out and len(decoded(path)) > 3


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX are needed")
@pytest.mark.parametrize("when", ["loading", "running"])
def test_ctrl_c_ends_a_run_in_order(tmp_path: Path, when: str) -> None:
    process = run_live(
        "--headless",
        "--source",
        "pattern",
        "--output",
        "file:out.mp4",
        "--json",
        "run.json",
        "--osc-port",
        "0",
        *SMALL,
        cwd=tmp_path,
    )
    assert process.stderr is not None
    deadline_s = time.monotonic() + 60
    wanted = "source:" if when == "loading" else "running |"
    for line in process.stderr:
        if (wanted in line and " 0.0 new fps" not in line) or time.monotonic() > deadline_s:
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everyone of the group
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    assert "settings" in json.loads((tmp_path / "run.json").read_text())
    if when == "running":
        assert len(decoded(tmp_path / "out.mp4")) > 0


@pytest.mark.skipif(importlib.util.find_spec("streamv2v") is not None, reason="the reference is installed")
def test_bench_says_in_one_sentence_that_the_reference_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--engine", "wan-1.3b", "--random-weights", "--compare", "reference"]) == 2
    words = capsys.readouterr()
    assert "streamdiffusionv2 is not installed" in words.err and words.err.count("\n") == 1 and not words.out


def test_bench_runs_with_few_packages_and_explains_the_time(tmp_path: Path) -> None:
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('cv2', 'av', 'PySide6', 'pyvirtualcam', 'huggingface_hub', 'pythonosc'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
from sdv2live import cli
command = ['bench', '--no-compile', '--chunks', '4', '--size', '64x64', '--json', 'b.json', '--chart', 'b.svg']
raise SystemExit(cli.main(command))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "b.json").read_text())
    assert [(run["steps"], run["schedule"]) for run in figures["runs"]] == [
        (1, "latency"),
        (1, "throughput"),
        (2, "latency"),
        (2, "throughput"),
    ]
    assert all(run["fps"] > 0 and run["floor_ms"] > 0 for run in figures["runs"])
    assert figures["first_picture_ms"] > figures["start_ms"] > 0 and figures["opening_ms"] > 0
    assert {(run["counted_memory_bytes"], run["measured_memory_bytes"]) for run in figures["runs"]} == {(None, None)}
    assert all(value > 0 for value in figures["ceilings"].values())
    assert set(figures["versions"]) == {"sdv2live", "python", "torch", "numpy"} and figures["weights"] == "shipped"
    assert figures["threads"] >= 1 and figures["date_utc"].startswith("20")
    stages = {(entry["stage"], entry["mode"]): entry for entry in figures["stages"]}
    assert len(stages) == 9
    for (_, mode), entry in stages.items():
        if mode == "eager":
            assert entry["ms"] > 0 and entry["fraction_of_floor"] == pytest.approx(
                entry["floor_ms"] / entry["ms"], rel=0.05, abs=0.01
            )
    assert stages["encode", "compiled"]["reason"] == "left away by --no-compile"
    chart = ElementTree.fromstring((tmp_path / "b.svg").read_text())
    words = [each.text for each in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert {"encode", "denoise", "decode", "eager", "compiled", "graph"} <= set(words)


def test_prompt_says_what_is_understood_without_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["a slight watercolor in blue", "an oil paintng of an octopus", "ink and neon", "blorf"]
    assert cli.main(["prompt", *texts, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert all(list(entry) == ["text", "look", "weight", "colour", "strength", "unknown"] for entry in entries)
    watercolour, oil, *blend, nothing = entries
    assert (watercolour["text"], watercolour["look"], watercolour["colour"]) == (texts[0], "watercolour", "blue")
    assert watercolour["strength"] < 0.85 < oil["strength"]
    assert (oil["look"], oil["unknown"]) == ("oil", ["octopus"])
    assert {entry["look"] for entry in blend} == {"ink", "neon"}
    assert sum(entry["weight"] for entry in blend) == pytest.approx(1, abs=0.01)
    assert (nothing["look"], nothing["unknown"]) == ("identity", ["blorf"])


def test_prompt_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prompt", "red pencil drawing of a wombat"]) == 0
    assert capsys.readouterr().out == (
        "red pencil drawing of a wombat: pencil, red, strength 1.00, not understood: wombat\n"
    )


@pytest.mark.parametrize("text", ["", "   ", "...", "!?"])
def test_a_text_without_a_word_is_no_prompt(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prompt", "oil", text]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "there is not one word in it" in told.err


def test_prompt_needs_few_packages(tmp_path: Path) -> None:
    """No video, no camera, no window: what an engine's process has is enough."""
    code = (
        "import sys; from sdv2live import cli\n"
        "for name in ('cv2', 'av', 'PySide6', 'mss', 'transformers'): sys.modules[name] = None\n"
        "raise SystemExit(cli.main(['prompt', 'oil']))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("oil: oil")
