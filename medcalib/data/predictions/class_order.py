"""Channels in another order than the classes: seen in the confusion matrix of a scored case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

# A trained network hardly ever misses two classes outright (Dice at most 0.1) while it draws each of them well under
# the name of another: Dice above 0.5 needs more than half of the voxels of both in common. A network that is only bad
# spreads a class over several others, so no other name fits it either.
MISSED_DICE = 0.1
PERMUTED_DICE = 0.5
FEW_VOXELS = 20  # classes below this are no evidence


def class_order_problem(confusion: ArrayLike, class_names: Sequence[str]) -> str | None:
    """A sentence that names the permutation of classes that a case suggests, or None.

    `confusion` (C, C) counts voxels, reference x prediction. Classes are matched one to one so that the sum of Dice
    is largest (Hungarian method). A cycle of that permutation is suspect when, of its classes with at least 20 voxels
    in the reference, two or more have a Dice of at least 0.5 under their new name, and the mean Dice of all of them is
    at most 0.1 under their own name and at least 0.5 under the new one.
    """
    counts = np.asarray(confusion, np.float64)
    reference, predicted = counts.sum(1), counts.sum(0)
    sizes = reference[:, None] + predicted[None, :]
    dice = np.divide(2 * counts, sizes, out=np.zeros_like(counts), where=sizes > 0)
    _, matched = linear_sum_assignment(dice, maximize=True)
    moved: list[int] = []
    for cycle in _cycles(matched):
        seen = [k for k in cycle if reference[k] >= FEW_VOXELS]
        own, new = dice[seen, seen], dice[seen, matched[seen]]
        fits = (new >= PERMUTED_DICE).sum() >= 2 and new.mean() >= PERMUTED_DICE
        if fits and own.mean() <= MISSED_DICE:
            moved += seen
    if not moved:
        return None
    shown = ", ".join(
        f"{class_names[k]} is found as {class_names[matched[k]]} (Dice {dice[k, matched[k]]:.2f})"
        for k in sorted(moved)[:6]
    )
    return (
        f"the channels seem to be in another order than the classes: {shown}, while under their own names the mean "
        f"Dice is {dice[moved, moved].mean():.2f}; correct class_names and codes of the sidecar, or the order of the "
        "channels"
    )


def _cycles(permutation: NDArray[np.int64]) -> list[list[int]]:
    """The cycles of a permutation that move something."""
    cycles, left = [], {k for k, new in enumerate(permutation) if new != k}
    while left:
        cycle = [left.pop()]
        while (new := int(permutation[cycle[-1]])) in left:
            left.remove(new)
            cycle.append(new)
        cycles.append(cycle)
    return cycles
