"""One pass over probabilities and labels: integer counts from which every calibration score is a sum.

Confidences are binned into fine cells (`NUM_CELLS`): the open intervals between the multiples of 1/300, each
multiple on its own (so that both edge rules, (a, b] and [a, b), are exact), and the first and last interval
split at powers of two (sharp networks live there), the first at `THRESHOLD` too. Sums of confidences are kept as
two int64 limbs of a fixed point with 48 binary places, so that adding tables in any order gives the same bits;
float32 accumulation, the usual way, prints an ECE up to 25 times too small on whole volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GRID = 300  # common multiple of 10, 12, 15, 20, 25, 30, 50, 60, 75, 100 bins
THRESHOLD = float(np.float32(1e-3))  # of the thresholded scores (TCECE, TACE): only p > THRESHOLD counts
_TAIL = 16  # cells into which the last interval is split, and the first but for the threshold
_HEAD = _TAIL + 1
_FIRST_EXPONENT = 9  # 2^-9 < 1/300 < 2^-8
NUM_CELLS = 1 + _HEAD + (2 * GRID - 3) + _TAIL + 1
FIRST_ABOVE_THRESHOLD = _HEAD - 1  # the lowest cell of p > THRESHOLD, which lies in [2^-10, 2^-9)
_SLAB = 1 << 18  # voxels at a time: the working memory stays in the cache, whatever the volume
_PLACES, _LIMB = 48, 24
_NLL_FLOOR = float(np.finfo(np.float32).tiny)  # a probability of 0 costs 87.3 nats and is counted apart


@dataclass(frozen=True)
class ScoreTables:
    """Integer tables of R regions: K channels are the top label, then C classes, then composites.

    `n`, `correct`, `conf_hi`, `conf_lo` (R, K, NUM_CELLS); `truth_hi`, `truth_lo` the same for a known
    posterior in place of the labels; `square` (R, K, 2) limbs of the summed p^2 of each channel; `confusion`
    (R, C, C) reference x prediction; `sums` (R, len(SUM_NAMES), 2) limbs; `zero_probability` (R,) voxels whose true
    class has probability 0. All int64.
    """

    n: Tensor
    correct: Tensor
    conf_hi: Tensor
    conf_lo: Tensor
    square: Tensor
    confusion: Tensor
    sums: Tensor
    zero_probability: Tensor
    truth_hi: Tensor | None = None
    truth_lo: Tensor | None = None


SUM_NAMES = ("brier", "nll", "posterior_l1")


def cell_index(p: NDArray[np.floating]) -> NDArray[np.int64]:
    """Fine cell of each probability in [0, 1], increasing in p. Exact for float32 (24 + 9 bits fit float64)."""
    scaled = p.astype(np.float64) * GRID
    floor = np.floor(scaled)
    cell: NDArray[np.int64] = (2 * floor + (scaled != floor)).astype(np.int64) + (_HEAD - 1)
    first, last = cell == _HEAD, cell == 2 * GRID - 1 + _HEAD - 1
    cell[first] = _TAIL - _halvings(p[first]) + (p[first] > THRESHOLD)
    cell[last] = 2 * GRID - 2 + _HEAD + _halvings(1 - p[last])
    cell[p == 0] = 0
    cell[p == 1] = NUM_CELLS - 1
    return cell


def _halvings(small: NDArray[np.floating]) -> NDArray[np.integer]:
    """The s of which a number in (0, 1/300) lies in [2^-(9+s), 2^-(8+s)), at most _TAIL - 1."""
    step: NDArray[np.integer] = np.clip(1 - np.frexp(small)[1] - _FIRST_EXPONENT, 0, _TAIL - 1)
    return step


def bin_of_cell(bins: int, edges: str) -> NDArray[np.int64]:
    """For each fine cell the equal-width bin it belongs to. `edges`: "right" is (a, b], "left" is [a, b).

    0 lies in the first bin and 1 in the last under both rules. `bins` must divide 300.
    """
    if bins < 1 or GRID % bins:
        allowed = [n for n in range(1, GRID + 1) if GRID % n == 0]
        raise ValueError(f"bins must be one of {allowed}, got {bins}")
    if edges not in ("right", "left"):
        raise ValueError(f"edges must be 'right' or 'left', got {edges!r}")
    uniform = np.arange(2 * GRID + 1)  # even: on the edge k/300; odd: between edges
    k, between = uniform // 2, uniform % 2 == 1
    width = GRID // bins
    on_edge = np.maximum(-(-k // width) - 1, 0) if edges == "right" else np.minimum(k // width, bins - 1)
    of_uniform = np.where(between, k // width, on_edge)
    inner = of_uniform[2 : 2 * GRID - 1]
    head, tail = np.full(_HEAD, of_uniform[1]), np.full(_TAIL, of_uniform[2 * GRID - 1])
    return np.concatenate([of_uniform[:1], head, inner, tail, of_uniform[-1:]])


def score_voxels(
    probs: Tensor,
    labels: Tensor,
    regions: Tensor,
    *,
    composites: Sequence[Sequence[int]] = (),
    posterior: Tensor | None = None,
    from_logits: bool = False,
    groups: Sequence[Sequence[int]] | None = None,
) -> ScoreTables:
    """Score voxels in slabs of bounded memory.

    probs (C, N) in [0, 1] (or logits, then a float64 softmax is taken), labels (N,) in 0..C-1, regions (R, N)
    bool: a voxel counts in each region that holds it, voxels in no region are left out. A composite is a list
    of classes whose probabilities are added, such as the whole tumor. posterior (C, N): the known pi. Ties for
    the largest probability go to the lowest class. groups: see `Scorer`.
    """
    scorer = Scorer(
        probs.shape[0],
        regions.shape[0],
        composites=composites,
        groups=groups,
        from_logits=from_logits,
        has_posterior=posterior is not None,
    )
    scorer.add(probs, labels, regions, posterior)
    return scorer.tables()


class Scorer:
    """Score tables of voxels that come in any number of slabs, in any order: the same bits as all at once.

    `groups`: channels are independent binary ones, channel k is a hit where the label is in groups[k]; then there
    is no top label (its table stays 0), and confusion and sums stay 0. `classwise=False` fills the top label only.
    """

    def __init__(
        self,
        num_classes: int,
        num_regions: int,
        *,
        composites: Sequence[Sequence[int]] = (),
        groups: Sequence[Sequence[int]] | None = None,
        from_logits: bool = False,
        has_posterior: bool = False,
        classwise: bool = True,
    ) -> None:
        kept = None if groups is None else tuple(map(tuple, groups))
        classes = num_classes if kept is None else len(kept)
        self._logits = from_logits
        self._work = _Accumulator(classes, num_regions, tuple(map(tuple, composites)), has_posterior, kept, classwise)

    def add(self, probs: Tensor, labels: Tensor, regions: Tensor, posterior: Tensor | None = None) -> None:
        """Count voxels: probs (C, n), labels (n,), regions (R, n) bool, posterior (C, n)."""
        for start in range(0, probs.shape[1], _SLAB):
            part = slice(start, start + _SLAB)
            kept = regions[:, part].any(0).numpy()
            if not kept.any():
                continue
            slab = probs[:, part].numpy()[:, kept]
            slab = _softmax(slab) if self._logits else slab
            known = None if posterior is None else posterior[:, part].numpy()[:, kept]
            self._work.add(slab, labels[part].numpy()[kept], regions[:, part].numpy()[:, kept], known)

    def tables(self) -> ScoreTables:
        """The tables of everything that was added so far."""
        return self._work.tables()


def limbs(values: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nonnegative values below 2^14 as (high, low) limbs of a fixed point with 48 binary places."""
    scaled = np.rint(values.astype(np.float64) * 2.0**_PLACES).astype(np.int64)
    return scaled >> _LIMB, scaled & ((1 << _LIMB) - 1)


