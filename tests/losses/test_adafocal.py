"""AdaFocal: the loss at given exponents, and the step of exponents and bins."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import GOLDEN, SCALES, check_all_ignored, check_gradient, check_ignored, random_batch, tensors, voxel

from medcalib import losses
from medcalib.losses.adafocal import bin_gaps, equal_mass_edges


def test_a_voxel_by_hand() -> None:
    """p_t = 3/4; exponent 2 gives (1/4)^2, exponent -2 gives (7/4)^2."""
    logits, labels = voxel(math.log(1), math.log(3), label=1)
    objective = losses.build("adafocal", 2, gamma=2.0)
    assert objective(logits, labels).item() == pytest.approx(0.25**2 * -math.log(0.75), rel=1e-14)
    objective.terms["adafocal"].gammas.fill_(-2.0)
    assert objective(logits, labels).item() == pytest.approx(1.75**2 * -math.log(0.75), rel=1e-14)


def test_the_bin_of_the_true_class_decides_by_hand() -> None:
    """15 bins: p_t = 3/4 lies in the twelfth, [11/15, 12/15)."""
    logits, labels = voxel(math.log(1), math.log(3), label=1)
    objective = losses.build("adafocal", 2)
    objective.terms["adafocal"].gammas[11] = 3.0
    assert objective(logits, labels).item() == pytest.approx(0.25**3 * -math.log(0.75), rel=1e-14)


def test_bins_of_equal_mass_by_hand() -> None:
    """Five confidences, two bins: positions 0, 2.5, 5; halfway between the third and fourth. The first is in no bin."""
    confidence = torch.tensor([0.5, 0.6, 0.7, 0.9, 1.0], dtype=torch.float64)
    one = torch.ones(5, dtype=torch.float64)
    edges = equal_mass_edges(confidence, one, 2)
    assert edges.tolist() == pytest.approx([0.5, 0.8, 1.0], rel=1e-15)
    correct = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    assert bin_gaps(confidence, correct, one, edges).tolist() == pytest.approx([0.65 - 0.5, 0.95 - 0.5], rel=1e-12)


def test_a_weighted_voxel_counts_as_often_as_it_says() -> None:
    confidence = torch.linspace(0.5, 1, 9, dtype=torch.float64)
    weight = torch.tensor([1.0, 2, 3, 1, 1, 2, 1, 1, 1], dtype=torch.float64)
    correct = (torch.arange(9) % 2).double()
    repeated = weight.long()
    edges = equal_mass_edges(confidence, weight, 3)
    many = confidence.repeat_interleave(repeated)
    assert abs(edges - equal_mass_edges(many, torch.ones_like(many), 3)).max() < 0.07  # the spacing of confidences
    found = bin_gaps(confidence, correct, weight, edges)
    again = bin_gaps(many, correct.repeat_interleave(repeated), torch.ones_like(many), edges)
    torch.testing.assert_close(found, again, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(bin_gaps(confidence, correct, weight / 64, edges), found, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4"])
@pytest.mark.parametrize(
    ("variant", "hyper", "seen"),
    [("lam1", {}, 1.125), ("lam12", {"rate": 12.0}, 1.125), ("lam12_under", {"rate": 12.0}, 0.125)],
)
def test_official_sequences(case: str, variant: str, hyper: dict[str, float], seen: float) -> None:
    """Three epochs; the official loss is a sum over voxels. The state moves to a new objective after the first."""
    stored = np.load(GOLDEN / f"adafocal__{case}.npz")
    assert json.loads(str(stored["meta"]))["method"] == "adafocal"
    base, labels = torch.from_numpy(stored["logits"]), torch.from_numpy(stored["labels"].astype(np.int64))
    classes = base.shape[1]
    objective = losses.build("adafocal", classes, **hyper)
    for epoch, scale in enumerate(SCALES):
        logits = (base * scale).requires_grad_()
        loss = objective(logits, labels) * labels.numel()
        assert loss.item() == pytest.approx(stored[f"loss_sum__{variant}"][epoch], rel=1e-9)
        if f"grad_sum__{variant}_e{epoch}" in stored.files:
            official = torch.from_numpy(stored[f"grad_sum__{variant}_e{epoch}"])
            (gradient,) = torch.autograd.grad(loss, logits)
            torch.testing.assert_close(gradient, official, rtol=0, atol=1e-8 * float(official.abs().max()))
        objective.observe(base[:1] * scale * seen, labels[:1])
        objective.observe(base[1:] * scale * seen, labels[1:])
        objective.update()
        term = objective.terms["adafocal"]
        assert term.gammas.numpy() == pytest.approx(stored[f"gamma__{variant}"][epoch], rel=1e-9)
        assert term.edges[:-1].numpy() == pytest.approx(stored[f"lower__{variant}"][epoch], rel=1e-12)
        if epoch == 0:
            state = objective.state_dict()
            objective = losses.build("adafocal", classes, **hyper)
            objective.load_state_dict(state)


def test_the_sign_switches_below_the_threshold() -> None:
    """An underconfident bin (confidence 0.5, always right) shrinks 0.25 by exp(-0.5): below 0.2, so -0.2."""
    objective = losses.build("adafocal", 2, gamma=0.25)
    logits = 1e-3 * torch.arange(30, dtype=torch.float64).reshape(1, 1, 5, 6)
    objective.observe(torch.cat([logits, 0 * logits], 1), torch.zeros(1, 5, 6, dtype=torch.long))
    objective.update()
    assert set(objective.terms["adafocal"].gammas.tolist()) == {-0.2}


def test_more_voxels_than_max_voxels_are_thinned_evenly_and_give_nearly_the_same() -> None:
    logits, labels = random_batch(3, (2, 32, 32, 16))
    logits = logits.detach()
    whole, thinned = (losses.build("adafocal", 3, max_voxels=limit) for limit in (None, 4096))
    for objective in (whole, thinned):
        objective.observe(logits, labels)
    rows = thinned.terms["adafocal"].seen
    assert [len(part) for part in rows] == [4096, 4096]
    assert sum(float(part[:, 2].sum()) for part in rows) == labels.numel()
    for objective in (whole, thinned):
        objective.update()
    # a gap of ~546 voxels has a standard error of 0.5 / sqrt(546) = 0.02
    difference = whole.terms["adafocal"].gammas.log() - thinned.terms["adafocal"].gammas.log()
    assert 0 < float(difference.abs().max()) < 5 * 0.02


def test_without_a_voxel_nothing_steps() -> None:
    logits, labels = random_batch()
    objective = losses.build("adafocal", 3, ignore_index=255)
    before = {key: value.clone() for key, value in tensors(objective).items()}
    objective.observe(logits, torch.full_like(labels, 255))
    objective.update()
    torch.testing.assert_close(tensors(objective), before, rtol=0, atol=0)


def test_a_single_observed_voxel_gives_finite_bins() -> None:
    logits, labels = voxel(1.0, 0.0, label=0)
    objective = losses.build("adafocal", 2)
    objective.observe(logits, labels)
    objective.update()
    assert all(value.isfinite().all() for value in objective.state_dict().values())


@pytest.mark.parametrize("gamma", [1.0, 0.5, 5.0, -1.5])
def test_gradient_and_ignored_voxels(gamma: float) -> None:
    check_gradient("adafocal", gamma=gamma)
    check_ignored("adafocal", gamma=gamma)
    check_all_ignored("adafocal", gamma=gamma)


@pytest.mark.parametrize("gamma", [0.5, -1.5])
def test_a_certain_voxel_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([2000.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
    loss = losses.build("adafocal", 2, gamma=gamma)(logits, torch.zeros(1, 1, 1, dtype=torch.long))
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"rate": -1.0}, "rate must not be negative"),
        ({"num_bins": 1}, "num_bins must be at least 2"),
        ({"gamma_max": 0.0}, "gamma_max above, got -2.0 and 0.0"),
        ({"gamma_min": 1.0}, "gamma_min must be below 0 and gamma_max above, got 1.0"),
        ({"gamma": 0.0}, "gamma must lie in"),
        ({"gamma": 21.0}, "gamma must lie in"),
        ({"switch": 3.0}, "switch must lie in"),
        ({"max_voxels": 3}, "max_voxels must be at least num_bins"),
    ],
)
def test_options_out_of_range_are_refused(hyper: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        losses.build("adafocal", 3, **hyper)


def test_two_bins_are_enough() -> None:
    assert losses.build("adafocal", 3, num_bins=2).terms["adafocal"].gammas.shape == (2,)
