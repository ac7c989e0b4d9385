"""What can be measured on pictures. Owns: the definition of each measure, the optical flow and CLIP behind two of them.

Knows nothing of files, tables or the engine; pure, but for the weights of RAFT and CLIP, which are read from folders of
this machine and never fetched. Values are of pictures in 0..1, whatever dtype carries them. torch is imported by the
two networks alone, so that everything else works without it. `evaluate` calls this on the main thread.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from sdv2live.errors import UserError, one_line
from sdv2live.frames import Pixels

Floats = NDArray[np.float32]

SSIM_WINDOW_PX, SSIM_SIGMA_PX = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
SMALLEST_SIDE_PX = 16  # DIS refuses less than 12, SSIM's window is 11
SMALLEST_KEPT_SHARE = 0.1  # with fewer corresponding pixels two frames are a cut, not a motion
RAFT_SMALLEST_SIDE_PX, RAFT_LARGEST_SIDE_PX = 128, 960  # below its pyramid ends; above its memory grows past a GiB
CLIP_REPOSITORY = "openai/clip-vit-base-patch32"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Every number of the figures, and every curve among them: what it is. Pictures are in 0..1.
DEFINITIONS = {
    "clip_score": "100 x cosine of the CLIP features of the prompt and of an output frame, mean over frames",
    "clip_score_source": "the same of the source's frames, which is what the effect starts from",
    "clip_consistency": "100 x cosine of the CLIP features of neighbouring output frames (FlowVid's Tem-Con)",
    "clip_consistency_source": "the same of the source",
    "clip_to_source": "100 x cosine of the CLIP features of an output frame and its source frame",
    "warp_error": "output frame before, warped by the source's backward flow, against the output frame: mean squared "
    "difference over channels and the pixels whose flow is consistent forward and backward, mean over frames; times "
    "65025 it is in squared grey levels of 255",
    "warp_error_source": "the same of the source's own frames: what the flow itself leaves",
    "warp_kept_share": "share of pixels that the warp error looks at, mean over frames",
    "psnr_db": "10 log10(1 / mean squared error over all frames, pixels and channels) of output against source; it "
    "says how much of the source is kept, not how good a restyle is",
    "ssim": "structural similarity of the grey pictures (Wang 2004, 11x11 Gaussian window, sigma 1.5), mean over "
    "frames; it says how much of the source's structure is kept",
    "temporal_energy": "mean absolute difference of neighbouring output frames over pixels and channels",
    "temporal_energy_source": "the same of the source",
    "temporal_energy_ratio": "output over source; above 1 the output moves or flickers more than the source",
    "sharpness": "variance of the Laplacian of the grey output, mean over frames",
    "sharpness_source": "the same of the source",
    "sharpness_ratio": "output over source; below 1 the output is softer",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """rgb: [H, W, 3] uint8. grey: [H, W] uint8, BT.601 luma."""

    rgb: Pixels
    grey: Pixels

    @classmethod
    def of(cls, rgb: Pixels) -> Self:
        return cls(rgb, np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8))


# ---- one picture or two ----------------------------------------------------------------------------------------------


def mean_squared_error(a: Pixels, b: Pixels) -> float:
    """Mean over pixels and channels of the squared difference."""
    return float(cv2.norm(a, b, cv2.NORM_L2SQR)) / a.size / 255**2


def psnr_db(mean_squared: float, peak: float = 1.0) -> float:
    """10 log10(peak² / MSE); infinite where nothing differs."""
    return math.inf if mean_squared == 0 else 10 * math.log10(peak**2 / mean_squared)


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity of two grey pictures (Wang et al. 2004, equation 13), mean over whole windows.

    Gaussian window of 11x11 with sigma 1.5, K1 0.01, K2 0.03, population variances; windows that reach over the edge do
    not count.
    """
    half = SSIM_WINDOW_PX // 2
    # In float32 the variances, differences of nearly equal numbers, would err by as much as C2 allows.
    x, y = (np.asarray(picture, np.float64) / 255 for picture in (a, b))

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        blurred = cv2.GaussianBlur(values, (SSIM_WINDOW_PX, SSIM_WINDOW_PX), SSIM_SIGMA_PX)
        return np.asarray(blurred[half:-half, half:-half], np.float64)

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    below = (mean_x**2 + mean_y**2 + SSIM_C1) * (variances + SSIM_C2)
    return float((above / below).mean())


