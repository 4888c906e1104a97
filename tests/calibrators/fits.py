"""Voxels that several tests of calibrators fit on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

GOLDEN = Path(__file__).parent.parent / "golden"
# every method with options that are not its defaults
OPTIONS: dict[str, dict[str, Any]] = {
    "temperature": {"search": "grid", "criterion": "ece"},
    "classwise_temperature": {},
    "region_temperature": {"kernel_size": [3, 5], "classwise": True},
    "focal_temperature": {"gamma": -0.5},
    "ensemble_temperature": {"criterion": "brier"},
    "local_temperature": {"variant": "light", "image_channels": 2, "kernel_size": 3, "dilation": 1, "steps": 3},
    "vector": {"bias": 0.01},
    "matrix": {"off_diagonal": 0.01, "bias": 0.02, "compat": "official"},
    "dirichlet": {"off_diagonal": 0.02, "bias": 0.01},
    "isotonic": {"pooled": False},
    "histogram": {"bins": 7},
}
SPATIAL = ("region_temperature", "local_temperature")


def drawn(
    temperature: float = 2.0, voxels: int = 4000, classes: int = 4, seed: int = 0, spread: float = 3.0
) -> tuple[Tensor, Tensor]:
    """Logits (N, C) and labels drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(voxels, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


def volume(temperature: float = 2.0, shape: tuple[int, ...] = (2, 30, 35), seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same as volumes (B, 4, *S), smooth along the last axis so that predicted regions have an interior."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape[0], 4, *shape[1:], generator=generator, dtype=torch.float64)
    logits = 2 * sum(noise.roll(k, -1) for k in range(6))
    probs = (logits / temperature).softmax(1).movedim(1, -1)
    labels = torch.multinomial(probs.reshape(-1, 4), 1, generator=generator).reshape(shape)
    return logits, labels


def images_of(logits: Tensor, channels: int = 2) -> Tensor:
    """Some images on the grid of logits."""
    shape = (logits.shape[0], channels, *logits.shape[2:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=logits.dtype)


def golden(name: str) -> tuple[Any, dict[str, Any], Tensor, Tensor, Tensor]:
    """Stored arrays, their meta, and logits and labels of the fit, logits to apply to."""
    stored = np.load(GOLDEN / f"{name}__cal3d_eval2d.npz")
    labels = torch.from_numpy(stored["labels_cal"].astype(np.int64))
    logits, after = (torch.from_numpy(stored[key]) for key in ("logits_cal", "logits_eval"))
    return stored, json.loads(str(stored["meta"])), logits, labels, after


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean NLL in nats."""
    return float(cross_entropy(logits.double(), labels))


def close(found: Tensor, stored: Any, atol: float) -> None:
    """Equal to atol."""
    torch.testing.assert_close(found, torch.as_tensor(stored, dtype=found.dtype), rtol=0, atol=atol)
