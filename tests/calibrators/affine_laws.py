"""What vector, matrix and Dirichlet scaling share: stationary, optimal, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fits import close, drawn, nll
from scipy.optimize import minimize
from torch import Tensor

from medcalib.calibrators import affine, build
from medcalib.calibrators.affine import Affine


def objective(fitted: Affine, weight: Tensor, bias: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean NLL and penalty in plain torch."""
    penalty = fitted.options
    x = logits.log_softmax(1) if fitted.name == "dirichlet" else logits
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, labels)
    off = weight - torch.diag(weight.diagonal())
    pulled = penalty.get("off_diagonal", 0.0) * off.square().sum() + penalty.get("bias", 0.0) * bias.square().sum()
    return loss + pulled


def check_stationary(name: str, **penalty: float) -> None:
    """The gradient in the fitted entries vanishes."""
    logits, labels = drawn(2.0)
    fitted = build(name, 4, **penalty).fit(logits, labels)
    assert isinstance(fitted, Affine)
    weight, bias = fitted.weight_.clone().requires_grad_(), fitted.bias_.clone().requires_grad_()
    slopes = torch.autograd.grad(objective(fitted, weight, bias, logits, labels), (weight, bias))
    free = fitted.free()
    assert (slopes[0] * free[:, :-1]).abs().max() < 1e-8
    assert slopes[1].abs().max() < 1e-8


def check_optimal(name: str, **penalty: float) -> None:
    """No better than another optimizer's, three classes."""
    logits, labels = drawn(2.0, 600, 3)
    fitted = build(name, 3, **penalty).fit(logits, labels)
    assert isinstance(fitted, Affine)
    free = fitted.free().bool()

    def lost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.zeros(3, 4, dtype=torch.float64)
        theta[free] = torch.from_numpy(flat)
        theta.requires_grad_()
        value = objective(fitted, theta[:, :-1], theta[:, -1], logits, labels)
        return float(value.detach()), torch.autograd.grad(value, theta)[0][free].numpy()

    found = minimize(lost, np.zeros(int(free.sum())), jac=True, method="BFGS", options={"gtol": 1e-9})
    own = float(objective(fitted, fitted.weight_, fitted.bias_, logits, labels))
    assert own == pytest.approx(found.fun, abs=1e-12)


def check_sampled_start(name: str, monkeypatch: pytest.MonkeyPatch, **penalty: float) -> None:
    """Curvature of a weighted sample: the same minimum, a class of four voxels included, and nothing free drifts."""
    logits, labels = drawn(2.0, 40000)
    rare = torch.arange(len(labels)) % 10000 == 0
    logits[:, 3] -= 12
    labels[labels == 3] = 0
    labels[rare] = 3
    logits[rare, 3] += 12
    whole = build(name, 4, **penalty)
    with monkeypatch.context() as patch:
        patch.setattr(affine, "SAMPLE", 1 << 30)
        whole.fit(logits, labels)
    with monkeypatch.context() as patch:
        patch.setattr(affine, "SAMPLE", 1)  # 2^14 voxels
        sampled = build(name, 4, **penalty).fit(logits, labels)
    close(sampled(logits).softmax(1), whole(logits).softmax(1), 1e-7)
    assert sampled.bias_.abs().max() < 100


def check_refusals(name: str) -> None:
    """A class without a voxel; with a penalty it works."""
    logits, labels = drawn(2.0)
    labels[labels == 2] = 1
    with pytest.raises(ValueError, match=r"class 2 has no voxel.*bias=1e-3"):
        build(name, 4).fit(logits, labels)
    fitted = build(name, 4, bias=1e-3).fit(logits, labels)
    assert torch.isfinite(fitted(logits)).all()
    assert nll(fitted(logits), labels) < nll(logits, labels)
    with pytest.raises(ValueError, match="did not converge"):
        build(name, 4).fit(10 * torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5))
    with pytest.raises(ValueError, match="0 or more"):
        build(name, 4, bias=-1.0)
