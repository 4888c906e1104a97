"""Predictions of other tools on the grids of real volumes, with all that is odd about their headers."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from foreign import READERS, pair_of, write_nnunet
from numpy.testing import assert_array_equal
from scipy.ndimage import gaussian_filter

from medcalib.data.labels import LabelMap
from medcalib.data.load import read_any
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import read_pair

CASES = {
    "hippocampus": ("msd_hippocampus/*/labelsTr/*.nii.gz", ((0,), (1,), (2,))),
    "acdc": ("acdc/*/patient*/*_gt.nii.gz", ((0,), (1,), (2,), (3,))),
    "brats": ("brats2013/*/*/*_seg.nii.gz", ((0,), (1,), (2,), (4,))),
    "orientation": ("defects/orientation/*.nii.gz", None),
}


def blurred(label: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities that a network might have given for a label: its blurred indicators."""
    soft = np.stack([gaussian_filter((label == k).astype(np.float32), 1.0) for k in range(classes)])
    soft += np.float32(1e-4)
    return (soft / soft.sum(0)).astype(np.float32)


def volumes(real: Path, kind: str) -> list[Path]:
    pattern, codes = CASES[kind]
    found = sorted(path for path in real.glob(pattern) if not path.name.startswith("."))
    assert found, f"no real volume fits {pattern}"
    return found[:2] if codes is not None else found


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["hippocampus", "acdc", "brats"])
def test_nnunet_files_on_real_grids_give_the_probabilities(tmp_path: Path, real: Path, kind: str, reader: str) -> None:
    codes = CASES[kind][1]
    label_map = LabelMap(tuple(f"c{k}" for k in range(len(codes))), codes)
    for path in volumes(real, kind):
        reference = read_any(path, dtype=None)
        probs = blurred(label_map.encode(reference.array, str(path)), len(codes))
        npz = write_nnunet(tmp_path / path.name, probs, reference.affine, reader=reader, with_map=False, plans=False)
        npz.with_name("dataset.json").unlink()
        write_volume(npz.with_name("c1.nii.gz"), label_map.decode(probs.argmax(0)), reference.affine)
        with read_pair(pair_of(npz, path), label_map) as found:
            assert_array_equal(found.probs, probs)


def test_one_prediction_fits_the_same_volume_in_every_orientation(tmp_path: Path, real: Path) -> None:
    two = LabelMap.consecutive(["background", "head"])
    files = volumes(real, "orientation")
    arrays = [read_any(path) for path in files]
    first = arrays[0]
    level = float(np.median(first.array))
    write_volume(tmp_path / "c1.nii", np.moveaxis(blurred((first.array > level).astype(int), 2), 0, -1), first.affine)
    expected = {}
    for path, volume in zip(files, arrays, strict=True):
        write_volume(tmp_path / "label.nii.gz", (volume.array > level).astype(np.uint8), volume.affine)
        found = read_pair(pair_of(tmp_path / "c1.nii", tmp_path / "label.nii.gz"), two)
        turned = nib.as_closest_canonical(nib.Nifti1Image(found.probs[1], found.affine))
        expected.setdefault("values", np.asarray(turned.dataobj))
        assert_array_equal(np.asarray(turned.dataobj), expected["values"], err_msg=path.name)
