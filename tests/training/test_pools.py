"""Pools are what the present effects draw of a seed's clips, whatever interrupts the making, or are refused."""

import multiprocessing
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest
import torch

from sdv2live.errors import UserError
from sdv2live.frames import Pixels
from sdv2live.training import pools
from sdv2live.training.effects import LOOKS
from sdv2live.training.pools import Pool, PoolSpec, make_pools

TINY = PoolSpec("tiny", 2, 2, 24)


@pytest.fixture(scope="module", autouse=True)
def tracker() -> None:
    """What Python starts beside the first process and keeps until it ends itself."""
    resource_tracker.ensure_running()


def _drawn(clips: Pixels, look: str) -> Pixels:
    """[N, T, S, S, 3] in a look."""
    planar = torch.from_numpy(clips).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    pixels = (255 * LOOKS[look](planar).clamp(0, 1)).round().byte()
    return np.asarray(pixels.permute(0, 2, 3, 1).numpy()).reshape(clips.shape)


def small_pool(folder: Path, spec: PoolSpec) -> None:
    """Clips of soft noise in every look."""
    folder.mkdir(exist_ok=True)
    coarse = np.random.default_rng(0).integers(0, 255, (spec.clips, spec.frames, 12, 12, 3))
    clips = coarse.repeat(spec.side_px // 12, 2).repeat(spec.side_px // 12, 3).astype(np.uint8)
    for name in LOOKS:
        np.save(folder / f"{spec.name}-{name}.npy", _drawn(clips, name))
    np.save(folder / f"{spec.name}-done.npy", np.ones(spec.clips, np.uint8))


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "edited"])
def test_a_pool_gets_the_looks_that_it_lacks(tmp_path: Path, is_there: bool) -> None:
    small_pool(tmp_path, TINY)
    night, oil = tmp_path / "tiny-night.npy", tmp_path / "tiny-oil.npy"
    right, untouched = np.load(night), oil.stat().st_mtime_ns
    if is_there:  # as if the effect had been a little darker when the pool was made
        np.save(night, right - (right > 0).astype(np.uint8))
    else:
        night.unlink()
    with pytest.raises(UserError, match="night"):
        Pool(tmp_path, TINY)
    make_pools(tmp_path, (TINY,), seed=0, processes=1)
    assert np.array_equal(np.load(night), right) and oil.stat().st_mtime_ns == untouched
    assert not list(tmp_path.glob("*.part*"))
    assert len(Pool(tmp_path, TINY).ready) == 2


def test_another_bank_is_made_of_another_pool(tmp_path: Path) -> None:
    small_pool(tmp_path, TINY)
    whole = Pool(tmp_path, TINY).digest()
    assert Pool(tmp_path, TINY).digest() == whole
    np.save(tmp_path / "tiny-done.npy", np.array([1, 0], np.uint8))
    assert Pool(tmp_path, TINY).digest() != whole


def test_a_pool_is_not_filled_up_with_the_clips_of_another_seed(tmp_path: Path) -> None:
    small_pool(tmp_path, TINY)
    np.save(tmp_path / "tiny-done.npy", np.array([1, 0], np.uint8))
    with pytest.raises(UserError, match="another --seed than 3"):
        make_pools(tmp_path, (TINY,), seed=3, processes=1)
    assert np.load(tmp_path / "tiny-done.npy").tolist() == [1, 0]


def test_a_pool_of_another_shape_is_refused(tmp_path: Path) -> None:
    small_pool(tmp_path, TINY)
    with pytest.raises(UserError, match="move it away"):
        Pool(tmp_path, PoolSpec("tiny", 2, 4, 24))


def test_a_drive_without_room_is_told_before(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"need 1248000\.0 GB more, and the drive has [\d.]+ GB free"):
        make_pools(tmp_path, (PoolSpec("vast", 2, 16, 10**6),), seed=0, processes=1)
    assert not list(tmp_path.glob("vast-identity*"))


def test_a_process_that_is_killed_ends_the_making(tmp_path: Path) -> None:
    def kill_first() -> None:
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.01)
        workers[0].kill()

    killer = threading.Thread(target=kill_first)
    killer.start()
    with pytest.raises(UserError, match="a process that makes clips was killed"):
        make_pools(tmp_path, (TINY,), seed=0, processes=1)
    killer.join()


def test_a_pool_that_was_cut_off_becomes_what_it_would_have_been(tmp_path: Path) -> None:
    """Killed with one of six clips made and the second, which takes longest, being drawn; its processes end too."""
    spec, seed = PoolSpec("tiny", 6, 2, 64), 1
    code = f"import pathlib; from sdv2live.training.pools import *; folder = pathlib.Path({str(tmp_path)!r}); "
    code += f"make_pools(folder, ({spec!r},), seed={seed}, processes=1)"
    marks = tmp_path / "tiny-done.npy"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as run:
        try:
            while not marks.exists() or not np.fromfile(marks, np.uint8)[-6:].any():
                assert run.poll() is None
                time.sleep(0.01)
        finally:
            run.kill()
        run.communicate(timeout=60)  # until nobody holds the pipe: the process and those that it started
    assert 0 < np.load(marks).sum() < 6
    make_pools(tmp_path, (spec,), seed=seed, processes=1)
    assert np.load(marks).all()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as where pools are made: more of them round otherwise
    try:
        clips = np.stack([pools._clip(spec, seed, index) for index in range(6)])
        for name, effect in LOOKS.items():
            looks = np.stack([pools._styled(clip, effect) for clip in clips])
            assert np.array_equal(np.load(tmp_path / f"tiny-{name}.npy"), looks), name
    finally:
        torch.set_num_threads(threads)
