"""Channels in another order than the classes: seen in the confusion matrix of a scored case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
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
    is largest (Hungarian method). The order is suspect when, of the classes that move, at least two have 20 voxels in
    the reference and a Dice of at least 0.5 under their new name, and the mean Dice of all that have 20 voxels is at
    most 0.1 under their own name and at least 0.5 under the new one.
    """
    counts = np.asarray(confusion, np.float64)
    reference, predicted = counts.sum(1), counts.sum(0)
    sizes = reference[:, None] + predicted[None, :]
    dice = np.divide(2 * counts, sizes, out=np.zeros_like(counts), where=sizes > 0)
    # where nothing speaks for a move, a class keeps its name
    _, matched = linear_sum_assignment(dice + 1e-9 * np.eye(len(counts)), maximize=True)
    moved = [k for k, new in enumerate(matched) if new != k and reference[k] >= FEW_VOXELS]
    if len(moved) < 2:
        return None
    own, new = dice[moved, moved], dice[moved, matched[moved]]
    if (new >= PERMUTED_DICE).sum() < 2 or own.mean() > MISSED_DICE or new.mean() < PERMUTED_DICE:
        return None
    shown = ", ".join(
        f"{class_names[k]} is found as {class_names[matched[k]]} (Dice {dice[k, matched[k]]:.2f})" for k in moved[:6]
    )
    return (
        f"the channels seem to be in another order than the classes: {shown}, while under their own names the mean "
        f"Dice is {own.mean():.2f}; correct class_names and codes of the sidecar, or the order of the channels"
    )
