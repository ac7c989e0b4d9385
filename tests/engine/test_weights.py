"""Checkpoints: every form gives the same tensors, every wrong file one sentence, and nothing in a file is executed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdv2live.engine import checkpoint, weights
from sdv2live.engine.model.attention import BlockCausalAttention
from sdv2live.engine.model.wan_transformer import WAN_1_3B, WAN_14B, WanConfig, WanTransformer
from sdv2live.engine.weights import NotEnoughMemory, load_into, load_strict, open_checkpoint, random_weights_
from sdv2live.errors import UserError
from tests.engine.toy import CPU, SMALL

META = torch.device("meta")
INDEX = "model.safetensors.index.json"


def some_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"head.weight": (64, 48), "head.bias": (64,), "blocks.0.modulation": (1, 6, 8), "scale": ()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Two shards and their index; -> the index."""
    folder.mkdir(exist_ok=True)
    names = sorted(tensors)
    parts = {"model-1-of-2.safetensors": names[:2], "model-2-of-2.safetensors": names[2:]}
    for shard, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / shard)
    shard_of = {name: shard for shard, held in parts.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shard_of}))
    return folder / INDEX


def refused(path: Path) -> str:
    """The sentence with which a checkpoint is refused."""
    with pytest.raises(UserError) as caught:
        dict(open_checkpoint(path))
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and ". " not in message, "one sentence"
    assert str(path) in message, "which file"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "no traceback of another error"
    return message


# ---- what is accepted --------------------------------------------------------------------------------------------

MIXED_PREFIXES = ("model.", "", "model._fsdp_wrapped_module.", "_fsdp_wrapped_module.module.model.")


def with_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for prefix, (name, tensor) in zip(MIXED_PREFIXES, tensors.items(), strict=True)}


def _written(folder: Path, form: str) -> Path:
    tensors = some_tensors()
    junk = {"other": torch.zeros(3)}
    match form:
        case "safetensors":
            save_file(tensors, folder / "a.safetensors")
            return folder / "a.safetensors"
        case "safetensors in a folder":
            save_file(tensors, folder / "a.safetensors")
            (folder / "config.json").write_text("{}")
            return folder
        case "prefixed safetensors":
            save_file(with_prefixes(tensors), folder / "a.SafeTensors")
            return folder / "a.SafeTensors"
        case "index":
            return write_shards(folder, tensors)
        case "folder of shards":
            return write_shards(folder, with_prefixes(tensors)).parent
        case "linked shards":  # as in Hugging Face's cache
            write_shards(folder / "blobs", tensors)
            for blob in (folder / "blobs").iterdir():
                (folder / blob.name).symlink_to(Path("blobs") / blob.name)
            return folder
    saved: object = {
        "bare": tensors,
        "generator": {"state_dict": junk, "generator_ema": junk, "generator": tensors, "step": 3},
        "generator_ema": {"critic": junk, "state_dict": junk, "generator_ema": tensors},
        "state_dict": {"epoch": 3, "state_dict": OrderedDict(tensors)},
        "prefixed": {"generator": with_prefixes(tensors)},
        "parameters": {name: nn.Parameter(tensor) for name, tensor in tensors.items()},
        "old format": {"generator": tensors},
        "protocol 3": tensors,
    }[form]
    path = folder / ("model.pth" if form == "bare" else "model.pt")
    protocol = 3 if form == "protocol 3" else 2
    torch.save(saved, path, _use_new_zipfile_serialization=form != "old format", pickle_protocol=protocol)
    return path


