"""How far a stage has come, as pictures. Owns the contact sheet that lies beside a stage's checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdv2live.frames import Pixels
from sdv2live.training.batches import LOOK_NAMES, Batch, Batches
from sdv2live.training.loop import Loop
from sdv2live.training.sheets import sheet, write_picture

SIDE_PX, COLUMNS = 128, 2
Draw = Callable[[dict[str, Any], Batch, np.random.Generator], Tensor]  # -> pictures [B, T, 3, S, S] in [-1, 1]


class Progress:
    """Source, target and ours of the same training clip in every look, with a loop's averaged weights.

    Called after a checkpoint: writes `sheet-STAGE.jpg` beside it. It shows the last frame of a first chunk, so it takes
    one chunk a look. draw: what the modules make of a batch.
    """

    def __init__(self, modules: dict[str, nn.Module], batches: Batches, draw: Draw, *, seed: int) -> None:
        self._modules = copy.deepcopy(modules)
        self._batches, self._draw, self._seed = batches, draw, seed

    @torch.no_grad()
    def __call__(self, loop: Loop) -> None:
        for name, module in self._modules.items():
            module.load_state_dict(loop.average[name])
        tiles = []
        for look in LOOK_NAMES:
            rng = np.random.default_rng((self._seed, 4))
            batch = self._batches.styled(rng, 1, 4, SIDE_PX, of_large=False, look=look)
            shown = (batch.source, batch.target, self._draw(self._modules, batch, rng))
            tiles.append((look, np.hstack([_pixels(frames[0, -1]) for frames in shown])))
        write_picture(loop.path.with_name(f"sheet-{loop.stage}.jpg"), sheet(tiles, COLUMNS))


def _pixels(frame: Tensor) -> Pixels:
    """[3, H, W] in [-1, 1] -> [H, W, 3] uint8."""
    return np.asarray(((frame.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())
