"""Volumes that point at other files: a MetaImage or NRRD must not turn private files into voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medcalib.data.detached import HEADER_BYTES
from medcalib.data.load import read_any
from medcalib.errors import DataError

META = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\n"
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n"
SECRET = b"TOP SECRET" * 20


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("x.mhd", META + "ElementDataFile = ../secret\n"),
        ("x.mhd", META + "ElementDataFile = {secret}\n"),
        ("x.mhd", META + "ElementDataFile = ..\\secret\n"),
        ("x.mhd", META + "ElementDataFile = LIST\n../secret\n../secret\n../secret\n../secret\n"),
        ("x.mhd", META + "ElementDataFile = LIST 2\n../secret\n"),
        ("x.mhd", META + "ElementDataFile = ../secre%c 116 116 1\n"),
        ("x.mhd", META + "Comment = ElementDataFile = LOCAL\nElementDataFile = ../secret\n"),
        ("x.mhd", META + "elementdatafile = LOCAL\nElementDataFile = ../secret\n"),
        ("x.mhd", META + "Comment = " + "x" * HEADER_BYTES + "\nElementDataFile = ../secret\n"),
        ("x.mha", META + "ElementDataFile = {secret}\n"),
        ("x.mha", META + "ElementDataFile = link\n"),
        ("x.mhd", META + "ElementDataFile = link\n"),
        ("x.MHD", META + "ElementDataFile = ../secret\n"),
        ("x.nrrd", NRRD + "data file: ../secret\n"),
        ("x.nrrd", NRRD + "datafile: {secret}\n\n"),
        ("x.nrrd", NRRD + "DATA FILE: {secret}\n"),
        ("x.nrrd", NRRD + "data file: LIST\n../secret\n"),
        ("x.nrrd", NRRD.replace("\n", "\r\n") + "data file: ../secret\r\n"),
        ("x.nrrd", NRRD + "# " + "x" * HEADER_BYTES + "\ndata file: ../secret\n"),
    ],
)
def test_voxels_that_lie_elsewhere_are_refused(data: Path, name: str, header: str) -> None:
    (data / "link").symlink_to("../secret")
    (data / name).write_text(header.replace("{secret}", str(data.parent / "secret")), newline="")
    with pytest.raises(DataError) as caught:
        read_any(data / name, dtype=None)
    assert caught.value.reason == "data_elsewhere"
    assert "TOP" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.mha", "x.mhd", "x.nrrd"])
def test_voxels_in_the_file_or_beside_it_are_read(data: Path, name: str) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(data / name))
    assert np.array_equal(read_any(data / name, dtype=None).array, array.T)


def test_a_missing_file_is_named(data: Path) -> None:
    with pytest.raises(DataError, match=r"x\.mhd cannot be read: No such file"):
        read_any(data / "x.mhd")
