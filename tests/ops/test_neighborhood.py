"""Shares of classes in a window: hand-computed voxels, loops as the oracle, ignored voxels, borders."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medcalib.ops import neighborhood_proportions, window_mean

PADDINGS = ("background", "replicate", "zeros")


def weight(offset: tuple[int, ...], size: tuple[int, ...], kernel: str, sigma: float) -> float:
    """Weight of one voxel of the window, from the definition."""
    if kernel == "mean" or math.prod(size) == 1:
        return 1.0
    if not any(offset):
        return 0.5

    def gauss(at: tuple[int, ...]) -> float:
        return math.exp(-sum(a * a for a in at) / (2 * sigma**2))

    around = product(*(range(-(n // 2), n // 2 + 1) for n in size))
    return gauss(offset) / (2 * sum(gauss(at) for at in around if any(at)))


def by_loops(
    labels: np.ndarray, classes: int, size: tuple[int, ...], kernel: str, padding: str, ignore: int | None, sigma: float
) -> np.ndarray:
    """The definition voxel by voxel for one image (*S); outside voxels follow `padding`."""
    shares = np.zeros((classes, *labels.shape))
    for at in np.ndindex(labels.shape):
        total = 0.0
        for offset in product(*(range(-(n // 2), n // 2 + 1) for n in size)):
            near = tuple(a + o for a, o in zip(at, offset, strict=True))
            inside = all(0 <= a < n for a, n in zip(near, labels.shape, strict=True))
            clipped = tuple(min(max(a, 0), n - 1) for a, n in zip(near, labels.shape, strict=True))
            label = int(labels[clipped]) if inside or padding == "replicate" else 0
            if label == ignore and (inside or padding == "replicate"):
                continue
            w = weight(offset, size, kernel, sigma)
            total += w
            if inside or padding != "zeros":
                shares[(label, *at)] += w
        if total:
            shares[(slice(None), *at)] /= total
    return shares


def test_a_row_by_hand() -> None:
    """Labels 0 1 1 2 2 in windows of three along the row; the row above and below is outside."""
    labels = torch.tensor([[[0, 1, 1, 2, 2]]])
    third = 1 / 3
    shares = {
        "background": [[2, 1, 0, 0, 1], [1, 2, 2, 1, 0], [0, 0, 1, 2, 2]],
        "replicate": [[2, 1, 0, 0, 0], [1, 2, 2, 1, 0], [0, 0, 1, 2, 3]],
        "zeros": [[1, 1, 0, 0, 0], [1, 2, 2, 1, 0], [0, 0, 1, 2, 2]],
    }
    for padding, expected in shares.items():
        found = neighborhood_proportions(labels, 3, (1, 3), padding=padding)
        assert found[0, :, 0].tolist() == pytest.approx(np.array(expected) * third)


def test_the_svls_kernel_by_hand() -> None:
    """One voxel of class 1 in the middle of 3 x 3: the center weighs 1/2, edges and corners share the other half."""
    labels = torch.zeros(1, 3, 3, dtype=torch.long)
    labels[0, 1, 1] = 1
    edge, corner = math.exp(-0.5), math.exp(-1.0)
    both = 2 * (4 * edge + 4 * corner)
    found = neighborhood_proportions(labels, 2, kernel="svls", padding="replicate")[0, 1]
    expected = [[corner / both, edge / both, corner / both]]
    assert found.numpy() == pytest.approx(np.array([*expected, [edge / both, 0.5, edge / both], *expected]))


def test_an_ignored_voxel_leaves_the_window() -> None:
    """0 1 X: around the middle, two voxels count; around X, one; its own share is of its neighbors."""
    labels = torch.tensor([[[0, 1, 255]]])
    found = neighborhood_proportions(labels, 2, (1, 3), ignore_index=255, padding="replicate")
    assert found[0, 1, 0].tolist() == pytest.approx([1 / 3, 1 / 2, 1.0])
    assert found[0, 0, 0].tolist() == pytest.approx([2 / 3, 1 / 2, 0.0])


def test_a_window_of_ignored_voxels_gives_zero() -> None:
    labels = torch.full((1, 3, 3, 3), 255)
    assert not neighborhood_proportions(labels, 4, 1, ignore_index=255).any()
    assert not neighborhood_proportions(labels, 4, 3, ignore_index=255, padding="replicate").any()


@pytest.mark.parametrize("kernel", ["mean", "svls"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("ignore", [None, 255])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((5, 7), (3, 3)), ((5, 7), (5, 1)), ((3, 4, 5), (3, 3, 3)), ((3, 4, 5), (1, 3, 5)), ((2, 2, 2), (5, 5, 5))],
)
def test_agrees_with_loops_over_the_definition(
    kernel: str, padding: str, ignore: int | None, shape: tuple[int, ...], size: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (2, *shape))
    if ignore is not None:
        labels[rng.random(labels.shape) < 0.3] = ignore
    found = neighborhood_proportions(
        torch.from_numpy(labels),
        4,
        size,
        kernel,
        padding,
        ignore,
        sigma=0.8,  # type: ignore[arg-type]
    )
    expected = np.stack([by_loops(one, 4, size, kernel, padding, ignore, 0.8) for one in labels])
    assert found.dtype == torch.float32
    assert found.numpy() == pytest.approx(expected, abs=1e-6)  # up to 125 rounded float32 terms


@given(
    seed=st.integers(0, 99),
    size=st.tuples(*(st.sampled_from([1, 3, 5]) for _ in range(3))),
    kernel=st.sampled_from(["mean", "svls"]),
    padding=st.sampled_from(PADDINGS),
)
@settings(max_examples=60, deadline=None)
def test_shares_are_shares_and_sum_to_one(seed: int, size: Any, kernel: Any, padding: Any) -> None:
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (2, 4, 5, 6)))
    found = neighborhood_proportions(labels, 4, size, kernel, padding)
    total = found.sum(1)
    assert float(found.min()) >= 0
    assert float(total.max()) <= 1 + 1e-6
    inner = tuple(slice(n // 2, s - n // 2) for n, s in zip(size, (4, 5, 6), strict=True))
    kept = total if padding != "zeros" else total[(slice(None), *inner)]
    assert torch.allclose(kept, torch.ones(()), atol=1e-6)


@given(seed=st.integers(0, 99), axis=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_mirroring_and_renaming_commute_with_the_window(seed: int, axis: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (1, 4, 5, 6)))
    found = neighborhood_proportions(labels, 3, (1, 3, 5), "svls", "replicate")
    mirrored = neighborhood_proportions(labels.flip(axis), 3, (1, 3, 5), "svls", "replicate")
    assert torch.allclose(mirrored.flip(axis + 1), found, atol=1e-6)
    renamed = neighborhood_proportions((labels + 1) % 3, 3, (1, 3, 5), "svls", "replicate")
    assert torch.allclose(renamed.roll(-1, 1), found, atol=1e-6)


@pytest.mark.parametrize("kernel", ["mean", "svls"])
def test_a_window_of_one_voxel_is_the_one_hot_label(kernel: Any) -> None:
    labels = torch.randint(0, 4, (2, 3, 4, 5))
    found = neighborhood_proportions(labels, 4, 1, kernel)
    assert torch.equal(found.argmax(1), labels)
    assert set(found.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_the_integer_type_of_labels_changes_nothing(dtype: torch.dtype) -> None:
    labels = torch.randint(0, 4, (1, 5, 6))
    assert torch.equal(neighborhood_proportions(labels.to(dtype), 4), neighborhood_proportions(labels, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(3, 4, dtype=torch.long)}, r"expected labels \(B, H, W\)"),
        ({"labels": torch.zeros(1, 3, 4)}, "labels must be integers, got torch.float32"),
        ({"labels": torch.full((1, 3, 4), 9)}, r"labels must lie in 0\.\.3, got 9\.\.9; pass ignore_index"),
        ({"labels": torch.full((1, 3, 4), -1)}, r"labels must lie in 0\.\.3, got -1\.\.-1"),
        ({"kernel_size": 2}, "kernel_size must be odd"),
        ({"kernel_size": (3, 3, 3)}, "one number or 2 of them"),
        ({"kernel_size": -3}, "kernel_size must be odd"),
        ({"kernel": "gauss"}, "kernel must be 'mean' or 'svls', got 'gauss'"),
        ({"padding": "reflect"}, "padding must be"),
        ({"sigma": 0.0}, "sigma must lie in"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighborhood_proportions(**({"labels": torch.zeros(1, 3, 4, dtype=torch.long), "num_classes": 4} | change))


def mean_by_loops(values: Tensor, valid: Tensor, size: tuple[int, ...]) -> np.ndarray:
    found = np.full(values.shape, np.nan)
    for at in np.ndindex(valid.shape):
        box = tuple(slice(max(a - n // 2, 0), a + n // 2 + 1) for a, n in zip(at[1:], size, strict=True))
        near = valid[at[0]][box]
        if near.any():
            found[(at[0], slice(None), *at[1:])] = values[at[0]][(slice(None), *box)][:, near].double().mean(1)
    return found


@pytest.mark.parametrize(("shape", "size"), [((5, 6), (3, 3)), ((3, 4, 5), (3, 1, 5)), ((2, 2, 2), (5, 5, 5))])
def test_the_window_mean_is_over_valid_voxels_inside(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    values, valid = torch.randn(2, 3, *shape), torch.rand(2, *shape) < 0.4
    spoiled = values.masked_fill(~valid.unsqueeze(1), float("nan"))
    assert window_mean(spoiled, size, valid).numpy() == pytest.approx(
        mean_by_loops(values, valid, size), abs=1e-5, nan_ok=True
    )
    everywhere = torch.ones_like(valid)
    assert window_mean(values, size).numpy() == pytest.approx(mean_by_loops(values, everywhere, size), abs=1e-5)


def test_the_window_mean_refuses_a_tensor_without_channels() -> None:
    with pytest.raises(ValueError, match=r"expected values \(B, K, H, W\)"):
        window_mean(torch.zeros(3, 4, 5), 3)
