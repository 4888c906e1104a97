"""Damage and disguise: whatever is cut off, flipped or swapped, a volume is refused or read exactly, never wrongly."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its documented name
from numpy.testing import assert_array_equal

from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.load import load_case, read_any
from medcalib.data.masks import read_mask
from medcalib.data.nifti import read_header, read_volume, write_volume
from medcalib.data.predictions.volumes import mapped_voxels
from medcalib.errors import DataError

PLACES = 200
SHAPE = (9, 8, 7)
AFFINE = np.array([[-2.0, 0, 0, 5], [0, 0, 3.0, -7], [0, 1.5, 0, 9], [0, 0, 0, 1]])
LABEL = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
CLASSES = LabelMap.consecutive(["background", "a", "b"])
Read = tuple[np.ndarray, np.ndarray]
Say = Callable[[str, object], None]


def as_volume(path: Path) -> Read:
    found = read_volume(path, dtype=None)
    return found.array, found.affine


def as_case(path: Path) -> Read:
    found = load_case(Case("c", "p", (path,), path), CLASSES)
    assert found.label is not None
    return found.label, found.affine


def as_mask(path: Path) -> Read:
    return read_mask(path, AFFINE, SHAPE).astype(np.uint8) * LABEL, AFFINE


def as_channels(path: Path) -> Read:
    """Predictions are mapped, not read at once."""
    header = read_header(path)
    return np.array(mapped_voxels(path, header)[1]), header.affine


READERS = [as_volume, as_case, as_mask, as_channels]


def outcomes(read: Callable[[Path], Read], path: Path, contents: list[bytes]) -> Counter[str]:
    """How often a reader refused and by which reason, or read exactly what `path` holds; never anything else."""
    array, affine = read(path)
    good = path.read_bytes()
    found: Counter[str] = Counter()
    for content in contents:
        path.write_bytes(content)
        try:
            other, its_affine = read(path)
        except DataError as error:
            found[error.reason if path.name in str(error) else "UNNAMED"] += 1
        else:
            exact = array.dtype == other.dtype and np.array_equal(array, other) and np.array_equal(affine, its_affine)
            found["exact" if exact else "WRONG"] += 1
    path.write_bytes(good)
    assert (found["WRONG"], found["UNNAMED"]) == (0, 0)
    return found


def told(found: Counter[str], what: str) -> str:
    """One sentence for the table of faults."""
    refused = sum(found.values()) - found["exact"]
    tried = refused + found["exact"]
    return f"{tried} {what}, by each reader: {refused} refused, {found['exact']} harmless, 0 read wrongly"


def flipped(good: bytes, bits: list[int]) -> list[bytes]:
    return [good[: b // 8] + bytes([good[b // 8] ^ (1 << b % 8)]) + good[b // 8 + 1 :] for b in bits]


@pytest.mark.fault(20)
@pytest.mark.parametrize("read", READERS)
def test_no_flipped_bit_of_a_compressed_volume_is_read_wrongly(
    tmp_path: Path, read: Callable[[Path], Read], record_property: Say
) -> None:
    """A flip in the time, system or flags of the gzip header changes no voxel; every other one must be noticed.

    This holds for .nii.gz alone: an uncompressed .nii carries no checksum, so that a bit that flips among its voxels
    is another valid volume, which nothing can tell.
    """
    write_volume(tmp_path / "a.nii.gz", LABEL, AFFINE)
    good = (tmp_path / "a.nii.gz").read_bytes()
    bits = np.random.default_rng(20).choice(len(good) * 8, PLACES, replace=False).tolist()
    found = outcomes(read, tmp_path / "a.nii.gz", flipped(good, bits))
    record_property("measured", told(found, "flipped bits of a .nii.gz"))
    assert found["exact"] <= sum(bit < 80 for bit in bits) + 7  # what fills up the last byte before the checksum


@pytest.mark.fault(20)
def test_every_bit_of_the_gzip_header_and_trailer_is_harmless_or_noticed(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", LABEL, AFFINE)
    good = (tmp_path / "a.nii.gz").read_bytes()
    head = outcomes(as_volume, tmp_path / "a.nii.gz", flipped(good, [*range(80)]))
    assert head["not_gzip"] == 16  # its first two bytes


@pytest.mark.fault(21)
@pytest.mark.parametrize("read", READERS)
def test_a_wrong_checksum_or_size_is_noticed(
    tmp_path: Path, read: Callable[[Path], Read], record_property: Say
) -> None:
    write_volume(tmp_path / "a.nii.gz", LABEL, AFFINE)
    good = (tmp_path / "a.nii.gz").read_bytes()
    bits = [*range((len(good) - 8) * 8, len(good) * 8)]
    found = outcomes(read, tmp_path / "a.nii.gz", flipped(good, bits))
    record_property("measured", told(found, "flipped bits of CRC and size"))
    assert found == {"damaged_gzip": 64}


@pytest.mark.fault(19)
@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_a_volume_cut_off_anywhere_is_refused(
    tmp_path: Path, name: str, read: Callable[[Path], Read], record_property: Say
) -> None:
    write_volume(tmp_path / name, LABEL, AFFINE)
    good = (tmp_path / name).read_bytes()
    borders = [0, 1, 3, 4, 10, 347, 348, 351, 352, 353, len(good) - 9, len(good) - 8, len(good) - 4, len(good) - 1]
    places = np.random.default_rng(19).choice(len(good), PLACES, replace=False).tolist()
    found = outcomes(read, tmp_path / name, [good[:at] for at in {*borders, *places} if at < len(good)])
    suffix = name.removeprefix("a")
    record_property("measured", told(found, f"cuts of a {suffix}"))
    assert found["exact"] == 0


def by_itk(path: Path) -> Read:
    volume = read_any(path, dtype=None)
    return volume.array, volume.affine


@pytest.mark.fault(19)
@pytest.mark.parametrize(("name", "packed"), [("a.mha", False), ("a.nrrd", False), ("a.nrrd", True)])
def test_the_formats_of_itk_are_refused_when_cut_off(
    tmp_path: Path, name: str, packed: bool, record_property: Say, capfd: pytest.CaptureFixture[str]
) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(LABEL.astype(np.int16)), str(tmp_path / name), packed)
    good = (tmp_path / name).read_bytes()
    places = np.random.default_rng(19).choice(len(good), PLACES // 2).tolist()
    found = outcomes(by_itk, tmp_path / name, [good[:at] for at in places])
    record_property("measured", told(found, f"cuts of a {'compressed ' * packed}{name[1:]}"))
    assert found["exact"] == 0
    capfd.readouterr()  # what ITK prints of damaged files


@pytest.mark.fault(20)
def test_a_flipped_bit_of_a_compressed_nrrd_is_noticed_where_itk_does_not(tmp_path: Path, record_property: Say) -> None:
    """Bits of the text before the voxels, and of voxels that are not compressed, have no checksum in any format."""
    sitk.WriteImage(sitk.GetImageFromArray(LABEL.astype(np.int16)), str(tmp_path / "a.nrrd"), True)
    good = (tmp_path / "a.nrrd").read_bytes()
    first = (good.index(b"\n\n") + 2) * 8
    bits = np.random.default_rng(20).integers(first, len(good) * 8, PLACES // 2).tolist()
    found = outcomes(by_itk, tmp_path / "a.nrrd", flipped(good, bits))
    record_property("measured", told(found, "flipped bits of the voxels of a compressed .nrrd"))
    assert found["exact"] <= sum(bit - first < 80 for bit in bits) + 7


def test_packed_formats_whose_damage_cannot_be_noticed_are_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(LABEL)
    for name in ("a.mha", "b.mhd"):
        sitk.WriteImage(image, str(tmp_path / name), True)
    spaced = (tmp_path / "a.mha").read_bytes().replace(b"CompressedData = True", b"CompressedData=true")
    (tmp_path / "c.mha").write_bytes(spaced)
    sitk.WriteImage(image, str(tmp_path / "d.nrrd"), True)
    raw = (tmp_path / "d.nrrd").read_bytes()
    (tmp_path / "d.nrrd").write_bytes(raw.replace(b"encoding: gzip", b"encoding: bzip2"))
    (tmp_path / "e.nrrd").write_bytes(raw.replace(b"encoding: gzip", b"encoding: gzip\ndata file: e.raw.gz"))
    (tmp_path / "e.raw.gz").write_bytes(gzip.compress(LABEL.tobytes()))
    refused = dict.fromkeys(("a.mha", "b.mhd", "c.mha", "d.nrrd"), "unverifiable") | {"e.nrrd": "data_elsewhere"}
    for name, reason in refused.items():
        with pytest.raises(DataError, match=name) as caught:
            read_any(tmp_path / name)
        assert caught.value.reason == reason, name


PAGE, POINTER = b"<!DOCTYPE html><html>404</html>" * 40, b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"


@pytest.mark.parametrize(
    ("name", "content", "reason", "words"),
    [
        pytest.param("x.nii.gz", b"", "empty_file", "is empty", marks=pytest.mark.fault(22)),
        pytest.param("x.nii", b"", "empty_file", "is empty", marks=pytest.mark.fault(22)),
        pytest.param("x.nii.gz", PAGE, "not_gzip", "is an HTML or XML page", marks=pytest.mark.fault(23)),
        pytest.param("x.nii", PAGE, "not_nifti", "an HTML or XML page", marks=pytest.mark.fault(23)),
        pytest.param("x.nii.gz", POINTER, "not_gzip", "git lfs pull", marks=pytest.mark.fault(23)),
        pytest.param("x.nii", POINTER, "not_nifti", "git lfs pull", marks=pytest.mark.fault(23)),
        pytest.param("x.nii.gz", b"some text", "not_gzip", "no gzip file although", marks=pytest.mark.fault(23)),
        pytest.param("x.nii", b"some text", "not_nifti", "other data", marks=pytest.mark.fault(23)),
        pytest.param(
            "x.nii.gz", gzip.compress(b"\7garbage" * 90, mtime=0), "not_nifti", "no NIfTI header: other data",
            marks=pytest.mark.fault(24),
        ),
        pytest.param(
            "x.nii.gz", gzip.compress(b"", mtime=0),
            "not_nifti", "no NIfTI header: no data",
            marks=pytest.mark.fault(24),
        ),
        pytest.param(
            "x.nii.gz", gzip.compress(PAGE, mtime=0),
            "not_nifti", "no NIfTI header: an HTML",
            marks=pytest.mark.fault(24),
        ),
        pytest.param(
            "x.nii.gz", b"\x1f\x8b\x08\0" + bytes(range(200)), "truncated", "damaged in its header",
            marks=pytest.mark.fault(24),
        ),
    ],
)  # fmt: skip
def test_a_disguised_file_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, reason: str, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_volume(path)
    assert caught.value.reason == reason
    assert str(path) in str(caught.value)


@pytest.mark.fault(25)
def test_a_name_that_hides_or_claims_compression_is_told(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", LABEL, AFFINE)
    (tmp_path / "a.nii").rename(tmp_path / "b.nii.gz")
    with pytest.raises(DataError, match=r"b\.nii\.gz is an uncompressed NIfTI file named \.gz; rename it to \.nii"):
        read_volume(tmp_path / "b.nii.gz")
    write_volume(tmp_path / "c.nii.gz", LABEL, AFFINE)
    (tmp_path / "c.nii.gz").rename(tmp_path / "c.nii")
    with pytest.raises(DataError, match=r"c\.nii is gzip data without \.gz in its name"):
        read_volume(tmp_path / "c.nii")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="no regular file"):
        read_volume(tmp_path / "a.nii.gz")


def test_padding_behind_the_voxels_is_tolerated(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", LABEL, AFFINE)
    raw = (tmp_path / "a.nii").read_bytes() + bytes(512)
    (tmp_path / "a.nii").write_bytes(raw)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw))
    for name in ("a.nii", "a.nii.gz"):
        assert_array_equal(read_volume(tmp_path / name, dtype=None).array, LABEL)
