"""Temperature scaling."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from medcalib.calibrators.calibrator import Calibrator

_TOLERANCE = 1e-12
_MAX_STEPS = 100
_LOG_RANGE = math.log(1e4)  # temperatures from 1e-4 to 1e4


class Temperature(Calibrator):
    """z / T with the T that minimizes the NLL, mean of logsumexp(z/T) - z_t/T.

    The NLL is convex in beta = 1/T; it is minimized by Newton steps in beta, kept inside a shrinking bracket.
    The arg-max never changes. T > 1 softens an overconfident network.

    Reference: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2. The official
    codes search a grid or take some steps of Adam or L-BFGS; the minimum is unique, so it is found exactly.
    """

    name = "temperature"

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.temperature_: Tensor
        self.register_buffer("temperature_", torch.full((), math.nan, dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        """logits / T (logits again, not probabilities), in the type of the logits. Raises ValueError before a fit."""
        if bool(self.temperature_.isnan()):
            raise ValueError("the temperature is not fitted; call fit(logits, labels) on held-out cases first")
        return logits / self.temperature_.to(logits.dtype)

    def extra_repr(self) -> str:
        """The fitted temperature."""
        return f"temperature={self.temperature_.item():.4g}"

    def fit(self, logits: Tensor, labels: Tensor) -> Self:
        """Find T. Raises ValueError when the NLL has no minimum (every voxel right by any margin, or the reverse)."""
        flat, wanted = self.voxels(logits, labels)
        centered = flat - flat.gather(1, wanted[:, None])  # z_k - z_t: the NLL is mean logsumexp(beta * this)
        low, high = math.exp(-_LOG_RANGE), math.exp(_LOG_RANGE)
        if _slope(centered, low)[0] >= 0 or _slope(centered, high)[0] <= 0:
            raise ValueError(
                "the NLL has no minimum over temperatures of 1e-4 to 1e4: the voxels are all classified right, or "
                "the logits are uninformative; fit on more, or on harder, cases"
            )
        self.temperature_.fill_(1 / _root(centered, low, high))
        return self


def _root(centered: Tensor, low: float, high: float) -> float:
    """The beta at which the slope of the NLL is 0: Newton, or the bracket's geometric middle where that leaves it."""
    beta = 1.0
    for _ in range(_MAX_STEPS):
        slope, curvature = _slope(centered, beta)
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else low
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - beta) <= _TOLERANCE * beta:
            return following
        beta = following
    raise ValueError(f"the temperature did not converge in {_MAX_STEPS} steps (1/T between {low} and {high})")


def _slope(centered: Tensor, beta: float) -> tuple[float, float]:
    """First and second derivative of the NLL in beta: mean and variance of z_k - z_t under the softmax."""
    probs = torch.softmax(beta * centered, 1)
    mean = (probs * centered).sum(1)
    spread = (probs * centered.square()).sum(1) - mean.square()
    return float(mean.mean()), float(spread.mean())
