"""Vector, matrix and Dirichlet scaling: softmax(W x + b) of logits or of log-probabilities x."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from medcalib.calibrators.calibrator import Calibrator
from medcalib.calibrators.inverse_temperature import start_temperature
from medcalib.calibrators.newton import conjugate_gradients, minimize
from medcalib.calibrators.voxels import Voxels

Compat = Literal["official"] | None
SAMPLE = 1 << 19  # logits that give the start and the curvature: a small error in it costs a step more, no accuracy

_STILL = 1e-3  # of the largest entry: at a minimum the last step is 1e-6 and less, on the way to infinity 1/40


class Piece(NamedTuple):
    """[x, 1] (C + 1, n) float64, labels (n,), and what each voxel counts (n,). The latter are `weights`."""

    x: Tensor
    labels: Tensor
    weights: Tensor


@dataclass(frozen=True)
class _Again:
    """Pieces that are made anew at each pass."""

    made: Callable[[], Iterator[Piece]]

    def __iter__(self) -> Iterator[Piece]:
        return self.made()


class Affine(Calibrator):
    """softmax(W x + b), W (C, C) and b (C,) by the least mean NLL plus the ODIR penalty

        off_diagonal * sum_{i != j} W_ij^2 + bias * sum_j b_j^2.

    The problem is convex; it starts at one temperature and ends in the minimum (Newton, conjugate gradients). With
    `compat="official"` the penalty is that of dirichletcal: of [W | b] after its last row was subtracted from all, so
    that it punishes even the identity.
    """

    features: ClassVar[str] = "logits"

    def __init__(self, num_classes: int, *, compat: Compat = None, **penalties: float) -> None:
        super().__init__(num_classes, **penalties, **({} if compat is None else {"compat": compat}))
        for name, penalty in penalties.items():
            if penalty < 0:
                raise ValueError(f"{name} must be 0 or more, got {penalty}")
        self._penalty = _penalty(num_classes, **penalties)
        self._official = compat == "official"
        self.weight_: Tensor
        self.bias_: Tensor
        self.declare("weight_", (num_classes, num_classes))
        self.declare("bias_", (num_classes,))

    def free(self) -> Tensor:
        """Which entries of [W | b] (C, C + 1) are fitted, as 0 and 1."""
        return torch.ones(self.num_classes, self.num_classes + 1, dtype=torch.float64)

    def map(self, logits: Tensor) -> Tensor:
        """W x + b."""
        return torch.einsum("ij,bjn->bin", self.weight_, self.inputs(logits, 1)) + self.bias_[:, None]

    def inputs(self, logits: Tensor, dim: int = 0) -> Tensor:
        """x of logits. `dim` is the axis of the classes."""
        return logits.log_softmax(dim) if self.features == "log_probs" else logits

    def fit_voxels(self, voxels: Voxels) -> None:
        """Find W and b. Raises ValueError for a class without a voxel and no penalty, and where there is no minimum."""
        counts = self._counted(voxels)
        limit = max(1 << 14, SAMPLE // self.num_classes)
        theta = torch.eye(self.num_classes, self.num_classes + 1, dtype=torch.float64)
        # at one temperature nothing is saturated, and the fit is no worse than it
        theta /= start_temperature(voxels.sample(limit))
        sample = list(self._pieces(voxels, theta, counts, limit))
        if voxels.total > limit:
            with suppress(ValueError):  # a sample can lack what fixes the parameters
                theta = self._minimum(sample, sample, voxels.total, theta)
        self._take(self._minimum(_Again(lambda: self._pieces(voxels)), sample, voxels.total, theta))

    def _take(self, theta: Tensor) -> None:
        self.weight_, self.bias_ = theta[:, :-1].clone(), theta[:, -1].clone()

    def _minimum(self, pieces: Iterable[Piece], sample: Sequence[Piece], total: int, start: Tensor) -> Tensor:
        """By Newton steps whose curvature is that of `sample`."""
        free, last = self.free(), start
        loose = free.bool().all(0) & ((self._penalty.sum(0) == 0) | self._official)  # columns that may shift as one

        def direction(theta: Tensor, gradient: Tensor) -> Tensor:
            nonlocal last
            seen = [(x, torch.softmax(theta.to(x) @ x, 0), weights) for x, _, weights in sample]
            diagonal = _total((w * p * (1 - p)) @ x.square().T for x, p, w in seen) / total + 2 * self._penalty

            def product(step: Tensor) -> Tensor:
                bent = _total(_bent(x, p, w, step) for x, p, w in seen) / total
                return free * (bent + self._pulled(step))

            step = conjugate_gradients(product, gradient, diagonal.clamp(min=1e-12))
            last = step - loose * step.mean(0)
            return last

        theta = minimize(lambda theta: self._objective(pieces, total, theta, free), direction, start)
        growing = float(last.abs().max()) > _STILL * float(theta.abs().max())  # the NLL ends, the steps do not shrink
        if growing and not bool(self._penalty.any()):
            raise ValueError(
                "the fit did not converge: a class can be told apart without error, so that weights grow without end; "
                f"fit on more cases, or regularize with an option, such as {next(iter(self.options))}=1e-3"
            )
        return theta

    def _objective(self, pieces: Iterable[Piece], total: int, theta: Tensor, free: Tensor) -> tuple[float, Tensor]:
        """Mean NLL plus penalty, and its gradient (C, C + 1)."""
        value, gradient = 0.0, torch.zeros_like(theta)
        for x, labels, weights in pieces:
            log_p = (theta.to(x) @ x).log_softmax(0)
            value -= float((weights * log_p.gather(0, labels[None])).sum())
            p = log_p.exp_()
            p.scatter_add_(0, labels[None], torch.full_like(p[:1], -1.0))
            gradient += ((weights * p) @ x.T).cpu()
        pull = self._pulled(theta)
        return value / total + float((pull * theta).sum()) / 2, free * (gradient / total + pull)

    def _pulled(self, theta: Tensor) -> Tensor:
        """The gradient of the penalty."""
        if not self._official:
            return 2 * self._penalty * theta
        pull = 2 * self._penalty * (theta - theta[-1:])
        pull[-1] -= pull.sum(0)
        return pull

    def _pieces(
        self, voxels: Voxels, theta: Tensor | None = None, counts: Tensor | None = None, limit: int = 0
    ) -> Iterator[Piece]:
        """All voxels, or with `counts` about `limit` of them: half drawn evenly, half by what they tell of a class.

        A class of 50 voxels among 50 million is seen by none of an even sample, whose curvature then knows nothing of
        it. Weights 1 / (probability to be drawn) make sums over the sample those over all voxels on average.
        """
        generator = torch.Generator().manual_seed(0)
        for chunk in voxels.chunks():
            x = self.inputs(chunk.logits)
            x = torch.cat([x, torch.ones_like(x[:1])])
            weights = torch.ones_like(x[0])
            if counts is not None and theta is not None and voxels.total > limit:
                p, rarity = torch.softmax(theta.to(x) @ x, 0), 1 / counts.to(x).clamp(min=1)
                telling = rarity @ (p * (1 - p)) + rarity[chunk.labels]
                weights = 1 / (limit / 2 * (1 / voxels.total + telling / (2 * len(counts)))).clamp(max=1)
                kept = torch.rand(len(weights), generator=generator, dtype=torch.float64).to(x) * weights < 1
                yield Piece(x[:, kept], chunk.labels[kept], weights[kept])
            else:
                yield Piece(x, chunk.labels, weights)

    def _counted(self, voxels: Voxels) -> Tensor:
        """How many voxels each class has (C,)."""
        seen = torch.zeros(self.num_classes, dtype=torch.int64)
        for chunk in voxels.chunks():
            seen += torch.bincount(chunk.labels, minlength=self.num_classes).cpu()
        absent = [str(k) for k in (seen == 0).nonzero()[:, 0].tolist()]
        if absent and float(self._penalty[:, -1].min()) == 0:
            raise ValueError(
                f"class {', '.join(absent)} has no voxel in the fit, so its bias has no best value; fit on cases that "
                f"have it, or set the option bias (such as bias=1e-3)"
            )
        return seen


class Vector(Affine):
    """softmax(w * z + b), w and b (C,): matrix scaling with a diagonal matrix.

    `bias` >= 0 is the weight of a penalty bias * sum b^2.

    Reference: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """

    name = "vector"
    formula = "softmax(W z + b), W diagonal"
    reference = "C. Guo et al., ICML 2017, section 4.2"

    def __init__(self, num_classes: int, *, bias: float = 0.0) -> None:
        super().__init__(num_classes, bias=bias)

    def free(self) -> Tensor:
        """The diagonal and b."""
        return torch.eye(self.num_classes, self.num_classes + 1, dtype=torch.float64).index_fill(
            1, torch.tensor([self.num_classes]), 1.0
        )


class Matrix(Affine):
    """softmax(W z + b), W (C, C), b (C,), with the penalty off_diagonal * sum_{i != j} W_ij^2 + bias * sum b^2.

    `compat`: see `Affine`.

    Reference: C. Guo et al., ICML 2017, section 4.2; the penalty: M. Kull et al., NeurIPS 2019.
    """

    name = "matrix"
    formula = "softmax(W z + b)"
    reference = "C. Guo et al., ICML 2017, section 4.2"

    def __init__(
        self, num_classes: int, *, off_diagonal: float = 0.0, bias: float = 0.0, compat: Compat = None
    ) -> None:
        super().__init__(num_classes, off_diagonal=off_diagonal, bias=bias, compat=compat)


class Dirichlet(Affine):
    """softmax(W ln p + b), p = softmax(z), with the ODIR penalty off_diagonal * sum_{i != j} W_ij^2 + bias * sum b^2.

    The penalties are plain sums, as in the authors' code; the paper and MDCA's code divide them by C (C-1) and C.
    `compat`: see `Affine`.

    Reference: M. Kull et al., Beyond temperature scaling: Obtaining well-calibrated multi-class probabilities with
    Dirichlet calibration, NeurIPS 2019.
    """

    name = "dirichlet"
    formula = "softmax(W ln p + b), p = softmax(z)"
    reference = "M. Kull et al., NeurIPS 2019"
    features = "log_probs"

    def __init__(
        self, num_classes: int, *, off_diagonal: float = 0.0, bias: float = 0.0, compat: Compat = None
    ) -> None:
        super().__init__(num_classes, off_diagonal=off_diagonal, bias=bias, compat=compat)


def _penalty(num_classes: int, *, bias: float, off_diagonal: float = 0.0) -> Tensor:
    """Its weight at each entry of [W | b]."""
    weights = torch.full((num_classes, num_classes + 1), off_diagonal, dtype=torch.float64)
    weights.fill_diagonal_(0)
    weights[:, -1] = bias
    return weights


def _bent(x: Tensor, p: Tensor, weights: Tensor, step: Tensor) -> Tensor:
    """The Hessian of the summed NLL at probabilities p (C, n) and inputs x (C + 1, n), times step (C, C + 1)."""
    moved = step.to(x) @ x
    return (weights * p * (moved - (p * moved).sum(0))) @ x.T


def _total(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(Tensor.add_, terms).cpu()
