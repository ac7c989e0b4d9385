"""From `models get` to a picture: a small Wan engine's files, published, fetched, converted and run."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import av
import pytest

from sdv2live import cli
from sdv2live.engine import memory
from sdv2live.models.manifest import MODELS, Checksum
from sdv2live.models.store import State, Store
from sdv2live.paths import assets_dir, models_dir
from tests.engine.wan_cases import DIT_FILE, SIZES_FILE, TAEHV_FILE, TEXT_FILE, TOKENIZER, VAE_FILE, write_weights
from tests.models.hub import Hub

# In bfloat16 every tensor is copied. In float32 the CPU would compute on the mapped files, whose tensors begin at other
# places in memory in the two formats, and its last bits depend on that.
SMALL = ["--size", "64x64", "--steps", "1", "--precision", "bfloat16", "--device", "cpu", "--vae", "wan-taehv"]
NAME = "wan-1.3b"


def test_the_engine_runs_on_what_was_fetched_as_on_the_released_files(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setattr(memory, "free_bytes", lambda _: None)
    released = write_weights(tmp_path / "released")
    files = {
        NAME: DIT_FILE,
        "wan-vae": VAE_FILE,
        "text-encoder": TEXT_FILE,
        "tokenizer": f"{TOKENIZER}/tokenizer.json",
        "taehv": TAEHV_FILE,
    }
    for name, place in files.items():
        content = (released / place).read_bytes()
        hub.files[place] = content
        known = MODELS[name].checksum and Checksum("sha256", hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(MODELS, name, replace(MODELS[name], place=place, path=place, checksum=known))
    models_dir().mkdir(parents=True)
    shutil.copy(released / SIZES_FILE, models_dir())
    clip = _clip(tmp_path / "clip.mp4")

    assert cli.main(["models", "get", NAME]) == 0
    looked = {name: Store(models_dir()).look(MODELS[name]) for name in files}
    assert {found.state for found in looked.values()} == {State.HERE}
    assert {found.path.suffix for found in looked.values()} == {".safetensors", ".json"}
    shutil.rmtree(models_dir().parent / "embeddings", ignore_errors=True)
    pictures = []
    for weights in ([], ["--weights", str(released)]):
        out = tmp_path / f"out{len(pictures)}.mp4"
        assert cli.main(["render", str(clip), str(out), "--engine", NAME, *weights, *SMALL, "--prompt", "ink"]) == 0
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]


def _clip(path: Path) -> Path:
    """The first frames of the clip that ships."""
    with av.open(str(assets_dir() / "clip.mp4")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _, frame in zip(range(13), source.decode(video=0), strict=False):
            picture = frame.reformat(64, 64, "yuv420p")
            picture.pts = None
            target.mux(stream.encode(picture))
        target.mux(stream.encode(None))
    return path
