"""From predictions and labels to sums by fine cell of confidence: everything that estimators look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from estimators.population import Patient
from estimators.predictors import Predictor
from medcalib.metrics.regions import near_surface
from medcalib.ops.scoring import NUM_CELLS, bin_of_cell, cell_index

Floats = NDArray[np.float64]
CLASS_BINS = 15
_CORRECT, _REFERENCE, _NEAR, _PREDICTED, _PREDICTED_NEAR = 1, 2, 4, 8, 16
_ATOMS = np.arange(32)
REGIONS = {
    "all": _ATOMS >= 0,
    "pred_foreground": _ATOMS & _PREDICTED > 0,
    "pred_boundary": _ATOMS & _PREDICTED_NEAR > 0,
    "foreground": _ATOMS & (_PREDICTED | _REFERENCE) > 0,
    "gt_foreground": _ATOMS & _REFERENCE > 0,
    "boundary": _ATOMS & _NEAR > 0,
}
FIXED = ("all", "pred_foreground", "pred_boundary")  # chosen by the prediction only
IS_HIT = _ATOMS & _CORRECT > 0


@dataclass(frozen=True)
class Table:
    """Sums by cell (..., K): voxels, confidence, hits. `of_cell` (K,) says which fine cells these are."""

    n: Floats
    confidence: Floats
    hits: Floats
    of_cell: NDArray[np.intp]

    def binned(self, bins: int, edges: str = "right") -> Table:
        """Sums by equal-width bin (..., bins)."""
        place = bin_of_cell(bins, edges)[self.of_cell]
        into = (place[:, None] == np.arange(bins)).astype(np.float64)
        parts = (np.asarray(part, np.float64) @ into for part in (self.n, self.confidence, self.hits))
        return Table(*parts, self.of_cell)

    def pooled(self) -> Table:
        """Sums over the leading axes."""
        axes = tuple(range(self.n.ndim - 1))
        return Table(self.n.sum(axes), self.confidence.sum(axes), self.hits.sum(axes), self.of_cell)

    @property
    def gap(self) -> Floats:
        """Confidence minus hits, (..., K)."""
        return self.confidence - self.hits


@dataclass(frozen=True)
class Scored:
    """One predictor on the population of P patients with R label maps each.

    measured: region -> Table (P * R, K), against drawn labels. limit: region -> Table (P, K), the expectation over
    labels. marginal: the same with the posterior as hits at every voxel of the region, as `ece_true` has it.
    independent: hits (P * R, K) of labels drawn voxel by voxel, for the regions of FIXED. class_gap (P * R, C, 15),
    class_limit (P, C, 15) and class_voxels (P,) of `pred_foreground`. voxel_gap: region of FIXED -> mean over
    voxels of |confidence - posterior of the predicted class|.
    """

    measured: dict[str, Table]
    limit: dict[str, Table]
    marginal: dict[str, Table]
    independent: dict[str, Floats]
    class_gap: Floats
    class_limit: Floats
    class_voxels: Floats
    voxel_gap: dict[str, float]


@dataclass(frozen=True)
class _Prediction:
    """What one patient's prediction says of each voxel, (V,): class, confidence, its cell and atom, posterior."""

    chosen: NDArray[np.intp]
    confidence: Floats
    cell: NDArray[np.int64]
    atom: NDArray[np.int64]
    known: Floats
    background: Floats
    probs: Floats
    posterior: Floats


def _predicted(patient: Patient, predictor: Predictor) -> _Prediction:
    probs = predictor(patient).astype(np.float32)
    chosen = probs.argmax(0)
    near = near_surface(torch.from_numpy(chosen), patient.spacing_mm).numpy().reshape(-1)
    flat, posterior = probs.reshape(len(probs), -1), patient.posterior.reshape(len(probs), -1)
    chosen = chosen.reshape(-1)
    top, at = flat.max(0), np.arange(flat.shape[1])
    atom = _PREDICTED * (chosen > 0) + _PREDICTED_NEAR * near
    return _Prediction(
        chosen, top.astype(np.float64), cell_index(top), atom, posterior[chosen, at], posterior[0], flat, posterior
    )


def _by_atom(at: _Prediction, atom: NDArray[np.int64], weights: Floats | None = None) -> Floats:
    """Sums (32, NUM_CELLS) of weights, or numbers of voxels."""
    code = atom * NUM_CELLS + at.cell
    return np.bincount(code, weights, minlength=32 * NUM_CELLS).reshape(32, NUM_CELLS)


def _measured(at: _Prediction, patient: Patient) -> NDArray[np.float64]:
    """(regions, R, 3, NUM_CELLS): voxels, confidence and hits against each label map."""
    found = np.empty((len(REGIONS), len(patient.labels), 3, NUM_CELLS))
    for rater, (labels, near) in enumerate(zip(patient.labels, patient.near, strict=True)):
        atom = at.atom + _CORRECT * (labels == at.chosen) + _REFERENCE * (labels > 0) + _NEAR * near
        n, confidence = _by_atom(at, atom), _by_atom(at, atom, at.confidence)
        for row, holds in enumerate(REGIONS.values()):
            found[row, rater] = n[holds].sum(0), confidence[holds].sum(0), n[holds & IS_HIT].sum(0)
    return found


