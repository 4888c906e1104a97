"""The summed probability of the voxels of each class, with which the Brier score of a class is exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcalib.ops.scoring import ScoreTables, limbs


class ProductSums:
    """Sums of p over the hits of each channel, for R regions, as int64 limbs: the same bits for any slabs.

    `members` names for each of the K - 1 channels below the top label the labels that are its hits. Channels that
    hold the background (label 0) sum over their misses, which are few, and are completed from the sum over all.
    """

    def __init__(self, members: Sequence[Sequence[int]], regions: int, *, groups: bool = False) -> None:
        self._members = [tuple(sorted(m)) for m in members]  # added in this order, as the tables add them
        self._groups = groups
        self._sums = np.zeros((regions, 1 + len(self._members), 2), np.int64)

    def add(self, probs: Tensor, labels: Tensor, regions: Tensor) -> None:
        """Add voxels: probs (C, n), or (len(members), n) with `groups`; labels (n,); regions (R, n) bool."""
        p, y, inside = probs.numpy(), labels.numpy(), regions.numpy()
        for k, members in enumerate(self._members):
            wanted = y == members[0] if len(members) == 1 else np.isin(y, members)
            at = np.flatnonzero(wanted ^ (0 in members))
            if not at.size:
                continue
            parts = limbs(p[k, at] if self._groups else _added(p, members, at))
            for r in range(inside.shape[0]):
                counted = inside[r, at]
                self._sums[r, 1 + k] += [int(part[counted].sum()) for part in parts]

    def limbs(self, tables: ScoreTables) -> Tensor:
        """Limbs (R, K, 2) of the sums over the hits; `tables` are of the same voxels."""
        found = torch.from_numpy(self._sums.copy())
        for k, members in enumerate(self._members, 1):
            if 0 in members:
                total = torch.stack([tables.conf_hi[:, k].sum(-1), tables.conf_lo[:, k].sum(-1)], -1)
                found[:, k] = total - found[:, k]
        return found


def _added(p: NDArray[np.floating], members: Sequence[int], at: NDArray[np.intp]) -> NDArray[np.floating]:
    if len(members) == 1:
        chosen: NDArray[np.floating] = p[members[0], at]
        return chosen
    total: NDArray[np.float64] = np.minimum(p[list(members)][:, at].sum(0, dtype=np.float64), 1.0)
    return total
