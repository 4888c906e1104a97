"""Every map is what its definition says, for any window and however the volume is cut into slabs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import LPS, smooth_case
from maps_cases import NAMES, compared, one, windowed

from medcalib.data.labels import IGNORE
from medcalib.errors import ConfigError, DataError
from medcalib.metrics import score_case
from medcalib.metrics.numbers import region_numbers
from medcalib.metrics.regions import near_surface
from medcalib.report.maps import case as case_module
from medcalib.report.maps import maps_of
from medcalib.report.maps.case import CaseMaps, Request
from medcalib.report.maps.channels import Channel
from medcalib.report.maps.kinds import KINDS
from medcalib.report.maps.window import Window, WindowMeans, window_voxels

SHAPE = (9, 10, 7)
SPACING = (1.5, 1.5, 8.0)
EVERYWHERE = tuple(2 * n - 1 for n in SHAPE)


def smooth(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    probs, label = smooth_case(seed, 4, SHAPE)
    return probs.numpy(), label.numpy()


def by_loops(values: np.ndarray, valid: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Means over the valid voxels of the window around each voxel, one voxel after the other."""
    found = np.zeros(values.shape)
    for at in np.ndindex(values.shape):
        window = tuple(slice(max(i - n // 2, 0), i + n // 2 + 1) for i, n in zip(at, size, strict=True))
        found[at] = values[window][valid[window]].mean() if valid[at] else 0
    return found


def test_a_gap_by_hand() -> None:
    """3 x 3 x 1 voxels of two classes: confidence 0.9 but for 0.6 in the middle, class 1 predicted and right but in two
    corners. Of the first corner's four voxels three are right: (3 x 0.9 + 0.6) / 4 - 3/4."""
    foreground = np.full((3, 3, 1), 0.9)
    foreground[1, 1] = 0.6
    label = np.ones((3, 3, 1))
    label[0, 0] = label[2, 2] = 0
    maps = maps_of(compared(np.stack([1 - foreground, foreground]), label), request=windowed(3))
    corner, edge, middle = (2.7 + 0.6) / 4 - 3 / 4, (5 * 0.9 + 0.6) / 6 - 5 / 6, (8 * 0.9 + 0.6) / 9 - 7 / 9
    free = (3 * 0.9 + 0.6) / 4 - 1
    expected = [[corner, edge, free], [edge, middle, edge], [free, edge, corner]]
    np.testing.assert_allclose(maps["gap"][..., 0], expected, atol=1e-6)
    np.testing.assert_array_equal(maps["error"][..., 0], [[1, 0, 0], [0, 0, 0], [0, 0, 1]])
    assert maps["entropy"][1, 1, 0] == pytest.approx(-(0.6 * math.log(0.6) + 0.4 * math.log(0.4)) / math.log(2))


def test_a_window_of_one_voxel_is_confidence_minus_correctness() -> None:
    maps = maps_of(compared(*smooth()), request=windowed(1))
    np.testing.assert_array_equal(maps["gap"], maps["confidence"] - (1 - maps["error"]).astype(np.float32))


def test_a_window_over_everything_is_the_gap_of_the_scores() -> None:
    probs, label = smooth()
    label[:2] = IGNORE
    maps = maps_of(compared(probs, label), request=windowed(*EVERYWHERE))
    scores = score_case(torch.from_numpy(probs), torch.from_numpy(label), case_id="c1", class_names=NAMES,
                        ignore_index=IGNORE, distances=False)  # fmt: skip
    pooled = region_numbers(scores.regions["all"], NAMES, 15, "right")["gap"]
    np.testing.assert_allclose(maps["gap"][2:], pooled, atol=1e-6)  # float32 sums of 560 numbers


def test_the_gap_of_a_calibrated_constant_vanishes_as_the_window_grows() -> None:
    """Labels drawn with probability 0.8: the standard error of n voxels is 0.4 / sqrt(n)."""
    shape, rng = (24, 24, 24), np.random.default_rng(1)
    label = rng.random(shape) < 0.8
    probs = np.stack([np.full(shape, 0.2), np.full(shape, 0.8)])
    for n in (3, 7, 15):
        gap = maps_of(compared(probs, label), request=windowed(n))["gap"]
        inside = gap[n // 2 : -(n // 2), n // 2 : -(n // 2), n // 2 : -(n // 2)]
        assert abs(inside[0, 0, 0]) < 4 * 0.4 / n**1.5
        assert inside.std() < 2 * 0.4 / n**1.5


@pytest.mark.parametrize("size", [(5, 5, 1), (1, 3, 5), (3, 1, 1), (7, 3, 13)])
def test_windows_may_differ_by_axis_and_hold_valid_voxels_only(size: tuple[int, int, int]) -> None:
    probs, label = smooth(2)
    label[np.random.default_rng(0).random(SHAPE) < 0.3] = IGNORE
    valid = label != IGNORE
    maps = maps_of(compared(probs, label), request=windowed(*size, channels=[one(0), one(3)]))
    wrong = (probs.argmax(0) != label) & valid
    np.testing.assert_allclose(maps["gap"], by_loops(probs.max(0) - ~wrong, valid, size), atol=1e-6)
    for k in (0, 3):
        expected = by_loops(probs[k] - (label == k), valid, size)
        np.testing.assert_allclose(maps[f"{NAMES[k]}_gap"], expected, atol=1e-6)
    for name in ("gap", "error", "LV_gap"):
        assert not maps[name][~valid].any()


def test_class_gaps_add_up_to_nothing_and_are_those_of_the_classes() -> None:
    """Probabilities and labels both sum to 1; over everything a class gap is its mean probability minus its share."""
    probs, label = smooth(3)
    channels = [one(k) for k in range(4)]
    maps = maps_of(compared(probs, label), request=windowed(3, channels=channels))
    np.testing.assert_allclose(sum(maps[f"{name}_gap"] for name in NAMES), 0, atol=2e-6)
    np.testing.assert_allclose(sum(maps[f"{name}_probability"] for name in NAMES), 1, atol=2e-6)
    whole = maps_of(compared(probs, label), request=windowed(*EVERYWHERE, channels=channels))
    for k, name in enumerate(NAMES):
        np.testing.assert_allclose(whole[f"{name}_gap"], probs[k].mean() - (label == k).mean(), atol=1e-6)


def test_a_union_adds_its_classes() -> None:
    probs, label = smooth(4)
    heart = Channel("the heart", "the_heart", (1, 2, 3), (1, 2, 3))
    maps = maps_of(compared(probs, label), request=windowed(3, channels=[heart, one(0)]))
    np.testing.assert_allclose(maps["the_heart_probability"], 1 - maps["background_probability"], atol=1e-6)
    np.testing.assert_allclose(maps["the_heart_gap"], -maps["background_gap"], atol=1e-6)


@pytest.mark.parametrize("planes", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [(3, 3, 1), (3, 3, 5), EVERYWHERE])
def test_slabs_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, planes: int, size: tuple[int, int, int]) -> None:
    probs, label = smooth(5)
    label[0, 0] = IGNORE
    whole = maps_of(compared(probs, label), request=windowed(*size, channels=[one(k) for k in range(4)]))
    monkeypatch.setattr(case_module, "SLAB_VOXELS", planes * SHAPE[0] * SHAPE[1])
    cut = maps_of(compared(probs, label), request=windowed(*size, channels=[one(k) for k in range(4)]))
    for name, volume in whole.items():
        np.testing.assert_array_equal(cut[name], volume, err_msg=name)


def test_windows_pool_no_plane_before_its_window_is_complete() -> None:
    pool = WindowMeans((1, 1, 3), 5)
    planes = np.arange(5, dtype=np.float32).reshape(1, 1, 1, 5)
    valid = np.ones((1, 1, 1), bool)
    found = [pool.add(planes[..., k : k + 1], valid) for k in range(5)]
    assert [None if f is None else f.ravel().tolist() for f in found] == [None, None, [0.5, 1.0], None, [2.0, 3.0, 3.5]]


def test_entropy_runs_from_certain_to_uniform() -> None:
    probs = np.zeros((4, 3, 1, 1))
    probs[:, 0, 0, 0], probs[:, 1, 0, 0], probs[:, 2, 0, 0] = [1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]
    entropy = maps_of(compared(probs, np.zeros((3, 1, 1))))["entropy"].ravel()
    np.testing.assert_allclose(entropy, [0, 1, 0.5], atol=1e-7)
    assert entropy.max() <= 1


def test_logits_and_their_softmax_give_the_same_maps() -> None:
    probs, label = smooth(6)
    direct = maps_of(compared(probs, label), request=windowed(3, channels=[one(1)]))
    logits = np.log(probs) + np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    of_logits = maps_of(compared(logits, label, activation="logits"), request=windowed(3, channels=[one(1)]))
    for name in direct:
        np.testing.assert_allclose(of_logits[name], direct[name], atol=2e-6, err_msg=name)


def test_regions_are_those_of_the_scores() -> None:
    probs, label = smooth(7)
    label[:, :2] = IGNORE
    region = maps_of(compared(probs, label))["region"]
    valid = label != IGNORE
    near = near_surface(torch.from_numpy(label), SPACING, 3.0, IGNORE).numpy()
    np.testing.assert_array_equal(region == IGNORE, ~valid)
    np.testing.assert_array_equal(region == 1, near & valid)
    np.testing.assert_array_equal(region == 2, (label > 0) & ~near & valid)
    scores = score_case(torch.from_numpy(probs), torch.from_numpy(label), case_id="c1", class_names=NAMES,
                        spacing_mm=SPACING, ignore_index=IGNORE, distances=False)  # fmt: skip
    assert (region == 1).sum() == region_numbers(scores.regions["boundary"], NAMES, 15, "right")["voxels"] > 0
    wide = maps_of(compared(probs, label), request=Request(boundary_mm=30.0))["region"]
    assert set(np.unique(wide)) == {1, IGNORE}


def test_true_gaps_compare_with_the_posterior() -> None:
    probs, label = smooth(8)
    posterior, _ = smooth(9)
    maps = maps_of(compared(probs, label, posterior=posterior), request=windowed(3, channels=[one(2)]))
    winner = probs.argmax(0)
    expected = probs.max(0) - np.take_along_axis(posterior, winner[None], 0)[0]
    np.testing.assert_allclose(maps["true_gap"], expected, atol=1e-6)
    np.testing.assert_allclose(maps["MYO_true_gap"], probs[2] - posterior[2], atol=1e-6)
    assert not any("true_gap" in name for name in maps_of(compared(probs, label)))
    assert not maps_of(compared(probs, label, posterior=probs))["true_gap"].any()


def test_independent_regions_have_maps_of_their_own() -> None:
    probs, label = smooth(10)
    channels = np.stack([probs[1:].sum(0), probs[3]])
    pair = compared(channels, label, names=("whole tumor", "enhancing"), activation="sigmoid", groups=((1, 2, 3), (3,)))
    request = windowed(3, channels=[Channel("whole tumor", "whole_tumor", (0,), (1, 2, 3)),
                                    Channel("enhancing", "enhancing", (1,), (3,))])  # fmt: skip
    maps = maps_of(pair, request=request)
    assert set(maps) == {"label", "region"} | {
        f"{name}_{kind}" for name in ("whole_tumor", "enhancing") for kind in ("probability", "gap", "error")
    }
    everywhere = np.ones(SHAPE, bool)
    np.testing.assert_array_equal(maps["whole_tumor_probability"], channels[0])
    np.testing.assert_array_equal(maps["whole_tumor_error"], (channels[0] > 0.5) != (label > 0))
    np.testing.assert_allclose(
        maps["enhancing_gap"], by_loops(channels[1] - (label == 3), everywhere, (3, 3, 3)), atol=1e-6
    )


def test_maps_that_need_annotations_that_a_case_lacks_are_left_out() -> None:
    probs, label = smooth(11)
    pair = compared(probs, label, labelled=("RV", "MYO"))
    maps = CaseMaps(pair, windowed(3, channels=[one(0), one(1), one(3)]))
    assert maps.left_out == ("error", "gap", "background_gap", "LV_gap")
    assert {"confidence", "prediction", "RV_gap", "LV_probability"} <= set(maps.names)
    complete = CaseMaps(compared(probs, label, labelled=NAMES[1:]), windowed(3, channels=[one(0)]))
    assert complete.left_out == ()


def test_channels_in_another_order_are_refused() -> None:
    label = np.zeros((8, 8, 8))
    label[1:5], label[5:8] = 1, 2
    probs = np.stack([(label == k) * 0.92 + 0.02 for k in (0, 2, 1, 3)])
    with pytest.raises(DataError, match="RV is found as MYO") as caught:
        maps_of(compared(probs, label))
    assert caught.value.reason == "class_order"


def test_probabilities_that_are_none_are_refused() -> None:
    probs, label = smooth(12)
    with pytest.raises(DataError) as caught:
        maps_of(compared(probs * 1.2, label))
    assert caught.value.reason == "bad_probabilities"


def test_windows_in_mm_are_the_closest_odd_voxels() -> None:
    assert window_voxels((1.5, 1.5, 8.0), 9) == (5, 5, 1)
    assert window_voxels((1.0, 3.0, 20.0), 9) == (9, 3, 1)
    assert Window.of().size(SPACING, (20, 20, 20)) == (5, 5, 1)
    assert Window.of(voxels=5).size(SPACING, (20, 2, 20)) == (5, 3, 5)  # 3 reach each voxel of 2 from the other
    assert Window.of(mm=1e6).size(SPACING, SHAPE) == EVERYWHERE
    assert CaseMaps(compared(*smooth()), windowed(5, 3, 1)).window_mm == [7.5, 4.5, 8.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mm": 0}, "window_mm must be positive, got 0"),
        ({"mm": math.nan}, "window_mm must be positive"),
        ({"mm": math.inf}, "window_mm must be positive"),
        ({"voxels": 4}, "one odd number of voxels, or three, one per array axis; got 4"),
        ({"voxels": (5, 5)}, "got 5,5"),
        ({"voxels": (3, 3, -1)}, "got 3,3,-1"),
        ({"mm": 9, "voxels": 5}, "not both: got 9 mm and 5 voxels"),
    ],
)
def test_windows_that_make_no_sense_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Window.of(**options)


def test_maps_of_takes_a_window_in_mm() -> None:
    pair = compared(*smooth())
    np.testing.assert_array_equal(maps_of(pair, 10.5)["gap"], maps_of(pair, request=windowed(7, 7, 1))["gap"])
    assert set(maps_of(pair)) == set(KINDS) - {"true_gap"}
    assert np.abs(LPS[:3, :3]).sum(0).tolist() == list(SPACING)