FORMS = (
    "safetensors",
    "safetensors in a folder",
    "prefixed safetensors",
    "index",
    "folder of shards",
    "linked shards",
    "bare",
    "generator",
    "generator_ema",
    "state_dict",
    "prefixed",
    "parameters",
    "old format",
    "protocol 3",
)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tensors(tmp_path: Path, form: str) -> None:
    given, wanted = open_checkpoint(_written(tmp_path, form)), some_tensors()
    assert given.keys() == wanted.keys() and len(given) == len(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(given[name], tensor) and not given[name].requires_grad


def test_wrappers_prefixes_go_and_nothing_else_does() -> None:
    names = {
        "model.blocks.0.q": "blocks.0.q",
        "module.model.module.blocks.0.q.weight": "blocks.0.q.weight",
        "_fsdp_wrapped_module.model._fsdp_wrapped_module.head": "head",
        "model._fsdp_wrapped_module.blocks.3._fsdp_wrapped_module.o": "blocks.3.o",
        "model": "model",
        "my_fsdp_wrapped_module.x": "my_fsdp_wrapped_module.x",
        "encoder.model.weight": "encoder.model.weight",
        "models.weight": "models.weight",
    }
    assert checkpoint._plain_names(Path("a"), names) == {plain: name for name, plain in names.items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_two_names_that_become_one_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    tensors = {"model.head": torch.zeros(2), "head": torch.ones(2)}
    if suffix == ".pt":
        torch.save({"generator": tensors}, path)
    else:
        save_file(tensors, path)
    assert "model.head" in refused(path) and "are one name without their prefixes" in refused(path)


def test_the_two_real_sizes_have_the_released_names() -> None:
    """engine.md, 1.1 and the table of section 1, written out here a second time."""

    def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    for config, dim, ffn, layers, names, parameters in (
        (WAN_1_3B, 1536, 8960, 30, 825, 1_418_996_800),
        (WAN_14B, 5120, 13824, 40, 1095, 14_288_491_584),
    ):
        table: dict[str, tuple[int, ...]] = {
            "patch_embedding.weight": (dim, 16, 1, 2, 2),
            "patch_embedding.bias": (dim,),
            **linear("text_embedding.0", 4096, dim),
            **linear("text_embedding.2", dim, dim),
            **linear("time_embedding.0", 256, dim),
            **linear("time_embedding.2", dim, dim),
            **linear("time_projection.1", dim, 6 * dim),
            "head.modulation": (1, 2, dim),
            **linear("head.head", dim, 64),
        }
        for block in range(layers):
            at = f"blocks.{block}"
            table[f"{at}.modulation"] = (1, 6, dim)
            for attention in ("self_attn", "cross_attn"):
                for projection in "qkvo":
                    table |= linear(f"{at}.{attention}.{projection}", dim, dim)
                table |= {f"{at}.{attention}.norm_{name}.weight": (dim,) for name in "qk"}
            table |= {f"{at}.norm3.weight": (dim,), f"{at}.norm3.bias": (dim,)}
            table |= linear(f"{at}.ffn.0", dim, ffn) | linear(f"{at}.ffn.2", ffn, dim)
        with META:
            state = WanTransformer(config).state_dict()
        assert {name: tuple(tensor.shape) for name, tensor in state.items()} == table
        assert len(table) == names and sum(math.prod(shape) for shape in table.values()) == parameters


# ---- what is refused ---------------------------------------------------------------------------------------------


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _saved(value: object, name: str = "a.pt") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(value, folder / name)
        return folder / name

    return write


def _zip(name: str, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w", compression) as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
        return folder / name

    return write


def _folder(*names: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "m").mkdir()
        for name in names:
            save_file(some_tensors(), folder / "m" / name)
        return folder / "m"

    return write


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.pt")
    return folder / "a.pt"


PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2837\n"
META_TENSOR = torch.empty(3, device="meta")


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda folder: folder / "gone.pt", "are missing: check the path"),
        (lambda folder: folder / "gone" / "a.safetensors", "are missing: check the path"),
        (_file("a.gguf", b"GGUF"), "are of no known kind: give a .safetensors, .pt or .pth file"),
        (_file("a.safetensors", b""), "the file is empty"),
        (_file("a.pt", b""), "the file is empty"),
        (_file(INDEX, b""), "the file is empty"),
        (_file("a.safetensors", PAGE), "it is a web page): fetch the file again, logged in"),
        (_file("a.pth", PAGE), "it is a web page"),
        (_file("a.pt", POINTER), "it is a Git LFS pointer to the weights): run `git lfs pull`"),
        (_file("a.safetensors", POINTER), "it is a Git LFS pointer"),
        (_file("a.safetensors", b"hello, these are no weights"), "it is damaged"),
        (_file("a.pt", b"hello, these are no weights"), "it is damaged"),
        (_file("a.pt", random.Random(1).randbytes(5000)), "it is damaged"),
        (_zip("a.pt", {"m/readme.txt": b"hello"}), "it is a zip archive, but not one of tensors"),
        (_zip("a.pt", {"m/data.pkl": b"x", "m/constants.pkl": b"x"}), "it is a zip archive, but not one of tensors"),
        (_zip("a.pt", {"m/data.pkl": b"rubbish", "m/version": b"3"}), "it is damaged"),
        (_zip("a.pt", {"m/data.pkl": bytes(70 << 20)}, zipfile.ZIP_DEFLATED), "it is not packed as torch does it"),
        (_zip("a.safetensors", {"m/readme.txt": b"hello"}), "it is a zip archive, not .safetensors"),
        (_folder(), "holds no .safetensors file: give another folder"),
        (_folder("a.pt"), "holds no .safetensors file: give the file itself, such as /"),
        (_folder("a.safetensors", "b.safetensors"), "holds several .safetensors files and no index"),
        (_folder(INDEX, "b" + INDEX), "holds several .safetensors.index.json indexes"),
        (_pipe, "are not a file"),
        (_saved({}), "it is no table of tensors"),
        (_saved([torch.zeros(3)]), "it is no table of tensors"),
        (_saved({"generator": torch.zeros(3), "state_dict": some_tensors()}), "its 'generator' is no table of tensors"),
        (_saved({"step": 3, "model": some_tensors()}), "it holds step, which is no tensor"),
        (_saved({"generator": {"head": 1.5}}), "its 'generator' holds head, which is no tensor"),
        (_saved({7: torch.zeros(3)}), "it holds 7, which is no tensor"),
        (_saved({"a\nb" * 90: 3}), r"it holds 'a\nba\nb"),
        (_saved({"meta": META_TENSOR}), "it holds meta, which is no tensor"),
        (_saved({"sparse": torch.eye(3).to_sparse()}), "it holds sparse, which is no tensor"),
        (_saved(nn.Linear(2, 2)), "holds something other than tensors, and was not executed"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, write: Callable[[Path], Path], why: str) -> None:
    assert why in refused(write(tmp_path))


def test_an_unreadable_file_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *args: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    save_file(some_tensors(), tmp_path / "a.safetensors")
    for method, path in (("open", tmp_path / "a.safetensors"), ("stat", tmp_path / "a.pt"), ("iterdir", tmp_path)):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, denied)
            assert "cannot be read (Permission denied): check its permissions" in refused(path)


@pytest.mark.parametrize(
    ("index", "why"),
    [
        (
            '{"weight_map": {"a": "../a.safetensors"}}',
            "it names ../a.safetensors, which is no .safetensors file of its",
        ),
        ('{"weight_map": {"a": "/etc/a.safetensors"}}', "it names /etc/a.safetensors"),
        ('{"weight_map": {"a": "..\\\\a.safetensors"}}', "which is no .safetensors file"),
        ('{"weight_map": {"a": "C:a.safetensors"}}', "which is no .safetensors file"),
        ('{"weight_map": {"a": "a.safetensors\\u0000"}}', "which is no .safetensors file"),
        ('{"weight_map": {"a": "evil.pt"}}', "it names evil.pt"),
        ('{"weight_map": {"a": 3}}', "it names 3"),
        ('{"weight_map": {"a": "b.safetensors"}}', "b.safetensors are missing"),
        ('{"weight_map": {}}', "it has no weight_map"),
        ('{"weight_map": ["a"]}', "it has no weight_map"),
        ("[]", "it has no weight_map"),
        ('{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}', "it is no valid JSON"),
        ('{"weight_map": {"a": NaN}}', "it is no valid JSON"),
        ("{", "it is no valid JSON"),
        ("[" * 100_000, "it is no valid JSON"),
        (" " * ((16 << 20) + 1), "an index of more than 16 MiB is none"),
    ],
)
def test_an_index_leads_nowhere_else(tmp_path: Path, index: str, why: str) -> None:
    save_file(some_tensors(), tmp_path / "a.safetensors")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / INDEX).write_text(index)
    with pytest.raises(UserError, match=re.escape(why)):
        open_checkpoint(tmp_path / "m" / INDEX)


