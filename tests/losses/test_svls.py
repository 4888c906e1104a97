"""Spatially varying label smoothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, golden_case, random_batch

from medcalib import losses
from medcalib.ops import neighborhood_proportions


def test_a_voxel_by_hand() -> None:
    """A row 0 1 in a window of three along it: each voxel keeps 3/4 of itself (half, and a quarter by the edge)."""
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.5]], dtype=torch.float64).reshape(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    log_probs = torch.log_softmax(logits, 1)[0, :, 0]
    expected = -(0.75 * log_probs[0, 0] + 0.25 * log_probs[1, 0] + 0.25 * log_probs[0, 1] + 0.75 * log_probs[1, 1]) / 2
    assert losses.build("svls", 2, kernel_size=(1, 3))(logits, labels).item() == pytest.approx(
        expected.item(), rel=1e-14
    )


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_values(case: str) -> None:
    check_golden(f"svls__{case}.npz", "svls", {"sigma1": {}, "sigma2": {"sigma": 2.0}})


@pytest.mark.parametrize("case", ["2d_c4", "3d_c4"])
def test_official_targets(case: str) -> None:
    stored, _, logits, labels = golden_case(f"svls__{case}.npz")
    found = neighborhood_proportions(labels, logits.shape[1], 3, "svls", "replicate", dtype=torch.float64)
    assert np.abs(found.numpy() - stored["target__sigma1"]).max() < 1e-6  # the official kernel is float32


def test_homogeneous_labels_give_cross_entropy() -> None:
    logits, _ = random_batch()
    labels = torch.full((2, 3, 4, 3), 2)
    svls, ce = losses.build("svls", 3)(logits, labels), losses.build("ce", 3)(logits, labels)
    assert svls.item() == pytest.approx(ce.item(), rel=1e-14)


def test_an_ignored_neighbor_leaves_the_window() -> None:
    """0 X 1 in windows of three: without X nothing of the other side is seen, so the loss is cross-entropy."""
    logits, _ = random_batch(2, (1, 1, 3))
    labels = torch.tensor([[[0, 255, 1]]])
    svls = losses.build("svls", 2, kernel_size=(1, 3), ignore_index=255)(logits, labels)
    assert svls.item() == pytest.approx(losses.build("ce", 2, ignore_index=255)(logits, labels).item(), rel=1e-14)


def test_a_window_of_one_slice_does_not_look_at_the_next() -> None:
    """Thick slices: kernel_size (1, 3, 3) on a volume is the 2D loss of its slices."""
    logits, labels = random_batch(3, (1, 4, 5, 6))
    volume = losses.build("svls", 3, kernel_size=(1, 3, 3))(logits, labels)
    slices = losses.build("svls", 3)(logits[0].movedim(1, 0), labels[0])
    assert volume.item() == pytest.approx(slices.item(), rel=1e-14)


@pytest.mark.parametrize("padding", ["replicate", "background", "zeros"])
def test_gradient_and_ignored_voxels(padding: str) -> None:
    check_gradient("svls", padding=padding)
    check_ignored("svls", padding=padding, cropped=False)
    check_all_ignored("svls", padding=padding)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        losses.build("svls", 3, kernel_size=2)
    for sigma in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="sigma must (lie in|be a finite)"):
            losses.build("svls", 3, sigma=sigma)
    logits, labels = random_batch()
    with pytest.raises(ValueError, match="kernel_size must be one number or 3 of them"):
        losses.build("svls", 3, kernel_size=(3, 3))(logits, labels)
