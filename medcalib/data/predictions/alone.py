"""A prediction without a reference label: on the grid of a volume that is at hand, or on its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcalib.data.geometry import Affine
from medcalib.data.labels import LabelMap
from medcalib.data.load import read_any
from medcalib.data.nifti import is_nifti, read_header
from medcalib.data.predictions.channels import MAX_VALUES, Activation, channels_of
from medcalib.data.predictions.grid import Grid
from medcalib.data.predictions.placed import placed
from medcalib.data.predictions.voxels import Voxels
from medcalib.errors import DataError


@dataclass(frozen=True)
class Alone:
    """Channels on a grid, what their values are, their names, and the classes."""

    voxels: Voxels
    affine: Affine
    activation: Activation
    channel_names: tuple[str, ...]
    label_map: LabelMap


def read_alone(
    prediction: Path,
    label_map: LabelMap | None,
    reference: Path | None,
    *,
    assume_logits: bool = False,
    assume_orientation: bool = False,
) -> Alone:
    """Read a prediction onto the grid of `reference` (a label or an image), or of its own NIfTI.

    Arrays (.npz, .npy) do not know their grid: without a reference they are refused (missing_reference).
    """
    channels = channels_of(prediction, label_map)
    activation = channels.declared(assume_logits=assume_logits)
    grid = _grid(prediction, reference)
    found = placed(prediction, channels, grid, activation, assume_orientation=assume_orientation)
    return Alone(found.voxels, grid.affine, activation, channels.names, channels.label_map)


def _grid(prediction: Path, reference: Path | None) -> Grid:
    if reference is not None:
        volume = read_any(reference, dtype=None)
        return Grid(volume.affine, volume.array.shape[:3])
    own = prediction if is_nifti(prediction) else next(iter(_class_files(prediction)), None)
    if own is None:
        raise DataError(
            "missing_reference",
            f"{prediction} is an array without a grid; pass --labels, a folder of labels or images of the same grid",
        )
    header = read_header(own, max_voxels=MAX_VALUES)
    return Grid(header.affine, header.shape[:3])


def _class_files(prediction: Path) -> list[Path]:
    """The NIfTI files, one a class, of a folder or of a common prefix."""
    if prediction.is_dir():
        return sorted(path for path in prediction.iterdir() if is_nifti(path))
    return sorted(path for path in prediction.parent.glob(f"{prediction.name}_*") if is_nifti(path))
