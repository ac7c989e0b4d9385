"""Where and how the stages run, and what weights they start from. Owns the reading of earlier weights."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sdv2live.engine.checkpoint import open_checkpoint
from sdv2live.errors import UserError, one_line
from sdv2live.training.loop import averaged


@dataclass(frozen=True)
class Setup:
    """Where and how all stages run. workers: threads with a batch each, in the stages that are long on a CPU (c, d).

    model: the folder of an exported model whose weights a stage starts from, instead of those of the stages before.
    rate: times a stage's learning rates; a short stretch from good weights wants less than 1. batch: times the rows of
    a batch; a GPU wants many. fresh: clips and their looks are made on the device as they are needed, none twice.
    """

    work: Path
    device: torch.device
    seed: int = 0
    workers: int = 1
    model: Path | None = None
    rate: float = 1.0
    batch: int = 1
    fresh: bool = False

    @property
    def start(self) -> str:
        """What stands for the model's weights in checkpoints."""
        if self.model is None:
            return ""
        digest = hashlib.sha256()
        for name in ("codec", "dit", "text"):
            digest.update((self.model / f"{name}.safetensors").read_bytes())
        return digest.hexdigest()

    @property
    def run(self) -> dict[str, float]:
        """What makes a run, beside its seed and the weights it starts from: kept in checkpoints."""
        return {"batch": self.batch, "rate": self.rate}

    def forward(self) -> AbstractContextManager[object]:
        """Around what is differentiated: a GPU multiplies in bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def load(self, network: nn.Module, name: str, stage: str) -> None:
        """The weights of the network `name`, from the model or as `stage` left them. Raises UserError without them."""
        if self.model is None:
            path, weights = self.work / f"stage-{stage}.pt", averaged(self.work, stage, name)
        else:
            path = self.model / f"{name}.safetensors"
            weights = {key: value.float() for key, value in open_checkpoint(path).items()}
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"{path} does not fit the present {name} network: {one_line(error)}") from error
