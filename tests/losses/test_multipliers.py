"""Penalty functions and the step of multipliers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import GOLDEN

from medcalib.losses.multipliers import Multipliers, penalty_slope, penalty_value

DEFAULTS: dict[str, Any] = {
    "penalty": "phr", "rho": 1.0, "rho_max": 1.5, "rho_step": 1, "growth": 1.2, "tolerance": 0.9,
    "lam_min": 1e-6, "lam_max": 10.0,
}  # fmt: skip


def multipliers(size: int = 1, **changed: Any) -> Multipliers:
    return Multipliers(size, **(DEFAULTS | changed))


def observe(state: Multipliers, slope: float, violation: float, count: float = 1.0) -> None:
    """One update after `count` voxels with these means."""
    sums = (torch.tensor([value * count], dtype=torch.float64) for value in (slope, violation))
    state.add(*sums, torch.tensor(count, dtype=torch.float64))
    state.update()


@pytest.mark.parametrize(
    ("penalty", "h", "value", "slope"),
    [
        ("phr", 2.0, 0.5 * 2 + 3 * 4 / 2, 0.5 + 3 * 2),
        ("phr", -1.0, -(0.5**2) / 6, 0.0),
        ("p2", 2.0, 0.5 * 2 + 1.5 * 4 + 9 * 8 / 6, 0.5 + 3 * 2 + 9 * 4 / 2),
        ("p2", -1.0, -0.5 / 4, 0.5 / 16),
        ("p3", 2.0, 0.5 * 2 + 1.5 * 4, 0.5 + 3 * 2),
        ("p3", -1.0, -0.5 / 4, 0.5 / 16),
    ],
)
def test_penalties_by_hand(penalty: Any, h: float, value: float, slope: float) -> None:
    """lam = 0.5, rho = 3."""
    at = [torch.tensor(number, dtype=torch.float64) for number in (h, 0.5, 3.0)]
    assert penalty_value(*at, penalty).item() == pytest.approx(value, rel=1e-14)
    assert penalty_slope(*at, penalty).item() == pytest.approx(slope, rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("penalty", ["phr", "p2", "p3"])
@pytest.mark.parametrize("lam", [1e-6, 0.3, 2.0])
@pytest.mark.parametrize("rho", [0.1, 1.0, 3.0])
def test_official_penalties(penalty: Any, lam: float, rho: float) -> None:
    stored = np.load(GOLDEN / "alm_penalties__grid.npz")
    value, slope = stored[f"{penalty}__lam{lam:g}_rho{rho:g}"]
    at = [torch.from_numpy(stored["h"]).double(), *(torch.tensor(n, dtype=torch.float64) for n in (lam, rho))]
    assert penalty_value(*at, penalty).numpy() == pytest.approx(value, rel=1e-9, abs=1e-15)
    assert penalty_slope(*at, penalty).numpy() == pytest.approx(slope, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("penalty", ["phr", "p2", "p3"])
def test_the_slope_is_the_derivative_also_where_branches_meet(penalty: Any) -> None:
    h = torch.linspace(-3, 3, 61, dtype=torch.float64).requires_grad_()
    lam, rho = torch.tensor(0.7, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(penalty_value(h, lam, rho, penalty).sum(), h)
    torch.testing.assert_close(gradient, penalty_slope(h.detach(), lam, rho, penalty))
    assert penalty_value(torch.zeros((), dtype=torch.float64), lam, rho, penalty).item() == 0


def test_a_step_by_hand() -> None:
    """lam is the mean slope within its limits; rho grows from the second update on, where violations do not fall."""
    state = multipliers()
    observe(state, slope=0.25, violation=4.0, count=8)
    assert (state.lam.item(), state.rho.item()) == (0.25, 1.0)  # nothing to compare the violation with
    observe(state, slope=50.0, violation=3.7)
    assert state.lam.item() == 10.0  # lam_max
    assert state.rho.item() == pytest.approx(1.2)  # 3.7 > 0.9 * 4
    observe(state, slope=0.0, violation=1.0)
    assert state.lam.item() == 1e-6  # lam_min
    assert state.rho.item() == pytest.approx(1.2)  # 1.0 < 0.9 * 3.7
    observe(state, slope=1.0, violation=1.0)
    assert state.rho.item() == pytest.approx(1.44)
    observe(state, slope=1.0, violation=1.0)
    assert state.rho.item() == 1.5  # rho_max


@pytest.mark.parametrize(("first", "second"), [(4.0, 2.0), (0.0, 0.0), (-1.0, 0.0)])
def test_rho_stays_where_the_violation_is_just_the_tolerated_one(first: float, second: float) -> None:
    state = multipliers(tolerance=0.5)
    observe(state, slope=1.0, violation=first)
    observe(state, slope=1.0, violation=second)
    assert state.rho.item() == 1.0


def test_rho_steps_in_every_rho_step_th_update() -> None:
    state = multipliers(rho_step=3)
    found = []
    for _ in range(6):
        observe(state, slope=1.0, violation=1.0)
        found.append(state.rho.item())
    assert found == pytest.approx([1, 1, 1.2, 1.2, 1.2, 1.44])
    still = multipliers(rho_step=0)
    for _ in range(3):
        observe(still, slope=1.0, violation=1.0)
    assert still.rho.item() == 1.0


def test_without_a_voxel_nothing_steps() -> None:
    state = multipliers()
    observe(state, slope=0.25, violation=4.0)
    before = {key: value.clone() for key, value in state.named_buffers()}
    state.update()
    torch.testing.assert_close(dict(state.named_buffers()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rho": 0.0}, "rho must be positive, got 0.0"),
        ({"rho": float("nan")}, "rho must be positive"),
        ({"rho_max": 0.5}, r"rho_max must be at least rho \(1.0\)"),
        ({"rho_step": -1}, "rho_step must not be negative"),
        ({"growth": 0.9}, "growth must be at least 1"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"lam_min": 0.0}, "lam_min must be positive"),
        ({"lam_max": 1e-9}, "lam_max must be at least lam_min"),
    ],
)
def test_options_out_of_range_are_refused(changed: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        multipliers(**changed)
