"""What every calibrator is: logits to logits, fitted once, saved as plain numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medcalib.errors import CheckpointError
from medcalib.files import atomic

_KEY = "medcalib"


class Calibrator(nn.Module):
    """A map logits (B, C, *S) -> logits (B, C, *S), to be fitted on held-out cases and then frozen.

    Fitted parameters are float64 buffers whose names end in `_`. `facts` holds what is saved with them: what it
    was fitted on, and the scores before and after.
    """

    name = ""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2 (background included), got {num_classes}")
        self.num_classes = num_classes
        self.facts: dict[str, Any] = {}

    def fit(self, logits: Tensor, labels: Tensor) -> Self:
        """Fit on logits (N, C) or (B, C, *S) and labels (N,) or (B, *S); returns self."""
        raise TypeError(f"{type(self).__name__} does not define fit(logits, labels)")

    def save(self, path: Path) -> None:
        """Write parameters and facts into one safetensors file, atomically."""
        meta = {"method": self.name, "num_classes": self.num_classes, "facts": self.facts}
        with atomic(path) as temporary:
            save_file(dict(self.state_dict()), temporary, {_KEY: json.dumps(meta)})

    def voxels(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """logits as (N, C) float64 and labels as (N,), checked."""
        if logits.ndim < 2 or logits.shape[1] != self.num_classes:
            raise ValueError(f"expected logits (B, {self.num_classes}, *S), got {tuple(logits.shape)}")
        if labels.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(f"expected labels {(logits.shape[0], *logits.shape[2:])}, got {tuple(labels.shape)}")
        flat = logits.detach().movedim(1, -1).reshape(-1, self.num_classes).double()
        if not flat.numel() or not bool(torch.isfinite(flat).all()):
            raise ValueError("logits must be finite, and at least one voxel is needed")
        wanted = labels.reshape(-1).long()
        if int(wanted.min()) < 0 or int(wanted.max()) >= self.num_classes:
            raise ValueError(f"labels must lie in 0..{self.num_classes - 1}; leave ignored voxels out")
        return flat, wanted


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and parameters of a saved calibrator; nothing in the file is executed."""
    try:
        with safe_open(path, framework="pt") as stored:
            meta = json.loads((stored.metadata() or {})[_KEY])
            return meta, {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no saved calibrator: {error}") from error
