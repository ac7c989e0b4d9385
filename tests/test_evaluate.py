"""The measures against what is known of the pictures, and `evaluate` on files as a user has them."""

from __future__ import annotations

import importlib.machinery
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from sdv2live import measures
from sdv2live.capture.video_file import VideoFile
from sdv2live.errors import UserError
from sdv2live.evaluate import KEPT_POINTS, Comparison, Track, evaluate
from sdv2live.frames import Pixels
from sdv2live.measures import (
    DEFINITIONS,
    Clip,
    DisFlow,
    Picture,
    choose_flow,
    correspond,
    find_clip,
    mean_squared_error,
    psnr_db,
    sharpness,
    ssim,
    temporal_difference,
    warp_error,
)

SHIFT_XY = (3, 2)


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights but what a test makes, whatever the machine's caches have."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def moving(frames: int, size_wh: tuple[int, int] = (128, 96)) -> list[Pixels]:
    """A pattern without an edge in sight; what is at p in a frame is at p + SHIFT_XY in the next."""
    rng = np.random.default_rng(1)
    width, height = size_wh
    canvas_hw = (height + SHIFT_XY[1] * frames, width + SHIFT_XY[0] * frames)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (*canvas_hw, 3)), (0, 0), 2.5)
    canvas = np.clip(128 + noise * (40 / noise.std()), 20, 235).astype(np.uint8)
    ends = [(SHIFT_XY[0] * (frames - 1 - i), SHIFT_XY[1] * (frames - 1 - i)) for i in range(frames)]
    return [np.ascontiguousarray(canvas[y : y + height, x : x + width]) for x, y in ends]


def compared(source: list[Pixels], output: list[Pixels], **more: Any) -> dict[str, Any]:
    comparison = Comparison(DisFlow(), more.get("clip"), more.get("prompt", ""))
    for pair in zip(source, output, strict=True):
        comparison.add(*map(Picture.of, pair))
    return comparison.results()


# ---- the measures ----------------------------------------------------------------------------------------------------


def test_the_flow_of_a_known_shift() -> None:
    before, now = map(Picture.of, moving(2))
    found = correspond(DisFlow(), before, now)
    rows, columns = np.mgrid[0:96, 0:128]
    inner = np.s_[8:-8, 8:-8]
    moved = np.stack([columns, rows], -1) - found.places
    assert np.abs(moved - SHIFT_XY)[inner].mean() < 0.1
    assert found.is_kept[inner].mean() > 0.99
    assert not found.is_kept[0].any() and not found.is_kept[:, 0].any(), (
        "what came in over the edge was not there before"
    )


def test_the_warp_error_of_the_source_is_small_and_flicker_adds_what_it_is() -> None:
    source = moving(6)
    level = 8
    flickering = [(frame.astype(int) + (level if i % 2 else -level)).astype(np.uint8) for i, frame in enumerate(source)]
    results = compared(source, flickering)
    floor = results["warp_error_source"]
    assert floor < 5e-6, "0.1 % of what the flicker adds"
    assert results["warp_error"] == pytest.approx((2 * level / 255) ** 2, rel=0.02)
    still = np.square([a.astype(float) - b for a, b in zip(source[1:], source, strict=False)]).mean() / 255**2
    assert floor < still / 100, "without the warp it would be the motion itself"


def test_noise_adds_twice_its_variance_to_the_warp_error() -> None:
    """Noise that each frame has of its own is in both frames of a pair."""
    source, rng = moving(6), np.random.default_rng(2)
    std = 6.0
    noisy = [np.clip(np.rint(frame + rng.normal(0, std, frame.shape)), 0, 255).astype(np.uint8) for frame in source]
    added = np.mean([mean_squared_error(a, b) for a, b in zip(source, noisy, strict=True)])
    assert added == pytest.approx((std / 255) ** 2, rel=0.02)
    # Between pixels the warped frame is a mean of up to four, which quiets its half of the noise a little.
    assert 1.85 * added < compared(source, noisy)["warp_error"] < 2.02 * added


