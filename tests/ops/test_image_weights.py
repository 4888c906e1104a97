"""Class proportions weighted by image intensity."""

from __future__ import annotations

import math

import pytest
import torch

from medcalib.ops import image_weighted_proportions, neighborhood_proportions

ROW = torch.tensor([[[0, 1, 1]]])
IMAGE = torch.tensor([1.0, 3.0, 4.0], dtype=torch.float64).reshape(1, 1, 1, 3)


def middle(kernel: str, **options: object) -> list[float]:
    found = image_weighted_proportions(ROW, IMAGE, 2, (1, 3), kernel, **options)  # type: ignore[arg-type]
    return found[0, :, 0, 1].tolist()


def test_the_middle_of_a_row_by_hand() -> None:
    """Neighbors of labels 0 and 1 differ from the center by 2 and 1."""
    total = math.exp(-2) + 1 + math.exp(-1)
    assert middle("image_proportions_l1") == pytest.approx([math.exp(-2) / total, (1 + math.exp(-1)) / total])
    total = math.exp(-4) + 1 + math.exp(-1)
    assert middle("image_proportions_l2") == pytest.approx([math.exp(-4) / total, (1 + math.exp(-1)) / total])
    assert middle("gradient") == pytest.approx([2 / 3, 1 / 3])
    edge = math.exp(-0.5) / (1 + 2 * math.exp(-0.5))
    assert middle("bilateral") == pytest.approx([2 * edge / 3, edge / 3])


def test_outside_by_hand() -> None:
    """The last voxel: outside counts as intensity 0 and background, as itself, or as nothing at all."""
    near, far = math.exp(-1), math.exp(-4)
    expected = {"background": [far, near + 1, far + near + 1], "replicate": [0, near + 2, near + 2]}
    for padding, (first, second, total) in expected.items():
        found = image_weighted_proportions(ROW, IMAGE, 2, (1, 3), padding=padding)[0, :, 0, 2]  # type: ignore[arg-type]
        assert found.tolist() == pytest.approx([first / total, second / total])
    found = image_weighted_proportions(ROW, IMAGE, 2, (1, 3), padding="zeros")[0, :, 0, 2]
    assert found.tolist() == pytest.approx([0, (near + 1) / (far + near + 1)])


def test_an_ignored_neighbor_leaves_the_window() -> None:
    labels = torch.tensor([[[255, 1, 0]]])
    found = image_weighted_proportions(labels, IMAGE, 2, (1, 3), ignore_index=255)[0, :, 0, 1]
    assert found.tolist() == pytest.approx([math.exp(-1) / (1 + math.exp(-1)), 1 / (1 + math.exp(-1))])


def test_a_constant_image_gives_plain_proportions() -> None:
    labels = torch.randint(0, 3, (2, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    for padding in ("replicate", "zeros"):
        found = image_weighted_proportions(labels, torch.zeros(2, 2, 4, 5, 6), 3, padding=padding)  # type: ignore[arg-type]
        torch.testing.assert_close(found, neighborhood_proportions(labels, 3, padding=padding))  # type: ignore[arg-type]
