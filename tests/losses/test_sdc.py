"""The boundary and signed-distance penalty of SDC."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, golden_case, random_batch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from medcalib import losses
from medcalib.losses.sdc import boundary_targets, signed_distance_targets

VARIANTS: dict[str, Any] = {
    "default": {},
    "l2": {"distance": "l2"},
    "dilation_gaussian_scale1": {"morphology": "dilation", "aggregation": "gaussian", "sdf_scale": 1.0},
}
MORPHOLOGIES, AGGREGATIONS = ("gradient", "dilation", "erosion"), ("mean", "gaussian")


def row(*labels: int) -> tuple[Tensor, Tensor]:
    """labels (1, 1, W), 255 where ignored, as a term gets them: labels and validity."""
    values = torch.tensor(labels).reshape(1, 1, -1)
    return values.where(values != 255, 0), values != 255


def boundary(labels: Tensor, valid: Tensor, classes: int, **options: Any) -> Tensor:
    chosen = {"morphology": "gradient", "aggregation": "mean", **options}
    return boundary_targets(labels, valid, classes, dtype=torch.float64, **chosen)


def reflected(at: int, size: int) -> int:
    """The index within an axis that stands for a neighbor outside; the outermost voxel is not repeated."""
    return 0 if size == 1 else size - 1 - abs(size - 1 - abs(at))


def by_loops(labels: np.ndarray, valid: np.ndarray, classes: int, morphology: str, aggregation: str) -> np.ndarray:
    """The definition of the boundary target for one slice (H, W), neighbor by neighbor, renormalized."""
    shape, steps = labels.shape, list(product((-1, 0, 1), repeat=2))
    weights = {s: 1.0 if aggregation == "mean" else math.exp(-(s[0] ** 2 + s[1] ** 2) / 2) for s in steps}
    marked, shares = np.zeros((classes, *shape), bool), np.zeros((classes, *shape))
    for at in zip(*valid.nonzero(), strict=True):
        near = [(at[0] + a, at[1] + b) for a, b in steps if 0 <= at[0] + a < shape[0] and 0 <= at[1] + b < shape[1]]
        seen = {int(labels[n]) for n in near if valid[n]}
        for k in range(classes):
            dilated, eroded = k in seen, seen == {k}
            marked[(k, *at)] = {"dilation": dilated, "erosion": eroded, "gradient": dilated and not eroded}[morphology]
    for at in zip(*valid.nonzero(), strict=True):
        around = {s: tuple(reflected(a + b, n) for a, b, n in zip(at, s, shape, strict=True)) for s in steps}
        total = sum(weights[s] for s, n in around.items() if valid[n])
        for k in range(classes):
            shares[(k, *at)] = sum(weights[s] for s, n in around.items() if valid[n] and marked[(k, *n)]) / total
    return shares / np.maximum(shares.sum(0), 1e-6) * valid


def with_ignored(classes: int, shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Random labels with a third of homogeneous ground and a fifth of the voxels ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    labels[..., : (shape[-1] + 2) // 3] = 0
    valid = torch.rand(shape, generator=generator) > 0.2
    return labels.where(valid, 0), valid


def test_the_boundary_target_by_hand() -> None:
    """A row 0 0 0 0 1 2. The gradient marks columns 3 and 4 for class 0, 3 to 5 for class 1, 4 and 5 for class 2;
    sums over three columns, with column 4 standing for the one beyond column 5, are then divided by their total."""
    found = boundary(*row(0, 0, 0, 0, 1, 2), 3)
    expected = [[0, 0, 1 / 2, 2 / 5, 2 / 7, 2 / 8], [0, 0, 1 / 2, 2 / 5, 3 / 7, 3 / 8], [0, 0, 0, 1 / 5, 2 / 7, 3 / 8]]
    torch.testing.assert_close(found[0, :, 0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("sign", "factor"), [("official", 1), ("inside_positive", -1)])
def test_the_signed_distance_by_hand(sign: Any, factor: int) -> None:
    found = signed_distance_targets(*row(0, 0, 0, 0, 1, 2), 3, sdf_sign=sign)
    expected = [
        [-4 / 4, -3 / 4, -2 / 4, -1 / 4, 1 / 4, 2 / 4],
        [4 / 4, 3 / 4, 2 / 4, 1 / 4, -1 / 4, 1 / 4],
        [5 / 5, 4 / 5, 3 / 5, 2 / 5, 1 / 5, -1 / 5],
    ]
    torch.testing.assert_close(found[0, :, 0], factor * torch.tensor(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("distance", "sign", "first", "second"),
    [
        ("l1", "official", (0.25 + 0.25 + 0 + 0) / 4, (1.5 + 1.5 + 1 + 1) / 4),
        ("l1", "inside_positive", (0.25 + 0.25 + 0 + 0) / 4, (0.5 + 0.5 + 1 + 1) / 4),
        ("l2", "official", (0.0625 + 0.0625 + 0 + 0) / 4, (2.25 + 2.25 + 1 + 1) / 4),
        ("l2", "inside_positive", (0.0625 + 0.0625 + 0 + 0) / 4, (0.25 + 0.25 + 1 + 1) / 4),
    ],
)
def test_two_voxels_by_hand(distance: str, sign: str, first: float, second: float) -> None:
    """Neighbors of classes 0 and 1: u is 1/2 throughout, the signed distances +-1; p = (3/4, 1/4) and (1/2, 1/2)."""
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]], dtype=torch.float64).reshape(1, 2, 1, 2)
    labels = torch.tensor([0, 1]).reshape(1, 1, 2)
    objective = losses.build("sdc", 2, distance=distance, sdf_sign=sign, sdf_scale=8.0, weight=0.5)
    found = objective.parts(logits, labels)["sdc"].item()
    assert found == pytest.approx(0.5 * (first + second / 8), rel=4e-6)  # sdf is 1 / (1 + 1e-6), squares and all


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4"])
def test_official_values(case: str) -> None:
    """`2d_allbg` is left out: there the official distance to an absent class is one to a point outside the array."""
    check_golden(f"sdc__{case}.npz", "sdc", VARIANTS, loose=list(VARIANTS))


@pytest.mark.parametrize("case", ["2d_c4", "3d_c4"])
def test_official_targets(case: str) -> None:
    stored, _, logits, labels = golden_case(f"sdc__{case}.npz")
    valid, classes = torch.ones_like(labels, dtype=torch.bool), logits.shape[1]
    # both are float32 in the official code
    np.testing.assert_allclose(boundary(labels, valid, classes).numpy(), stored["sam_target__default"], atol=6e-8)
    sdf = signed_distance_targets(labels, valid, classes, sdf_sign="official")
    np.testing.assert_allclose(sdf.numpy(), stored["sdf_target"], atol=2.4e-7)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("morphology", MORPHOLOGIES)
@pytest.mark.parametrize("shape", [(2, 9, 12), (1, 1, 7), (1, 2, 1), (1, 3, 6, 7)])
def test_the_boundary_target_is_its_definition_slice_by_slice(
    shape: tuple[int, ...], morphology: str, aggregation: str
) -> None:
    """Ignored voxels take no part in either window, and the second is renormalized over the others."""
    labels, valid = with_ignored(3, shape, seed=sum(shape))
    found = boundary(labels, valid, 3, morphology=morphology, aggregation=aggregation)
    slices = found.movedim(1, -3).reshape(-1, 3, *shape[-2:]).numpy()
    for y, v, got in zip(labels.reshape(-1, *shape[-2:]), valid.reshape(-1, *shape[-2:]), slices, strict=True):
        expected = by_loops(y.numpy(), v.numpy(), 3, morphology, aggregation)
        np.testing.assert_allclose(got, expected, atol=1e-14)


@pytest.mark.parametrize("shape", [(2, 9, 12), (2, 5, 6, 7)])
def test_the_signed_distance_is_its_definition(shape: tuple[int, ...]) -> None:
    """Distances are measured to valid voxels only, and the largest is that of a valid voxel."""
    labels, valid = with_ignored(3, shape, seed=5)
    found = signed_distance_targets(labels, valid, 3, sdf_sign="official").numpy()
    for image, (y, v) in enumerate(zip(labels.numpy(), valid.numpy(), strict=True)):
        for k in range(3):
            sdf = distance_transform_edt(~(v & (y == k))) - (y == k) * distance_transform_edt(~(v & (y != k)))
            sdf = np.where(v, sdf, 0.0)
            np.testing.assert_allclose(found[image, k], sdf / (np.abs(sdf).max() + 1e-6), atol=2.4e-7)


def test_ignored_voxels_leave_windows_and_distances() -> None:
    """A row 0 ? 1 1 1: nothing valid lies beside another class, and classes are two voxels apart."""
    labels, valid = row(0, 255, 1, 1, 1)
    assert not boundary(labels, valid, 2).any()
    assert boundary(labels, torch.ones_like(valid), 2)[0, :, 0, 0].tolist() == [0.5, 0.5]
    found = signed_distance_targets(labels, valid, 2, sdf_sign="official")[0, :, 0]
    expected = torch.tensor([[-2 / 4, 0, 2 / 4, 3 / 4, 4 / 4], [2 / 4, 0, -2 / 4, -3 / 4, -4 / 4]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("sign", "away"), [("official", 1.0), ("inside_positive", -1.0)])
def test_an_absent_class_is_1_away_and_one_that_covers_the_image_minus_1(sign: Any, away: float) -> None:
    """In the second of three images; the last has no valid voxel, and the first is as if alone."""
    labels, valid = with_ignored(3, (3, 4, 5, 6), seed=2)
    labels[1], valid[2] = 1, False
    found = signed_distance_targets(labels, valid, 3, sdf_sign=sign)
    for k, expected in enumerate((away, -away, away)):
        assert (found[1, k][valid[1]] == expected).all()
    assert not found[1][:, ~valid[1]].any()
    assert not found[2].any()
    assert torch.equal(found[:1], signed_distance_targets(labels[:1], valid[:1], 3, sdf_sign=sign))


@pytest.mark.parametrize("hyper", VARIANTS.values())
def test_an_image_of_background_has_a_finite_loss(hyper: dict[str, Any]) -> None:
    logits, labels = random_batch()
    loss = losses.build("sdc", 3, **hyper)(logits, torch.zeros_like(labels))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_a_term_with_the_intended_sign_falls_as_the_prediction_becomes_right() -> None:
    labels = row(0, 0, 0, 1, 1, 1)[0]
    right = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).double()
    parts = {
        (sign, scale): losses.build("sdc", 2, sdf_sign=sign, sdf_scale=0.01).parts(scale * right, labels)["sdc"]
        for sign in ("official", "inside_positive")
        for scale in (0.0, 1.0)
    }
    assert parts["inside_positive", 1.0] < parts["inside_positive", 0.0]
    assert parts["official", 1.0] > parts["official", 0.0]


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_the_gradient_is_the_numeric_one(distance: str) -> None:
    check_gradient("sdc", weight=1.0, sdf_scale=1.0, distance=distance)


@pytest.mark.parametrize("hyper", [*VARIANTS.values(), {"morphology": "erosion", "sdf_sign": "inside_positive"}])
def test_ignored_voxels_count_nowhere(hyper: dict[str, Any]) -> None:
    check_ignored("sdc", cropped=False, **hyper)
    check_all_ignored("sdc", **hyper)


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"morphology": "opening"}, "^morphology must be one of 'gradient', 'dilation', 'erosion', got 'opening'"),
        ({"sdf_scale": 0.0}, "^sdf_scale must be positive"),
        ({"sdf_scale": math.inf}, "^sdf_scale must be a finite number"),
    ],
)
def test_options_out_of_range_are_refused(hyper: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        losses.build("sdc", 3, **hyper)


def test_logits_without_two_spatial_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="logits must be"):
        losses.build("sdc", 3)(torch.zeros(1, 3, 4), torch.zeros(1, 4))
