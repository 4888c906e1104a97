"""The neighbor-aware penalty of NACL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, golden_case, random_batch
from monai.data import MetaTensor

from medcalib import losses
from medcalib.losses.nacl import neighbor_targets
from medcalib.ops import neighborhood_proportions

IMAGE_KERNELS = ("bilateral", "gradient", "image_proportions_l1", "image_proportions_l2")


def test_a_voxel_by_hand() -> None:
    """A lone voxel of class 1: eight outside neighbors count as background, so tau = (8/9, 1/9)."""
    logits = torch.tensor([2.0, -1.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    labels = torch.ones(1, 1, 1, dtype=torch.long)
    first, second = 2 - 8 / 9, 1 / 9 + 1
    l1 = losses.build("nacl", 2, weight=1.0).parts(logits, labels)["nacl"].item()
    l2 = losses.build("nacl", 2, weight=1.0, distance="l2").parts(logits, labels)["nacl"].item()
    assert l1 == pytest.approx((first + second) / 2, rel=1e-14)
    assert l2 == pytest.approx((first**2 + second**2) / 2, rel=1e-14)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_values(case: str) -> None:
    variants: dict[str, Any] = {
        "mean_l1": {},
        "mean_l2": {"distance": "l2"},
        "mean_l1_softmax": {"softmax": True},
        "gaussian_l1": {"kernel": "svls", "padding": "replicate"},
        "mean_k5_l1_a0.5": {"kernel_size": 5, "weight": 0.5},
        "monai_mean_l1": {"padding": "zeros"},
        "monai_mean_l2": {"padding": "zeros", "distance": "l2"},
    }
    images = {name: {"kernel": name} for name in IMAGE_KERNELS} if case == "2d_c4" else {}
    check_golden(f"nacl__{case}.npz", "nacl", variants | images, loose=["monai_mean_l1", "monai_mean_l2"])


def test_values_of_monai() -> None:
    variants: dict[str, Any] = {"mean_l1": {"padding": "zeros"}, "mean_l2": {"padding": "zeros", "distance": "l2"}}
    check_golden("nacl_monai__2d_c4.npz", "nacl", variants, loose=list(variants))


@pytest.mark.parametrize("kernel", ["mean", "bilateral", "image_proportions_l1"])
def test_official_targets(kernel: str) -> None:
    stored, _, logits, labels = golden_case("nacl__2d_c4.npz")
    valid, images = torch.ones_like(labels, dtype=torch.bool), torch.from_numpy(stored["image"])
    options: dict[str, Any] = {"kernel": kernel, "kernel_size": 3, "padding": "background", "sigma": 1.0}
    found = neighbor_targets(logits, labels, valid, images, **options)
    name = "mean_l1" if kernel == "mean" else kernel
    assert np.abs(found.detach().numpy() - stored[f"target__{name}"]).max() < 1e-7  # stored from float32


def test_logits_equal_to_the_proportions_cost_nothing() -> None:
    _, labels = random_batch()
    logits = neighborhood_proportions(labels, 3, dtype=torch.float64).requires_grad_()
    for distance in ("l1", "l2"):
        penalty = losses.build("nacl", 3, distance=distance).parts(logits, labels)["nacl"]
        assert penalty.item() == 0
        assert not torch.autograd.grad(penalty, logits)[0].any()


@pytest.mark.parametrize("kernel", ["mean", "svls"])
@pytest.mark.parametrize("padding", ["background", "replicate", "zeros"])
def test_gradient_and_ignored_voxels(kernel: str, padding: str) -> None:
    check_gradient("nacl", kernel=kernel, padding=padding, distance="l2")
    check_ignored("nacl", kernel=kernel, padding=padding, cropped=False)
    check_all_ignored("nacl", kernel=kernel, padding=padding)


def test_thick_slices_take_a_flat_window() -> None:
    logits, labels = random_batch(3, (1, 4, 5, 6))
    volume = losses.build("nacl", 3, kernel_size=(1, 3, 3))(logits, labels)
    slices = losses.build("nacl", 3)(logits[0].movedim(1, 0), labels[0])
    assert volume.item() == pytest.approx(slices.item(), rel=1e-14)


@pytest.mark.parametrize("kernel", IMAGE_KERNELS)
def test_image_kernels_see_only_valid_neighbors(kernel: str) -> None:
    """What an ignored voxel shows, even NaN, changes neither loss nor gradient."""
    logits, labels = random_batch(3, (1, 4, 4, 4))
    images = torch.randn(1, 2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels[:, 2:] = 255
    objective = losses.build("nacl", 3, kernel=kernel, ignore_index=255)
    loss = objective(logits, labels, images)
    broken = images.clone()
    broken[:, :, 2:] = torch.nan
    again = objective(logits, labels, MetaTensor(broken))
    assert loss.item() == again.item()
    (gradient,) = torch.autograd.grad(again, logits)
    assert gradient.isfinite().all()
    assert not gradient[:, :, 2:].any()


def test_an_image_kernel_asks_for_images_on_the_grid() -> None:
    logits, labels = random_batch()
    objective = losses.build("nacl", 3, kernel="bilateral")
    with pytest.raises(ValueError, match="pass images"):
        objective(logits, labels)
    with pytest.raises(ValueError, match=r"expected images \(B, M, \*S\) beside labels"):
        objective(logits, labels, torch.zeros(2, 1, 3, 4, 4))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        losses.build("nacl", 3, kernel_size=(3, 4, 3))
    with pytest.raises(ValueError, match="sigma must lie in"):
        losses.build("nacl", 3, sigma=-1.0)
