"""Newton and conjugate gradients: a minimum, bounds, singular directions, no minimum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medcalib.calibrators.newton import conjugate_gradients, minimize


def test_a_quadratic_takes_one_step() -> None:
    h = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    best = torch.tensor([1.0, -2.0], dtype=torch.float64)
    seen = []

    def objective(x: Tensor) -> tuple[float, Tensor]:
        seen.append(x)
        return float((x - best) @ h @ (x - best) / 2), h @ (x - best)

    found = minimize(objective, lambda _, g: torch.linalg.solve(h, g), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(found, best, rtol=0, atol=1e-12)
    assert len(seen) == 2


def test_steps_that_overshoot_are_halved() -> None:
    """ln cosh x from 3: a whole Newton step leads to -97, and the next ones further out."""
    found = minimize(
        lambda x: (float(torch.logaddexp(x, -x)), torch.tanh(x)),
        lambda x, g: g * torch.cosh(x).square(),
        torch.tensor([3.0], dtype=torch.float64),
    )
    assert abs(found.item()) < 1e-9


def test_bounds_hold() -> None:
    found = minimize(
        lambda x: (float((x - 5).square()), 2 * (x - 5)),
        lambda x, g: torch.where((x >= 2) & (g < 0), 0, g / 2),
        torch.zeros(1, dtype=torch.float64),
        lambda x: x.clamp(max=2),
    )
    assert found.item() == 2


def test_without_a_minimum_it_says_so() -> None:
    with pytest.raises(ValueError, match=r"did not converge.*regularize"):
        minimize(lambda x: (float(-x), -torch.ones_like(x)), lambda _, g: g, torch.zeros(1, dtype=torch.float64))


def test_curvature_of_a_tenth_too_much_still_ends_in_the_minimum() -> None:
    found = minimize(
        lambda x: (float((x - 1).square()), 2 * (x - 1)), lambda _, g: g / 2.2, torch.zeros(1, dtype=torch.float64)
    )
    assert found.item() == pytest.approx(1, abs=1e-8)


def test_conjugate_gradients_in_the_range_of_a_singular_matrix() -> None:
    """A graph's Laplacian: constants are its null space."""
    h = torch.tensor([[2.0, -1, -1], [-1, 3, -2], [-1, -2, 3]], dtype=torch.float64)
    target = torch.tensor([1.0, -3.0, 2.0], dtype=torch.float64)
    found = conjugate_gradients(lambda v: h @ v, target, h.diagonal())
    torch.testing.assert_close(h @ found, target, rtol=0, atol=1e-9)
    assert not conjugate_gradients(lambda v: h @ v, torch.zeros_like(target), h.diagonal()).any()
