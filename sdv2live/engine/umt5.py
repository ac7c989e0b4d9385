"""Wan's text encoder, UMT5-XXL: from words to the embedding that the DiT is conditioned on (engine.md, 7).

Owns: how a prompt is cleaned and cut into tokens, both layouts of the weights, where the encoder runs and that its
11 GB are given back. Knows nothing of mixes, chunks, threads or caches: one thread at a time calls it, and it blocks
that thread for seconds (text_ahead.py keeps the stream out of that).

The network is transformers' UMT5EncoderModel. transformers takes seconds to import, so it, tokenizers and ftfy are
imported where they are used; nothing here goes to the network.
"""

from __future__ import annotations

import html
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from sdv2live.engine.captures import CAPTURES
from sdv2live.engine.checkpoint import NotEnoughMemory, is_memory_full, open_checkpoint
from sdv2live.engine.embedding_cache import fingerprint_of
from sdv2live.engine.host_memory import free_bytes
from sdv2live.engine.lane import Lane
from sdv2live.engine.weights import Turn, load_into
from sdv2live.errors import UserError, one_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

TEXT_LEN = 512
# What encoding 512 tokens needs on top of the weights, with room for what else happens on the GPU meanwhile.
GPU_HEADROOM_BYTES = 1 << 30
# Goes into the fingerprint: raise it when the same text and weights would give another embedding.
RECIPE = "umt5 1"
_END = "</s>"
_SPACES = re.compile(r"\s+")
# Parts of a whole UMT5 that its encoder does not need: google's own files have them.
_NOT_THE_ENCODER = ("decoder.", "lm_head.")


@dataclass(frozen=True, slots=True)
class UMT5Size:
    """Sizes of a UMT5 encoder, named as in transformers' config.json. The defaults are UMT5-XXL, as Wan uses it."""

    vocab_size: int = 256_384
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10_240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


UMT5_XXL = UMT5Size()
FEED_FORWARD = "gated-gelu"


# ---- words -------------------------------------------------------------------------------------------------------


