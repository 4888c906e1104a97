"""Small scores and maps that tests of the page share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from medcalib.data.nifti import write_volume
from medcalib.files import write_json
from medcalib.metrics import score_case
from medcalib.metrics.summary import summarize

NAMES = ("background", "RV", "LV")
REGIONS = ("all", "foreground", "gt_foreground")
SHAPE = (10, 12, 5)
EVIL = "<script>alert(1)</script>{{7*7}}"


def volume(seed: int, sharpness: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities, labels and posterior of a ball with two halves."""
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    ball = 3 * (0.8 - np.sqrt(i**2 + j**2 + k**2))
    truth = torch.tensor(np.stack([-ball, ball + 2 * j, ball - 2 * j]))
    posterior = torch.softmax(2 * truth + 0.3 * torch.tensor(rng.normal(size=truth.shape)), 0)
    drawn = torch.tensor(rng.random(SHAPE))
    labels = (drawn[None] > posterior.cumsum(0)).sum(0).clamp(0, 2)
    probs = torch.softmax(sharpness * (truth + 0.4 * torch.tensor(rng.normal(size=truth.shape))), 0)
    return probs, labels, posterior


def make(
    folder: Path,
    name: str,
    sharpness: float,
    *,
    cases: int = 4,
    known: bool = True,
    class_names: tuple[str, ...] = NAMES,
    prefix: str = "case",
    maps: bool = False,
    regions: tuple[str, ...] = ("foreground",),
) -> Path:
    scored = []
    for k in range(cases):
        probs, labels, posterior = volume(k, sharpness)
        options = {"regions": regions, "posterior": posterior if known else None, "distances": False}
        case = score_case(probs, labels, case_id=f"{prefix}{k}", class_names=class_names, **options)
        case.save(folder / f"{k}.npz")
        scored.append(case)
        if maps:
            write_maps(folder / "maps", f"{prefix}{k}", probs, labels)
    refused = [{"case": "bad<1>", "reason": "truncated", "message": "copy it & score again"}]
    numbers = summarize(scored, expected=cases + 1, refused=refused)
    numbers |= {"method": {"name": name, "epochs": 3}, "dataset": "phantom", "software": "medcalib 9.9"}
    write_json(folder / "scores.json", numbers)
    return folder


def write_maps(folder: Path, case_id: str, probs: torch.Tensor, labels: torch.Tensor) -> None:
    prediction = probs.argmax(0)
    wrong = (prediction != labels).numpy()
    confidence = probs.amax(0).float().numpy()
    maps = {"confidence": confidence, "error": wrong.astype(np.uint8), "gap": confidence - ~wrong}
    maps |= {"label": labels.numpy().astype(np.uint8), "prediction": prediction.numpy().astype(np.uint8)}
    for kind, array in maps.items():
        write_volume(folder / f"{case_id}_{kind}.nii.gz", array, np.diag([1.0, 1.0, 4.0, 1.0]))
