"""Predictions as other tools write them, made with the libraries that those tools use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its documented name
from numpy.typing import NDArray

from medcalib.data.case import Case
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import Pair

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing": 3}
# each anatomical direction that an axis can have, and two that permute axes
AFFINES = {
    "RAS": np.array([[2.0, 0, 0, 5], [0, 3.0, 0, 6], [0, 0, 4.0, 7], [0, 0, 0, 1]]),
    "LPS": np.array([[-2.0, 0, 0, 5], [0, -3.0, 0, 6], [0, 0, 4.0, 7], [0, 0, 0, 1]]),
    "LAI": np.array([[-2.0, 0, 0, 5], [0, 3.0, 0, 6], [0, 0, -4.0, 7], [0, 0, 0, 1]]),
    "PSL": np.array([[0, 0, -4.0, 5], [-2.0, 0, 0, 6], [0, 3.0, 0, 7], [0, 0, 0, 1]]),
    "SRA": np.array([[0, 3.0, 0, 5], [0, 0, 4.0, 6], [2.0, 0, 0, 7], [0, 0, 0, 1]]),
}
READERS = ("SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient", "NibabelIOWithReorient")


def as_read(volume: NDArray[Any], affine: NDArray[Any], reader: str, folder: Path) -> NDArray[Any]:
    """A volume (i, j, k) as nnU-Net's reader would give it: (z, y, x), of a file written and read by its library."""
    path = folder / "as_read.nii.gz"
    image = nib.Nifti1Image(volume, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    if reader.startswith("SimpleITK"):
        read = sitk.ReadImage(str(path))
        found = sitk.GetArrayFromImage(sitk.DICOMOrient(read, "RAS") if reader.endswith("WithReorient") else read)
    else:
        loaded = nib.load(path)
        if reader.endswith("WithReorient"):
            loaded = loaded.as_reoriented(nib.io_orientation(affine))
        found = np.asarray(loaded.dataobj).transpose(2, 1, 0)
    path.unlink()
    return np.ascontiguousarray(found)


def painted(probs: NDArray[np.float32], order: list[int]) -> NDArray[np.uint8]:
    """The label map of region channels: above 0.5, later ones on top."""
    drawn = np.zeros(probs.shape[1:], np.uint8)
    for channel, code in zip(probs, order, strict=True):
        drawn[channel > 0.5] = code
    return drawn


def write_nnunet(
    folder: Path,
    probs: NDArray[Any],
    affine: NDArray[Any],
    *,
    case: str = "c1",
    reader: str = "SimpleITKIO",
    key: str = "probabilities",
    order: list[int] | None = None,
    with_map: bool = True,
    plans: bool = True,
) -> Path:
    """What `nnUNetv2_predict --save_probabilities` leaves of channels (C, i, j, k) on the image's grid."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.stack([as_read(channel, affine, reader, folder) for channel in probs.astype(np.float32)])
    np.savez_compressed(folder / f"{case}.npz", **{key: stored.astype(probs.dtype)})
    (folder / f"{case}.pkl").write_bytes(b"never to be opened")
    if with_map:
        drawn = probs.argmax(0).astype(np.uint8) if order is None else painted(probs, order)
        write_volume(folder / f"{case}.nii.gz", drawn, affine)
    content = {"labels": LABELS} if order is None else {"labels": REGIONS, "regions_class_order": order}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MR"}, **content}))
    if plans:
        (folder / "plans.json").write_text(json.dumps({"image_reader_writer": reader}))
    return folder / f"{case}.npz"


def pair_of(prediction: Path, label: Path, case: str = "c1") -> Pair:
    """A prediction beside a reference."""
    return Pair(Case(case, case, (), label), prediction)
