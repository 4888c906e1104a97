"""The JSON files beside predictions: the sidecar, nnU-Net's dataset.json and plans.json, the index."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from fuzz.harness import attempt
from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import INDEX, Pair, channels_of, expected_cases, read_pair

MAX_BYTES = 2048
CLASSES = LabelMap.consecutive(["background", "a"])
ROLES = ("c1.json", "dataset.json", "plans.json", INDEX)


def check(data: bytes, folder: Path) -> None:
    """`data` in each of the roles, with and without a config."""
    prediction, label = _prediction(folder)
    pair = Pair(Case("c1", "c1", (), label), prediction)
    for role in ROLES:
        path = prediction.with_name(role)
        path.write_bytes(data)
        for configured in (None, CLASSES):
            found = attempt(lambda configured=configured: channels_of(prediction, configured))
            if found is not None:
                attempt(lambda found=found: found.label_map.decode(np.zeros(3, np.uint8)))
                if configured is None:
                    attempt(lambda found=found: read_pair(pair, found.label_map, assume_orientation=True))
        attempt(lambda: expected_cases(prediction.parent, {}, flat=True))
        path.unlink()


def words() -> list[str]:
    """Keys that are looked for."""
    return ["class_names", "codes", "ignore_code", "activation", "softmax", "logits", "sigmoid", "groups", "scale",
            "axes", "ijk", "kji", "labels", "regions_class_order", "image_reader_writer", "cases", "ignore",
            "Infinity", "NaN", "1e999", "null", "-1", "background"]  # fmt: skip


@cache
def _prediction(folder: Path) -> tuple[Path, Path]:
    """A good `.npy` and its reference."""
    label = np.zeros((3, 4, 5), np.uint8)
    label[1] = 1
    write_volume(folder / "labels/c1.nii", label, np.eye(4))
    (folder / "pred").mkdir()
    np.save(folder / "pred/c1.npy", np.stack([0.75 - label * 0.5, 0.25 + label * 0.5]).astype(np.float32))
    return folder / "pred/c1.npy", folder / "labels/c1.nii"
