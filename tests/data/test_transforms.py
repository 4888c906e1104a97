"""Flips and permutations are exact and undone exactly; patches depend on their seed alone."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from medcalib.data.case import Case
from medcalib.data.geometry import corner_distance_mm, orientation, voxel_sizes
from medcalib.data.intensity import INTENSITIES, percentile, window, zscore
from medcalib.data.labels import IGNORE
from medcalib.data.load import LoadedCase
from medcalib.data.nifti import read_volume
from medcalib.data.transforms import PatchSampler, Preprocess, to_native
from medcalib.errors import DataError

CODES = ["".join(c) for order in permutations(("RL", "AP", "SI")) for c in product(*order)]
LPS = np.array([[-2.0, 0, 0, 30], [0, -3.0, 0, 40], [0, 0, 5.0, -50], [0, 0, 0, 1]])
SHAPE = (4, 5, 6)
RNG = np.random.default_rng(0)


def loaded(image: np.ndarray, label: np.ndarray | None = None, affine: np.ndarray = LPS) -> LoadedCase:
    return LoadedCase(Case("c", "p", ()), image.astype(np.float32), affine, label)


def same(values: Any) -> Any:
    return values


@pytest.mark.parametrize("code", CODES)
def test_native_undoes_preprocessing_exactly_in_every_orientation(code: str) -> None:
    image, label = RNG.random((2, *SHAPE), np.float32), RNG.integers(0, 4, SHAPE).astype(np.uint8)
    item = Preprocess(code, None, same)(loaded(image, label))
    assert orientation(item["affine"]) == code
    assert Preprocess(code, None, same).shape_of(SHAPE, LPS) == item["image"].shape[1:]
    assert_array_equal(to_native(item["image"], item["affine"], LPS, SHAPE), image)
    assert_array_equal(to_native(item["label"][None].float(), item["affine"], LPS, SHAPE)[0], label)


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "SAR"])
@pytest.mark.parametrize("spacing_mm", [(1.5, 1.5, 4.0), (2.4, 2.1, 3.3)])
def test_native_undoes_resampling_closely(code: str, spacing_mm: tuple[float, float, float]) -> None:
    shape = (24, 20, 16)
    image = gaussian_filter(RNG.standard_normal(shape), 3.0)[None]
    image /= np.ptp(image)
    label = (image[0] > np.median(image)).astype(np.uint8)
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    item = Preprocess(code, spacing_mm, same)(loaded(image, label, affine))
    assert voxel_sizes(item["affine"]) == pytest.approx(spacing_mm)
    assert item["image"].shape[1:] == item["label"].shape == Preprocess(code, spacing_mm, same).shape_of(shape, affine)
    assert set(item["label"].unique().tolist()) == {0, 1}
    back = to_native(item["image"], item["affine"], affine, shape)
    assert np.abs(back - image).max() < 0.05
    assert np.abs(back - image).mean() < 0.005


def test_resampling_keeps_image_and_label_together_and_the_first_voxel_in_place() -> None:
    shape = (24, 20, 16)
    label = np.zeros(shape, np.uint8)
    label[6:18, 5:15, 4:12] = 1
    item = Preprocess("LPS", (1.0, 1.0, 3.0), same)(loaded(label[None], label, np.diag([-2.0, -2, 3, 1])))
    agree = (item["image"][0] > 0.5) == (item["label"] == 1)
    assert float(agree.float().mean()) > 0.97
    volume_mm3 = int(item["label"].sum()) * np.prod(voxel_sizes(item["affine"]))
    assert volume_mm3 == pytest.approx(label.sum() * 12, rel=0.1)
    assert corner_distance_mm(item["affine"], np.diag([-1.0, -1, 3, 1]), (1, 1, 1)) < 1e-6


@pytest.mark.fault(31)
def test_a_sheared_volume_is_not_resampled_but_reoriented() -> None:
    sheared = LPS.copy()
    sheared[0, 1] = 0.4
    image = RNG.random((1, *SHAPE), np.float32)
    with pytest.raises(DataError, match="c: a sheared volume cannot be resampled") as caught:
        Preprocess("RAS", (1.0, 1.0, 1.0), same)(loaded(image, affine=sheared))
    assert caught.value.reason == "sheared_resampling"
    item = Preprocess("RAS", None, same)(loaded(image, affine=sheared))
    assert_array_equal(to_native(item["image"], item["affine"], sheared, SHAPE), image)


def test_intensities_as_large_as_in_the_hippocampus_data_fit_float16_after_normalization() -> None:
    image = RNG.gamma(2.0, 1.0, (1, 12, 12, 12)) * 1e5
    image[0, 0, 0, 0] = 1.7e6
    assert image.max() > np.finfo(np.float16).max
    for normalize in (zscore(), percentile(), window(low=0, high=2e6)):
        item = Preprocess("RAS", None, normalize)(loaded(image))
        assert torch.isfinite(item["image"].half()).all()


def test_real_hippocampus_volumes_fit_float16_after_normalization(real: Path) -> None:
    files = sorted((real / "msd_hippocampus").rglob("imagesTr/*.nii.gz"))[::16]
    assert len(files) > 5
    for file in files:
        volume = read_volume(file)
        item = Preprocess("RAS", None, zscore())(loaded(volume.array[None], affine=volume.affine))
        assert torch.isfinite(item["image"].half()).all()
        assert abs(float(item["image"].mean())) < 1e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_the_stored_type_changes_nothing_after_normalization(dtype: type) -> None:
    image = RNG.integers(0, 255, (1, *SHAPE)).astype(dtype)
    assert_allclose(zscore()(torch.from_numpy(image.astype(np.float32))).std(correction=0), 1.0, rtol=1e-5)
    window_of = window(low=0, high=255)(torch.from_numpy(image.astype(np.float32)))
    assert_allclose(window_of, image.astype(np.float64) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("normalize", [zscore(), zscore(nonzero=True), percentile(), window(low=0, high=1)])
def test_preprocessing_leaves_the_loaded_case_as_it_is(normalize: Any) -> None:
    case = loaded(np.where(RNG.random((2, *SHAPE)) < 0.5, 0, RNG.random((2, *SHAPE))))
    image = case.image.copy()
    item = Preprocess("LPS", None, normalize)(case)
    assert not np.array_equal(item["image"], image)
    assert_array_equal(case.image, image)


def test_nonzero_normalization_leaves_the_outside_at_zero() -> None:
    image = np.zeros((2, *SHAPE), np.float32)
    image[:, 1:3, 1:4, 1:5] = RNG.random((2, 2, 3, 4)) + np.reshape([5, 50], (2, 1, 1, 1))
    found = zscore(nonzero=True)(torch.from_numpy(image.copy()))
    assert not np.asarray(found)[image == 0].any()
    for channel in (0, 1):
        inside = np.asarray(found)[channel][image[channel] > 0]
        assert inside.mean() == pytest.approx(0, abs=1e-4)
        assert inside.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("window", {"low": 5, "high": 5}),
        ("percentile", {"low": -1}),
        ("percentile", {"high": 101}),
        ("percentile", {"low": 60, "high": 40}),
    ],
)
def test_empty_ranges_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="low"):
        INTENSITIES[name](**options)


def test_normalization_to_nan_is_refused_by_the_name_of_the_case() -> None:
    with pytest.raises(DataError, match="c: normalized intensities are not finite"):
        Preprocess("RAS", None, lambda x: x / 0)(loaded(np.ones((1, *SHAPE))))


def item_of(shape: tuple[int, ...] = (20, 18, 12), inside: tuple[slice, ...] | None = None) -> dict[str, torch.Tensor]:
    """Channel 0 numbers the voxels, so that a patch tells where it came from; channel 1 is the label."""
    label = torch.zeros(shape, dtype=torch.uint8)
    label[inside or (slice(8, 12), slice(6, 10), slice(4, 8))] = 1
    number = torch.arange(label.numel()).reshape(shape).float()
    return {"image": torch.stack([number, label.float()]), "label": label}


AUGMENT: dict[str, Any] = {
    "flip_axes": (0, 1, 2),
    "rotate_degrees": 30.0,
    "zoom": 0.1,
    "noise_std": 0.1,
    "intensity_shift": 0.1,
    "intensity_scale": 0.1,
    "probability": 0.7,
}


def test_a_patch_depends_on_its_seed_alone() -> None:
    sampler, item = PatchSampler((8, 8, 8), 0.5, **AUGMENT), item_of()
    first = [sampler(item, seed) for seed in (3, 4, 5)]
    again = [sampler(item, seed) for seed in (5, 3)]
    fresh = PatchSampler((8, 8, 8), 0.5, **AUGMENT)(item, 4)
    for (image, label), (other, its_label) in ((first[2], again[0]), (first[0], again[1]), (first[1], fresh)):
        assert torch.equal(image, other)
        assert torch.equal(label, its_label)
    assert not torch.equal(first[0][0], first[1][0])


def test_sampling_does_not_change_the_item() -> None:
    item = item_of()
    before = {key: value.clone() for key, value in item.items()}
    sampler = PatchSampler((8, 8, 8), 0.5, **AUGMENT)
    for seed in range(20):
        sampler(item, seed)
    assert all(torch.equal(item[key], before[key]) for key in item)


def test_image_and_label_of_a_patch_stay_together() -> None:
    sampler, item = PatchSampler((8, 8, 8), 0.5, flip_axes=(0, 1, 2)), item_of()
    for seed in range(20):
        image, label = sampler(item, seed)
        assert (image.shape, label.shape) == ((2, 8, 8, 8), (8, 8, 8))
        assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)
        assert torch.equal(image[1], label.float())
        assert type(image) is type(label) is torch.Tensor
        assert torch.equal(label, item["label"].flatten()[image[0].long()])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_foreground_share_decides_what_a_patch_is_centered_on(share: float) -> None:
    inside = (slice(8, 12), slice(6, 10), slice(4, 8))
    sampler, item = PatchSampler((1, 1, 1), share), item_of(inside=inside)
    assert {int(sampler(item, seed)[1].item()) for seed in range(20)} == {int(share)}


def test_no_patch_is_centered_on_ignored_voxels() -> None:
    item = item_of()
    item["label"][:8] = 255
    sampler = PatchSampler((1, 1, 1), 1.0)
    assert {int(sampler(item, seed)[1].item()) for seed in range(30)} == {1}


def test_a_patch_larger_than_the_volume_is_padded() -> None:
    item = item_of((5, 6, 7), (slice(2, 4),) * 3)
    image, label = PatchSampler((8, 8, 8), 0.5)(item, 0)
    assert image.shape == (2, 8, 8, 8)
    outside = label == IGNORE
    assert int((label == 1).sum()) == 8
    assert int(outside.sum()) == 8**3 - 5 * 6 * 7
    assert bool((image[:, outside] == item["image"].min()).all())
    assert torch.equal(image[1][~outside], label[~outside].float())


@pytest.mark.fault(38)
@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_volume_of_one_label_gives_patches_too(value: int) -> None:
    item = item_of()
    item["label"].fill_(value)
    _, label = PatchSampler((8, 8, 8), 0.5)(item, 0)
    assert label.unique().tolist() == [value]