def test_index_and_shards_have_to_agree(tmp_path: Path) -> None:
    index = write_shards(tmp_path, some_tensors())
    table = json.loads(index.read_text())
    shard = table["weight_map"].pop("head.bias")
    index.write_text(json.dumps(table))
    assert f"{shard} holds head.bias, which the index does not place there" in refused(index)
    table["weight_map"] |= {"head.bias": shard, "more": shard}
    index.write_text(json.dumps(table))
    assert f"more is not in {shard}, where the index places it" in refused(index)


def _files_of_each_kind(folder: Path) -> list[Path]:
    tensors = some_tensors()
    save_file(tensors, folder / "a.safetensors")
    torch.save({"generator": tensors}, folder / "a.pt")
    torch.save({"generator": tensors}, folder / "a.pth", _use_new_zipfile_serialization=False)
    return [folder / "a.safetensors", folder / "a.pt", folder / "a.pth"]


def test_a_file_cut_anywhere_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for path in _files_of_each_kind(tmp_path):
        content = path.read_bytes()
        size = len(content)
        lengths = {1, 2, 4, 7, 8, 9, 16, 64, 100, 200, size // 3, size // 2, size - 100, size - 22, size - 1}
        for length in sorted(lengths):
            path.write_bytes(content[:length])
            assert "cannot be read (it is damaged" in refused(path), (path, length)


@pytest.mark.fuzz
def test_whatever_byte_is_wrong_there_is_no_other_error(tmp_path: Path) -> None:
    seed = int(os.environ.get("FUZZ_SEED", "1"))
    print("seed", seed)
    generator = random.Random(seed)
    for path in _files_of_each_kind(tmp_path):
        content = path.read_bytes()
        for _ in range(250):
            damaged = bytearray(content)
            place = generator.choice((range(min(700, len(content))), range(len(content) - 700, len(content))))
            for _ in range(generator.choice((1, 3))):
                damaged[generator.choice(place)] = generator.randrange(256)
            path.unlink()  # in place it would change what still is mapped
            path.write_bytes(damaged)
            with contextlib.suppress(UserError):
                dict(open_checkpoint(path))


class Runs:
    """Unpickled without care, it runs a command."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self._command,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_in_a_file_is_executed(tmp_path: Path, is_zip: bool) -> None:
    marker = tmp_path / "marker"
    attack = Runs(f"touch {marker}")
    for value in (attack, {"generator": some_tensors(), "x": attack}, {"generator": {"head": attack}}):
        torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
        assert "holds something other than tensors, and was not executed" in refused(tmp_path / "a.pt")
    assert not marker.exists()
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert marker.exists(), "the file is an attack indeed"


def test_memory_that_ends_while_a_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(some_tensors(), tmp_path / "a.pt")

    def fails(*args: object, **named: object) -> None:
        raise RuntimeError("unable to mmap 99 bytes from file <a.pt>: Cannot allocate memory (12)")

    monkeypatch.setattr(torch, "load", fails)
    assert "because the memory is full: close other programs" in refused(tmp_path / "a.pt")


# ---- into a module -----------------------------------------------------------------------------------------------


def small_checkpoint(path: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    with META:
        wanted = WanTransformer(SMALL).state_dict()
    tensors = {name: torch.randn(place.shape, generator=generator).to(dtype) for name, place in wanted.items()}
    if path.suffix == ".pt":
        torch.save({"generator": {f"model.{name}": tensor for name, tensor in tensors.items()}}, path)
    else:
        save_file(tensors, path)
    return tensors


def small_on_meta() -> WanTransformer:
    with META:
        return WanTransformer(SMALL)


def mapped_file(tensor: Tensor) -> str:
    """The file in which a tensor's memory lies, or an empty string."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line.partition("/")[2] and "/" + line.partition("/")[2]
    return ""


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("build", [small_on_meta, lambda: WanTransformer(SMALL)])
def test_a_module_is_filled_and_nothing_stays_on_meta(
    tmp_path: Path, suffix: str, build: Callable[[], WanTransformer]
) -> None:
    path = tmp_path / f"a{suffix}"
    tensors, module = small_checkpoint(path), build()
    load_strict(module, path, dtype=torch.float32, device=CPU)
    state = module.state_dict()
    for name, tensor in tensors.items():
        assert state[name].dtype == torch.float32 and torch.equal(state[name], tensor.float())
    assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])
    assert not module.training and not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="shows where memory lies on Linux alone")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_matching_tensors_are_the_file_itself(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    tensors, module = small_checkpoint(path), small_on_meta()
    content = path.read_bytes()
    load_strict(module, path, dtype=torch.bfloat16, device=CPU)
    assert {mapped_file(parameter) for parameter in module.parameters()} == {str(path)}, "no second memory"
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(3)
    assert path.read_bytes() == content, "what is written to a weight is not written to the file"
    path.unlink()
    again = small_on_meta()
    small_checkpoint(path)
    load_strict(again, path, dtype=torch.bfloat16, device=CPU)
    path.unlink()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in tensors.items()), "the map stays"


