"""Several methods over several blocks: mean ranks, Friedman's test, Nemenyi's critical difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy  # not scipy.stats: it is loaded on first use, which takes nearly a second
from numpy.typing import NDArray

__all__ = ["Ranks", "block_ranks", "critical_difference", "friedman", "groups"]

Array = NDArray[np.float64]
ALPHA = 0.05
MIN_METHODS = 3  # Friedman's test of two methods is a sign test; scipy refuses it


@dataclass(frozen=True)
class Ranks:
    """Mean ranks (1 is best) of methods over `blocks`; the others None where too few methods or blocks.

    `statistic` and `p` are of Friedman's chi-squared test (null hypothesis: all methods are alike). Two methods
    whose mean ranks are further apart than `critical_difference` differ at the level `alpha`. `left_out` blocks
    lack the value of a method. `mean_ranks` are in the order of the methods.
    """

    mean_ranks: tuple[float, ...]
    blocks: int
    left_out: int
    statistic: float | None
    p: float | None
    critical_difference: float | None
    alpha: float = ALPHA


def friedman(values: Array, *, higher_is_better: bool, alpha: float = ALPHA) -> Ranks | None:
    """Rank methods in each block: values (blocks, methods), NaN absent. None where no block has all values.

    Ties share the mean of their ranks. References: M. Friedman, JASA 1937; J. Demsar, JMLR 7, 2006, section 3.2.2.
    `higher_is_better`: whether rank 1 is the largest value. `alpha` is the level of the critical difference. Raises
    ValueError for fewer than two methods.
    """
    whole = values[np.isfinite(values).all(1)]
    blocks, methods = whole.shape
    if not blocks or not methods:
        return None
    ranks = block_ranks(whole, higher_is_better=higher_is_better)
    statistic = p = difference = None
    if methods >= MIN_METHODS and blocks > 1:
        difference = critical_difference(methods, blocks, alpha)
        if (ranks != ranks[:, :1]).any():  # all tied in every block: the statistic divides by 0
            test = scipy.stats.friedmanchisquare(*ranks.T)
            statistic, p = float(test.statistic), float(test.pvalue)
    return Ranks(tuple(ranks.mean(0).tolist()), blocks, len(values) - blocks, statistic, p, difference, alpha)


def block_ranks(values: Array, *, higher_is_better: bool) -> Array:
    """Ranks within each row of values (blocks, methods), 1 is best, ties share the mean of theirs.

    `higher_is_better`: whether rank 1 is the largest value.
    """
    ranks: Array = scipy.stats.rankdata(-values if higher_is_better else values, axis=1)
    return ranks


@cache
def critical_difference(methods: int, blocks: int, alpha: float = ALPHA) -> float:
    """Nemenyi's critical difference of mean ranks, q_alpha sqrt(k (k + 1) / (6 N)) for k methods over N blocks.

    q_alpha is the quantile of the studentized range of k with infinitely many degrees of freedom, over sqrt 2.
    References: P. Nemenyi, thesis, Princeton 1963; J. Demsar, JMLR 7, 2006, section 3.2.2 and table 5. `alpha` is the
    level, in (0, 1). Raises ValueError for fewer than two methods or one block.
    """
    if methods < 2 or blocks < 1:
        raise ValueError(
            f"a critical difference needs 2 or more methods and 1 or more blocks, got {methods} and {blocks}"
        )
    q = float(scipy.stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


def groups(mean_ranks: Sequence[float], difference: float) -> list[tuple[int, ...]]:
    """Largest sets of methods (indices by rank) whose ranks are all within `difference`; sets of one are left out.

    `mean_ranks`: one a method; indices are into it.
    """
    order = sorted(range(len(mean_ranks)), key=lambda k: (mean_ranks[k], k))
    found: list[tuple[int, ...]] = []
    reached = 0
    for start, first in enumerate(order):
        end = max(k for k, other in enumerate(order) if mean_ranks[other] - mean_ranks[first] <= difference) + 1
        if end - start > 1 and end > reached:
            found.append(tuple(order[start:end]))
        reached = max(reached, end)
    return found
