"""Class-adaptive margins: the augmented Lagrangian and the heuristic rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import (
    SCALES,
    check_all_ignored,
    check_golden_sequence,
    check_gradient,
    check_ignored,
    golden_case,
    random_batch,
    tensors,
    voxel,
)

from medcalib import losses


def test_a_voxel_by_hand() -> None:
    """Distances 0, 7, 12 under a margin of 5: h = -1, 0.4, 1.4; lam = 1e-6 and rho = 1 at the start."""
    logits, labels = voxel(12.0, 5.0, 0.0, label=1)
    found = losses.build("cals_alm", 3, margin=5.0).parts(logits, labels)["cals_alm"].item()
    lam = 1e-6
    expected = (-(lam**2) / 2 + lam * 0.4 + 0.4**2 / 2 + lam * 1.4 + 1.4**2 / 2) / 3
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_step_by_hand() -> None:
    """After one observation lam_k is the mean of max(lam + rho h_k, 0): 1e-6 (the least), 0.4 and 1.4."""
    logits, labels = voxel(12.0, 5.0, 0.0, label=1)
    objective = losses.build("cals_alm", 3, margin=5.0)
    objective.observe(logits, labels)
    objective.update()
    lam = objective.terms["cals_alm"].multipliers.lam
    assert lam.tolist() == pytest.approx([1e-6, 0.4 + 1e-6, 1.4 + 1e-6], rel=1e-12)


def test_the_heuristic_by_hand() -> None:
    """Excess 0, 2, 7. In the second round channel 1 rises by a factor of 2, channel 2 falls to a seventh."""
    logits, labels = voxel(12.0, 5.0, 0.0, label=1)
    objective = losses.build("cals_hr", 3, margin=5.0, growth=1.25, weight=0.5)
    assert objective.parts(logits, labels)["cals_hr"].item() == pytest.approx(0.5 * 9 / 3, rel=1e-14)
    for second in (5.0, 3.0):
        third = 0.0 if second == 5 else 6.0
        objective.observe(*voxel(12.0, second, third, label=1))
        objective.update()
    assert objective.terms["cals_hr"].lam.tolist() == [1.0, 1.25, 0.8]
    changed = (1.25 * 2 + 0.8 * 7) / 3
    assert objective.parts(logits, labels)["cals_hr"].item() == pytest.approx(0.5 * changed, rel=1e-14)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_sequences(case: str) -> None:
    step: dict[str, Any] = {"margin": 5.0, "rho_step": 1}
    variants = {
        "phr_m10_default": {},
        "phr_m5_rs1": step,
        "p2_m5_rs1": step | {"penalty": "p2"},
        "p3_m5_rs1": step | {"penalty": "p3"},
        "phr_m5_raw": step | {"normalize": False},
    }
    check_golden_sequence(f"cals_alm__{case}.npz", "cals_alm", variants)


@pytest.mark.parametrize("case", ["2d_c4", "3d_c4"])
@pytest.mark.parametrize(("variant", "hyper"), [("config_m10", {}), ("m5", {"margin": 5.0})])
def test_official_sequences_of_the_heuristic(case: str, variant: str, hyper: dict[str, float]) -> None:
    stored, _, base, labels = golden_case(f"cals_hr__{case}.npz")
    base = base.detach()
    objective = losses.build("cals_hr", 4, **hyper)
    for epoch, scale in enumerate(SCALES):
        logits = (base * scale).requires_grad_()
        total, _, term = stored[f"terms__{variant}"][epoch]
        assert objective.parts(logits, labels)["cals_hr"].item() == pytest.approx(term, rel=1e-9)
        loss = objective(logits, labels)
        assert loss.item() == pytest.approx(total, rel=1e-9)
        if epoch == 0:
            official = torch.from_numpy(stored[f"grad__{variant}_e0"])
            (gradient,) = torch.autograd.grad(loss, logits)
            torch.testing.assert_close(gradient, official, rtol=0, atol=1e-8 * float(official.abs().max()))
        objective.observe(base * scale, labels)
        objective.observe(base.roll(1, -1) * (scale * 1.125), labels.roll(1, -1))
        objective.update()
        lam = 0.1 * objective.terms["cals_hr"].lam.numpy()
        assert lam == pytest.approx(stored[f"lambda__{variant}"][epoch], rel=1e-9)


@pytest.mark.parametrize("name", ["cals_alm", "cals_hr"])
def test_a_shift_of_all_logits_changes_nothing(name: str) -> None:
    logits, labels = random_batch()
    objective = losses.build(name, 3, margin=2.0)
    shifted = objective.parts(logits + 123.0, labels)[name]
    torch.testing.assert_close(objective.parts(logits, labels)[name], shifted)


@pytest.mark.parametrize("name", ["cals_alm", "cals_hr"])
def test_gradient_and_ignored_voxels(name: str) -> None:
    check_gradient(name, margin=2.0)
    check_ignored(name, margin=2.0)
    check_all_ignored(name)


@pytest.mark.parametrize("name", ["cals_alm", "cals_hr"])
def test_ignored_voxels_do_not_move_multipliers(name: str) -> None:
    logits, labels = random_batch(shape=(1, 4, 4, 4))
    whole, half = (losses.build(name, 3, margin=1.0, ignore_index=255) for _ in range(2))
    labels[:, 2:] = 255
    for _ in range(2):
        whole.observe(logits, labels)
        half.observe(logits[:, :, :2], labels[:, :2])
        whole.update()
        half.update()
    torch.testing.assert_close(tensors(whole), tensors(half), rtol=1e-14, atol=0)


def test_options_out_of_range_are_refused() -> None:
    for name in ("cals_alm", "cals_hr"):
        with pytest.raises(ValueError, match="margin must be"):
            losses.build(name, 3, margin=0.0)
    with pytest.raises(ValueError, match="tolerance must be greater than 1"):
        losses.build("cals_hr", 3, tolerance=1.0)
    with pytest.raises(ValueError, match="growth must be greater than 1"):
        losses.build("cals_hr", 3, growth=0.5)