def test_the_peak_is_the_module_and_one_tensor() -> None:
    alive, most = [0], [0]

    def gone() -> None:
        alive[0] -= 1

    class Counted(Mapping[str, Tensor]):
        """Makes a tensor when asked for it, and counts those that live."""

        def __init__(self) -> None:
            self._shapes = {name: place.shape for name, place in small_on_meta().state_dict().items()}

        def __getitem__(self, name: str) -> Tensor:
            tensor = torch.ones(self._shapes[name])
            storage = tensor.untyped_storage()
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            weakref.finalize(storage, gone)
            return tensor

        def __iter__(self) -> Iterator[str]:
            return iter(self._shapes)

        def __len__(self) -> int:
            return len(self._shapes)

    load_into(small_on_meta(), Counted(), path=Path("a"), dtype=torch.bfloat16, device=CPU)
    assert most[0] <= 2 and alive[0] == 0


@pytest.mark.parametrize("stored", sorted(weights.FLOATS, key=str))
def test_every_width_of_floats_is_converted(stored: torch.dtype) -> None:
    module = nn.Linear(4, 3, device="meta")
    given = {"weight": torch.linspace(-2, 2, 12).view(3, 4).to(stored), "bias": torch.ones(3).to(stored)}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        load_into(module, given, path=Path("a"), dtype=dtype, device=CPU)
        assert torch.equal(module.weight, given["weight"].to(dtype)) and module.bias.dtype == dtype


