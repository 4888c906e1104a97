"""Affines: voxel sizes, the faults that real headers have, and whether two grids are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medcalib.errors import DataError

Affine = NDArray[np.float64]
UNIT_AFFINE = "unit_affine_repaired"
SHEARED = "sheared_affine"
NO_CODES = "no_orientation_codes"
QFORM_DIFFERS = "qform_differs"
NO_PIXDIM = "no_pixdim"
UNUSABLE = (
    "{} has a singular or non-finite affine (an axis of length 0, two that are parallel, or NaN): {}; convert the "
    "volume again, or correct its header"
)
WARNINGS = {
    UNIT_AFFINE: "the affine has unit voxels while pixdim holds the true spacing (all of ACDC is stored so); "
    "the spacing is taken from pixdim",
    SHEARED: "the affine is sheared; scored on its own grid, resampling is refused",
    NO_CODES: "qform_code and sform_code are both 0; orientation is assumed from pixdim alone",
    QFORM_DIFFERS: "qform and sform place the volume differently; the sform is used",
    NO_PIXDIM: "pixdim holds no voxel sizes; they are taken from the affine",
}


def voxel_sizes(affine: Affine) -> tuple[float, float, float]:
    """Lengths of the affine's columns: the voxel's edges in mm."""
    x, y, z = (float(n) for n in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def is_sheared(affine: Affine) -> bool:
    """Whether the axes are not perpendicular (beyond 1e-3 in the cosine)."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3)


def is_singular(affine: Affine) -> bool:
    """Whether the affine is not finite, or takes three axes to (nearly) one plane, whatever their scale.

    The determinant alone does not tell: axes of 1e34 and 1 mm that are all but parallel can have 1.
    """
    if not np.isfinite(affine).all():
        return True
    with np.errstate(over="ignore"):
        volume, edges = abs(np.linalg.det(affine[:3, :3])), np.prod(voxel_sizes(affine))
    return bool(volume < 1e-12 or volume <= 1e-6 * edges)


def usable_affine(header: Any, shape: tuple[int, ...], path: Path) -> tuple[Affine, tuple[str, ...]]:
    """The affine to trust and the codes of what was wrong: sform first, then qform, then pixdim.

    The unit-voxel fault is repaired from pixdim; any other disagreement between affine and pixdim, a
    singular affine or one that is not finite is refused.
    """
    zooms = np.asarray(header["pixdim"][1:4], np.float64)
    affine = np.asarray(header.get_best_affine(), np.float64)
    found = []
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        found.append(NO_CODES)
    if is_singular(affine):
        raise DataError("bad_affine", UNUSABLE.format(path, np.round(affine[:3], 4).tolist()))
    if (zooms > 0).all() and np.isfinite(zooms).all():
        affine, repaired = _reconciled(affine, zooms, path)
        found += repaired
    else:
        found.append(NO_PIXDIM)
    if is_sheared(affine):
        found.append(SHEARED)
    if not found and _qform_differs(header, affine, shape):
        found.append(QFORM_DIFFERS)
    return affine, tuple(found)


def _qform_differs(header: Any, affine: Affine, shape: tuple[int, ...]) -> bool:
    """Whether both forms are set and lie more than a tenth of the smallest voxel edge apart."""
    if int(header["sform_code"]) == 0 or int(header["qform_code"]) == 0:
        return False
    try:
        other = np.asarray(header.get_qform(), np.float64)
    except (ValueError, nib.spatialimages.HeaderDataError):  # its quaternion is none
        return True
    distance = corner_distance_mm(other, affine, shape)
    return not distance <= 0.1 * min(voxel_sizes(affine))


def _reconciled(affine: Affine, zooms: NDArray[np.float64], path: Path) -> tuple[Affine, list[str]]:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(sizes, zooms, rtol=1e-2, atol=1e-4):
        return affine, []
    axis_aligned = (np.count_nonzero(np.abs(affine[:3, :3]) > 1e-6, axis=0) == 1).all()
    if axis_aligned and np.allclose(sizes, 1.0):
        repaired = affine.copy()
        repaired[:3, :3] = affine[:3, :3] * zooms
        return repaired, [UNIT_AFFINE]
    raise DataError(
        "spacing_disagrees",
        f"{path}: the affine says voxels of {np.round(sizes, 4).tolist()} mm, pixdim says "
        f"{np.round(zooms, 4).tolist()} mm; correct the header, or convert the volume again",
    )


def orientation(affine: Affine) -> str:
    """Axis codes such as 'RAS' or 'LPS' (the closest ones for an oblique grid)."""
    return "".join(nib.aff2axcodes(affine))


def _described(affine: Affine) -> str:
    """Axes and voxel sizes, for messages."""
    return f"{orientation(affine)}, voxels of {' x '.join(f'{size:.4g}' for size in voxel_sizes(affine))} mm"


def corner_distance_mm(a: Affine, b: Affine, shape: tuple[int, ...]) -> float:
    """Largest distance in mm between the positions that two affines give to the corners of one grid."""
    corners = np.array([[i, j, k, 1] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)])
    return float(np.linalg.norm((corners @ (a - b).T)[:, :3], axis=1).max())


def reoriented(array: NDArray[Any], affine: Affine, target: Affine) -> tuple[NDArray[Any], Affine]:
    """Flip and permute the first three axes of `array` so that they run along the axes of `target`."""
    change = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.io_orientation(target))
    moved = nib.orientations.apply_orientation(array, change)
    return moved, affine @ nib.orientations.inv_ornt_aff(change, array.shape[:3])


def on_same_grid(
    array: NDArray[Any], affine: Affine, target: Affine, shape: tuple[int, ...], what: str, of: str = "the image"
) -> NDArray[Any]:
    """`array` flipped or permuted onto the grid (`target`, `shape`) `of` a volume; `DataError` if it lies elsewhere.

    Equal shapes prove nothing: an LAS label beside an LPS image has the same shape. Grids are the same when,
    after reorientation, shapes agree and corners lie within a tenth of the smallest voxel edge.
    """
    moved, moved_affine = reoriented(array, affine, target)
    if moved.shape[:3] != tuple(shape[:3]):
        raise DataError(
            "shape_mismatch",
            f"{what}: shape {array.shape[:3]} does not fit that of {of}, {tuple(shape[:3])}; is it of another case, or "
            "resampled or cropped?",
        )
    distance = corner_distance_mm(moved_affine, target, moved.shape)
    if distance > 0.1 * min(voxel_sizes(target)):
        raise DataError(
            "affine_mismatch",
            f"{what}: lies up to {distance:.2f} mm away from the grid of {of} ({_described(affine)} against "
            f"{_described(target)}); resample it onto that grid, or correct its header",
        )
    return moved