def from_limbs(high: Tensor, low: Tensor) -> Tensor:
    """The float64 value of summed limbs."""
    return high.double() * 2.0 ** (_LIMB - _PLACES) + low.double() * 2.0**-_PLACES


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(0)
    weights = np.exp(shifted)
    probs: NDArray[np.float64] = weights / weights.sum(0)
    return probs


@dataclass
class _Accumulator:
    """Tables by atom: the 2^R combinations of region membership, of which regions are unions."""

    classes: int
    regions: int
    composites: tuple[tuple[int, ...], ...]
    has_posterior: bool
    groups: tuple[tuple[int, ...], ...] | None = None
    classwise: bool = True
    arrays: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        atoms, channels = 2**self.regions, 1 + self.classes + len(self.composites)
        names = [
            "n",
            "correct",
            "conf_hi",
            "conf_lo",
            *(("truth_hi", "truth_lo") if self.has_posterior else ()),
        ]
        self.arrays = {name: np.zeros((atoms, channels, NUM_CELLS), np.int64) for name in names}
        self.arrays["square"] = np.zeros((atoms, channels, 2), np.int64)
        self.arrays["confusion"] = np.zeros((atoms, self.classes, self.classes), np.int64)
        self.arrays["sums"] = np.zeros((atoms, len(SUM_NAMES), 2), np.int64)
        self.arrays["zero_probability"] = np.zeros(atoms, np.int64)

    def add(
        self,
        probs: NDArray[np.floating],
        labels: NDArray[np.integer],
        regions: NDArray[np.bool_],
        posterior: NDArray[np.floating] | None,
    ) -> None:
        atom = (regions * (1 << np.arange(self.regions))[:, None]).sum(0)
        if self.groups is not None:
            for k, group in enumerate(self.groups):
                known = None if posterior is None else posterior[k]
                self._table(1 + k, atom, probs[k], np.isin(labels, group), known)
            return
        predicted = probs.argmax(0)
        top = np.take_along_axis(probs, predicted[None], 0)[0]
        truth = None if posterior is None else np.take_along_axis(posterior, predicted[None], 0)[0]
        self._table(0, atom, top, predicted == labels, truth)
        for k in range(self.classes if self.classwise else 0):
            self._table(1 + k, atom, probs[k], labels == k, None if posterior is None else posterior[k])
        for i, members in enumerate(self.composites if self.classwise else ()):
            chosen = list(members)
            added = np.minimum(probs[chosen].sum(0, dtype=np.float64), 1.0)
            known = None if posterior is None else np.minimum(posterior[chosen].sum(0, dtype=np.float64), 1.0)
            self._table(1 + self.classes + i, atom, added, np.isin(labels, chosen), known)
        pair = (atom * self.classes + labels.astype(np.int64)) * self.classes + predicted
        self.arrays["confusion"] += _counts(pair, self.arrays["confusion"].shape)
        self._sums(atom, probs, labels, posterior)

    def _table(
        self,
        channel: int,
        atom: NDArray[np.int64],
        p: NDArray[np.floating],
        hit: NDArray[np.bool_],
        truth: NDArray[np.floating] | None,
    ) -> None:
        key = atom * NUM_CELLS + cell_index(p)
        high, low = limbs(p)
        entries: dict[str, NDArray[np.int64] | NDArray[np.bool_] | None]
        entries = {"n": None, "correct": hit, "conf_hi": high, "conf_lo": low}
        if truth is not None:
            entries["truth_hi"], entries["truth_lo"] = limbs(truth)
        for name, weights in entries.items():
            table = self.arrays[name]
            table[:, channel] += _counts(key, (table.shape[0], NUM_CELLS), weights)
        for j, part in enumerate(limbs(np.square(p.astype(np.float64)))):
            self.arrays["square"][:, channel, j] += _counts(atom, (self.arrays["square"].shape[0],), part)

    def _sums(
        self,
        atom: NDArray[np.int64],
        probs: NDArray[np.floating],
        labels: NDArray[np.integer],
        posterior: NDArray[np.floating] | None,
    ) -> None:
        p = probs.astype(np.float64)
        true = np.take_along_axis(p, labels[None].astype(np.int64), 0)[0]
        brier = np.square(p).sum(0) - 2 * true + 1
        values = [np.maximum(brier, 0.0), -np.log(np.maximum(true, _NLL_FLOOR))]
        if posterior is not None:
            values.append(np.abs(p - posterior).mean(0))
        atoms = self.arrays["sums"].shape[0]
        for i, value in enumerate(values):
            for j, part in enumerate(limbs(value)):
                self.arrays["sums"][:, i, j] += _counts(atom, (atoms,), part)
        self.arrays["zero_probability"] += _counts(atom, (atoms,), true == 0)

    def tables(self) -> ScoreTables:
        atoms = np.arange(2**self.regions)
        member = ((atoms[None] >> np.arange(self.regions)[:, None]) & 1).astype(np.int64)
        summed = {name: torch.from_numpy(np.tensordot(member, table, axes=1)) for name, table in self.arrays.items()}
        return ScoreTables(**summed)


def _counts(
    key: NDArray[np.int64],
    shape: tuple[int, ...],
    weights: NDArray[np.int64] | NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Integer histogram. `bincount` adds weights in float64: exact, since a slab's sums stay below 2^53."""
    size = int(np.prod(shape))
    found = np.bincount(key, weights, minlength=size)
    return found.astype(np.int64).reshape(shape)