def test_the_first_three_differences_are_named() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    given = {"0.weight": torch.zeros(4, 3), "0.bias": torch.zeros(3), "9.\n": torch.zeros(1), "9.a": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        load_into(module, given, path=Path("a.pt"), dtype=torch.float32, device=CPU)
    assert str(caught.value) == (
        "the weights a.pt are not those of this model (0.weight is (4, 3), not (3, 4); 1.bias is missing; 1.weight is "
        "missing and 2 more): fetch the matching file."
    )
    with pytest.raises(UserError, match=r"\('1\\n' does not belong; 1\.bias is missing; 1\.weight is missing\): fetch"):
        given = {name: tensor for name, tensor in before.items() if name[0] == "0"} | {"1\n": torch.zeros(1)}
        load_into(module, given, path=Path("a.pt"), dtype=torch.float32, device=CPU)
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items()), "untouched"


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_named(stored: torch.dtype, bad: float) -> None:
    if stored == torch.float8_e4m3fn and math.isinf(bad):
        pytest.skip("this format has no infinity")
    given = {name: tensor.detach().clone() for name, tensor in nn.Linear(64, 32).state_dict().items()}
    given["weight"][7, 9] = bad
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        module = nn.Linear(64, 32, device="meta")
        with pytest.raises(UserError, match=r"^the weights a\.pt are damaged: weight holds values that are no numbers"):
            given_in_width = {name: tensor.to(stored) for name, tensor in given.items()}
            load_into(module, given_in_width, path=Path("a.pt"), dtype=dtype, device=CPU)
        assert module.weight.is_meta, "nothing was taken"


