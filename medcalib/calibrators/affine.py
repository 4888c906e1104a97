"""Vector, matrix and Dirichlet scaling: softmax(W x + b) of logits or of log-probabilities x."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from medcalib.calibrators.calibrator import Calibrator
from medcalib.calibrators.newton import SAMPLE, conjugate_gradients, minimize
from medcalib.calibrators.voxels import Chunk, Voxels

Compat = Literal["official"] | None


class Affine(Calibrator):
    """softmax(W x + b), W (C, C) and b (C,) by the least mean NLL plus the ODIR penalty

        off_diagonal * sum_{i != j} W_ij^2 + bias * sum_j b_j^2.

    The problem is convex; it starts at the identity and ends in the minimum (Newton, conjugate gradients). With
    `compat="official"` the penalty is that of dirichletcal: of [W | b] after its last row was subtracted from all, so
    that it punishes even the identity.
    """

    features: ClassVar[str] = "logits"

    def __init__(self, num_classes: int, *, compat: Compat = None, **penalties: float) -> None:
        super().__init__(num_classes, **penalties, **({} if compat is None else {"compat": compat}))
        if min(penalties.values()) < 0:
            raise ValueError(f"penalties must be 0 or more, got {penalties}")
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
        """x of logits."""
        return logits.log_softmax(dim) if self.features == "log_probs" else logits

    def fit_voxels(self, voxels: Voxels) -> None:
        """Find W and b. Raises ValueError for a class without a voxel and no penalty, and where there is no minimum."""
        self._require_classes(voxels)
        theta = torch.eye(self.num_classes, self.num_classes + 1, dtype=torch.float64)
        for part in dict.fromkeys((voxels.sample(SAMPLE), voxels)):
            theta = self._minimum(part, theta)
        self.weight_, self.bias_ = theta[:, :-1].clone(), theta[:, -1].clone()

    def _minimum(self, voxels: Voxels, start: Tensor) -> Tensor:
        free, sample = self.free(), voxels.sample(SAMPLE)
        chunks = [(self._features(chunk), chunk) for chunk in sample.chunks()]

        def direction(theta: Tensor, gradient: Tensor) -> Tensor:
            seen = [(x, torch.softmax(theta.to(x) @ x, 0)) for x, _ in chunks]
            diagonal = _total((p * (1 - p)) @ x.square().T for x, p in seen) / sample.total + 2 * self._penalty

            def product(step: Tensor) -> Tensor:
                bent = _total(_bent(x, p, step) for x, p in seen) / sample.total
                return free * (bent + self._pulled(step))

            return conjugate_gradients(product, gradient, diagonal.clamp(min=1e-12))

        return minimize(lambda theta: self._objective(voxels, theta, free), direction, start)

    def _objective(self, voxels: Voxels, theta: Tensor, free: Tensor) -> tuple[float, Tensor]:
        """Mean NLL plus penalty, and its gradient (C, C + 1)."""
        value, gradient = 0.0, torch.zeros_like(theta)
        for chunk in voxels.chunks():
            x = self._features(chunk)
            log_p = (theta.to(x) @ x).log_softmax(0)
            value -= float(log_p.gather(0, chunk.labels[None]).sum())
            p = log_p.exp_()
            p.scatter_add_(0, chunk.labels[None], torch.full_like(p[:1], -1.0))
            gradient += (p @ x.T).cpu()
        pull = self._pulled(theta)
        return value / voxels.total + float((pull * theta).sum()) / 2, free * (gradient / voxels.total + pull)

    def _pulled(self, theta: Tensor) -> Tensor:
        """The gradient of the penalty."""
        if not self._official:
            return 2 * self._penalty * theta
        pull = 2 * self._penalty * (theta - theta[-1:])
        pull[-1] -= pull.sum(0)
        return pull

    def _features(self, chunk: Chunk) -> Tensor:
        """[x, 1] (C + 1, n)."""
        x = self.inputs(chunk.logits)
        return torch.cat([x, torch.ones_like(x[:1])])

    def _require_classes(self, voxels: Voxels) -> None:
        if float(self._penalty[:, -1].min()) > 0:
            return
        seen = torch.zeros(self.num_classes, dtype=torch.int64)
        for chunk in voxels.chunks():
            seen += torch.bincount(chunk.labels, minlength=self.num_classes).cpu()
        absent = [str(k) for k in (seen == 0).nonzero()[:, 0].tolist()]
        if absent:
            raise ValueError(
                f"class {', '.join(absent)} has no voxel in the fit, so its bias has no best value; fit on cases that "
                f"have it, or set the option bias (such as bias=1e-3)"
            )


class Vector(Affine):
    """softmax(w * z + b), w and b (C,): matrix scaling with a diagonal matrix.

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

    Reference: C. Guo et al., ICML 2017, section 4.2; the penalty: M. Kull et al., NeurIPS 2019, section 4.2.
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

    Reference: M. Kull et al., Beyond temperature scaling: Obtaining well-calibrated multi-class probabilities with
    Dirichlet calibration, NeurIPS 2019, sections 3 and 4.2.
    """

    name = "dirichlet"
    formula = "softmax(W ln p + b), p = softmax(z)"
    reference = "M. Kull et al., NeurIPS 2019, section 3"
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


def _bent(x: Tensor, p: Tensor, step: Tensor) -> Tensor:
    """The Hessian of the summed NLL at probabilities p (C, n) and inputs x (C + 1, n), times step (C, C + 1)."""
    moved = step.to(x) @ x
    return (p * (moved - (p * moved).sum(0))) @ x.T


def _total(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(Tensor.add_, terms).cpu()
