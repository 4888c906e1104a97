"""A prediction of any kind on the grid of its reference: read lazily, oriented by proof, every voxel checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcalib.data.geometry import WARNINGS, Affine
from medcalib.data.predictions.arrays import oriented, stored_array
from medcalib.data.predictions.channels import Activation, Channels
from medcalib.data.predictions.checks import judge, quantum, sum_tolerance
from medcalib.data.predictions.class_files import class_files, read_class_files
from medcalib.data.predictions.crop import outside_box
from medcalib.data.predictions.grid import Grid, Place
from medcalib.data.predictions.spool import by_slabs
from medcalib.data.predictions.survey import Predicted, survey
from medcalib.data.predictions.volumes import read_volume_channels, volume_header
from medcalib.data.predictions.voxels import Voxels


@dataclass(frozen=True)
class Placed:
    """Channels on the reference's grid, the voxels (i, j, k) outside the tool's crop, and warnings."""

    voxels: Voxels
    outside: NDArray[np.bool_] | None
    warnings: tuple[str, ...]

    def turned(self, place: Place, what: str, more: tuple[str, ...]) -> Placed:
        """The same on another grid, in an order on disk that slabs can be read from, with more warnings."""
        outside = None if self.outside is None else np.ascontiguousarray(place(self.outside))
        return Placed(by_slabs(self.voxels.turned(place), what), outside, (*more, *self.warnings))


def placed(
    prediction: Path, channels: Channels, grid: Grid, activation: Activation, *, assume_orientation: bool
) -> Placed:
    """Read, orient and check a prediction. Raises `DataError` naming file and reason."""
    if prediction.name.endswith((".npz", ".npy")):
        array = stored_array(prediction, channels, grid)
        provable = array.seen is not None and (channels.groups is None or bool(channels.painted))
        checked, predicted = _checked(prediction, array.read(), channels, activation, wants_map=provable)
        place, more = oriented(array, predicted, channels, grid, assume_orientation=assume_orientation)
        return checked.turned(place, str(prediction), more)
    voxels, affine, codes = _volumes(prediction, channels, grid)
    place = grid.place(affine, str(prediction))
    checked, _ = _checked(prediction, voxels, channels, activation, wants_map=False)
    return checked.turned(place, str(prediction), tuple(f"{code}: {WARNINGS[code]}" for code in codes))


def _volumes(prediction: Path, channels: Channels, grid: Grid) -> tuple[Voxels, Affine, tuple[str, ...]]:
    """Channels of NIfTI files, their affine, and codes of what was repaired in the headers."""
    files: tuple[Path, ...] = (prediction,)
    if not prediction.name.endswith((".nii", ".nii.gz")):
        files = class_files(prediction, channels.names)
    if len(files) > 1:
        return read_class_files(files, grid)
    header = volume_header(files[0], channels.names)
    grid.check(header, str(files[0]))
    return read_volume_channels(files[0], header), header.affine, header.warnings


def _checked(
    path: Path, voxels: Voxels, channels: Channels, activation: Activation, *, wants_map: bool
) -> tuple[Placed, Predicted | None]:
    """Channels in stored axes, looked at voxel by voxel."""
    scale = channels.scale
    voxels = replace(voxels, slope=voxels.slope / scale, intercept=voxels.intercept / scale)
    exact = voxels.dtype.kind == "f" and voxels.dtype.itemsize >= 4  # in half precision much of softmax is exactly 0
    found, predicted, filled = survey(
        voxels,
        tolerance=sum_tolerance(voxels),
        painted=None if channels.groups is None else channels.painted,
        wants_map=wants_map,
        wants_filled=exact and not channels.sidecar and activation != "logits",
    )
    warnings = judge(path, found, voxels, activation)
    outside = None if filled is None or not found.soft else outside_box(filled)
    if outside is not None:
        warnings = (*warnings, _filled_text(outside))
    if activation != "logits":
        stepped = activation == "softmax" and 0 < quantum(voxels) < 1
        voxels = replace(voxels, clip=found.low < 0 or found.high > 1, normalize=stepped)
    return Placed(voxels, outside, warnings), predicted


def _filled_text(outside: NDArray[np.bool_]) -> str:
    count = int(outside.sum())
    return (
        f"filled_background: {count:,} voxels ({100 * count / outside.size:.3g} %) lie outside the box that the tool "
        "predicted; it filled in certain background there"
    )
