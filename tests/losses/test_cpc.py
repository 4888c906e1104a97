"""Pairwise constraints."""

from __future__ import annotations

import math

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, golden_case, random_batch, voxel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medcalib import losses
from medcalib.losses.cpc import binary_discrimination, binary_exclusion

VALID = torch.ones(1, 1, 1, dtype=torch.bool)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def everywhere(labels: Tensor) -> Tensor:
    return torch.ones_like(labels, dtype=torch.bool)


def test_a_voxel_by_hand() -> None:
    """The true logit 3 lies 1 and 4 above the others, which differ by 3; both orders of a pair, and twice itself."""
    logits, labels = voxel(2.0, 3.0, -1.0, label=1)
    bdc = (softplus(-1) + softplus(-4)) / 2
    bec = (softplus(3) + softplus(-3) + 2 * math.log(2)) / 2 / (2 * 1)
    assert binary_discrimination(logits, labels, VALID).item() == pytest.approx(bdc, abs=1e-15)
    assert binary_exclusion(logits, labels, VALID).item() == pytest.approx(bec, abs=1e-15)
    parts = losses.build("cpc", 3, weight=2.0, weight_bdc=0.5, weight_bec=3.0).parts(logits, labels)
    assert parts["cpc"].item() == pytest.approx(2 * (0.5 * bdc + 3 * bec), abs=1e-14)


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 2)])
def test_exclusion_is_the_mean_over_all_pairs(shape: tuple[int, ...]) -> None:
    """Against the matrix of all pairs of classes, whose rows and columns of the true class are struck out."""
    logits, labels = random_batch(5, shape)
    pairs = torch.nn.functional.softplus(logits.unsqueeze(1) - logits.unsqueeze(2), threshold=100) / 2
    wrong = ~torch.nn.functional.one_hot(labels, 5).movedim(-1, 1).bool()
    expected = (pairs * wrong.unsqueeze(1) * wrong.unsqueeze(2)).sum((1, 2)).mean() / (4 * 3)
    found = binary_exclusion(logits, labels, everywhere(labels))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (found, expected)))


def test_with_two_classes_discrimination_is_cross_entropy_and_exclusion_zero() -> None:
    logits, labels = random_batch(2)
    ce = losses.build("ce", 2)(logits, labels)
    torch.testing.assert_close(binary_discrimination(logits, labels, everywhere(labels)), ce)
    assert binary_exclusion(logits, labels, everywhere(labels)).item() == 0
    parts = losses.build("cpc", 2, weight_bdc=0.0).parts(logits, labels)
    assert not torch.autograd.grad(parts["cpc"], logits)[0].any()


def test_exclusion_leaves_the_true_class_alone_and_is_least_where_the_others_are_equal() -> None:
    logits, labels = random_batch(4)
    (gradient,) = torch.autograd.grad(binary_exclusion(logits, labels, everywhere(labels)), logits)
    assert not gradient.gather(1, labels.unsqueeze(1)).any()
    assert gradient.any()
    equal = torch.ones_like(logits).scatter(1, labels.unsqueeze(1), 5.0).requires_grad_()
    least = binary_exclusion(equal, labels, everywhere(labels))
    assert least.item() == pytest.approx(math.log(2) / 2 * 3 / 2, rel=1e-14)
    assert not torch.autograd.grad(least, equal)[0].any()


@pytest.mark.parametrize("classes", [4, 16])
def test_memory_grows_like_the_logits(classes: int) -> None:
    """What autograd keeps, and every tensor made on the way, is a few times the logits, not the square of classes."""
    logits, labels = random_batch(classes, (1, 8, 8, 8))
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                largest = max(largest, tensor.numel() if isinstance(tensor, Tensor) else 0)
            return result

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Sizes():
        loss = binary_exclusion(logits, labels, everywhere(labels))
        loss.backward()
    assert largest == logits.numel()
    assert sum(kept.values()) <= 2 * logits.untyped_storage().nbytes()


@pytest.mark.parametrize("case", ["2d_c4", "3d_c4", "2d_allbg", "2d_c4_ignore"])
def test_official_values(case: str) -> None:
    check_golden(f"cpc__{case}.npz", "cpc", {"config": {}, "default": {"weight_bdc": 1.0}})


@pytest.mark.parametrize(("variant", "weight_bdc"), [("config", 0.1), ("default", 1.0)])
def test_official_values_of_two_classes_without_exclusion(variant: str, weight_bdc: float) -> None:
    """The official exclusion divides by zero here; the other terms stand."""
    stored, _, logits, labels = golden_case("cpc__2d_c2.npz")
    _, ce, bdc, bec = stored[f"terms__{variant}"].tolist()
    assert not math.isfinite(bec)
    loss = losses.build("cpc", 2, weight_bdc=weight_bdc)(logits, labels)
    assert loss.item() == pytest.approx(ce + weight_bdc * bdc, rel=1e-9)


def test_gradient_and_ignored_voxels() -> None:
    check_gradient("cpc")
    check_ignored("cpc")
    check_all_ignored("cpc")


@pytest.mark.parametrize(("classes", "shape"), [(2, (2, 3, 2)), (5, (2, 3, 2)), (4, (1, 2, 3, 2))])
def test_gradient_for_other_numbers_of_classes(classes: int, shape: tuple[int, ...]) -> None:
    logits, labels = random_batch(classes, shape)
    objective = losses.build("cpc", classes)
    torch.autograd.gradcheck(lambda z: objective(z, labels), (logits,))
    single = logits.detach().float().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(single, labels), single)
    (expected,) = torch.autograd.grad(objective(logits, labels), logits)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("option", ["weight_bdc", "weight_bec"])
def test_options_out_of_range_are_refused(option: str) -> None:
    for value in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"^{option} must be"):
            losses.build("cpc", 3, **{option: value})
