"""The Euclidean distance transform: by hand, against scipy, masks without a True voxel, odd shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from medcalib.ops import distance
from medcalib.ops.distance import distance_transform


def check_against_scipy(mask: np.ndarray) -> None:
    """Every squared distance is the same integer, and the distance within a rounding (torch's root is not exact)."""
    found = distance_transform(torch.from_numpy(mask))
    assert found.shape == mask.shape
    assert found.dtype == torch.float32
    for image, got in zip(mask, found.double().numpy(), strict=True):
        expected = distance_transform_edt(~image)
        np.testing.assert_array_equal(np.rint(got**2), np.rint(expected**2))
        np.testing.assert_allclose(got, expected, rtol=2.0**-23)


def test_two_voxels_by_hand() -> None:
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 2, 3] = True
    expected = [
        [0, 1, 2, 2],
        [1, math.sqrt(2), math.sqrt(2), 1],
        [2, 2, 1, 0],
    ]
    torch.testing.assert_close(distance_transform(mask), torch.tensor([expected]))


def test_a_voxel_across_three_axes_by_hand() -> None:
    mask = torch.zeros(1, 2, 3, 7, dtype=torch.bool)
    mask[0, 1, 2, 6] = True
    found = distance_transform(mask)
    assert found[0, 0, 0, 0].item() == pytest.approx(math.sqrt(1 + 4 + 36), rel=1e-7)
    assert found[0, 1, 2, 0].item() == 6


@pytest.mark.parametrize("share", [0.002, 0.03, 0.5, 0.98])
@pytest.mark.parametrize("shape", [(2, 30, 41), (2, 9, 33, 20), (1, 25, 3, 2), (1, 2, 3, 50), (3, 1, 1, 24), (2, 1, 9)])
def test_random_masks_have_the_distances_of_scipy(shape: tuple[int, ...], share: float) -> None:
    generator = np.random.default_rng(7)
    mask = generator.random(shape) < share
    mask.reshape(shape[0], -1)[:, generator.integers(math.prod(shape[1:]))] = True
    check_against_scipy(mask)


@pytest.mark.parametrize("at", [(0, 0, 0), (19, 17, 22), (7, 0, 11)])
def test_a_single_voxel_has_the_distances_of_scipy(at: tuple[int, int, int]) -> None:
    mask = np.zeros((1, 20, 18, 23), bool)
    mask[(0, *at)] = True
    check_against_scipy(mask)
    check_against_scipy(mask.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("chunk", [1, 37, 300])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    mask = torch.rand(2, 6, 11, 14, generator=torch.Generator().manual_seed(1)) < 0.01
    whole = distance_transform(mask)
    monkeypatch.setattr(distance, "CHUNK", chunk)
    assert torch.equal(distance_transform(mask), whole)


def test_images_do_not_see_each_other_and_one_without_a_true_voxel_is_infinitely_far() -> None:
    mask = torch.zeros(3, 4, 5, 6, dtype=torch.bool)
    mask[0] = True
    mask[2, 3, 4, 5] = True
    found = distance_transform(mask)
    assert not found[0].any()
    assert (found[1] == torch.inf).all()
    assert torch.equal(found[2:], distance_transform(mask[2:]))
    assert found[2].isfinite().all()


def test_a_view_gives_the_same() -> None:
    mask = torch.rand(1, 7, 8, 9, generator=torch.Generator().manual_seed(2)) < 0.05
    torch.testing.assert_close(distance_transform(mask.transpose(1, 3)), distance_transform(mask).transpose(1, 3))


@pytest.mark.parametrize("mask", [torch.zeros(1, 5, dtype=torch.bool), torch.zeros(1, 5, 5)])
def test_other_inputs_are_refused(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="^mask must be bool"):
        distance_transform(mask)