def test_a_cut_has_no_warp_error() -> None:
    first, second = moving(1)[0], np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)
    found = correspond(DisFlow(), Picture.of(first), Picture.of(second))
    nothing = measures.Correspondence(found.places, np.zeros_like(found.is_kept))
    assert warp_error(nothing, first, second) is None
    assert found.kept_share < 0.5


def test_ssim_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(4)
    a = Picture.of(moving(1)[0]).grey
    others = [
        cv2.GaussianBlur(a, (0, 0), 2),
        np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8),
        255 - a,
        np.full_like(a, 255),
        rng.integers(0, 256, a.shape, np.uint8),
    ]
    for b in others:
        for x, y in ((a, b), (b, np.roll(b, 1))):
            expected = metrics.structural_similarity(
                x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
            )
            assert ssim(x, y) == pytest.approx(expected, abs=1e-4)


def test_psnr_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a, b = moving(2)
    assert psnr_db(mean_squared_error(a, b)) == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=255))
    torch, losses = pytest.importorskip("torch"), pytest.importorskip("sdv2live.training.losses")
    ours, target = (torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1 for picture in (a, b))
    assert psnr_db(mean_squared_error(a, b)) == pytest.approx(losses.psnr(ours, target), abs=1e-4), "training's own"
    assert psnr_db(0.0) == math.inf and math.isnan(psnr_db(math.nan))
    assert psnr_db(4.0, peak=2.0) == 0.0, "a whole range of difference"


def test_sharpness_and_temporal_difference_of_pictures_worked_out_by_hand() -> None:
    dot = np.zeros((16, 16), np.uint8)
    dot[8, 8] = 255
    # The Laplacian is -4 at the dot and 1 at its four neighbours: a mean of 0, squares of 20 over 256 pixels.
    assert sharpness(dot) == pytest.approx(20 / 256)
    a, b = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 100, np.uint8)
    b[:2] = 151
    assert temporal_difference(a, b) == pytest.approx(0.5 * 51 / 255)


def test_a_comparison_of_the_same_and_of_the_softened() -> None:
    source = moving(4)
    same = compared(source, source)
    assert same["psnr_db"] is None and same["ssim"] == 1
    assert same["temporal_energy_ratio"] == same["sharpness_ratio"] == 1
    assert same["warp_error"] == same["warp_error_source"]
    soft = compared(source, [cv2.GaussianBlur(frame, (0, 0), 2) for frame in source])
    assert soft["sharpness_ratio"] < 0.3 and soft["ssim"] < 0.95 and 15 < soft["psnr_db"] < 40
    assert soft["temporal_energy_ratio"] < 1
    held = compared([source[0]] * 3, source[:3])
    assert held["temporal_energy_source"] == 0 and held["temporal_energy_ratio"] is None
    lone = compared(source[:1], source[:1])
    assert lone["warp_error"] is lone["temporal_energy"] is lone["temporal_energy_ratio"] is None
    assert set(lone) == set(DEFINITIONS)


@pytest.mark.parametrize("count", [0, 1, 5, KEPT_POINTS, KEPT_POINTS + 1, 5 * KEPT_POINTS + 3])
def test_a_curve_is_bounded_and_loses_nothing(count: int) -> None:
    track = Track()
    for number in range(count):
        track.add(None if number % 7 == 3 else float(number))
    kept = [number for number in range(count) if number % 7 != 3]
    assert track.mean == (pytest.approx(np.mean(kept)) if kept else None)
    points, step = track.points(), track.frames_per_point
    assert len(points) == math.ceil(count / step) <= KEPT_POINTS + 1
    for index, point in enumerate(points):
        here = [number for number in kept if index * step <= number < (index + 1) * step]
        assert point == (pytest.approx(np.mean(here)) if here else None)


# ---- which flow ------------------------------------------------------------------------------------------------------


