"""Which files the Wan engines need, where those come from and as what they are found in a folder. Pure data.

Standard library alone: the window and the command line read this before torch is there. A hash stands here only where
it is really known; for the other files the hub's own, stated at the first fetch, is written down and holds from then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from sdv2live.paths import models_dir

GB, MB = 1_000_000_000, 1_000_000

# Where files are looked for in a folder: flat, as the reference has them, and as the Wan 2.1 download has them.
INSIDE = (".", "wan_models/Wan2.1-T2V-1.3B", "wan_models/Wan2.1-T2V-14B", "ckpts")


@dataclass(frozen=True, slots=True)
class Checksum:
    """kind: `sha256`, or `git-sha1` for what lies in a git repository as it is."""

    kind: str
    digest: str


@dataclass(frozen=True, slots=True)
class Model:
    """One file to fetch.

    repository, path, revision: where it is published; `main` is replaced by the commit of the first fetch.
    address: in place of the hub's, with `{revision}` and `{path}` in it.
    place: where a fetched file is put in a folder. found_as: everything that is taken for it there, best first.
    rough_bytes: for the question whether to fetch it; the size that counts is the server's.
    """

    name: str
    what: str
    repository: str
    path: str
    place: str
    found_as: tuple[str, ...]
    rough_bytes: int
    licence: str
    revision: str = "main"
    address: str = ""
    checksum: Checksum | None = None

    @property
    def site(self) -> str:
        return "GitHub" if self.address else "Hugging Face"


_TRANSFORMER_LICENCE = "see its model card"  # code and Wan 2.1 are Apache-2.0; of these weights we know no statement
_GENERIC_TRANSFORMER = ("model.safetensors.index.json", "model.safetensors", "model.pt")


def _transformer(name: str, folder: str, rough_bytes: int) -> Model:
    return Model(
        name=name,
        what="the transformer",
        repository="jerryfeng/StreamDiffusionV2",
        path=f"{folder}/model.pt",
        place=f"{folder}/model.pt",
        found_as=(f"{folder}/model.safetensors", f"{folder}/model.pt", *_GENERIC_TRANSFORMER),
        rough_bytes=rough_bytes,
        licence=_TRANSFORMER_LICENCE,
    )


def _of_wan(
    name: str,
    what: str,
    path: str,
    found_as: tuple[str, ...],
    rough_bytes: int,
    digest: str,
    licence: str = "Apache-2.0",
) -> Model:
    """A file of the Wan 2.1 release, at the revision that its hash is known of."""
    return Model(
        name=name,
        what=what,
        repository="Wan-AI/Wan2.1-T2V-1.3B",
        path=path,
        place=path,
        found_as=found_as,
        rough_bytes=rough_bytes,
        licence="Apache-2.0",
        revision="37ec512624d61f7aa208f7ea8140a131f93afc9a",
        checksum=Checksum("sha256", digest),
    )


_TEXT_ENCODER = "models_t5_umt5-xxl-enc-bf16"
MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        _transformer("wan-1.3b", "wan_causal_dmd_v2v", 5_700 * MB),
        _transformer("wan-14b", "wan_causal_dmd_v2v_14b", 28_600 * MB),
        _of_wan(
            "tokenizer",
            "the tokenizer",
            "google/umt5-xxl/tokenizer.json",
            ("google/umt5-xxl/tokenizer.json", "tokenizer/tokenizer.json"),
            16_837_417,
            "6e197b4d3dbd71da14b4eb255f4fa91c9c1f2068b20a2de2472967ca3d22602b",
        ),
        _of_wan(
            "wan-vae",
            "the Wan VAE",
            "Wan2.1_VAE.pth",
            ("Wan2.1_VAE.safetensors", "Wan2.1_VAE.pth"),
            507_609_880,
            "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981",
        ),
        # The safetensors of the same encoder that Wan publishes for diffusers are float32, twice the size.
        _of_wan(
            "text-encoder",
            "the text encoder",
            f"{_TEXT_ENCODER}.pth",
            (f"{_TEXT_ENCODER}.safetensors", f"{_TEXT_ENCODER}.pth", "text_encoder"),
            11_361_920_418,
            "7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d",
        ),
        Model(
            name="taehv",
            what="TAEHV",
            repository="madebyollin/taehv",
            path="safetensors/taew2_1.safetensors",
            place="taew2_1.safetensors",
            found_as=("taew2_1.safetensors", "taew2_1.pth"),
            rough_bytes=23 * MB,
            licence="MIT",
            revision="1f14a568f24bf8811e0a0ac601613e04fc1581e8",
            address="https://raw.githubusercontent.com/madebyollin/taehv/{revision}/{path}",
            checksum=Checksum("git-sha1", "ec1a2be453a250aa406e912bb630c34463ba0b2f"),
        ),
    )
}

# An engine is fetched under the name of its transformer. The largest come last: what fails early costs little.
SHARED = ("tokenizer", "taehv", "wan-vae", "text-encoder")
ENGINES: dict[str, tuple[str, ...]] = {name: (*SHARED, name) for name in ("wan-1.3b", "wan-14b")}


def engines_with(name: str) -> tuple[str, ...]:
    """The engines that need a model."""
    return tuple(engine for engine, names in ENGINES.items() if name in names)


def find(model: Model, folder: Path) -> Path | None:
    """Where the model lies in a folder, in any layout that is known; None if it does not. Opens nothing."""
    for inside in INSIDE:
        for name in model.found_as:
            if (path := folder / inside / name).exists():
                return path
    return None


def command(action: str, name: str, folder: Path) -> str:
    """What to type, in quotes for a message: `sdv2live models get wan-1.3b`."""
    return f"`sdv2live models {action} {name}{'' if folder == models_dir() else f' --folder {quote(str(folder))}'}`"


def size_text(count: float) -> str:
    """Bytes as people read them: `5.68 GB`, `16.8 MB`, `950 kB`."""
    if count >= 0.9995 * GB:
        return f"{count / GB:.2f} GB" if count < 10 * GB else f"{count / GB:.1f} GB"
    return f"{count / MB:.1f} MB" if count >= MB else f"{count / 1000:.0f} kB"