def test_many_large_values_are_numbers_still() -> None:
    """Their sum is beyond the format; they are not."""
    module = nn.Linear(64, 64, device="meta", bias=False)
    for dtype in (torch.float16, torch.float32):
        given = torch.full((64, 64), torch.finfo(dtype).max, dtype=dtype)
        load_into(module, {"weight": given}, path=Path("a"), dtype=dtype, device=CPU)
    module = nn.Linear(64, 64, device="meta", bias=False)
    with pytest.raises(UserError, match=r"do not fit float16: weight has larger values; leave --precision away\.$"):
        load_into(module, {"weight": torch.full((64, 64), 1e5)}, path=Path("a"), dtype=torch.float16, device=CPU)


@pytest.mark.parametrize("stored", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_other_than_floats_are_refused(stored: torch.dtype) -> None:
    given = {"weight": torch.zeros(2, 2, dtype=stored), "bias": torch.zeros(2)}
    word = str(stored).removeprefix("torch.")
    with pytest.raises(UserError, match=f"weight is of {word}, not of floating-point numbers"):
        load_into(nn.Linear(2, 2), given, path=Path("a"), dtype=torch.float32, device=CPU)


class WithBuffers(nn.Module):
    def __init__(self, place: str) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, device="meta")
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64, device="meta"))
        self.register_buffer("table", torch.ones(3, device=place), persistent=False)


def test_buffers_that_no_checkpoint_holds() -> None:
    given = {"linear.weight": torch.ones(2, 2), "linear.bias": torch.ones(2), "count": torch.tensor([5])}
    module = WithBuffers("cpu")
    load_into(module, given, path=Path("a"), dtype=torch.bfloat16, device=CPU)
    state = dict(module.named_buffers())
    assert state["table"].dtype == torch.bfloat16 and state["count"].equal(torch.tensor([5]))
    with pytest.raises(ValueError, match="table of WithBuffers are still on the meta device"):
        load_into(WithBuffers("meta"), given, path=Path("a"), dtype=torch.bfloat16, device=CPU)
    with pytest.raises(UserError, match=r"count is of float32, not of int64"):
        load_into(module, {**given, "count": torch.ones(1)}, path=Path("a"), dtype=torch.float32, device=CPU)


