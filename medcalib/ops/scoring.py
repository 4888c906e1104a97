"""One pass over probabilities and labels: integer counts from which every calibration score is a sum.

Confidences are binned into fine cells (`NUM_CELLS`): the open intervals between the multiples of 1/300, each
multiple on its own (so that both edge rules, (a, b] and [a, b), are exact), and the first and last interval
split at powers of two (sharp networks live there), the first at `THRESHOLD` too. Sums of confidences are kept as
two int64 limbs of a fixed point with 48 binary places, so that adding tables in any order gives the same bits;
float32 accumulation, the usual way, prints an ECE up to 25 times too small on whole volumes.

Limbs do not overflow below 2^39 voxels (conf, square) and below 2^39 nats of summed nll, which 2^32 voxels do not
reach even if all have probability 0 at their true class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medcalib.ops import _score_reference, backend
from medcalib.ops._score_cells import (
    FIRST_ABOVE_THRESHOLD,
    GRID,
    NUM_CELLS,
    THRESHOLD,
    bin_of_cell,
    cell_index,
    from_limbs,
    limbs,
)
from medcalib.ops._score_native import VALUES, NativeScorer, can
from medcalib.ops._score_tables import SUM_NAMES, ScoreSpec, ScoreTables
from medcalib.ops.inputs import check_label_type, check_tensor

__all__ = [
    "FIRST_ABOVE_THRESHOLD",
    "GRID",
    "NUM_CELLS",
    "SUM_NAMES",
    "THRESHOLD",
    "ScoreTables",
    "Scorer",
    "bin_of_cell",
    "cell_index",
    "from_limbs",
    "limbs",
    "score_voxels",
]
_SLAB = 1 << 18  # voxels at a time in plain numpy: the working memory stays in the cache, whatever the volume
_COPIED = 1 << 20  # values at a time of what has to be copied first: 8 MiB at most
_HALF = (torch.float16, torch.bfloat16)


class Scorer:
    """Counts voxels that come in any number of slabs, in any order: the tables are the same to the last bit.

        scorer = Scorer(4, 2)
        for probs, labels, regions in slabs:
            scorer.add(probs, labels, regions)
        tables = scorer.tables()

    `num_classes` C: labels lie in 0..C-1. `num_regions` R: a voxel counts in each region that holds it. `composites`:
    lists of classes whose probabilities are added (in float64, in increasing order, at most 1), such as the whole
    tumor. `groups`: the channels are independent binary ones, such as those of a sigmoid region model; channel k is
    a hit where the label is in groups[k], and there is no top label: its table, confusion, brier, nll and
    zero_probability stay 0. `from_logits`: take the softmax (with `groups` the sigmoid) in float64 first.
    `has_posterior`: each `add` brings the known pi. `classwise=False` leaves out the tables of the C classes (they
    stay 0), not those of composites, which takes half the time. Ties for the largest probability go to the lowest
    class.

    Runs in the native library where it was built (not with a posterior, nor beyond 255 classes; memory beyond the
    tables: at most 64 MiB, 14 MiB for 4 classes in 5 regions on two threads), else in numpy (MEDCALIB_BACKEND=reference
    forces it). Counts, limbs of conf and square, and confusion of probabilities are the same in both; nll, and all
    that comes from logits, agree to rounding in float64. Not for several threads at a time. Raises ValueError for
    unusable options.
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
        members = None if groups is None else tuple(_members(group) for group in groups)
        added = tuple(tuple(sorted(_members(group))) for group in composites)
        self._spec = ScoreSpec(num_classes, num_regions, added, members, from_logits, has_posterior, classwise)
        self._arrays = self._spec.zeros()
        native = can(self._spec) and backend.active("cpu") == "native"
        self._native = NativeScorer(self._spec, self._arrays) if native else None
        self._refused = False

    def add(self, probs: Tensor, labels: Tensor, regions: Tensor, posterior: Tensor | None = None) -> None:
        """Count a slab: probs (C or len(groups), n) in [0, 1] or logits, labels (n,), regions (R, n) bool.

        Voxels in no region are left out, whatever they hold. Half precision is read as float32; what does not lie
        side by side in memory, or not on the CPU, is copied piece by piece. Raises ValueError for shapes and types, and
        at voxels that count for labels outside 0..C-1 and for probabilities that are NaN or outside [0, 1] (logits:
        that are NaN, or infinite where a softmax needs a number); the scorer is of no use afterwards. posterior (C, n):
        the known pi, for a scorer that has one.
        """
        self._check(probs, labels, regions, posterior)
        try:
            self._add(probs.detach(), labels, regions, posterior)
        except ValueError:
            self._refused = True
            raise

    def tables(self) -> ScoreTables:
        """The counts so far. RuntimeError after refused voxels, of which a part has been counted."""
        if self._refused:
            raise RuntimeError("this scorer has met voxels that it refused, so its counts are not whole: use a new one")
        return ScoreTables.of(self._arrays)

    def _add(self, probs: Tensor, labels: Tensor, regions: Tensor, posterior: Tensor | None) -> None:
        voxels, native = labels.shape[0], self._native is not None
        step = max(voxels, 1) if native and _in_place(probs, labels, regions) else max(_COPIED // len(probs), 1)
        for start in range(0, voxels, step if native else _SLAB):
            part = slice(start, start + (step if native else _SLAB))
            values, codes, holds = probs[:, part].cpu(), labels[part].cpu(), regions[:, part].cpu()
            values = values.float() if values.dtype in _HALF else values
            if self._native is not None:
                holds = holds if holds.stride(1) == 1 else holds.contiguous()
                values = values if values.stride(1) == 1 else values.contiguous()
                self._native.add(values, codes.contiguous(), holds)
                continue
            known = None if posterior is None else posterior[:, part].cpu().numpy()
            _score_reference.add(self._spec, self._arrays, values.numpy(), codes.numpy(), holds.numpy(), known)

    def _check(self, probs: Tensor, labels: Tensor, regions: Tensor, posterior: Tensor | None) -> None:
        spec = self._spec
        given = {"probs": probs, "labels": labels, "regions": regions}
        for name, value in (given if posterior is None else {**given, "posterior": posterior}).items():
            check_tensor(name, value)
        expected = (spec.channels, labels.numel())
        if labels.ndim != 1 or probs.shape != expected or regions.shape != (spec.num_regions, labels.numel()):
            raise ValueError(
                f"expected probs ({spec.channels}, n), labels (n,) and regions ({spec.num_regions}, n), got "
                f"{tuple(probs.shape)}, {tuple(labels.shape)} and {tuple(regions.shape)}"
            )
        if (posterior is not None) != spec.has_posterior or (posterior is not None and posterior.shape != expected):
            found = None if posterior is None else tuple(posterior.shape)
            wanted = expected if spec.has_posterior else None
            raise ValueError(f"expected a posterior {wanted} (has_posterior={spec.has_posterior}), got {found}")
        if probs.dtype not in (*VALUES, *_HALF):
            raise ValueError(
                f"probs must be float16, bfloat16, float32 or float64, got {probs.dtype}; use probs.float()"
            )
        check_label_type(labels)
        if regions.dtype != torch.bool:
            raise ValueError(f"regions must be bool, got {regions.dtype}")


def _members(group: object) -> tuple[int, ...]:
    if not isinstance(group, Sequence) or isinstance(group, str):
        raise ValueError(f"each group or composite must be a list of class numbers, such as (1, 2), got {group!r}")
    return tuple(group)


def _in_place(probs: Tensor, labels: Tensor, regions: Tensor) -> bool:
    """Whether the native library can read them where they are."""
    tensors = (probs, labels, regions)
    plain = all(t.device.type == "cpu" and (t.stride(-1) == 1 or t.shape[-1] < 2) for t in tensors)
    return plain and probs.dtype in VALUES


def score_voxels(
    probs: Tensor,
    labels: Tensor,
    regions: Tensor,
    *,
    composites: Sequence[Sequence[int]] = (),
    groups: Sequence[Sequence[int]] | None = None,
    posterior: Tensor | None = None,
    from_logits: bool = False,
) -> ScoreTables:
    """Score voxels in one go with bounded memory: one `Scorer`, which see.

    probs (C, N) in [0, 1] (or logits, then a float64 softmax is taken), labels (N,) in 0..C-1, regions (R, N)
    bool. posterior (C, N): the known pi. With `groups` probs is (len(groups), N) and labels go up to the largest one
    that a group names. `from_logits` says which; `composites` are unions of classes, as indices, whose probabilities
    are added.
    """
    classes = probs.shape[0] if groups is None else 1 + max((k for members in groups for k in members), default=0)
    scorer = Scorer(
        classes,
        regions.shape[0],
        composites=composites,
        groups=groups,
        from_logits=from_logits,
        has_posterior=posterior is not None,
    )
    scorer.add(probs, labels, regions, posterior)
    return scorer.tables()
