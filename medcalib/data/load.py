"""One case from disk: image channels, label and posterior on one grid, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medcalib.data.case import Case
from medcalib.data.geometry import Affine, on_same_grid, voxel_sizes
from medcalib.data.itk import FORMATS, read_by_itk
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import Volume, read_volume
from medcalib.errors import DataError

Nonfinite = Literal["refuse", "zero"]


@dataclass(frozen=True)
class LoadedCase:
    """Arrays of a case on the grid of its first image: image (M, i, j, k) float32, label (i, j, k) uint8 classes.

    `posterior` is (C, i, j, k) float32. `warnings` holds codes of header faults that were repaired.
    """

    case: Case
    image: NDArray[np.float32]
    affine: Affine
    label: NDArray[np.uint8] | None = None
    posterior: NDArray[np.float32] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel along the array axes, in mm."""
        return voxel_sizes(self.affine)


def load_case(
    case: Case,
    label_map: LabelMap,
    *,
    nonfinite: Nonfinite = "refuse",
    with_label: bool = True,
    with_posterior: bool = False,
) -> LoadedCase:
    """Read a case and check it: image (M, i, j, k) float32, label and posterior on its grid.

    `label_map` says what the codes of the label mean; `with_label` and `with_posterior` whether these are read, where
    the case has them. Raises `DataError` naming the file and the reason.
    """
    image, affine, warnings = read_image(case, nonfinite)
    shape = image.shape[1:]
    label = None
    if with_label and case.label is not None:
        volume = read_any(case.label, dtype=None)
        label = read_label(volume, case.label, label_map, affine, shape)
        warnings |= set(volume.warnings)
    known = None
    if with_posterior and case.posterior is not None:
        known = read_posterior(case.posterior, label_map.num_classes, affine, shape)
    return LoadedCase(case, image, affine, label, known, tuple(sorted(warnings)))


def read_image(case: Case, nonfinite: Nonfinite = "refuse") -> tuple[NDArray[np.float32], Affine, set[str]]:
    """The channels of a case as (M, i, j, k) float32 on the grid of the first, its affine, repaired faults."""
    channels: list[NDArray[np.float32]] = []
    affine: Affine | None = None
    warnings: set[str] = set()
    for path in case.images:
        volume = read_any(path)
        warnings |= set(volume.warnings)
        affine = volume.affine if affine is None else affine
        several = len(case.images) > 1
        if several and volume.array.ndim != 3:
            raise DataError(
                "bad_shape",
                f"{path} has shape {volume.array.shape}; of several files a case, each is one channel and 3-D",
            )
        shape = channels[0].shape[:3] if channels else volume.array.shape[:3]
        channels.append(on_same_grid(volume.array, volume.affine, affine, shape, str(path)))
    if affine is None:
        raise DataError("missing_image", f"case {case.id} has no image")
    image = np.moveaxis(channels[0], -1, 0) if channels[0].ndim == 4 else np.stack(channels)
    return _finite(np.ascontiguousarray(image), case, nonfinite), affine, warnings


def read_label(
    volume: Volume, path: Path, label_map: LabelMap, affine: Affine, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Class indices of a label volume on the grid (`affine`, `shape`)."""
    if volume.array.ndim != 3:
        raise DataError(
            "bad_shape",
            f"{path} has shape {volume.array.shape}; a label is 3-D, the code of one class in each voxel (no one-hot)",
        )
    classes = label_map.encode(volume.array, str(path))
    return np.ascontiguousarray(on_same_grid(classes, volume.affine, affine, shape, str(path)))


def read_posterior(path: Path, num_classes: int, affine: Affine, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A phantom's posterior (C, i, j, k) on the grid (`affine`, `shape`)."""
    volume = read_any(path)
    if volume.array.ndim != 4 or volume.array.shape[3] != num_classes:
        raise DataError(
            "bad_posterior", f"{path} has shape {volume.array.shape}; expected 4-D with {num_classes} classes last"
        )
    moved = on_same_grid(volume.array, volume.affine, affine, shape, str(path))
    return np.ascontiguousarray(np.moveaxis(moved, -1, 0))


def read_any(path: Path, *, dtype: Any = np.float32) -> Volume:
    """A volume by the kind of its file: NIfTI by the checking reader, MetaImage and NRRD by SimpleITK."""
    reader: Callable[..., Volume] = read_by_itk if path.suffix.lower() in FORMATS else read_volume
    try:
        return reader(path, dtype=dtype)
    except MemoryError as error:
        raise DataError("too_large", f"{path} does not fit into memory; crop it, or use a machine with more") from error


def _finite(image: NDArray[np.float32], case: Case, nonfinite: Nonfinite) -> NDArray[np.float32]:
    bad = ~np.isfinite(image)
    if not bad.any():
        return image
    if nonfinite == "refuse":
        raise DataError(
            "image_not_finite",
            f"{case.id}: {int(bad.sum()):,} voxels of the image are NaN or infinite; repair them, or set "
            "`data.nonfinite: zero`",
        )
    image[bad] = 0.0
    return image
