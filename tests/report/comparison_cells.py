"""Small folders of cells that tests of the comparison share, written with the library's own functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcalib.files import write_json
from medcalib.metrics import CaseScores, score_case
from medcalib.metrics.summary import summarize

NAMES = ("background", "anterior", "posterior")
REGIONS = ("all", "foreground", "gt_foreground", "pred_foreground", "boundary")
SHAPE = (10, 9, 8)


def case_of(seed: int, case: int, sharpness: float, noise: float, name: str | None = None) -> CaseScores:
    """A noisy prediction of a ball of two halves; `sharpness` above 1 is overconfident."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    shift = 0.05 * np.random.default_rng(case).normal()
    ball = 6 * (0.75 + shift - np.sqrt(i**2 + j**2 + k**2))
    truth = np.stack([-ball, ball + 4 * j, ball - 4 * j])
    labels = torch.from_numpy((truth + np.random.default_rng(100 + case).gumbel(size=truth.shape)).argmax(0))
    error = np.random.default_rng((1000 + seed, case)).normal(size=truth.shape)
    probs = torch.softmax(torch.from_numpy(sharpness * (truth + noise * error)), 0)
    options: dict[str, Any] = {"regions": REGIONS, "spacing_mm": (1.0, 1.0, 1.0), "patient_id": f"p{case // 2}"}
    return score_case(probs, labels, case_id=name or f"case{case:02d}", class_names=NAMES, **options)


def write_scores(folder: Path, cases: Sequence[CaseScores], refused: Sequence[Mapping[str, Any]] = ()) -> None:
    """A scores folder as `score` writes it."""
    for case in cases:
        case.save(folder / f"{case.case_id}.npz")
    numbers = summarize(cases, expected=len(cases) + len(refused), refused=[dict(entry) for entry in refused])
    write_json(folder / "scores.json", numbers | {"dataset": "phantom", "software": "medcalib 9.9"})


def write_cell(out: Path, method: str, seed: int, looks: Mapping[str, tuple[float, float]], cases: int = 8) -> Path:
    """A done cell; `looks`: sharpness and noise by calibrator."""
    folder = out / "cells" / method / f"seed{seed}"
    places = {}
    for calibrator, (sharpness, noise) in looks.items():
        places[calibrator] = "scores" if calibrator == "none" else f"scores_{calibrator}"
        write_scores(folder / places[calibrator], [case_of(seed, k, sharpness, noise) for k in range(cases)])
    seconds: dict[str, Any] = {"train": 10.0 + seed, "predict": 2.0, "score": 1.0}
    seconds |= {name: {"fit": 3.0, "apply and score": 4.0} for name in looks if name != "none"}
    cell = {"method": method, "seed": seed, "state": "done", "error": None, "device": "cpu", "seconds": seconds}
    write_json(folder / "cell.json", cell | {"weights_epoch": 5, "peak_mib": 100.0 + seed, "scores": places})
    return folder


def write_plan(
    out: Path, methods: Mapping[str, Any], seeds: Sequence[int], change: Mapping[str, Any] | None = None, **more: Any
) -> None:
    """`compare.json`; `change` takes the place of any key."""
    config = {"data": {"root": "/somewhere/data"}, "train": {"epochs": 3}}
    plan = {"version": 1, "config": config, "methods": dict(methods), "sweeps": {}, "seeds": list(seeds)}
    plan |= {"calibrators": [], "split": "test", "weights": "best", "reference": next(iter(methods))}
    write_json(out / "compare.json", plan | more | dict(change or {}))
