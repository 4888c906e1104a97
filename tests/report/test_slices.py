"""Pictures land where the page says they do."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest

from medcalib.data.nifti import write_volume
from medcalib.errors import DataError

pytest.importorskip("matplotlib")
from PIL import Image

from medcalib.report import pictures, slices

RAS = np.diag([1.0, 1.0, 5.0, 1.0])


def pixels(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def write(folder: Path, affine: np.ndarray, label: np.ndarray, **maps: np.ndarray) -> None:
    volumes = {
        "confidence": np.full(label.shape, 0.9, np.float32),
        "error": np.zeros(label.shape, np.uint8),
        "gap": np.zeros(label.shape, np.float32),
        "label": label,
        "prediction": np.where(label == 255, 0, label),
        **maps,
    }
    for name, volume in volumes.items():
        write_volume(folder / f"a_{name}.nii.gz", volume, affine)


def block(shape: tuple[int, int, int]) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[1:-1, 1:-1, 1:-1] = 1
    return label


def stored_as(volume: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """A RAS volume with 1 x 1 x 5 mm voxels, stored along other axes; its affine."""
    import nibabel as nib

    ornt = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    moved = nib.orientations.apply_orientation(volume, ornt)
    return moved, RAS @ nib.orientations.inv_ornt_aff(ornt, volume.shape)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "SAR", "PIR"])
def test_patient_left_is_right_and_anterior_is_up(tmp_path: Path, codes: str) -> None:
    image = np.zeros((12, 9, 5), np.float32)
    image[0, -1, :] = 1000  # in RAS axes: the patient's left, anterior corner
    label, affine = stored_as(block(image.shape), codes)
    write(tmp_path, affine, label)
    moved, _ = stored_as(image, codes)
    write_volume(tmp_path / "image.nii.gz", moved, affine)
    shown = slices.case_slices(tmp_path, "a", underlay=tmp_path / "image.nii.gz")
    assert (shown.view, shown.letters) == ("axial", "ALPR")
    picture = pixels(shown.slices[0].pictures["image"])
    assert picture.shape == (9, 12, 3)
    bright = np.argwhere(picture[..., 0] > 128)
    assert bright.tolist() == [[0, 11]]  # top right


def test_coronal_and_sagittal_views_have_superior_up() -> None:
    assert slices.through_plane((1, 5, 1)) == 1
    assert slices.through_plane((5, 1, 1)) == 0
    assert slices.through_plane((1, 1, 1)) == 2
    plane = np.zeros((4, 3))
    plane[0, -1] = 1  # the least R (or A) and the most S
    assert np.argwhere(slices.display(plane)).tolist() == [[0, 3]]
    assert slices.LETTERS[1] == "SLIR"  # the patient's left on the right
    assert slices.LETTERS[0] == "SPIA"  # anterior on the left


def test_proportions_follow_the_voxel_size(tmp_path: Path) -> None:
    write(tmp_path, np.diag([2.0, 0.5, 6.0, 1.0]), block((10, 12, 5)))
    shown = slices.case_slices(tmp_path, "a")
    assert (shown.width_mm, shown.height_mm) == (20.0, 6.0)
    assert shown.half_pixel_mm == (1.0, 0.25)


@pytest.mark.parametrize(("codes", "expected"), [("RAS", [2, 3, 4]), ("LPI", [4, 3, 2])])
def test_index_is_that_of_the_file(tmp_path: Path, codes: str, expected: list[int]) -> None:
    ras = np.zeros((6, 6, 7), np.uint8)
    ras[2:4, 2:4, 2:5] = 1
    label, affine = stored_as(ras, codes)
    write(tmp_path, affine, label)
    assert [s.index for s in slices.case_slices(tmp_path, "a").slices] == expected


def test_at_most_five_slices_from_the_first_to_the_last() -> None:
    found = np.zeros((4, 4, 40), bool)
    found[1, 1, 3:30] = True
    picked = slices.pick_slices(found, 2)
    assert len(picked) == 5
    assert (picked[0], picked[-1]) == (3, 29)
    assert slices.pick_slices(np.zeros((4, 4, 9), bool), 2) == [4]


def test_gap_is_white_where_unknown_and_colored_by_sign(tmp_path: Path) -> None:
    gap = np.zeros((8, 8, 5), np.float32)
    gap[0, 0], gap[7, 0], gap[3, 3] = 0.5, -0.9, np.nan
    write(tmp_path, RAS, block(gap.shape), gap=gap)
    picture = pixels(slices.case_slices(tmp_path, "a").slices[0].pictures["gap"])
    over, under, unknown, none = picture[7, 7], picture[7, 0], picture[4, 4], picture[0, 0]
    assert over[0] > over[2] + 40  # red
    assert under[2] > under[0] + 40  # blue
    assert (unknown == none).all()
    assert none.min() > 240


def test_errors_and_ignored_voxels_have_their_colors(tmp_path: Path) -> None:
    label, error = block((8, 8, 5)), np.zeros((8, 8, 5), np.uint8)
    error[0, 7], label[7, 7] = 1, 255
    write(tmp_path, RAS, label, error=error)
    picture = pixels(slices.case_slices(tmp_path, "a").slices[0].pictures["error"])
    assert tuple(picture[0, 7]) == pictures.ERROR_COLOR
    assert tuple(picture[0, 0]) == pictures.IGNORED_COLOR
    assert len({tuple(c) for c in picture.reshape(-1, 3)}) == 3


def test_regions_have_the_colors_of_their_legend(tmp_path: Path) -> None:
    label, region = block((8, 8, 5)), np.zeros((8, 8, 5), np.uint8)
    region[0, 0], region[1, 0], region[0, 1] = 1, 2, 255
    write(tmp_path, RAS, label, region=region)
    picture = pixels(slices.case_slices(tmp_path, "a").slices[0].pictures["region"])
    shown = [f"#{bytes(picture[at].tolist()).hex()}" for at in ((0, 0), (7, 7), (7, 6))]
    names = [name for name, _ in pictures.region_colors()]
    assert shown == [color for _, color in pictures.region_colors()]
    assert names == ["background interior", "boundary", "foreground interior"]
    assert tuple(picture[6, 7]) == pictures.IGNORED_COLOR


def test_missed_voxels_are_counted_in_each_slice(tmp_path: Path) -> None:
    label = block((8, 8, 5))
    prediction = label.copy()
    at = tuple(np.argwhere(label[:, :, 2] > 0)[0])
    prediction[(*at, 2)] = 0
    label[0, 0, :] = 255
    write(tmp_path, RAS, label, prediction=prediction)
    found = slices.case_slices(tmp_path, "a").slices
    assert {one.index: one.missed for one in found} == {one.index: int(one.index == 2) for one in found}
    assert any(one.missed for one in found)


def test_contours_run_between_voxels() -> None:
    picture = np.zeros((4, 5), np.uint8)
    picture[1, 2] = 3
    picture[3, 4] = pictures.IGNORED
    path = pictures.contour_path(picture)
    assert path.startswith("M")
    assert path.count("M") == 1
    start, moves = path[1:-1].split("l")
    at = np.array(start.split(), int)
    steps = np.array(moves.split(), int).reshape(-1, 2)
    corners = np.vstack([at, at + steps.cumsum(0)])
    # half pixels: the voxel in row 1, column 2 has its center at (5, 3)
    assert sorted(map(tuple, corners.tolist())) == [(4, 3), (5, 2), (5, 4), (6, 3)]
    assert pictures.contour_path(np.zeros((3, 3), np.uint8)) == ""


def test_large_planes_are_thinned_but_no_error_vanishes(tmp_path: Path) -> None:
    label, error = np.zeros((800, 4, 3), np.uint8), np.zeros((800, 4, 3), np.uint8)
    label[5:795, 1:3] = 1
    error[401, 2] = 1
    write(tmp_path, RAS, label, error=error)
    shown = slices.case_slices(tmp_path, "a")
    picture = pixels(shown.slices[0].pictures["error"])
    assert max(picture.shape) <= slices.MAX_PIXELS
    assert (picture == pictures.ERROR_COLOR).all(-1).any()


def test_no_foreground_and_no_finite_underlay(tmp_path: Path) -> None:
    write(tmp_path, RAS, np.zeros((6, 7, 5), np.uint8))
    write_volume(tmp_path / "image.nii.gz", np.full((6, 7, 5), np.nan, np.float32), RAS)
    shown = slices.case_slices(tmp_path, "a", underlay=tmp_path / "image.nii.gz")
    assert len(shown.slices) == 1
    assert shown.slices[0].reference == shown.slices[0].predicted == ""


def test_first_channel_of_a_4d_underlay_on_another_orientation(tmp_path: Path) -> None:
    write(tmp_path, RAS, block((8, 8, 5)))
    image = np.zeros((8, 8, 5, 2), np.float32)
    image[7, 7, :, 0], image[..., 1] = 1000, 500
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    affine[:2, 3] = 7
    write_volume(tmp_path / "image.nii.gz", image, affine)
    picture = pixels(slices.case_slices(tmp_path, "a", underlay=tmp_path / "image.nii.gz").slices[0].pictures["image"])
    assert np.argwhere(picture[..., 0] > 128).tolist() == [[7, 7]]  # stored in the left posterior corner


def test_foreign_grid_is_refused_and_missing_maps_are_named(tmp_path: Path) -> None:
    write(tmp_path, RAS, block((8, 8, 5)))
    write_volume(tmp_path / "image.nii.gz", np.zeros((8, 8, 4), np.float32), RAS)
    with pytest.raises(DataError, match="does not fit"):
        slices.case_slices(tmp_path, "a", underlay=tmp_path / "image.nii.gz")
    (tmp_path / "a_gap.nii.gz").unlink()
    assert slices.missing_maps(tmp_path, "a") == ["a_gap.nii.gz"]
    assert len(slices.missing_maps(tmp_path, "../a")) == len(slices.MAPS)
