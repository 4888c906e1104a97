"""The growing factor of the margin penalty."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import golden_case, random_batch

from medcalib import losses

SCHEDULES: dict[str, dict[str, Any]] = {
    "none": {},
    "add": {"schedule": "add", "schedule_rate": 0.5, "schedule_max": 9.0},
    "multiply": {"schedule": "multiply", "schedule_rate": 1.5, "schedule_max": 9.0},
    "step": {"schedule": "step", "schedule_rate": 10.0, "schedule_every": 2, "schedule_max": 9.0},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_official_schedules(schedule: str) -> None:
    """alpha starts at 0.1 and ends at 0.9 at most; mu = 0.05, 1.5 and 10. The state moves on after each epoch."""
    logits, labels = random_batch()
    hyper = {"margin": 1.0, "weight": 0.1, **SCHEDULES[schedule]}
    objective = losses.build("mbls", 3, **hyper)
    start = objective.parts(logits, labels)["margin"].item()
    for alpha in golden_case("mbls__2d_c4.npz")[0][f"alpha_schedule__{schedule}"]:
        objective.update()
        assert objective.parts(logits, labels)["margin"].item() == pytest.approx(start * alpha / 0.1, rel=1e-12)
        state = objective.state_dict()
        objective = losses.build("mbls", 3, **hyper)
        objective.load_state_dict(state)


def test_a_constant_weight_stays_exactly_one() -> None:
    objective = losses.build("mbls", 3)
    for _ in range(3):
        objective.update()
    assert objective.terms["margin"].growth.factor.item() == 1
    assert objective.terms["margin"].growth.factor.dtype == torch.float64


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"schedule": "add"}, "schedule_rate must be greater than 0 for 'add'"),
        ({"schedule": "multiply", "schedule_rate": 1.0}, "schedule_rate must be greater than 1"),
        ({"schedule": "step", "schedule_rate": 2.0, "schedule_every": 0}, "schedule_every must be at least 1"),
        ({"schedule": "add", "schedule_rate": 0.1, "schedule_max": 0.5}, "schedule_max must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(hyper: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        losses.build("mbls", 3, **hyper)
