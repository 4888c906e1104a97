"""The scorer in plain numpy: the definition, the oracle of the native one, and what runs where that was not built.

A voxel belongs to an atom: its combination of regions. Tables are counted by atom and added to the regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcalib.ops._score_cells import NUM_CELLS, cell_index, limbs
from medcalib.ops._score_tables import Arrays, ScoreSpec, bad_values
from medcalib.ops.label_range import LEAVE_OUT, label_range_error

_NLL_FLOOR = float(np.finfo(np.float32).tiny)  # a probability of 0 costs 87.3 nats and is counted apart
Floats = NDArray[np.floating]
Weights = NDArray[np.int64] | NDArray[np.bool_] | None


def add(
    spec: ScoreSpec,
    arrays: Arrays,
    values: Floats,
    labels: NDArray[np.integer],
    holds: NDArray[np.bool_],
    posterior: Floats | None,
) -> None:
    """Add values (channels, n), labels (n,), holds (R, n), maybe a posterior (C, n) of at most 2^22 voxels."""
    kept = holds.any(0)
    if not kept.any():
        return
    values, holds = values[:, kept], holds[:, kept]
    codes: NDArray[np.int64] = labels[kept].astype(np.int64)
    posterior = None if posterior is None else posterior[:, kept]
    if codes.min() < 0 or codes.max() >= spec.num_classes:
        raise label_range_error(int(codes.min()), int(codes.max()), spec.num_classes, None, LEAVE_OUT)
    squash = _softmax if spec.groups is None else _sigmoid
    probs = squash(values) if spec.from_logits else values
    if not (probs >= 0).all() or not (probs <= 1).all():
        raise bad_values(float(values.min()), float(values.max()), spec.from_logits)
    member, atom = np.unique(holds, axis=1, return_inverse=True)
    _Slab(arrays, member.astype(np.int64), atom.reshape(-1)).add(spec, probs, codes, posterior)


def _softmax(logits: Floats) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # NaN is refused afterwards
        weights = np.exp(logits.astype(np.float64) - logits.max(0))
        probs: NDArray[np.float64] = weights / _sum(weights)
    return probs


def _sigmoid(logits: Floats) -> NDArray[np.float64]:
    small = np.exp(-np.abs(logits.astype(np.float64)))
    inverse = 1 / (1 + small)
    return np.where(logits > 0, inverse, small * inverse)


def _sum(rows: Floats) -> NDArray[np.float64]:
    """The sum over the first axis in float64, in order: numpy's own order depends on the shape."""
    total = np.zeros(rows.shape[1:], np.float64)
    for row in rows:
        total += row
    return total


@dataclass
class _Slab:
    """Voxels by atom. `member` (R, A): which regions hold the atoms that occur."""

    arrays: Arrays
    member: NDArray[np.int64]
    atom: NDArray[np.integer]

    def add(self, spec: ScoreSpec, probs: Floats, labels: NDArray[np.int64], posterior: Floats | None) -> None:
        if spec.groups is None:
            self._top(probs, labels, posterior)
        for k, p in enumerate(probs if spec.classwise else ()):
            hit = labels == k if spec.groups is None else np.isin(labels, spec.groups[k])
            self._table(1 + k, p, hit, None if posterior is None else posterior[k])
        for i, members in enumerate(spec.composites):
            chosen = list(members)
            added = np.minimum(_sum(probs[chosen]), 1.0)
            known = None if posterior is None else np.minimum(_sum(posterior[chosen]), 1.0)
            self._table(1 + spec.channels + i, added, np.isin(labels, chosen), known)

    def _top(self, probs: Floats, labels: NDArray[np.int64], posterior: Floats | None) -> None:
        predicted = probs.argmax(0)
        top = np.take_along_axis(probs, predicted[None], 0)[0]
        truth = None if posterior is None else np.take_along_axis(posterior, predicted[None], 0)[0]
        self._table(0, top, predicted == labels, truth)
        confusion = self.arrays["confusion"]
        pair = labels * confusion.shape[1] + predicted
        self._count("confusion", (), confusion[0].size, pair)
        p = probs.astype(np.float64)
        true = np.take_along_axis(p, labels[None], 0)[0]
        brier = (_sum(np.square(p)) - 2 * true) + 1
        values = [np.maximum(brier, 0.0), -np.log(np.maximum(true, _NLL_FLOOR))]
        if posterior is not None:
            values.append(np.abs(p - posterior).mean(0))
        for i, value in enumerate(values):
            for j, part in enumerate(limbs(value)):
                self._count("sums", (i, j), 1, None, part)
        self._count("zero_probability", (), 1, None, true == 0)

    def _table(self, table: int, p: Floats, hit: NDArray[np.bool_], truth: Floats | None) -> None:
        cell = cell_index(p)
        high, low = limbs(p)
        entries: Mapping[str, Weights] = {"n": None, "correct": hit, "conf_hi": high, "conf_lo": low}
        if truth is not None:
            entries = {**entries, **dict(zip(("truth_hi", "truth_lo"), limbs(truth), strict=True))}
        for name, weights in entries.items():
            self._count(name, (table,), NUM_CELLS, cell, weights)
        for j, part in enumerate(limbs(np.square(p.astype(np.float64)))):
            self._count("square", (table, j), 1, None, part)

    def _count(
        self, name: str, at: tuple[int, ...], size: int, key: NDArray[np.int64] | None, weights: Weights = None
    ) -> None:
        """Add an integer histogram to a table. `bincount` adds in float64: exact, for 2^22 values below 2^31 each."""
        atoms = self.member.shape[1]
        full = self.atom * size if key is None else self.atom * size + key
        found = np.bincount(full, weights, minlength=atoms * size).astype(np.int64).reshape(atoms, size)
        index: tuple[slice | int, ...] = (slice(None), *at)
        part = self.arrays[name][index]
        part += (self.member @ found).reshape(part.shape)
