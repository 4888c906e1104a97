"""Windows with more than one label: the boundary regions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from medcalib.ops import heterogeneous


def by_loops(labels: np.ndarray, size: tuple[int, ...], padding: str, ignore: int | None) -> np.ndarray:
    """The definition voxel by voxel for one image (*S)."""
    found = np.zeros(labels.shape, dtype=bool)
    for at in np.ndindex(labels.shape):
        seen = set()
        for offset in product(*(range(-(n // 2), n // 2 + 1) for n in size)):
            near = tuple(a + o for a, o in zip(at, offset, strict=True))
            inside = all(0 <= a < n for a, n in zip(near, labels.shape, strict=True))
            clipped = tuple(min(max(a, 0), n - 1) for a, n in zip(near, labels.shape, strict=True))
            if inside or padding == "replicate":
                seen.add(int(labels[clipped]))
            elif padding == "background":
                seen.add(0)
        found[at] = len(seen - {ignore}) > 1
    return found


def test_a_row_by_hand() -> None:
    """0 1 1 1 2: with background outside, only the middle of the three is homogeneous."""
    labels = torch.tensor([[[0, 1, 1, 1, 2]]])
    assert heterogeneous(labels, (1, 3)).tolist() == [[[True, True, False, True, True]]]
    assert heterogeneous(torch.ones(1, 1, 3, dtype=torch.long), (1, 3)).tolist() == [[[True, False, True]]]
    for padding in ("replicate", "zeros"):
        assert not heterogeneous(torch.ones(1, 1, 3, dtype=torch.long), (1, 3), padding).any()


@pytest.mark.parametrize("padding", ["background", "replicate", "zeros"])
@pytest.mark.parametrize("ignore", [None, 255])
@pytest.mark.parametrize(
    ("shape", "size"), [((6, 7), (3, 3)), ((6, 7), (1, 5)), ((4, 5, 6), (3, 3, 3)), ((2, 2, 2), (5, 3, 1))]
)
def test_agrees_with_loops_over_the_definition(
    padding: str, ignore: int | None, shape: tuple[int, ...], size: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((2, *shape)) > 0.8) * rng.integers(1, 4, (2, *shape))
    if ignore is not None:
        labels[rng.random(labels.shape) < 0.4] = ignore
    found = heterogeneous(torch.from_numpy(labels), size, padding, ignore)  # type: ignore[arg-type]
    assert (found.numpy() == np.stack([by_loops(one, size, padding, ignore) for one in labels])).all()


def test_a_window_of_ignored_voxels_is_homogeneous() -> None:
    for by_rounding in (None, torch.float32):
        labels = torch.full((1, 3, 3), 255)
        assert not heterogeneous(labels, 3, "replicate", 255, by_rounding=by_rounding).any()


def test_wrong_inputs_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"expected labels \(B, H, W\)"):
        heterogeneous(torch.zeros(3, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="padding must be"):
        heterogeneous(torch.zeros(1, 3, 3, dtype=torch.long), padding="mirror")  # type: ignore[arg-type]