def clean_text(text: str) -> str:
    """The prompt as the encoder was trained to see it: broken letters mended, HTML entities read, one blank each.

    Case and punctuation stay. Raises UserError if ftfy is not installed.
    """
    try:
        import ftfy
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    # Unescaped twice: prompts that were copied from a web page carry `&amp;lt;`.
    return _SPACES.sub(" ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


def load_tokenizer(folder: Path, *, text_len: int = TEXT_LEN, vocab_size: int = UMT5_XXL.vocab_size) -> Tokenizer:
    """The tokenizer of `folder`: adds </s>, cuts at `text_len` tokens with </s> as the last, pads nothing.

    Reads tokenizer.json, which Wan's google/umt5-xxl folder has. Raises UserError.
    """
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    path = folder / "tokenizer.json"
    try:
        content = path.read_text("utf-8")
        json.loads(content)
    except FileNotFoundError:
        has_old_form = (folder / "spiece.model").is_file()
        why = "only its older form spiece.model is there" if has_old_form else "the file is not there"
        raise UserError(
            f"the text encoder's tokenizer {path} is missing ({why}): fetch tokenizer.json of google/umt5-xxl, "
            "as it lies in the Wan 2.1 download, into that folder."
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable_tokenizer(path, one_line(error)) from None
    try:
        tokenizer: Tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # tokenizers raises this very class for every file that it does not understand
        raise _unreadable_tokenizer(path, one_line(error)) from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(text_len)
    if tokenizer.encode("").ids[-1:] != [tokenizer.token_to_id(_END)]:
        raise _unreadable_tokenizer(path, f"it is not UMT5's: a text does not end in {_END}")
    if tokenizer.get_vocab_size() > vocab_size:
        known = tokenizer.get_vocab_size()
        raise _unreadable_tokenizer(path, f"it has {known} tokens, and the text encoder knows {vocab_size}")
    return tokenizer


# ---- weights -----------------------------------------------------------------------------------------------------

_OUTSIDE_LAYERS = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
_IN_A_LAYER = {
    "norm1": "layer.0.layer_norm",
    "norm2": "layer.1.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
_LAYER_NAME = re.compile(r"blocks\.(\d+)\.(.+)\.weight")


def transformers_names(original: Iterable[str]) -> dict[str, str]:
    """Each name of Wan's own file (`models_t5_umt5-xxl-enc-bf16.pth`, 242 of them) to transformers' name of it.

    A name that is not one of these stays as it is: names that are transformers' already pass, and the strict load
    says which do not belong.
    """
    return {name: _transformers_name(name) for name in original}


def _transformers_name(name: str) -> str:
    if name in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[name]
    match = _LAYER_NAME.fullmatch(name)
    if match is None or match[2] not in _IN_A_LAYER:
        return name
    return f"encoder.block.{match[1]}.{_IN_A_LAYER[match[2]]}.weight"


class _Renamed(Mapping[str, Tensor]):
    """The same tensors under other names; a tensor is read when it is asked for, as in the mapping below it."""

    def __init__(self, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def stack_tensors(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The encoder's tensors of either layout, under the names of UMT5EncoderModel's `encoder` alone.

    The token table is there once (files may hold it under two names); what belongs to a decoder is left out.
    """
    found: dict[str, str] = {}
    for name, known in transformers_names(tensors).items():
        if known == "shared.weight":
            found["embed_tokens.weight"] = name
        elif not known.startswith(_NOT_THE_ENCODER):
            found.setdefault(known.removeprefix("encoder."), name)
    return _Renamed(tensors, found)


def text_encoder_bytes(size: UMT5Size = UMT5_XXL, dtype: torch.dtype = torch.bfloat16) -> int:
    """What the encoder's weights take in memory; working memory comes on top (GPU_HEADROOM_BYTES)."""
    inner = size.num_heads * size.d_kv
    layer = size.d_model * (4 * inner + 3 * size.d_ff + 2) + size.relative_attention_num_buckets * size.num_heads
    return (size.vocab_size * size.d_model + size.num_layers * layer + size.d_model) * dtype.itemsize


def choose_text_device(free_gpu_bytes: int | None, model_bytes: int) -> Literal["cuda", "cpu"]:
    """The GPU if the encoder fits beside what is there now, else the CPU. free_gpu_bytes None: there is no GPU."""
    fits = free_gpu_bytes is not None and model_bytes + GPU_HEADROOM_BYTES <= free_gpu_bytes
    return "cuda" if fits else "cpu"


def build_empty(size: UMT5Size) -> nn.Module:
    """UMT5EncoderModel without weights (on the meta device), in eval mode; its token table is one module, not two."""
    try:
        from transformers.models.umt5.configuration_umt5 import UMT5Config
        from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    config = UMT5Config(**asdict(size), feed_forward_proj=FEED_FORWARD, dropout_rate=0.0)
    with torch.device("meta"):
        untyped: Any = UMT5EncoderModel(config)  # transformers annotates its methods in part only
    untyped.set_input_embeddings(untyped.encoder.embed_tokens)
    network: nn.Module = untyped
    return network.eval()


# ---- the encoder -------------------------------------------------------------------------------------------------


class UMT5Encoder:
    """Texts to embeddings [1, text_len, d_model] on the CPU, in `dtype`; rows past a text's own tokens are zero.

    weights: Wan's .pth, a .safetensors file, or a folder in transformers' layout. device: the GPU that may be used,
    or the CPU. Its weights are read for each call of `encode` and given back after it. On a GPU it has a queue of its
    own, which nothing of the stream's stands in or waits for: embeddings are handed over by way of the host. Tensor by
    tensor and text by text it lets captures of CUDA graphs go first (captures.py). Memory that is returned to the
    driver at the end waits once for what runs on the GPU.

    One thread at a time.
    """

    def __init__(
        self,
        weights: Path,
        tokenizer_dir: Path,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
        size: UMT5Size = UMT5_XXL,
        text_len: int = TEXT_LEN,
        free_bytes: Callable[[torch.device], int | None] = free_bytes,
    ) -> None:
        self._weights, self._tokenizer_dir = weights, tokenizer_dir
        self._device, self._dtype = device, dtype
        self._size, self._text_len = size, text_len
        self._free_bytes = free_bytes
        self._tokenizer: Tokenizer | None = None
        self._lane: Lane | None = None  # one for all calls: torch has a small number of streams and gives them in turn

    def fingerprint(self) -> str:
        """Names what an embedding depends on besides the text: files and number format. Raises UserError."""
        files = [self._tokenizer_dir / "tokenizer.json"]
        if self._weights.is_dir():
            files += sorted(path for path in self._weights.iterdir() if path.suffix in (".safetensors", ".json"))
        else:
            files.append(self._weights)
        if self._weights.suffix == ".json":  # an index, which names shards beside it
            files += sorted(self._weights.parent.glob("*.safetensors"))
        return fingerprint_of(files, RECIPE, str(self._dtype), str(self._text_len), repr(self._size))

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """One embedding a text. Blocks: reads the weights (11 GB), encodes, gives them back. Raises UserError."""
        if not texts:
            return []
        tokens = self._tokens(texts)
        if self._fits_on_gpu():
            try:
                return self._encode_on(self._device, tokens)
            except (NotEnoughMemory, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not is_memory_full(error):
                    raise
                why = one_line(error)
            # Only here has the error let go of what the GPU still held.
            self._return_gpu_memory()
            log.warning("the text encoder did not fit on %s after all (%s): it runs on the CPU", self._device, why)
        try:
            return self._encode_on(torch.device("cpu"), tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_full(error):
                raise
            need_gib = text_encoder_bytes(self._size, self._dtype) / 2**30
            raise UserError(
                f"the text encoder {self._weights} could not run, because this machine's memory is full (it takes "
                f"{need_gib:.1f} GiB and more): close other programs and try again."
            ) from None

    def _fits_on_gpu(self) -> bool:
        if self._device.type == "cpu":
            return False
        free = self._free_bytes(self._device)
        return choose_text_device(free, text_encoder_bytes(self._size, self._dtype)) == "cuda"

    def _return_gpu_memory(self) -> None:
        if self._device.type == "cuda":
            with CAPTURES.beside():
                torch.cuda.empty_cache()

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(
                self._tokenizer_dir, text_len=self._text_len, vocab_size=self._size.vocab_size
            )
        return [self._tokenizer.encode(clean_text(text)).ids for text in texts]

    def _encode_on(self, device: torch.device, tokens: list[list[int]]) -> list[Tensor]:
        if device.type == "cpu":
            with self._network(device) as network:
                return [self._embedding(network, ids, device) for ids in tokens]
        self._lane = self._lane or Lane(device)
        embeddings = []
        with self._lane.apart(), self._network(device, CAPTURES.beside) as network:
            for ids in tokens:
                with CAPTURES.beside():
                    embeddings.append(self._embedding(network, ids, device))
        return embeddings

    def _embedding(self, network: nn.Module, ids: list[int], device: torch.device) -> Tensor:
        # Each text runs at its own length. Padded to text_len with a mask, as the reference does it, its rows come
        # out the same (positions are relative and padding is masked), at up to a hundred times the work.
        with torch.inference_mode():
            # To the host: that waits for this thread's queue alone, and no tensor of it is used in another one.
            rows = network(input_ids=torch.tensor([ids], device=device)).last_hidden_state.to("cpu")
        if not bool(rows.isfinite().all()):
            raise UserError(
                f"the text encoder {self._weights} gave values that are no numbers: its weights are damaged, "
                "fetch them again."
            )
        embedding = torch.zeros(1, self._text_len, rows.shape[-1], dtype=rows.dtype)
        embedding[:, : rows.shape[1]] = rows
        return embedding

    @contextmanager
    def _network(self, device: torch.device, turn: Turn = nullcontext) -> Iterator[nn.Module]:
        """The loaded network, for the time of the block. turn: entered for each tensor of its weights."""
        network = build_empty(self._size)
        try:
            self._load(network, device, turn)
            yield network
        finally:
            # An error's traceback holds the network for as long as someone holds the error, so that it is the weights
            # that have to go.
            network.to("meta")
            self._return_gpu_memory()

    def _load(self, network: nn.Module, device: torch.device, turn: Turn) -> None:
        started_s = time.monotonic()
        if self._weights.is_dir():
            _check_config(self._weights / "config.json", self._size)
        tensors = stack_tensors(open_checkpoint(self._weights))
        encoder = network.get_submodule("encoder")
        load_into(encoder, tensors, path=self._weights, dtype=self._dtype, device=device, turn=turn)
        log.info("text encoder loaded on %s in %.1f s", device, time.monotonic() - started_s)


def _check_config(path: Path, size: UMT5Size) -> None:
    """Compare what a folder says of its model with `size`: head counts and distances do not show in the weights."""
    try:
        given: dict[str, Any] = dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return  # then the weights alone have to fit
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"the text encoder's {path} cannot be read ({one_line(error)}): fetch the file again."
        ) from None
    wanted = {"model_type": "umt5", "feed_forward_proj": FEED_FORWARD, **asdict(size)}
    differences = [
        f"{key} is {given[key]!r}, not {wanted[key]!r}" for key in wanted if given.get(key, wanted[key]) != wanted[key]
    ]
    if differences:
        raise UserError(
            f"the text encoder in {path.parent} is not the one that Wan needs ({differences[0]}): fetch umt5-xxl."
        )


def _not_installed(error: ModuleNotFoundError) -> UserError:
    return UserError(
        f"the Wan text encoder needs the package {error.name}, which is not installed: install sdv2live again, or run "
        f"`pip install {error.name}`."
    )


def _unreadable_tokenizer(path: Path, why: str) -> UserError:
    return UserError(
        f"the text encoder's tokenizer {path} cannot be used ({why}): fetch tokenizer.json of google/umt5-xxl, "
        "as it lies in the Wan 2.1 download, again."
    )
