"""`.npz` and `.npy`: arrays without a geometry, which they borrow from the label map beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcalib.data.load import read_any
from medcalib.data.nifti import is_nifti, read_header
from medcalib.data.predictions.channels import Channels, prediction_stem
from medcalib.data.predictions.grid import Grid, Place
from medcalib.data.predictions.npy import ArrayHeader, npy_header, read_npy
from medcalib.data.predictions.npz import Member, npz_member, read_npz
from medcalib.data.predictions.orientation import IJK, KJI, Evidence, Turn, settled
from medcalib.data.predictions.survey import Predicted
from medcalib.data.predictions.voxels import Voxels
from medcalib.errors import DataError

SEGMENTATIONS = "segmentations"
MAP_SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")


@dataclass(frozen=True)
class StoredArray:
    """An array whose header fits the reference, not yet unpacked, and the label map beside it (class indices)."""

    path: Path
    header: ArrayHeader
    member: Member | None
    seen: NDArray[np.uint8] | None
    grid: Grid

    def read(self) -> Voxels:
        """Its channels in stored axes."""
        return read_npy(self.path, self.header) if self.member is None else read_npz(self.path, self.member)


def stored_array(path: Path, channels: Channels, reference: Grid) -> StoredArray:
    """Header and label map of an array, checked against the reference's grid before a value is read.

    Raises `DataError`: channel_count, cropped_npz, model_space_npz, shape_mismatch, and what reading raises.
    """
    member = npz_member(path) if path.name.endswith(".npz") else None
    header = npy_header(path) if member is None else member.header
    seen_at = None if channels.axes else label_map_beside(path)
    if seen_at is None:
        _check_shape(path, header, member, channels, reference)
        return StoredArray(path, header, member, None, reference)
    shape = read_header(seen_at).shape if is_nifti(seen_at) else None
    if shape is not None and len(shape) != 3:
        raise DataError("bad_shape", f"{seen_at} has shape {shape}; a label map is 3-D")
    volume = read_any(seen_at, dtype=None)
    grid = Grid(volume.affine, volume.array.shape)
    _check_shape(path, header, member, channels, grid)
    reference.place(volume.affine, str(seen_at))(volume.array)
    return StoredArray(path, header, member, channels.label_map.encode(volume.array, str(seen_at)), grid)


def label_map_beside(prediction: Path) -> Path | None:
    """The label map that a tool wrote with an array, `<case>.nii.gz` beside it or in `segmentations`."""
    name = prediction_stem(prediction)
    folders = (prediction.parent, prediction.parent / SEGMENTATIONS)
    paths = (folder / f"{name}{suffix}" for folder in folders for suffix in MAP_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def oriented(
    array: StoredArray, predicted: Predicted | None, channels: Channels, reference: Grid, *, assume_orientation: bool
) -> tuple[Place, tuple[str, ...]]:
    """What brings the stored axes onto the reference's grid, and warnings. Raises `DataError` without a proof."""
    documented = [KJI] if array.member is not None else [IJK, KJI]
    warnings: tuple[str, ...] = ()
    if channels.axes is not None:
        turn = {"ijk": IJK, "kji": KJI}[channels.axes]
    else:
        evidence = Evidence(
            str(array.path), predicted, array.seen, array.grid.affine, channels.reader, documented, assume_orientation
        )
        turn, warnings = settled(evidence)
    _check_turn(array, turn)
    onto = reference.place(array.grid.affine, str(array.path))
    return lambda volume: onto(turn(volume)), warnings


def _check_turn(array: StoredArray, turn: Turn) -> None:
    turned = tuple(array.header.shape[1 + axis] for axis in turn.axes)
    if turned != tuple(array.grid.shape):
        raise DataError(
            "shape_mismatch",
            f"{array.path}: with axes {turn} its shape is {turned}, that of the reference {tuple(array.grid.shape)}",
        )


def _check_shape(path: Path, header: ArrayHeader, member: Member | None, channels: Channels, grid: Grid) -> None:
    count, shape = header.shape[0], header.shape[1:]
    if count != len(channels.names):
        hint = "; the class axis is last, move it first" if header.shape[3] == len(channels.names) else ""
        raise DataError(
            "channel_count",
            f"{path} has shape {header.shape}; expected the {len(channels.names)} channels "
            f"({', '.join(channels.names)}) first{hint}",
        )
    if sorted(shape) == sorted(grid.shape):
        return
    seen = f"{path} has shape {shape}, the volume {tuple(grid.shape)}"
    if member is None:
        raise DataError("shape_mismatch", f"{seen}; an array must lie on the grid of its reference")
    if member.key == "softmax":
        raise DataError(
            "cropped_npz",
            f"{seen}: nnU-Net 1 saves `softmax` cropped, and where the crop lay only in a pickle, which is never "
            "loaded; export whole probability volumes (nnU-Net 2 does), as 4-D NIfTI for example",
        )
    raise DataError(
        "model_space_npz",
        f"{seen}: the probabilities lie on another grid, that of the resampled image which the model saw "
        "(TotalSegmentator saves them so); score them against a reference on that grid, or resample them onto the "
        "image first",
    )