def sharpness(grey: Pixels) -> float:
    """Variance of the Laplacian (the four-neighbour kernel) of a grey picture."""
    return float(cv2.Laplacian(grey, cv2.CV_64F, ksize=1).var()) / 255**2


def temporal_difference(previous: Pixels, current: Pixels) -> float:
    """Mean over pixels and channels of the absolute difference of neighbouring frames."""
    return float(cv2.norm(previous, current, cv2.NORM_L1)) / current.size / 255


# ---- optical flow and warp error -------------------------------------------------------------------------------------


class Flow(Protocol):
    """An optical flow. description: what the figures name it."""

    @property
    def description(self) -> dict[str, str]: ...

    def __call__(self, first: Picture, second: Picture) -> Floats:
        """[H, W, 2] in pixels, x then y: what lies at p in `first` lies at p + flow(p) in `second`."""


class DisFlow:
    """Dense inverse search (Kroeger et al. 2016) as OpenCV has it, its medium preset; on grey pictures."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    @property
    def description(self) -> dict[str, str]:
        return {"method": "DIS", "preset": "medium", "opencv": cv2.__version__}

    def __call__(self, first: Picture, second: Picture) -> Floats:
        # An array of the call's own: with None the object may hand out its memory again.
        height, width = first.grey.shape
        return np.asarray(self._dis.calc(first.grey, second.grey, np.zeros((height, width, 2), np.float32)), np.float32)


class RaftFlow:
    """RAFT (Teed and Deng 2020) as torchvision has it, with weights from a file. Raises UserError, ImportError,
    OSError or RuntimeError where one of them cannot be loaded."""

    def __init__(self, weights: Path) -> None:
        import torch

        from sdv2live.engine.checkpoint import open_checkpoint
        from sdv2live.engine.precision import choose_device

        self._torch: Any = torch
        self._weights = weights
        self._device = choose_device("auto")
        # By name: torchvision is no dependency, and type checkers need not have it.
        networks = importlib.import_module("torchvision.models.optical_flow")
        build = networks.raft_large if weights.name.startswith("raft_large") else networks.raft_small
        self._network = build(weights=None)
        self._network.load_state_dict(dict(open_checkpoint(weights)))
        self._network.to(self._device).eval().requires_grad_(False)

    @property
    def description(self) -> dict[str, str]:
        return {"method": "RAFT", "weights": self._weights.name, "device": str(self._device)}

    def __call__(self, first: Picture, second: Picture) -> Floats:
        height, width = first.grey.shape
        scale = min(1.0, RAFT_LARGEST_SIDE_PX / max(width, height))
        # Whole steps of the network's stride of 8.
        inner_wh = tuple(max(RAFT_SMALLEST_SIDE_PX, math.ceil(side * scale / 8) * 8) for side in (width, height))
        with self._torch.inference_mode():
            flows = self._network(*(self._planar(picture.rgb, inner_wh) for picture in (first, second)))
            flow = flows[-1][0].float().permute(1, 2, 0).cpu().numpy()
        whole = cv2.resize(np.ascontiguousarray(flow), (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(whole * np.array([width / inner_wh[0], height / inner_wh[1]], np.float32), np.float32)

    def _planar(self, rgb: Pixels, size_wh: tuple[int, ...]) -> Any:
        """[1, 3, H, W] in [-1, 1]."""
        resized = cv2.resize(rgb, size_wh, interpolation=cv2.INTER_LINEAR)
        return self._torch.from_numpy(resized).to(self._device).permute(2, 0, 1)[None].float() / 127.5 - 1


def choose_flow() -> tuple[Flow, str | None]:
    """RAFT where torchvision and a file of its weights are on this machine; otherwise DIS, and why it is not RAFT."""
    if importlib.util.find_spec("torchvision") is None:
        return DisFlow(), "torchvision, which brings RAFT, is not installed"
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = [path for name in ("raft_large*.pth", "raft_small*.pth") for path in sorted(folder.glob(name))]
    if not found:
        return DisFlow(), f"there is no raft_large*.pth or raft_small*.pth in {folder}"
    try:
        return RaftFlow(found[0]), None
    except (ImportError, OSError, RuntimeError, UserError) as error:
        # RuntimeError: tensors of another network; or a torchvision that was built for another torch, on its import.
        return DisFlow(), f"RAFT cannot be loaded from {found[0]} ({one_line(error)[:200]})"


@dataclass(frozen=True, slots=True)
class Correspondence:
    """Where each pixel of a frame was in the frame before.

    places: [H, W, 2] float32, x and y in the frame before. is_kept: [H, W] bool, False where that is not to be trusted.
    """

    places: Floats
    is_kept: NDArray[np.bool_]

    @property
    def kept_share(self) -> float:
        return float(self.is_kept.mean())


def correspond(flow: Flow, previous: Picture, current: Picture) -> Correspondence:
    """Follow each pixel of `current` back into `previous`.

    Kept is what lies inside and comes home again: |b + f|² < 0.01 (|b|² + |f|²) + 0.5 of the backward flow b and the
    forward flow f at the place that b leads to (Sundaram et al. 2010, equation 5). The rest was hidden or is new.
    """
    backward, forward = flow(current, previous), flow(previous, current)
    height, width = current.grey.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    places = np.stack([columns, rows], -1) + backward
    back_home = _taken_at(forward, places)
    missed = np.square(backward + back_home).sum(-1)
    allowed = 0.01 * (np.square(backward).sum(-1) + np.square(back_home).sum(-1)) + 0.5
    is_inside = ((places >= 0) & (places <= np.array([width - 1, height - 1], np.float32))).all(-1)
    return Correspondence(places, (missed < allowed) & is_inside)


def warp_error(found: Correspondence, previous: Pixels, current: Pixels) -> float | None:
    """Mean squared difference of `current` and `previous` warped to it, over the pixels kept and the channels.

    None where less than a tenth of the pixels is kept.
    """
    if found.kept_share < SMALLEST_KEPT_SHARE:
        return None
    # As floats: rounded to whole levels, the warped picture would add an error of its own.
    before = _taken_at(previous.astype(np.float32), found.places)
    difference = (current - before)[found.is_kept]
    return float(np.square(difference, dtype=np.float64).mean()) / 255**2


def _taken_at(values: Floats, places: Floats) -> Floats:
    """`values` [H, W, C] at `places`, bilinear; what lies outside is as at the edge."""
    columns, rows = np.ascontiguousarray(places[..., 0]), np.ascontiguousarray(places[..., 1])
    return np.asarray(cv2.remap(values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


# ---- CLIP ------------------------------------------------------------------------------------------------------------


class Clip:
    """CLIP (Radford et al. 2021) of a transformers folder. Raises UserError where the folder is not one."""

    def __init__(self, folder: Path) -> None:
        import torch

        from sdv2live.engine.precision import choose_device

        self.folder = folder
        self._torch: Any = torch
        self._device = choose_device("auto")
        _check_clip_folder(folder)
        try:
            # By name: transformers is no dependency, and type checkers need not have it.
            transformers = importlib.import_module("transformers")
        except ImportError as error:
            raise UserError(
                "the CLIP score needs the package transformers, which is not installed here: install it with pip, or "
                "leave --clip out."
            ) from error
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        errors = (OSError, RuntimeError, ValueError, KeyError, TypeError, _safetensor_error())
        try:
            self._tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
            self._model, loaded = transformers.CLIPModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
        except errors as error:
            raise UserError(
                f"{folder} cannot be read as a CLIP model ({one_line(error)[:200]}): give a folder that transformers "
                "saved a CLIPModel and its tokenizer in."
            ) from error
        if loaded["missing_keys"]:  # transformers would go on with random numbers in their place
            raise UserError(f"the weights in {folder} lack a part of CLIP: copy the folder again.")
        if len(self._tokenizer) > self._model.config.text_config.vocab_size:
            raise UserError(f"the tokenizer in {folder} is not this CLIP model's: copy the folder again.")
        self._side_px = int(self._model.config.vision_config.image_size)
        self._model.to(self._device).eval().requires_grad_(False)

    def of_pictures(self, pictures: list[Pixels]) -> Floats:
        """[N, D], each of length 1: the shorter side brought to the model's size, the middle cut out."""
        functional = self._torch.nn.functional
        side_px = self._side_px
        inputs = []
        for pixels in pictures:
            height, width = pixels.shape[:2]
            scale = side_px / min(height, width)
            size_hw = (max(side_px, round(height * scale)), max(side_px, round(width * scale)))
            planar = self._torch.from_numpy(pixels).to(self._device).permute(2, 0, 1)[None].float() / 255
            resized = functional.interpolate(planar, size_hw, mode="bicubic", antialias=True).clamp(0, 1)
            top, left = (size_hw[0] - side_px) // 2, (size_hw[1] - side_px) // 2
            inputs.append(resized[..., top : top + side_px, left : left + side_px])
        mean, std = (self._torch.tensor(values, device=self._device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        with self._torch.inference_mode():
            seen = self._model.vision_model(pixel_values=(self._torch.cat(inputs) - mean) / std)
            return self._unit(self._model.visual_projection(seen.pooler_output))

    def of_text(self, prompt: str) -> Floats:
        """[D], of length 1; what is longer than the model reads is cut."""
        most = int(self._model.config.text_config.max_position_embeddings)
        tokens = self._tokenizer([prompt], truncation=True, max_length=most, return_tensors="pt").to(self._device)
        with self._torch.inference_mode():
            read = self._model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            features = self._unit(self._model.text_projection(read.pooler_output))
        return np.asarray(features[0], np.float32)

    def _unit(self, features: Any) -> Floats:
        return np.asarray(self._torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy(), np.float32)


def find_clip(folder: Path | None) -> tuple[Clip | None, str | None]:
    """CLIP of `folder`, or else of Hugging Face's cache on this machine; or None and why there is none.

    A folder that was asked for and cannot be used raises UserError.
    """
    if folder is not None:
        return Clip(folder), None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(CLIP_REPOSITORY, "config.json")
    if not isinstance(config, str):
        return (
            None,
            f"no CLIP weights are at hand: {CLIP_REPOSITORY} is not in Hugging Face's cache, nor was --clip given",
        )
    try:
        return Clip(Path(config).parent), None
    except UserError as error:
        return None, str(error)


def _check_clip_folder(folder: Path) -> None:
    """Said in our words, and before transformers takes seconds to load: it makes up an empty tokenizer without a word
    where the files are missing."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give --clip the folder of a CLIP model.")
    names = ["config.json"]
    names += ["tokenizer.json"] if (folder / "tokenizer.json").is_file() else ["vocab.json", "merges.txt"]
    for name in names:
        try:
            text = (folder / name).read_text("utf-8")
            value = json.loads(text) if name.endswith(".json") else {}
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} is not the folder of a CLIP model: its {name} is missing or broken.") from error
        is_other = name == "config.json" and (not isinstance(value, dict) or value.get("model_type") != "clip")
        if is_other:
            raise UserError(f"{folder} is not the folder of a CLIP model: its config.json is of another kind.")


def _safetensor_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError
