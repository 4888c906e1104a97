"""Numbers over several trained models with intervals over the same patients."""

import numpy as np
import pytest
from scipy.stats import wilcoxon

from medcalib.metrics.intervals import of_ece, of_mean
from medcalib.metrics.over_seeds import Contrast, Tables, estimates, over_patients_of
from medcalib.metrics.signed_rank import signed_rank


def _tables(kind: str, models: int = 3, patients: int = 9, channels: int = 1, bins: int = 4) -> Tables:
    rng = np.random.default_rng(3)
    voxels = rng.integers(1, 500, (models, patients, channels, bins)).astype(float)
    gaps = voxels * rng.uniform(-0.3, 0.5, voxels.shape)
    return Tables(kind, gaps, voxels)  # type: ignore[arg-type]


def test_pooled_ece_by_hand() -> None:
    # two patients, two bins: gaps cancel between patients in the first bin, add up in the second
    sums = np.array([[[[3.0, 1.0]], [[-2.0, 2.0]]]])
    counts = np.array([[[[10.0, 5.0]], [[5.0, 20.0]]]])
    assert Tables("ece", sums, counts).values()[0] == pytest.approx((1 + 3) / 40)
    assert Tables("ace", sums, counts).values()[0] == pytest.approx((1 / 15 + 3 / 25) / 2)


def test_a_channel_or_bin_without_voxels_does_not_count() -> None:
    sums = np.array([[[[2.0, 0.0], [0.0, 0.0]]]])
    counts = np.array([[[[10.0, 0.0], [0.0, 0.0]]]])
    assert Tables("ece", sums, counts).values()[0] == pytest.approx(0.2)
    assert Tables("ace", sums, counts).values()[0] == pytest.approx(0.2)
    assert np.isnan(Tables("ece", sums * 0, counts * 0).values()[0])


def test_one_model_has_the_interval_of_the_scores() -> None:
    tables = _tables("ece")
    found = estimates(tables, [Contrast((1,))])[0]
    low, high = of_ece(tables.sums[1, :, 0], tables.counts[1, :, 0])
    # of_ece adds in the order drawn: the few resamples that hold every patient once then miss the value by a rounding
    assert (found.low, found.high) == pytest.approx((low, high), rel=2e-3)


def test_means_have_the_interval_of_means() -> None:
    rng = np.random.default_rng(0)
    sums, counts = rng.random((1, 7, 1, 1)), np.ones((1, 7, 1, 1))
    counts[0, 2] = 2
    found = estimates(Tables("mean", sums, counts), [Contrast((0,))])[0]
    assert found.value == pytest.approx(sums.sum() / 8)
    assert (found.low, found.high) == pytest.approx(of_mean(sums.ravel(), counts.ravel()), rel=1e-9)


def test_seeds_are_averaged_after_pooling_patients() -> None:
    tables = _tables("ece", channels=2)
    values = tables.values()
    found = estimates(tables, [Contrast((0, 1, 2)), Contrast((0, 1), (2,))])
    assert found[0].value == pytest.approx(values.mean())
    assert found[1].value == pytest.approx(values[:2].mean() - values[2])


def test_a_paired_interval_is_narrower_than_what_single_ones_allow() -> None:
    tables = _tables("ece", models=1, patients=12)
    both = Tables(
        "ece",
        np.concatenate([np.abs(tables.sums), np.abs(tables.sums) + 0.05 * tables.counts]),
        np.tile(tables.counts, (2, 1, 1, 1)),
    )
    one, two, difference = estimates(both, [Contrast((0,)), Contrast((1,)), Contrast((1,), (0,))])
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.05, 0.05, 0.05))
    assert one.high is not None
    assert two.low is not None
    assert one.high > two.low


def test_equal_models_differ_by_exactly_nothing() -> None:
    one = _tables("ece", models=1)
    twice = Tables("ece", np.tile(one.sums, (2, 1, 1, 1)), np.tile(one.counts, (2, 1, 1, 1)))
    assert estimates(twice, [Contrast((0,), (1,))])[0] == (0.0, 0.0, 0.0)


def test_the_order_of_patients_changes_no_value() -> None:
    tables = _tables("ece", patients=11)
    order = np.random.default_rng(1).permutation(11)
    turned = Tables("ece", tables.sums[:, order], tables.counts[:, order])
    assert turned.values().tolist() == tables.values().tolist()


def test_small_gaps_keep_their_digits() -> None:
    """Of a power of two every digit is the same."""
    tables = _tables("ece")
    small = Tables("ece", tables.sums * 2.0**-40, tables.counts)
    (found,), (expected,) = (estimates(of, [Contrast((0,), (1,))]) for of in (small, tables))
    assert [x * 2.0**40 for x in found] == list(expected)


def test_what_is_undefined_is_none() -> None:
    tables = _tables("mean", patients=5, bins=1)
    counts = tables.counts.copy()
    counts[1] = 0
    found = estimates(Tables("mean", tables.sums, counts), [Contrast(()), Contrast((1,)), Contrast((0,))])
    assert found[0] == found[1] == (None, None, None)
    assert found[2].low is not None
    few = estimates(_tables("ece", patients=2), [Contrast((0,))])[0]
    assert few.value is not None
    assert few.low is None


def test_patients_are_means_of_their_cases() -> None:
    values = np.array([[1.0, 5.0], [3.0, np.nan], [7.0, 2.0]])
    assert over_patients_of(values, [0, 0, 1], 2)[:, 0].tolist() == [2.0, 7.0]
    assert np.isnan(over_patients_of(values, [0, 0, 1], 2)[0, 1])


@pytest.mark.parametrize("n", [4, 7, 13, 20, 42])
@pytest.mark.parametrize("kind", ["plain", "ties", "zeros"])
def test_signed_rank_is_that_of_scipy(n: int, kind: str) -> None:
    rng = np.random.default_rng(n)
    differences = rng.normal(0.4, 1, n)
    if kind == "ties":
        differences = np.round(differences)
        differences[differences == 0] = 1
    if kind == "zeros":
        differences[0] = 0
    p, count = signed_rank(np.zeros(n), differences)
    assert count == n
    assert p == pytest.approx(wilcoxon(differences).pvalue)


def test_signed_rank_leaves_out_what_is_absent() -> None:
    first, second = np.zeros(6), np.array([1.0, 2.0, np.nan, 3.0, 4.0, 5.0])
    assert signed_rank(first, second) == (pytest.approx(2 / 2**5), 5)
    assert signed_rank(first, first) == (None, 6)
