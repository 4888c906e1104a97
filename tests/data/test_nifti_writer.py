"""A volume that is written in parts is the one written whole, or no file at all."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import LPS

from medcalib.data.nifti import About, volume_writer, write_volume


def test_a_writer_gives_the_bytes_of_the_whole_and_no_part_of_it(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((40, 30, 20)).astype(np.float32)
    about = About("text " * 30, -1.0, 2.0, "estimate")
    write_volume(tmp_path / "whole.nii.gz", array, LPS, about)
    with volume_writer(tmp_path / "parts.nii.gz", array.shape, array.dtype, LPS, about) as append:
        for start in (0, 1, 7, 19):
            append(array[..., start : {0: 1, 1: 7, 7: 19, 19: 20}[start]])
    assert (tmp_path / "parts.nii.gz").read_bytes() == (tmp_path / "whole.nii.gz").read_bytes()
    assert len(nib.load(tmp_path / "whole.nii.gz").header["descrip"].item()) == 79
    with (
        pytest.raises(ValueError, match="3 of 20 positions"),
        volume_writer(tmp_path / "short.nii.gz", array.shape, array.dtype, LPS) as append,
    ):
        append(array[..., :3])
    with (
        pytest.raises(ValueError, match="does not fit"),
        volume_writer(tmp_path / "long.nii.gz", array.shape, array.dtype, LPS) as append,
    ):
        append(np.zeros((40, 30, 21), np.float32))
    assert {path.name for path in tmp_path.iterdir()} == {"whole.nii.gz", "parts.nii.gz"}
