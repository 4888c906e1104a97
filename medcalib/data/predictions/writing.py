"""What `predict` writes: 4-D probabilities with a sidecar, and the segmentation in the dataset's own codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.data.case import Case
from medcalib.data.geometry import Affine
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import write_volume
from medcalib.data.predictions.arrays import SEGMENTATIONS
from medcalib.files import check_case_id, write_json


def write_prediction(
    folder: Path,
    case: Case,
    probs: NDArray[np.float32],
    affine: Affine,
    label_map: LabelMap,
    sidecar: Mapping[str, Any],
) -> None:
    """Write probabilities (C, i, j, k), their sidecar, and the segmentation in the dataset's own codes.

    Raises `DataError` for a case id that cannot be a file name.
    """
    check_case_id(case.id)
    write_volume(folder / SEGMENTATIONS / f"{case.id}.nii.gz", label_map.decode(probs.argmax(0)), affine)
    write_volume(folder / f"{case.id}.nii.gz", np.moveaxis(probs, 0, -1), affine)
    meta = {"class_names": label_map.class_names, "codes": label_map.codes, "ignore_code": label_map.ignore_code}
    write_json(folder / f"{case.id}.json", {"case": case.id, "activation": "softmax", **meta, **sidecar})


def remove_prediction(folder: Path, case: Case) -> None:
    """Remove what `write_prediction` wrote of a case, if there is any. Raises `DataError` as that does."""
    check_case_id(case.id)
    for path in (f"{SEGMENTATIONS}/{case.id}.nii.gz", f"{case.id}.nii.gz", f"{case.id}.json"):
        (folder / path).unlink(missing_ok=True)
