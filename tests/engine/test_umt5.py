"""The text encoder of Wan, at a small size with random weights: both layouts, tokens, and what happens on failure.

What it must compute is written out plainly at the end of this file, from engine.md alone.
"""

from __future__ import annotations

import json
import logging
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from tqdm import tqdm

from sdv2live.engine import umt5
from sdv2live.engine.captures import CAPTURES
from sdv2live.engine.checkpoint import NotEnoughMemory
from sdv2live.engine.lane import Lane
from sdv2live.engine.umt5 import (
    GPU_HEADROOM_BYTES,
    TEXT_LEN,
    UMT5_XXL,
    UMT5Encoder,
    UMT5Size,
    build_empty,
    choose_text_device,
    clean_text,
    load_tokenizer,
    stack_tensors,
    text_encoder_bytes,
    transformers_names,
)
from sdv2live.errors import UserError

# Odd on purpose: the heads' width together is not the model's.
SMALL = UMT5Size(vocab_size=48, d_model=24, d_kv=5, d_ff=40, num_layers=3, num_heads=3)
CPU = torch.device("cpu")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHORT, LONG = "a red fox", " ".join(LETTERS) * 9


def original_shapes(size: UMT5Size) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Wan's own file, as engine.md lists them."""
    inner = size.num_heads * size.d_kv
    shapes: dict[str, tuple[int, ...]] = {"token_embedding.weight": (size.vocab_size, size.d_model)}
    for i in range(size.num_layers):
        layer: dict[str, tuple[int, ...]] = {
            "norm1": (size.d_model,),
            "attn.q": (inner, size.d_model),
            "attn.k": (inner, size.d_model),
            "attn.v": (inner, size.d_model),
            "attn.o": (size.d_model, inner),
            "norm2": (size.d_model,),
            "ffn.gate.0": (size.d_ff, size.d_model),
            "ffn.fc1": (size.d_ff, size.d_model),
            "ffn.fc2": (size.d_model, size.d_ff),
            "pos_embedding.embedding": (size.relative_attention_num_buckets, size.num_heads),
        }
        shapes |= {f"blocks.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"norm.weight": (size.d_model,)}


def random_weights(size: UMT5Size = SMALL) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return {name: torch.randn(shape) * 0.3 for name, shape in original_shapes(size).items()}


def write_tokenizer(folder: Path, *, letters: str = LETTERS) -> Path:
    """A tokenizer of single letters in the form of google/umt5-xxl's: Unigram, and </s> after each text."""
    folder.mkdir(exist_ok=True)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.enable_padding(length=100)  # a file may say so; it is not to be followed
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def tokenizer_dir(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "umt5-xxl")


@pytest.fixture
def original_file(tmp_path: Path) -> Path:
    path = tmp_path / "models_t5.pth"
    torch.save(random_weights(), path)
    return path


@pytest.fixture
def encoder(original_file: Path, tokenizer_dir: Path) -> UMT5Encoder:
    return small_encoder(original_file, tokenizer_dir)


def small_encoder(weights: Path, tokenizer_dir: Path, **changes: Any) -> UMT5Encoder:
    settings: dict[str, Any] = {"device": CPU, "dtype": torch.float32, "size": SMALL, **changes}
    return UMT5Encoder(weights, tokenizer_dir, **settings)


def ids_of(tokenizer_dir: Path, text: str) -> list[int]:
    return load_tokenizer(tokenizer_dir, vocab_size=SMALL.vocab_size).encode(text).ids


# ---- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("", ""),
        ("   ", ""),
        ("  A Red\tFox,\n\n in  SNOW!  ", "A Red Fox, in SNOW!"),
        ("salt &amp; pepper", "salt & pepper"),
        ("&amp;lt;b&amp;gt;", "<b>"),
        ("<b> &amp;amp; <i>", "<b> & <i>"),  # ftfy leaves entities alone where it sees markup
        ("caf\u00c3\u00a9", "café"),  # UTF-8 that was read as Latin-1
        ("“quoted”\u00a0text", '"quoted" text'),
        ("a&nbsp;b", "a b"),
        ("\ufb01re", "fire"),
        ("half \ud83d pair", "half \ufffd pair"),  # no valid text, but a str may hold it
        ("nul\x00 and bell\x07", "nul and bell"),
        ("水彩画", "水彩画"),
    ],
)
def test_a_prompt_is_cleaned_as_in_the_training(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned
    clean_text(text).encode("utf-8")


def test_tokens_end_in_the_end_token_and_are_cut_at_512(tokenizer_dir: Path) -> None:
    assert ids_of(tokenizer_dir, "") == [1]
    assert ids_of(tokenizer_dir, "ab c") == [3, 4, 5, 3, 6, 1]
    assert ids_of(tokenizer_dir, "水") == [3, 2, 1]
    many = ids_of(tokenizer_dir, "ab " * 1000)
    assert len(many) == TEXT_LEN and many[-1] == 1 and many[:-1] == ([3, 4, 5] * 200)[: TEXT_LEN - 1]


def test_a_tokenizer_that_cannot_be_used_is_told_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "umt5-xxl"
    with pytest.raises(UserError, match=r"tokenizer\.json is missing \(the file is not there\): fetch"):
        load_tokenizer(folder)
    folder.mkdir()
    (folder / "spiece.model").write_bytes(b"\n")
    with pytest.raises(UserError, match=r"missing \(only its older form spiece\.model is there\): fetch"):
        load_tokenizer(folder)
    for content in (b"", b"{", b"{}", b"\xff\xfe", b'{"model": {"type": "Unigram"}}'):
        (folder / "tokenizer.json").write_bytes(content)
        with pytest.raises(UserError, match=r"tokenizer\.json cannot be used \(.+\): fetch"):
            load_tokenizer(folder)
    write_tokenizer(folder)
    with pytest.raises(UserError, match=r"it has 30 tokens, and the text encoder knows 29"):
        load_tokenizer(folder, vocab_size=29)
    no_end = json.loads((folder / "tokenizer.json").read_text())
    no_end["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(no_end))
    with pytest.raises(UserError, match="a text does not end in </s>"):
        load_tokenizer(folder)


# ---- weights -----------------------------------------------------------------------------------------------------


def test_the_242_names_of_the_original_are_all_that_transformers_wants() -> None:
    shapes = original_shapes(UMT5_XXL)
    names = transformers_names(shapes)
    network = build_empty(UMT5_XXL)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert wanted.pop("encoder.embed_tokens.weight") == wanted["shared.weight"]
    assert len(shapes) == len(names) == len(set(names.values())) == 242
    assert {names[name]: shape for name, shape in shapes.items()} == wanted
    assert all(parameter.is_meta for parameter in network.parameters())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == 5_680_910_336 == text_encoder_bytes() // 2
    assert text_encoder_bytes(SMALL, torch.float32) == 4 * sum(math.prod(s) for s in original_shapes(SMALL).values())


def test_names_can_be_turned_back_and_strangers_stay_what_they_are() -> None:
    names = transformers_names(original_shapes(UMT5_XXL))
    back = {new: old for old, new in names.items()}
    assert {back[new] for new in names.values()} == set(original_shapes(UMT5_XXL))
    # A few written by hand: the table could be wrong both ways.
    assert names["token_embedding.weight"] == "shared.weight"
    assert names["norm.weight"] == "encoder.final_layer_norm.weight"
    assert back["encoder.block.23.layer.0.SelfAttention.relative_attention_bias.weight"] == (
        "blocks.23.pos_embedding.embedding.weight"
    )
    assert back["encoder.block.10.layer.1.DenseReluDense.wi_0.weight"] == "blocks.10.ffn.gate.0.weight"
    assert back["encoder.block.0.layer.1.layer_norm.weight"] == "blocks.0.norm2.weight"
    strangers = [*names.values(), "blocks.1.ffn.fc3.weight", "blocks.x.norm1.weight", "blocks.0.attn.q.bias", ""]
    assert transformers_names(strangers) == {name: name for name in strangers}


def test_tensors_are_read_when_asked_for_and_a_decoder_is_left_out() -> None:
    class Counting(dict[str, Tensor]):
        read = 0

        def __getitem__(self, name: str) -> Tensor:
            self.read += 1
            return super().__getitem__(name)

    original = Counting(random_weights())
    stack = stack_tensors(original)
    assert original.read == 0 and len(stack) == len(original)
    assert stack["embed_tokens.weight"] is dict.__getitem__(original, "token_embedding.weight") and original.read == 1
    assert stack["block.1.layer.0.layer_norm.weight"] is dict.__getitem__(original, "blocks.1.norm1.weight")
    whole = {
        "encoder.embed_tokens.weight": torch.zeros(1),
        "shared.weight": torch.ones(1),
        "decoder.embed_tokens.weight": torch.zeros(1),
        "lm_head.weight": torch.zeros(1),
    }
    for given in (whole, dict(reversed(whole.items()))):
        assert dict(stack_tensors(given)) == {"embed_tokens.weight": whole["shared.weight"]}
    assert set(stack_tensors({"encoder.embed_tokens.weight": torch.zeros(1)})) == {"embed_tokens.weight"}


@pytest.mark.parametrize("layout", ["safetensors", "one file", "shards"])
def test_every_layout_gives_the_same_embedding(
    layout: str, tmp_path: Path, encoder: UMT5Encoder, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folders are written by transformers itself, with no table of names of ours."""
    weights = random_weights()
    if layout == "safetensors":
        path = tmp_path / "enc.safetensors"
        save_file(weights, path)
    else:
        path = tmp_path / "text_encoder"
        network: Any = build_empty(SMALL)
        network.to_empty(device=CPU)
        network.load_state_dict({new: weights[old] for old, new in transformers_names(weights).items()}, strict=False)
        monkeypatch.setattr(tqdm, "monitor_interval", 0)  # else the progress bar of saving leaves a thread behind
        network.save_pretrained(path, max_shard_size="100MB" if layout == "one file" else "20KB")
        assert (len(list(path.glob("*.safetensors"))) == 1) == (layout == "one file")
    expected, given = encoder.encode([SHORT]), small_encoder(path, tokenizer_dir).encode([SHORT])
    assert torch.equal(expected[0], given[0])


def test_weights_that_do_not_fit_are_told_in_one_sentence(tmp_path: Path, tokenizer_dir: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        small_encoder(tmp_path / "nowhere.pth", tokenizer_dir).encode([SHORT])
    weights = random_weights()
    short = tmp_path / "short.safetensors"
    save_file({name: tensor for name, tensor in weights.items() if name != "blocks.2.attn.k.weight"}, short)
    with pytest.raises(UserError, match=r"short\.safetensors.*block\.2\.layer\.0\.SelfAttention\.k\.weight is missing"):
        small_encoder(short, tokenizer_dir).encode([SHORT])
    damaged = tmp_path / "damaged.safetensors"
    save_file(weights | {"norm.weight": torch.full((SMALL.d_model,), 3e38)}, damaged)
    with pytest.raises(UserError, match=r"damaged\.safetensors gave values that are no numbers"):
        small_encoder(damaged, tokenizer_dir).encode([SHORT])


def test_a_folder_of_another_model_is_told_by_its_config(tmp_path: Path, tokenizer_dir: Path) -> None:
    save_file(random_weights(), tmp_path / "model.safetensors")
    config = {"model_type": "umt5", "feed_forward_proj": "gated-gelu", **asdict(SMALL)}
    encoder = small_encoder(tmp_path, tokenizer_dir)
    for change, words in [
        ({}, None),
        ({"num_heads": 5, "d_kv": 3}, r"d_kv is 3, not 5"),
        ({"model_type": "t5"}, r"model_type is 't5', not 'umt5'"),
        ({"relative_attention_max_distance": 64}, "fetch umt5-xxl"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        if words is None:
            encoder.encode([SHORT])
        else:
            with pytest.raises(UserError, match=words):
                encoder.encode([SHORT])
    for content in ("{", "[1]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json cannot be read"):
            encoder.encode([SHORT])


# ---- embeddings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", SHORT, LONG])
def test_it_computes_what_umt5_is(encoder: UMT5Encoder, tokenizer_dir: Path, text: str) -> None:
    (embedding,) = encoder.encode([text])
    ids = ids_of(tokenizer_dir, text)
    plain = plain_encoder(random_weights(), ids, SMALL)
    assert embedding.shape == (1, TEXT_LEN, SMALL.d_model) and embedding.dtype == torch.float32
    assert torch.allclose(embedding[0, : len(ids)].double(), plain, atol=1e-4, rtol=1e-4)
    assert not embedding[0, len(ids) :].any() and embedding[0, : len(ids)].any(dim=1).all()


def test_a_text_at_its_own_length_is_the_padded_and_masked_one(encoder: UMT5Encoder, tokenizer_dir: Path) -> None:
    """The reference pads to 512 with a mask and then zeroes the rows past the end."""
    ids = ids_of(tokenizer_dir, SHORT)
    padded = torch.zeros(1, TEXT_LEN, dtype=torch.long)
    padded[0, : len(ids)] = torch.tensor(ids)
    mask = (torch.arange(TEXT_LEN) < len(ids))[None].long()
    network: Any = build_empty(SMALL)
    network.to_empty(device=CPU)
    weights = {new: random_weights()[old] for old, new in transformers_names(random_weights()).items()}
    network.load_state_dict(weights, strict=False)
    with torch.no_grad():
        rows = network(input_ids=padded, attention_mask=mask).last_hidden_state * mask[..., None]
    assert torch.allclose(encoder.encode([SHORT])[0], rows, atol=1e-4, rtol=1e-4)


def test_texts_together_are_the_texts_one_by_one(encoder: UMT5Encoder) -> None:
    together = encoder.encode([SHORT, LONG, "", "  A   red&#32;fox"])
    for embedding, text in zip(together, [SHORT, LONG, "", "A red fox"], strict=True):
        assert torch.equal(embedding, encoder.encode([text])[0])
    assert encoder.encode([]) == []
    assert not together[0].is_inference(), "whoever blends embeddings in place may do so"


def test_the_number_format_is_that_asked_for(original_file: Path, tokenizer_dir: Path) -> None:
    (exact,) = small_encoder(original_file, tokenizer_dir).encode([SHORT])
    (rough,) = small_encoder(original_file, tokenizer_dir, dtype=torch.bfloat16).encode([SHORT])
    assert rough.dtype == torch.bfloat16 and rough.device == CPU
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.999


def test_a_longer_embedding_goes_with_a_longer_text_len(original_file: Path, tokenizer_dir: Path) -> None:
    (embedding,) = small_encoder(original_file, tokenizer_dir, text_len=6).encode([LONG])
    assert embedding.shape == (1, 6, SMALL.d_model) and embedding.any(dim=2).all()


def test_the_fingerprint_follows_files_and_settings(original_file: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    first = small_encoder(original_file, tokenizer_dir).fingerprint()
    assert first == small_encoder(original_file, tokenizer_dir).fingerprint()
    others = {small_encoder(original_file, tokenizer_dir, dtype=torch.bfloat16).fingerprint()}
    others.add(small_encoder(original_file, tokenizer_dir, text_len=6).fingerprint())
    weights = random_weights()
    weights["norm.weight"][3] += 1  # one number, far behind the first MiB of the real file
    torch.save(weights, original_file)
    others.add(small_encoder(original_file, tokenizer_dir).fingerprint())
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    others.add(small_encoder(folder, tokenizer_dir).fingerprint())
    (folder / "config.json").write_text("{}")
    others.add(small_encoder(folder, tokenizer_dir).fingerprint())
    write_tokenizer(tokenizer_dir, letters=LETTERS[::-1])
    others.add(small_encoder(folder, tokenizer_dir).fingerprint())
    assert len(others) == 6 and first not in others
    with pytest.raises(UserError, match=r"nowhere\.pth cannot be read \(No such file or directory\): fetch"):
        small_encoder(tmp_path / "nowhere.pth", tokenizer_dir).fingerprint()


# ---- where it runs, and that nothing stays -----------------------------------------------------------------------


def test_the_gpu_is_used_if_a_gib_stays_free() -> None:
    model = text_encoder_bytes()
    assert choose_text_device(None, model) == "cpu"
    assert choose_text_device(model + GPU_HEADROOM_BYTES, model) == "cuda"
    assert choose_text_device(model + GPU_HEADROOM_BYTES - 1, model) == "cpu"
    assert 11.3e9 < model < 11.4e9


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, weakref.ref[Tensor]]]]:
    """Where the encoder was loaded, with its token table: dead once the weights have been given back."""
    done: list[tuple[str, weakref.ref[Tensor]]] = []
    full = [torch.OutOfMemoryError("CUDA out of memory."), NotEnoughMemory("the weights do not fit.")]
    real: Callable[..., None] = umt5.load_into

    def load(module: torch.nn.Module, tensors: object, *, device: torch.device, **options: Any) -> None:
        real(module, tensors, device=CPU, **options)
        done.append((device.type, weakref.ref(module.get_parameter("embed_tokens.weight"))))
        if device.type == "cuda":
            raise full.pop()

    monkeypatch.setattr(umt5, "load_into", load)
    monkeypatch.setattr(umt5, "Lane", lambda _: Lane(CPU))
    yield done


def test_weights_are_given_back_after_each_call(
    original_file: Path, tokenizer_dir: Path, loads: list[tuple[str, weakref.ref[Tensor]]]
) -> None:
    passing = small_encoder(original_file, tokenizer_dir)
    passing.encode([SHORT])
    passing.encode([SHORT])
    assert [(where, table() is None) for where, table in loads] == [("cpu", True), ("cpu", True)]


def test_an_error_that_someone_holds_holds_no_weights(
    tmp_path: Path, tokenizer_dir: Path, loads: list[tuple[str, weakref.ref[Tensor]]]
) -> None:
    damaged = tmp_path / "damaged.safetensors"
    save_file(random_weights() | {"norm.weight": torch.full((SMALL.d_model,), 3e38)}, damaged)
    with pytest.raises(UserError) as held:
        small_encoder(damaged, tokenizer_dir).encode([SHORT])
    assert held.value.__traceback__ is not None and loads[0][1]() is None


def test_a_gpu_that_turns_out_too_small_leaves_it_to_the_cpu(
    original_file: Path,
    tokenizer_dir: Path,
    loads: list[tuple[str, weakref.ref[Tensor]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpu = torch.device("cuda", 0)
    expected = small_encoder(original_file, tokenizer_dir).encode([SHORT])[0]
    loads.clear()
    crowded = small_encoder(original_file, tokenizer_dir, device=gpu, free_bytes=lambda _: 1 << 20)
    assert torch.equal(crowded.encode([SHORT])[0], expected)
    assert [where for where, _ in loads] == ["cpu"]
    roomy = small_encoder(original_file, tokenizer_dir, device=gpu, free_bytes=lambda _: 1 << 40)
    for why in ("the weights do not fit.", "CUDA out of memory."):
        loads.clear()
        with caplog.at_level(logging.WARNING, logger=umt5.__name__):
            assert torch.equal(roomy.encode([SHORT])[0], expected)
        assert [(where, table() is None) for where, table in loads] == [("cuda", True), ("cpu", True)]
        assert f"did not fit on cuda:0 after all ({why})" in caplog.text


def test_on_a_gpu_all_of_it_is_beside_the_stream_and_gives_way_to_captures(
    original_file: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that is the CPU: each tensor is taken, each text encoded and the memory returned where the two allow it."""
    expected = small_encoder(original_file, tokenizer_dir).encode([SHORT, LONG])
    where = {"lane": 0, "piece": 0}
    done: list[tuple[str, int, int]] = []
    streams: list[torch.device] = []

    @contextmanager
    def inside(what: str) -> Iterator[None]:
        assert not where[what], f"two of {what} at once would wait for each other for ever"
        where[what] += 1
        yield
        where[what] -= 1

    def note(what: str) -> None:
        done.append((what, where["lane"], where["piece"]))

    class Beside(Lane):
        def __init__(self, device: torch.device) -> None:
            streams.append(device)
            super().__init__(CPU)

        def apart(self) -> AbstractContextManager[None]:
            return inside("lane")

    class OnTheCpu(UMT5Encoder):
        def _embedding(self, network: torch.nn.Module, ids: list[int], device: torch.device) -> Tensor:
            note("text")
            return super()._embedding(network, ids, CPU)

    class Read(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            note("tensor")
            return super().__getitem__(name)

    real = umt5.load_into
    monkeypatch.setattr(umt5, "Lane", Beside)
    monkeypatch.setattr(CAPTURES, "beside", lambda: inside("piece"))
    monkeypatch.setattr(umt5, "load_into", lambda *given, **options: real(*given, **options | {"device": CPU}))
    monkeypatch.setattr(umt5, "stack_tensors", lambda tensors: Read(stack_tensors(tensors)))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: note("memory"))
    encoder = OnTheCpu(
        original_file,
        tokenizer_dir,
        device=torch.device("cuda", 0),
        dtype=torch.float32,
        size=SMALL,
        free_bytes=lambda _: 1 << 40,
    )
    for _ in range(2):
        made = encoder.encode([SHORT, LONG])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(made, expected, strict=True))
        order = [what for what, _, _ in done]
        tensors = order.count("tensor")
        assert tensors >= len(random_weights()) and order == ["tensor"] * tensors + ["text"] * 2 + ["memory"]
        # Shapes are compared first, which takes nothing of the GPU.
        assert done.count(("tensor", 1, 1)) == len(random_weights())
        assert done.count(("text", 1, 1)) == 2 and done[-1] == ("memory", 1, 1)
        done.clear()
    assert streams == [torch.device("cuda", 0)], "one for all calls"


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), MemoryError()]
)
def test_a_full_memory_is_told_and_other_errors_are_not_hidden(
    original_file: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(umt5, "load_into", fail)
    with pytest.raises(UserError, match=r"models_t5\.pth could not run, because this machine's memory is full"):
        small_encoder(original_file, tokenizer_dir).encode([SHORT])
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        small_encoder(original_file, tokenizer_dir).encode([SHORT])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_on_a_gpu_it_is_the_same_and_nothing_stays(
    encoder: UMT5Encoder, original_file: Path, tokenizer_dir: Path
) -> None:
    on_gpu = small_encoder(original_file, tokenizer_dir, device=torch.device("cuda", 0))
    on_gpu.encode([SHORT])  # what libraries keep for a stream is there from then on
    before = torch.cuda.memory_allocated()
    (embedding,) = on_gpu.encode([SHORT])
    assert torch.allclose(embedding, encoder.encode([SHORT])[0], atol=1e-2, rtol=1e-2)
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("package", ["ftfy", "tokenizers", "transformers"])
def test_a_package_that_is_missing_is_named(
    package: str, original_file: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)

    class Missing:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(sys, "meta_path", [Missing, *sys.meta_path])
    with pytest.raises(UserError, match=f"needs the package {package}, which is not installed"):
        small_encoder(original_file, tokenizer_dir).encode([SHORT])


# ---- UMT5's encoder, written plainly -----------------------------------------------------------------------------


def plain_encoder(weights: dict[str, Tensor], ids: list[int], size: UMT5Size) -> Tensor:
    """[n, d_model], in double precision, straight from engine.md's section 7."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    n = len(ids)
    buckets = torch.tensor([[plain_bucket(key - query) for key in range(n)] for query in range(n)])

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]

    def heads(x: Tensor) -> Tensor:
        return x.reshape(n, size.num_heads, size.d_kv).transpose(0, 1)

    x = w["token_embedding.weight"][ids]
    for i in range(size.num_layers):
        h = norm(x, f"blocks.{i}.norm1")
        q, k, v = (heads(h @ w[f"blocks.{i}.attn.{part}.weight"].T) for part in "qkv")
        bias = w[f"blocks.{i}.pos_embedding.embedding.weight"][buckets].permute(2, 0, 1)
        seen = (q @ k.transpose(1, 2) + bias).softmax(-1) @ v  # no scaling by the head's width
        x = x + seen.transpose(0, 1).reshape(n, -1) @ w[f"blocks.{i}.attn.o.weight"].T
        h = norm(x, f"blocks.{i}.norm2")
        gate = torch.nn.functional.gelu(h @ w[f"blocks.{i}.ffn.gate.0.weight"].T, approximate="tanh")
        x = x + (gate * (h @ w[f"blocks.{i}.ffn.fc1.weight"].T)) @ w[f"blocks.{i}.ffn.fc2.weight"].T
    return norm(x, "norm")


def plain_bucket(distance: int) -> int:
    """16 buckets each way: 0 to 7 by themselves, then eight for ever wider stretches, the last from 128 on."""
    n = abs(distance)
    near_or_far = n if n < 8 else min(15, 8 + int(8 * math.log(n / 8) / math.log(128 / 8)))
    return near_or_far + (16 if distance > 0 else 0)


def test_the_plain_encoder_is_not_blind_to_what_it_checks() -> None:
    ids = list(range(4, 30)) * 6
    weights = random_weights()
    whole = plain_encoder(weights, ids, SMALL)
    for name in ("blocks.1.pos_embedding.embedding.weight", "blocks.2.ffn.gate.0.weight", "blocks.0.attn.k.weight"):
        other = plain_encoder(weights | {name: weights[name] * 1.1}, ids, SMALL)
        assert not torch.allclose(other, whole, atol=1e-3)