def test_memory_that_ends_is_said_with_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 2**23
    module = nn.Linear(2**22, rows, device="meta", bias=False)  # 141 TB in float32: more than there are addresses
    given = {"weight": torch.zeros(1, 1).expand(rows, 2**22)}
    with pytest.raises(NotEnoughMemory) as caught:
        load_into(module, given, path=Path("a.pt"), dtype=torch.bfloat16, device=CPU)
    assert str(caught.value) == (
        "the weights a.pt do not fit into this machine's memory: they take 70368.7 GB in bfloat16; close other "
        "programs, or take a smaller engine."
    )
    assert caught.value.__context__ is None, "an error's traceback would hold what was taken"
    with pytest.raises(NotEnoughMemory, match=r"^random weights of Linear do not fit .* take --precision bfloat16"):
        random_weights_(module, seed=1, dtype=torch.float32, device=CPU)

    def full(*args: object, **named: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(weights, "_converted", full)
    small = nn.Linear(1000, 1000, device="meta", bias=False)
    wanted = r"do not fit into the memory of cuda:1: they take 4\.0 MB in float32; close .* --precision bfloat16 or"
    with pytest.raises(NotEnoughMemory, match=wanted):
        shape = {"weight": torch.zeros(1000, 1000)}
        load_into(small, shape, path=Path("a"), dtype=torch.float32, device=torch.device("cuda:1"))


def test_an_error_of_another_kind_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **named: object) -> Tensor:
        raise RuntimeError("something else")

    monkeypatch.setattr(weights, "_converted", broken)
    with pytest.raises(RuntimeError, match="something else"):
        load_into(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), path=Path("a"), dtype=torch.float32, device=CPU)


# ---- drawn weights -----------------------------------------------------------------------------------------------

DEEP = WanConfig(dim=64, ffn_dim=160, num_heads=2, num_layers=40, freq_dim=32, text_dim=24, text_len=8)


def deep(seed: int, dtype: torch.dtype = torch.float32) -> WanTransformer:
    with META:
        module = WanTransformer(DEEP)
    return random_weights_(module, seed=seed, dtype=dtype, device=CPU)  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_drawn_weights_keep_values_small_through_forty_layers(dtype: torch.dtype) -> None:
    dit = deep(3, dtype)
    assert not dit.training and {parameter.dtype for parameter in dit.parameters()} == {dtype}
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in dit.parameters())
    latents = torch.randn(1, 2, 16, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    text = dit.encode_text(torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(2)).to(dtype) * 3)
    past = BlockCausalAttention(head_dim=DEEP.head_dim, grid_hw=(4, 4), held=[(0,), (0, 1)], device=CPU)
    flow = dit(latents, torch.tensor([[700.0, 700.0]]), text, past).float()
    assert flow.isfinite().all() and 0.1 < flow.std() < 10


def test_drawn_weights_follow_from_seed_and_name_alone() -> None:
    first, second, other = deep(3).state_dict(), deep(3, torch.bfloat16).state_dict(), deep(4).state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor.to(torch.bfloat16), second[name]), "the same numbers in every format"
    assert not torch.equal(first["blocks.0.self_attn.q.weight"], first["blocks.1.self_attn.q.weight"])
    assert not torch.equal(first["head.head.weight"], other["head.head.weight"])
    one = {"norm_q.weight", "norm_k.weight", "norm3.weight"}
    for name, tensor in first.items():
        if name.endswith(".bias"):
            assert not tensor.any()
        elif any(name.endswith(end) for end in one):
            assert (tensor == 1).all()
        else:
            assert 0.5 < tensor.std() / (0.02 if "modulation" in name else 1 / math.sqrt(tensor[0].numel())) < 1.5


def test_large_tensors_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_DRAWN_AT_ONCE", 1000)
    monkeypatch.setattr(weights, "DRAWN_ON_CPU", 10)
    tensor = random_weights_(nn.Linear(100, 55, device="meta"), seed=1, dtype=torch.float32, device=CPU).state_dict()
    rows = tensor["weight"].view(-1)[:5000].view(5, 1000)
    assert rows.unique(dim=0).shape[0] == 5 and 0.09 < tensor["weight"].std() < 0.11


def test_a_buffer_cannot_be_drawn() -> None:
    module = WithBuffers("cpu")
    with pytest.raises(ValueError, match="count of WithBuffers are still on the meta device"):
        random_weights_(module, seed=1, dtype=torch.float32, device=CPU)
