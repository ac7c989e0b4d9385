"""What the tests of models share: a hub, models that are small, and a library that does not sleep."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from sdv2live.models.manifest import MODELS, Checksum
from tests.models.hub import Hub

LARGE, SMALL = 3_500_000, 5_000


def content(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Every model in small: `tokenizer` so small that it lies on the hub itself, the others elsewhere; hashes are
    known of `wan-vae`, `text-encoder` and `taehv`. The library takes this hub for its own."""
    changed = {}
    for name, model in MODELS.items():
        # What ends in .pt would be converted, which has tests of its own.
        place = model.place.replace(".pth", ".safetensors").replace(".pt", ".safetensors")
        changed[name] = replace(model, place=place, path=place, checksum=None, revision="main")
    files = {
        model.path: content(SMALL if name == "tokenizer" else LARGE + seed, seed)
        for seed, (name, model) in enumerate(changed.items())
    }
    with Hub(files) as hub:
        for name in ("wan-vae", "text-encoder"):
            sha256 = hashlib.sha256(files[changed[name].path]).hexdigest()
            changed[name] = replace(changed[name], checksum=Checksum("sha256", sha256), revision=hub.commit)
        taehv = changed["taehv"]
        blob = files[taehv.path]
        changed["taehv"] = replace(
            taehv,
            address=hub.cdn + "/{revision}/{path}",
            revision="taehv",
            checksum=Checksum("git-sha1", hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()),
        )
        for name, model in changed.items():
            monkeypatch.setitem(MODELS, name, model)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the library would have slept between its tries."""
    slept: list[float] = []
    nap: Callable[[float], None] = slept.append
    fake = SimpleNamespace(**{**vars(time), "sleep": nap})
    monkeypatch.setattr("huggingface_hub.utils._http.time", fake)
    monkeypatch.setattr("huggingface_hub.file_download.time", fake)
    return slept
