"""Maps of a cohort whose cases lie on one grid: where a method is overconfident on the average."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.data.geometry import Affine, corner_distance_mm, voxel_sizes
from medcalib.data.load import read_any
from medcalib.data.nifti import About, is_nifti, read_header, write_volume
from medcalib.data.predictions import Pair
from medcalib.errors import DataError
from medcalib.report.maps.files import cohort_file
from medcalib.report.maps.kinds import GAP_RANGE, MARK

NEEDS = ("error", "gap")
TEXT = {
    "cohort_gap": "mean over patients of the map gap, of the mean over a patient's cases: above 0 is overconfident",
    "cohort_error": "mean over patients of the map error: the share of patients that are wrong there",
    "cohort_count": "patients whose label is not ignored there; where 0, the other two are 0",
}
Array = NDArray[Any]
Grid = tuple[Affine, tuple[int, ...]]


class Cohort:
    """Means over patients, who weigh alike however many cases each has. Cases of a patient are added in a row.

    It keeps 20 bytes a voxel.
    """

    def __init__(self) -> None:
        self.cases: list[str] = []
        self._patient: str | None = None
        self._affine: Affine | None = None
        self._own: list[Array] = []
        self._total: list[Array] = []
        self._patients: Array = np.zeros(0, np.uint16)
        self.patients = 0

    def add(self, pair: Pair, affine: Affine, maps: dict[str, Array], valid: NDArray[np.bool_]) -> None:
        """Add the maps error and gap (i, j, k) of a case, 0 where it is not `valid`."""
        if not self.cases:
            self._affine, self._patients = affine, np.zeros(valid.shape, np.uint16)
            self._total = [np.zeros(valid.shape, np.float32) for _ in NEEDS]
        if pair.case.patient_id != self._patient:
            self._close_patient()
            self._patient = pair.case.patient_id
            self._own = [*(np.zeros(valid.shape, np.float32) for _ in NEEDS), np.zeros(valid.shape, np.uint16)]
        for own, name in zip(self._own[:-1], NEEDS, strict=True):
            own += maps[name]
        self._own[-1] += valid
        self.cases.append(pair.case.id)

    def write(self, out: Path, mapped: Sequence[str]) -> dict[str, Any]:
        """Write the maps; returns what the index says of them. `mapped`: all cases, added or not.

        No file is written when no case was added.
        """
        self._close_patient()
        left_out = sorted({*mapped} - {*self.cases})
        found: dict[str, Any] = {"patients": self.patients, "cases": sorted(self.cases), "left_out": left_out}
        return {**found, "files": self._files(out), "maps": TEXT}

    def _files(self, out: Path) -> dict[str, str]:
        if self._affine is None:
            return {}
        counted = np.maximum(self._patients, 1)
        error, gap = self._total
        error /= counted
        gap /= counted
        found = {
            "cohort_gap": (gap, About(f"{MARK}cohort_gap: mean over patients", -GAP_RANGE, GAP_RANGE)),
            "cohort_error": (error, About(f"{MARK}cohort_error: share of patients that are wrong", 0, 1)),
            "cohort_count": (self._patients, About(f"{MARK}cohort_count: patients", 0, self.patients)),
        }
        for name, (volume, about) in found.items():
            write_volume(out / cohort_file(name), volume, self._affine, about)
        return {name: cohort_file(name) for name in found}

    def _close_patient(self) -> None:
        if not self._own:
            return
        *sums, count = self._own
        for total, own in zip(self._total, sums, strict=True):
            own /= np.maximum(count, 1)
            total += own
        self._patients += count > 0
        self.patients += 1
        self._own = []


def check_one_grid(pairs: Sequence[Pair]) -> None:
    """Raises `DataError` (cohort_grid) naming the first case whose label lies on another grid than the first one's.

    Grids are the same when shapes agree and corners lie within a tenth of the smallest voxel edge.
    """
    first: tuple[str, Grid] | None = None
    for pair in pairs:
        try:
            grid = _grid(pair)
        except DataError:
            continue  # refused by name later
        first = first or (pair.case.id, grid)
        (affine, shape), (reference, expected) = grid, first[1]
        same = shape == expected and corner_distance_mm(affine, reference, shape) <= 0.1 * min(voxel_sizes(reference))
        if not same:
            raise DataError(
                "cohort_grid",
                f"{pair.case.id} lies on another grid ({_shown(grid)}) than {first[0]} ({_shown(first[1])}); a cohort "
                "map needs predictions and labels resampled to a common space; without --cohort each case is mapped",
            )


def _grid(pair: Pair) -> Grid:
    label = pair.case.label
    if label is None:
        raise DataError("missing_reference", f"{pair.case.id}: no reference label")
    if is_nifti(label):
        header = read_header(label)
        return header.affine, header.shape[:3]
    volume = read_any(label, dtype=None)
    return volume.affine, volume.array.shape[:3]


def _shown(grid: Grid) -> str:
    affine, shape = grid
    edges = " x ".join(f"{edge:.4g}" for edge in voxel_sizes(affine))
    origin = ", ".join(f"{x:.4g}" for x in affine[:3, 3])
    return f"{' x '.join(map(str, shape))} voxels of {edges} mm, origin {origin}"
