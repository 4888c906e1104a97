"""The boundary band against brute-force distances, user masks, and the words that go with regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import smooth_case

from medcalib.metrics import CalibrationCounts, regions, score_case
from medcalib.metrics.regions import REGION_TEXT, REGIONS, near_surface


def by_distances(labels: np.ndarray, spacing: tuple[float, ...], width: float, ignore: int | None = None) -> np.ndarray:
    """Every voxel's distance to every surface voxel."""
    surface = []
    for at in np.ndindex(labels.shape):
        for axis in range(labels.ndim):
            for step in (-1, 1):
                other = list(at)
                other[axis] += step
                if not 0 <= other[axis] < labels.shape[axis]:
                    continue
                a, b = labels[at], labels[tuple(other)]
                if a != b and ignore not in (a, b):
                    surface.append(at)
    if not surface:
        return np.zeros(labels.shape, bool)
    points = np.array(surface) * np.array(spacing)
    every = np.stack(np.meshgrid(*map(np.arange, labels.shape), indexing="ij"), -1) * np.array(spacing)
    distance = np.sqrt(((every[..., None, :] - points) ** 2).sum(-1)).min(-1)
    return distance <= width + 1e-6


def blobs(seed: int, shape: tuple[int, ...] = (12, 9, 14)) -> np.ndarray:
    _, labels = smooth_case(seed, classes=3, shape=shape, sharpness=50.0)
    return np.where(labels.numpy() == 2, 0, labels.numpy()).astype(np.uint8)


@pytest.mark.parametrize("width", [0.0, 0.7, 1.5, 3.0, 4.5])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.75, 1.5, 2.5), (3.0, 1.5, 0.5)])
def test_the_band_agrees_with_brute_force_in_anisotropic_voxels(
    width: float, spacing: tuple[float, float, float]
) -> None:
    labels = blobs(0)
    found = near_surface(torch.from_numpy(labels), spacing, width)
    assert np.array_equal(found.numpy(), by_distances(labels, spacing, width))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_chunks_along_the_last_axis_change_nothing(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.from_numpy(blobs(1))
    whole = near_surface(labels, (1.0, 1.0, 0.8), 2.0)
    monkeypatch.setattr(regions, "_CHUNK", depth * 12 * 9)
    assert torch.equal(near_surface(labels, (1.0, 1.0, 0.8), 2.0), whole)
    assert whole.any()
    assert not whole.all()


def test_both_sides_of_a_plane_and_no_surface_at_the_edge_of_the_volume() -> None:
    labels = torch.zeros(10, 4, 4, dtype=torch.uint8)
    labels[5:] = 1
    near = near_surface(labels, (2.0, 1.0, 1.0), 2.0)
    assert near.any(2).any(1).tolist() == [False] * 3 + [True] * 4 + [False] * 3
    assert torch.equal(near, near[:, :1, :1].expand(10, 4, 4))


def test_one_label_has_no_boundary_and_ignored_voxels_make_none() -> None:
    assert not near_surface(torch.ones(5, 5, 5, dtype=torch.uint8), (1.0, 1.0, 1.0), 3.0).any()
    labels = blobs(2)
    labels[:, 4:6] = 255
    found = near_surface(torch.from_numpy(labels), (1.0, 1.0, 1.0), 1.0, ignore_index=255)
    assert np.array_equal(found.numpy(), by_distances(labels, (1.0, 1.0, 1.0), 1.0, ignore=255))


def test_a_negative_width_or_a_missing_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match="width must be 0 mm or more, got -1"):
        near_surface(torch.zeros(2, 2, 2), (1.0, 1.0, 1.0), -1.0)
    for spacing, words in (((1.0, 1.0), "expected spacing_mm with 3 numbers"), ((0.0, 1.0, 1.0), "positive sizes")):
        with pytest.raises(ValueError, match=words):
            near_surface(torch.zeros(2, 2, 2), spacing, 1.0)


def test_the_boundary_region_counts_the_band() -> None:
    probs, labels = smooth_case(0, sharpness=50.0)
    labels = (labels == 1).to(torch.uint8)
    near = near_surface(labels, (1.0, 1.0, 1.0), 1.0)
    case = score_case(probs, labels, case_id="x", class_names="abcd", distances=False, boundary_mm=1.0)
    expected = CalibrationCounts.from_probs(probs[None], labels[None], mask=near[None])
    assert torch.equal(case.regions["boundary"].calibration.n, expected.n)
    assert 0 < expected.voxels() < labels.numel()


def test_user_masks_are_regions_of_their_names() -> None:
    probs, labels = smooth_case(1)
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    case = score_case(
        probs, labels, case_id="x", class_names="abcd", distances=False, regions=["all"], masks={"lung": mask}
    )
    assert list(case.regions) == ["all", "lung"]
    assert case.masks == ("lung",)
    expected = CalibrationCounts.from_probs(probs[None], labels[None], mask=mask[None])
    assert torch.equal(case.regions["lung"].calibration.conf_lo, expected.conf_lo)
    as_numbers = score_case(
        probs, labels, case_id="x", class_names="abcd", distances=False, regions=["all"], masks={"lung": mask.long()}
    )
    assert torch.equal(as_numbers.regions["lung"].calibration.n, expected.n)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"all": torch.ones(20, 24, 10)}, "cannot be called 'all'"),
        ({"dice": torch.ones(20, 24, 10)}, "cannot be called 'dice'"),
        ({"a/b": torch.ones(20, 24, 10)}, "holds a /"),
        ({"m": torch.ones(24, 20, 10)}, r"shape \(24, 20, 10\), expected that of the labels, \(20, 24, 10\)"),
        ({"m": torch.full((20, 24, 10), 2)}, "must hold only 0 and 1"),
    ],
)
def test_masks_that_are_none_are_refused(masks: dict[str, torch.Tensor], message: str) -> None:
    probs, labels = smooth_case(1)
    with pytest.raises(ValueError, match=message):
        score_case(probs, labels, case_id="x", class_names="abcd", distances=False, masks=masks)


def test_every_region_says_what_it_is() -> None:
    assert REGION_TEXT.keys() == REGIONS.keys()