def _limits(at: _Prediction, measured: Floats) -> tuple[Floats, Floats]:
    """(regions, 3, NUM_CELLS) expected over labels, and with the posterior as hits everywhere in the region.

    With q = P(label > 0): a voxel is in `gt_foreground` with probability q, and in it and a hit with pi if its
    predicted class is foreground, else never. The band around the labels has no formula: the mean over the draws.
    """
    exact, marginal = measured.mean(1), measured.mean(1)
    foreground, q = at.chosen > 0, 1 - at.background
    weights = {name: np.ones_like(q) for name in FIXED} | {
        "foreground": np.where(foreground, 1.0, q),
        "gt_foreground": q,
    }
    for row, name in enumerate(REGIONS):
        if name not in weights:
            continue
        held = REGIONS[name][at.atom] if name in FIXED else np.ones(len(q), bool)
        weight = weights[name] * held
        hit = at.known * held if name in FIXED else at.known * foreground
        sums = [np.bincount(at.cell, w, minlength=NUM_CELLS) for w in (weight, weight * at.confidence, hit)]
        exact[row] = sums
        marginal[row] = (*sums[:2], np.bincount(at.cell, weight * at.known, minlength=NUM_CELLS))
    return exact, marginal


def _independent(at: _Prediction, raters: int, rng: np.random.Generator) -> Floats:
    """Hits (len(FIXED), R, NUM_CELLS) of labels drawn anew at every voxel."""
    found = np.empty((len(FIXED), raters, NUM_CELLS))
    for rater in range(raters):
        hits = _by_atom(at, at.atom, (rng.random(len(at.known)) < at.known).astype(np.float64))
        found[:, rater] = [hits[REGIONS[name]].sum(0) for name in FIXED]
    return found


def _classwise(at: _Prediction, patient: Patient) -> tuple[Floats, Floats, float]:
    """Gaps (R, C, 15) of each class in `pred_foreground`, their expectation (C, 15), and voxels."""
    held = at.chosen > 0
    labels = patient.labels[:, held]
    drawn = np.empty((len(labels), len(at.probs), CLASS_BINS))
    expected = np.empty(drawn.shape[1:])
    of_cell = bin_of_cell(CLASS_BINS, "right")
    for k, p in enumerate(at.probs[:, held]):
        place = of_cell[cell_index(p)]
        confidence = np.bincount(place, p, minlength=CLASS_BINS)
        expected[k] = confidence - np.bincount(place, at.posterior[k, held], minlength=CLASS_BINS)
        for rater, row in enumerate(labels):
            drawn[rater, k] = confidence - np.bincount(place, row == k, minlength=CLASS_BINS)
    return drawn, expected, float(held.sum())


def score_population(patients: Sequence[Patient], predictor: Predictor, seed: int) -> Scored:
    """All tables of one predictor."""
    rng = np.random.default_rng(seed)
    measured, exact, marginal, independent, classes, gaps = [], [], [], [], [], []
    for patient in patients:
        at = _predicted(patient, predictor)
        found = _measured(at, patient)
        expected, at_voxels = _limits(at, found)
        measured.append(found)
        exact.append(expected)
        marginal.append(at_voxels)
        independent.append(_independent(at, len(patient.labels), rng))
        classes.append(_classwise(at, patient))
        off = np.abs(at.confidence - at.known)
        gaps.append([(off[held].sum(), held.sum()) for held in (REGIONS[name][at.atom] for name in FIXED)])
    return _gathered(measured, exact, marginal, independent, classes, gaps)


def _gathered(
    measured: list[Floats],
    exact: list[Floats],
    marginal: list[Floats],
    independent: list[Floats],
    classes: list[tuple[Floats, Floats, float]],
    gaps: list[list[tuple[float, float]]],
) -> Scored:
    """The parts of all patients in one, without the cells that hold no voxel of any."""
    drawn = np.stack(measured, 1)  # (regions, P, R, 3, cells)
    kept = np.flatnonzero(drawn[0, :, :, 0].any((0, 1)))

    def tables(parts: Floats) -> dict[str, Table]:
        return {name: Table(*np.moveaxis(parts[row][..., kept], 1, 0), kept) for row, name in enumerate(REGIONS)}

    sums = np.sum(gaps, 0)
    return Scored(
        measured=tables(drawn.reshape(len(REGIONS), -1, 3, NUM_CELLS)),
        limit=tables(np.stack(exact, 1)),
        marginal=tables(np.stack(marginal, 1)),
        independent={
            name: np.concatenate([part[row] for part in independent])[:, kept] for row, name in enumerate(FIXED)
        },
        class_gap=np.concatenate([part[0] for part in classes]),
        class_limit=np.stack([part[1] for part in classes]),
        class_voxels=np.array([part[2] for part in classes]),
        voxel_gap={name: float(sums[row, 0] / sums[row, 1]) for row, name in enumerate(FIXED)},
    )
