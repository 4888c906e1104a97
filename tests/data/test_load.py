"""A case is loaded on one grid or refused: image channels, label and posterior, from every kind of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.testing import assert_allclose, assert_array_equal

from medcalib.data.case import Case
from medcalib.data.geometry import SHEARED, UNIT_AFFINE
from medcalib.data.labels import LabelMap
from medcalib.data.load import load_case, read_any, read_image
from medcalib.errors import DataError

LPS = np.array([[-2.0, 0, 0, 30], [0, -3.0, 0, 40], [0, 0, 5.0, -50], [0, 0, 0, 1]])
SHAPE = (4, 5, 6)
FLIP_Y = np.array([[1.0, 0, 0, 0], [0, -1, 0, SHAPE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]])
IMAGE = np.arange(120, dtype=np.float32).reshape(SHAPE)
LABEL = (IMAGE % 3).astype(np.uint8)
CLASSES = LabelMap.consecutive(["background", "a", "b"])
Write = Callable[..., Path]


def reason(case: Case, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load_case(case, CLASSES, **options)
    return caught.value.reason


@pytest.fixture
def image(volume: Write) -> Path:
    return volume("image.nii.gz", IMAGE, LPS)


def test_image_and_label_come_as_they_are_stored(image: Path, volume: Write) -> None:
    loaded = load_case(Case("c", "p", (image,), volume("label.nii.gz", LABEL, LPS)), CLASSES)
    assert_array_equal(loaded.image, IMAGE[None])
    assert_array_equal(loaded.label, LABEL)
    assert (loaded.image.dtype, loaded.label.dtype) == (np.float32, np.uint8)
    assert loaded.spacing_mm == pytest.approx((2, 3, 5))
    assert loaded.warnings == ()


@pytest.mark.fault(35)
def test_a_flipped_label_is_turned_where_affines_prove_it_and_refused_otherwise(image: Path, volume: Write) -> None:
    proven = volume("las.nii.gz", LABEL[:, ::-1], LPS @ FLIP_Y)
    assert_array_equal(load_case(Case("c", "p", (image,), proven), CLASSES).label, LABEL)
    contradicting = LPS * [[1], [-1], [1], [1]]
    assert reason(Case("c", "p", (image,), volume("bad.nii.gz", LABEL, contradicting))) == "affine_mismatch"


@pytest.mark.fault(33, 34)
def test_another_shape_or_place_is_refused_in_mm(image: Path, volume: Write) -> None:
    assert reason(Case("c", "p", (image,), volume("a.nii.gz", LABEL[1:], LPS))) == "shape_mismatch"
    moved = LPS.copy()
    moved[0, 3] += 0.5
    with pytest.raises(DataError, match=r"b\.nii\.gz: lies up to 0\.50 mm away"):
        load_case(Case("c", "p", (image,), volume("b.nii.gz", LABEL, moved)), CLASSES)


def test_channels_of_differing_orientation_meet_on_the_first_one(image: Path, volume: Write) -> None:
    second = volume("second.nii.gz", -IMAGE.transpose(2, 0, 1), LPS[:, [2, 0, 1, 3]])
    found, affine, _ = read_image(Case("c", "p", (image, second)))
    assert_array_equal(found, np.stack([IMAGE, -IMAGE]))
    assert_allclose(affine, LPS)


def test_a_4d_image_has_its_channels_last(volume: Write) -> None:
    four = volume("four.nii.gz", np.stack([IMAGE, 2 * IMAGE, IMAGE + 1], -1), LPS)
    found, _, _ = read_image(Case("c", "p", (four,)))
    assert_array_equal(found, np.stack([IMAGE, 2 * IMAGE, IMAGE + 1]))


@pytest.mark.fault(28)
def test_shapes_that_fit_no_case_are_refused(image: Path, volume: Write) -> None:
    four = volume("four.nii.gz", np.stack([IMAGE, IMAGE], -1), LPS)
    assert reason(Case("c", "p", (image, four))) == "bad_shape"
    assert reason(Case("c", "p", (image,), four)) == "bad_shape"
    assert reason(Case("c", "p", ())) == "missing_image"
    assert reason(Case("c", "p", (image.with_name("absent.nii.gz"),))) == "unreadable"


@pytest.mark.fault(30)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_refused_or_filled_as_asked(volume: Write, value: float) -> None:
    spoiled = IMAGE.copy()
    spoiled[1, 2, 3:5] = value
    case = Case("c7", "p", (volume("image.nii.gz", spoiled, LPS),))
    with pytest.raises(DataError, match=r"c7: 2 voxels .* `data\.nonfinite: zero`"):
        load_case(case, CLASSES)
    filled = load_case(case, CLASSES, nonfinite="zero").image[0]
    assert filled[1, 2, 3:5].tolist() == [0, 0]
    assert (filled == IMAGE).sum() == IMAGE.size - 2


def test_a_label_or_posterior_is_read_only_when_asked_for(image: Path) -> None:
    absent = image.with_name("absent.nii.gz")
    loaded = load_case(Case("c", "p", (image,), absent, None, absent), CLASSES, with_label=False)
    assert loaded.label is None
    assert loaded.posterior is None


def test_a_posterior_has_its_classes_first_on_the_grid_of_the_image(image: Path, volume: Write) -> None:
    known = np.stack([IMAGE / 120, 1 - IMAGE / 120, 0 * IMAGE], -1)
    path = volume("posterior.nii.gz", known[:, ::-1], LPS @ FLIP_Y)
    loaded = load_case(Case("c", "p", (image,), None, None, path), CLASSES, with_posterior=True)
    assert_array_equal(loaded.posterior, np.moveaxis(known, -1, 0))
    wrong = Case("c", "p", (image,), None, None, volume("two.nii.gz", known[..., :2], LPS))
    assert reason(wrong, with_posterior=True) == "bad_posterior"


def test_unit_voxels_on_both_sides_of_a_pair_are_repaired_and_warned_of_once(tmp_path: Path) -> None:
    for name, array in (("image", IMAGE), ("label", LABEL)):
        stored = nib.Nifti1Image(array, np.diag([-1.0, -1, 1, 1]))
        stored.header["pixdim"][1:4] = (1.5, 1.5, 10)
        nib.save(stored, tmp_path / f"{name}.nii.gz")
    loaded = load_case(Case("c", "p", (tmp_path / "image.nii.gz",), tmp_path / "label.nii.gz"), CLASSES)
    assert loaded.spacing_mm == pytest.approx((1.5, 1.5, 10))
    assert loaded.warnings == (UNIT_AFFINE,)


@pytest.mark.fault(31)
def test_a_sheared_case_is_loaded_with_a_warning(tmp_path: Path) -> None:
    affine = LPS.copy()
    affine[0, 1] = 0.4
    for name, array in (("image", IMAGE), ("label", LABEL)):
        stored = nib.Nifti1Image(array, None)
        stored.set_sform(affine, 1)
        stored.header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
        nib.save(stored, tmp_path / f"{name}.nii.gz")
    loaded = load_case(Case("c", "p", (tmp_path / "image.nii.gz",), tmp_path / "label.nii.gz"), CLASSES)
    assert loaded.warnings == (SHEARED,)
    assert_array_equal(loaded.label, LABEL)


@pytest.mark.parametrize("name", ["x.mha", "x.nrrd", "x.mhd"])
def test_other_formats_give_the_array_and_affine_of_the_nifti(tmp_path: Path, volume: Write, name: str) -> None:
    oblique = LPS.copy()
    oblique[:3, :3] = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]) @ LPS[:3, :3]
    source = volume("x.nii.gz", IMAGE.astype(np.int16), oblique)
    image = sitk.ReadImage(str(source))
    sitk.WriteImage(image, str(tmp_path / name))
    expected, found = read_any(source), read_any(tmp_path / name)
    assert_array_equal(found.array, expected.array)
    assert_allclose(found.affine, expected.affine, atol=1e-4)
    assert read_any(tmp_path / name, dtype=None).array.dtype == np.int16


@pytest.mark.fault(19)
def test_a_truncated_or_foreign_metaimage_is_refused_and_not_filled_with_zeros(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(IMAGE)
    sitk.WriteImage(image, str(tmp_path / "cut.mha"))
    (tmp_path / "cut.mha").write_bytes((tmp_path / "cut.mha").read_bytes()[:-40])
    assert reason(Case("c", "p", (tmp_path / "cut.mha",))) == "unreadable"
    sitk.WriteImage(image, str(tmp_path / "packed.mha"), True)  # ITK returns wrong voxels when a byte of it flips
    assert reason(Case("c", "p", (tmp_path / "packed.mha",))) == "unverifiable"
    (tmp_path / "text.mha").write_text("nothing of use")
    assert reason(Case("c", "p", (tmp_path / "text.mha",))) == "unreadable"


@pytest.mark.fault(28)
@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5, 6)])
def test_a_metaimage_of_other_than_three_axes_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros(shape, np.float32), isVector=False), str(tmp_path / "x.mha"))
    assert reason(Case("c", "p", (tmp_path / "x.mha",))) == "bad_shape"


def test_a_metaimage_of_vectors_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.float32), isVector=True), str(tmp_path / "x.mha"))
    assert reason(Case("c", "p", (tmp_path / "x.mha",))) == "bad_shape"


@pytest.mark.fault(26)
def test_a_metaimage_that_declares_too_much_is_refused_from_its_header(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(IMAGE), str(tmp_path / "x.mha"))
    raw = (tmp_path / "x.mha").read_bytes().replace(b"DimSize = 6 5 4", b"DimSize = 30000 30000 30000")
    (tmp_path / "x.mha").write_bytes(raw)
    assert reason(Case("c", "p", (tmp_path / "x.mha",))) == "too_large"


@pytest.mark.fault(35)
def test_a_real_ct_and_its_label_in_another_orientation_lie_on_one_grid(real: Path, volume: Write) -> None:
    """Stacked blindly (the shapes are equal) the liver spreads over 200 HU; on one grid it has its own 45."""
    folder, name = real / "abdomen_ct_auto", "FLARE22_Tr_9001"
    image, label = folder / f"images/{name}_0000.nii.gz", read_any(folder / f"labels/{name}.nii.gz", dtype=None)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = label.array.shape[0] - 1
    las = volume("las.nii.gz", label.array[::-1], label.affine @ flip)
    loaded = load_case(Case(name, name, (image,), las), LabelMap.consecutive([str(k) for k in range(14)]))
    assert loaded.image[0][label.array[::-1] == 1].std() > 150
    liver = loaded.image[0][loaded.label == 1]
    assert 40 < liver.mean() < 50
    assert liver.std() < 20


def test_real_acdc_pairs_lie_on_one_grid_of_true_spacing(real: Path) -> None:
    folder = real / "acdc/training/patient090"
    name = "patient090_frame04"
    loaded = load_case(
        Case(name, "patient090", (folder / f"{name}.nii.gz",), folder / f"{name}_gt.nii.gz"),
        LabelMap.consecutive(["background", "RV", "MYO", "LV"]),
    )
    assert loaded.warnings == (UNIT_AFFINE,)
    assert min(loaded.spacing_mm) > 1.0
    assert np.unique(loaded.label).tolist() == [0, 1, 2, 3]


@pytest.mark.fault(32)
def test_a_real_mask_without_sform_is_read_by_its_qform(real: Path) -> None:
    path = next((real / "defects/qsform").glob("*.nii.gz"))
    header = nib.load(path).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 1)
    assert_allclose(read_any(path).affine, header.get_qform(), atol=1e-4)