def test_raft_only_with_torchvision_and_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for torchvision, whose RAFT sees the motion that its weights say, everywhere."""
    torch = pytest.importorskip("torch")
    seen: list[Any] = []

    class Raft(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.motion = torch.nn.Parameter(torch.zeros(2))

        def forward(self, first: Any, second: Any) -> list[Any]:
            seen.append(first)
            return [self.motion.view(1, 2, 1, 1).expand(1, 2, *first.shape[2:])]

    def build(*, weights: None) -> Raft:
        return Raft()

    module = types.ModuleType("torchvision.models.optical_flow")
    module.raft_small = module.raft_large = build  # type: ignore[attr-defined]
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", module)
    flow, reason = choose_flow()
    assert flow.description["method"] == "DIS" and reason is not None and "raft_" in reason
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    weights = checkpoints / "raft_small_C_T_V2-01064c6d.pth"
    weights.write_bytes(b"no weights")
    flow, reason = choose_flow()
    assert flow.description["method"] == "DIS" and reason is not None and weights.name in reason
    torch.save({"motion": torch.tensor([2.0, 1.0])}, weights)
    flow, reason = choose_flow()
    assert (flow.description["method"], flow.description["weights"], reason) == ("RAFT", weights.name, None)
    picture = Picture.of(np.full((96, 256, 3), 255, np.uint8))
    found = flow(picture, picture)
    assert seen[0].shape == (1, 3, 128, 256) and float(seen[0].min()) == float(seen[0].max()) == 1
    assert found.shape == (96, 256, 2) and np.allclose(found, [2.0, 0.75]), (
        "in pixels of the picture, not of the network"
    )


def test_without_torchvision_it_is_dis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(measures.importlib.util, "find_spec", lambda name: None)
    flow, reason = choose_flow()
    assert flow.description["method"] == "DIS" and reason is not None and "torchvision" in reason


# ---- CLIP ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_clip(tmp_path: Path) -> Path:
    """A CLIP model with random weights, and a tokenizer of single letters and one merge."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = tmp_path / "clip"
    folder.mkdir()
    letters = [chr(code) for code in range(97, 123)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "oi", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\no i\n")
    text = {
        "vocab_size": len(pieces),
        "max_position_embeddings": 12,
        "bos_token_id": len(pieces) - 2,
        "eos_token_id": len(pieces) - 1,
        "pad_token_id": len(pieces) - 1,
    }
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**shape, **text},
        vision_config={**shape, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(5)
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def test_clip_features_are_those_of_the_model_itself(tiny_clip: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    clip = Clip(tiny_clip)
    pictures = [np.random.default_rng(6).integers(0, 256, (32, 48, 3), np.uint8) for _ in range(2)]
    model = transformers.CLIPModel.from_pretrained(tiny_clip, local_files_only=True).eval()
    # The middle square, with the mean and deviation that CLIP was trained with.
    cut = torch.from_numpy(np.stack(pictures)[:, :, 8:40]).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.4815, 0.4578, 0.4082]), torch.tensor([0.2686, 0.2613, 0.2758])
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(tiny_clip, local_files_only=True)
    tokens = tokenizer(["oil"], return_tensors="pt")
    assert tokens["input_ids"].shape == (1, 4), "start, oi, l, end"
    with torch.inference_mode():
        whole = model(**tokens, pixel_values=(cut - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert np.allclose(clip.of_pictures(pictures), whole.image_embeds.numpy(), atol=1e-3)
    assert np.allclose(clip.of_text("oil"), whole.text_embeds[0].numpy(), atol=1e-5)
    assert clip.of_text("a long prompt, longer than the model reads").shape == (8,)
    source = moving(3)
    results = compared(source, source[::-1], clip=clip, prompt="oil")
    assert -100 <= results["clip_score"] <= 100 and results["clip_score_source"] == pytest.approx(results["clip_score"])
    assert results["clip_to_source"] < 100 and results["clip_consistency"] == pytest.approx(
        results["clip_consistency_source"]
    )
    assert compared(source, source, clip=clip)["clip_to_source"] == pytest.approx(100)
    assert compared(source, source, clip=clip)["clip_score"] is None


def test_a_clip_folder_that_is_none_is_refused(tiny_clip: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")

    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words):
            find_clip(tiny_clip)

    with pytest.raises(UserError, match="not a folder"):
        find_clip(tmp_path / "nowhere")
    weights = tiny_clip / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(b"no weights")
    refused("cannot be read as a CLIP model")
    tensors = safetensors.load(kept)
    del tensors["text_projection.weight"]
    safetensors.save_file(tensors, weights, {"format": "pt"})
    refused("lack a part")
    weights.unlink()
    refused("cannot be read as a CLIP model")
    (tiny_clip / "merges.txt").unlink()
    refused("merges.txt is missing")
    (tiny_clip / "config.json").write_text('{"model_type": "bert"}')
    refused("another kind")
    (tiny_clip / "config.json").write_text("{")
    refused("config.json is missing or broken")


def test_clip_of_the_cache_is_found_and_a_broken_one_is_a_reason(tiny_clip: Path, tmp_path: Path) -> None:
    found, reason = find_clip(None)
    assert found is None and reason is not None and "no CLIP weights are at hand" in reason
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--openai--clip-vit-base-patch32"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    tiny_clip.rename(repository / "snapshots" / commit)
    found, reason = find_clip(None)
    assert found is not None and found.folder.name == commit and reason is None
    (repository / "snapshots" / commit / "merges.txt").unlink()
    found, reason = find_clip(None)
    assert found is None and reason is not None and "merges.txt" in reason


# ---- files -----------------------------------------------------------------------------------------------------------


def write_video(path: Path, pictures: list[Pixels], rate: int = 16) -> Path:
    """Without loss, so that what is measured is what was drawn."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def run(source: Path, output: Path, **more: Any) -> int:
    options: dict[str, Any] = {"fit": "crop", "prompt": "", "clip": None, "json_path": None, "plot_path": None}
    return evaluate(source, output, **{**options, **more})


def test_evaluate_writes_a_table_figures_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = moving(6)
    flickering = [(frame.astype(int) + (8 if i % 2 else -8)).astype(np.uint8) for i, frame in enumerate(pictures)]
    source, output = write_video(tmp_path / "s.mkv", pictures), write_video(tmp_path / "o.mkv", flickering)
    json_path, plot_path = tmp_path / "f.json", tmp_path / "p.png"
    assert run(source, output, json_path=json_path, plot_path=plot_path, prompt="oil") == 0
    figures = json.loads(json_path.read_text())
    assert figures["frames_compared"] == 6 and figures["flow"]["method"] == "DIS"
    assert figures["psnr_db"] == pytest.approx(20 * math.log10(255 / 8), abs=0.01)
    assert figures["warp_error"] == pytest.approx((16 / 255) ** 2, rel=0.02)
    assert figures["clip_score"] is None and "no CLIP weights" in figures["clip_reason"]
    assert figures["source"] == {"file": str(source), "size_wh": [128, 96], "rate_fps": 16.0}
    curves = figures["curves"]
    assert curves.pop("frames_per_point") == 1
    assert all(len(curve) == 6 for curve in curves.values())
    assert curves["warp_error"][0] is None and curves["warp_error"][1] == pytest.approx((16 / 255) ** 2, rel=0.05)
    assert set(DEFINITIONS) <= set(figures) and figures["notes"] == []
    out = capsys.readouterr().out
    assert "Warp Error (255²) ↓" in out and "CLIP Score, prompt ↑" in out and "30.07" in out
    plot = cv2.imread(str(plot_path))
    assert plot.shape[1] == 960 and len(np.unique(plot.reshape(-1, 3), axis=0)) > 4, "lines of both videos are in it"


def test_the_same_file_twice_and_a_lone_frame_are_strict_json(tmp_path: Path) -> None:
    lone = write_video(tmp_path / "lone.mkv", moving(1))
    json_path, plot_path = tmp_path / "f.json", tmp_path / "p.PNG"
    assert run(lone, lone, json_path=json_path, plot_path=plot_path) == 0
    figures = json.loads(json_path.read_text(), parse_constant=pytest.fail)
    assert figures["psnr_db"] is None and figures["ssim"] == 1 and figures["warp_error"] is None
    assert len(figures["notes"]) == 2 and "infinite" in figures["notes"][1] and "one frame" in figures["notes"][0]


def test_sizes_and_lengths_that_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = moving(12, (192, 96))
    source = write_video(tmp_path / "s.mkv", pictures)
    middle = [np.ascontiguousarray(frame[:, 48:144]) for frame in pictures]
    json_path = tmp_path / "f.json"
    assert run(source, write_video(tmp_path / "o.mkv", middle[:9], rate=24), json_path=json_path) == 0
    figures = json.loads(json_path.read_text())
    assert figures["frames_compared"] == 9 and figures["psnr_db"] is None, "cropped, the source is the output"
    assert "3 more frames" in figures["notes"][0] and "16 fps and the output 24" in figures["notes"][1]
    assert "note: " in capsys.readouterr().err
    assert run(source, tmp_path / "o.mkv", fit="stretch", json_path=json_path) == 0
    assert json.loads(json_path.read_text())["psnr_db"] < 30
    assert run(tmp_path / "o.mkv", source, json_path=json_path) == 0, "the source may be the shorter and the smaller"
    for count, is_in_step in ((7, True), (6, False)):
        short = write_video(tmp_path / "short.mkv", middle[:count])
        if is_in_step:
            assert run(source, short) == 0
        else:
            with pytest.raises(UserError, match="goes on for more than 5 frames after the 6"):
                run(source, short)


def test_mistakes_are_one_sentence_and_touch_nothing(tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mkv", moving(2))
    tiny = write_video(tmp_path / "tiny.mkv", moving(2, (14, 14)))
    text = tmp_path / "text.mp4"
    text.write_text("no video\n" * 50)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    mistakes: list[tuple[tuple[Path, Path], dict[str, Any], str]] = [
        ((tmp_path / "nowhere.mp4", good), {}, "nowhere.mp4 does not exist"),
        ((good, tmp_path), {}, "directory"),
        ((good, text), {}, "text.mp4 cannot be played"),
        ((good, tiny), {}, "14x14"),
        ((good, good), {"fit": "squeeze"}, "crop, letterbox, stretch"),
        ((good, good), {"json_path": tmp_path / "nowhere" / "f.json"}, "--json"),
        ((good, good), {"json_path": tmp_path}, "--json"),
        ((good, good), {"json_path": good}, "another file of this command"),
        ((good, good), {"plot_path": tmp_path / "p.jpg"}, r"\.png"),
        ((good, good), {"json_path": tmp_path / "a.png", "plot_path": tmp_path / "a.png"}, "another file"),
        ((good, good), {"clip": tmp_path / "nowhere"}, "not a folder"),
    ]
    for files, more, words in mistakes:
        with pytest.raises(UserError, match=words) as caught:
            run(*files, **more)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_ctrl_c_leaves_no_file_open_or_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "v.mkv", moving(3))
    closed: list[VideoFile] = []
    close = VideoFile.close

    def noted(self: VideoFile) -> None:
        closed.append(self)
        close(self)

    def interrupt(self: Comparison, *pair: Picture) -> None:
        closed.clear()  # opening closes too
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "add", interrupt)
    monkeypatch.setattr(VideoFile, "close", noted)
    with pytest.raises(KeyboardInterrupt):
        run(video, video, json_path=tmp_path / "f.json")
    assert len(set(map(id, closed))) == 2 and not (tmp_path / "f.json").exists()
