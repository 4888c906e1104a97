"""Predictions and labels in flat folders, as another tool would leave them, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

from helpers import LPS, smooth_case

from medcalib import calibrators
from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import write_prediction

LABELS = LabelMap.consecutive(("background", "liver", "tumor"))
SCORES = "scores.json"
BAD, UNPREDICTED = "case_2", "case_5"


def write_flat(folder: Path, cases: int = 8, shape: tuple[int, ...] = (14, 12, 6)) -> tuple[Path, Path]:
    """`predictions` and `labels` in `folder`; of the cases, `BAD` is cut off and `UNPREDICTED` a label only."""
    predictions, labels = folder / "predictions", folder / "labels"
    for k in range(cases):
        probs, label = smooth_case(k, 3, shape)
        case = Case(f"case_{k}", f"case_{k}", ())
        write_volume(labels / f"{case.id}.nii.gz", label.numpy(), LPS)
        if case.id != UNPREDICTED:
            write_prediction(predictions, case, probs.numpy(), LPS, LABELS, {})
    if (predictions / f"{BAD}.nii.gz").exists():  # of two cases none is bad
        whole = (predictions / f"{BAD}.nii.gz").read_bytes()
        (predictions / f"{BAD}.nii.gz").write_bytes(whole[: len(whole) // 2])
    return predictions, labels


def save_calibrator(path: Path) -> None:
    """A temperature fitted to some other voxels of as many classes."""
    probs, label = smooth_case(99, 3, (8, 7, 6))
    calibrator = calibrators.build("temperature", 3)
    calibrator.fit(probs.log()[None], label[None].long())
    calibrator.save(path)


def contents(folder: Path) -> dict[str, bytes]:
    """The result of a run: `scores.json` and the counts by name."""
    return {path.name: path.read_bytes() for path in [*folder.glob("case_*.npz"), *folder.glob(SCORES)]}
