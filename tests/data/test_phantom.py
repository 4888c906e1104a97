"""The phantom in memory: exact marginals, drawn-looking labels, an oracle that is calibrated."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats

from medcalib.data.phantom import ANATOMIES, make_case
from medcalib.data.phantom.fields import gaussian_field, gumbel_from_gaussian, sample_labels
from medcalib.data.phantom.geometry import Geometry, carve, ellipsoid
from medcalib.data.phantom.model import logits_of, make_geometry, posterior_of

SMALL = {"heart": (32, 32, 6), "tumor": (32, 36, 28), "abdomen": (40, 36, 14), "hippocampus": (24, 30, 22)}


@functools.cache
def full_geometry(anatomy: str, index: int) -> Geometry:
    return make_geometry(anatomy, 2, index)[1]


# --- fields ---


def test_field_weights_have_unit_norm():
    """The field is linear in the noise: its response to each unit impulse gives the variance exactly."""

    class Impulse:
        def standard_normal(self, shape):
            noise = np.zeros(shape)
            noise[0, 3, 2] = 1.0
            return noise

    for length in (0.3, 2.0, 30.0):  # from a fraction of a voxel to far beyond the grid
        response = gaussian_field(Impulse(), (6, 9, 5), (1.0, 2.0, 8.0), length)
        # By periodicity the response of one voxel to all impulses is this array, shifted and mirrored.
        assert (response**2).sum() == pytest.approx(1.0, abs=1e-12)


def test_field_moments_over_draws():
    rng = np.random.default_rng(0)
    draws = np.stack([gaussian_field(rng, (6, 7, 5), (1, 1, 2), 1.5) for _ in range(1500)])
    # Six standard errors: 1/sqrt(n) for the mean, sqrt(2/n) for the variance.
    assert np.abs(draws.mean(axis=0)).max() < 6 / np.sqrt(1500)
    assert np.abs(draws.var(axis=0) - 1).max() < 6 * np.sqrt(2 / 1500)
    assert stats.kstest(draws[:, 0, 0, 0], "norm").pvalue > 1e-4


def test_field_correlation_follows_distance_in_mm():
    rng = np.random.default_rng(1)
    draws = np.stack([gaussian_field(rng, (40, 40, 12), (1.0, 2.0, 3.0), 3.0) for _ in range(60)])
    for axis, step in ((1, 1.0), (2, 2.0), (3, 3.0)):
        measured = (draws * np.roll(draws, 1, axis=axis)).mean()
        assert measured == pytest.approx(np.exp(-(step**2) / 36), abs=0.04)


def test_gumbel_is_finite_and_monotone_in_the_far_tails():
    z = np.array([-30.0, -8.0, 0.0, 8.0, 12.0])
    gumbel = gumbel_from_gaussian(z)
    assert np.isfinite(gumbel).all()
    assert (np.diff(gumbel) > 0).all()
    assert gumbel[2] == pytest.approx(-np.log(np.log(2)))


# --- the posterior is the distribution of the label ---


def frequencies(logits: np.ndarray, draws: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = np.zeros(logits.shape, dtype=np.int64)
    for _ in range(draws):
        labels = sample_labels(logits, rng, (1.5, 1.5, 8.0), 1.2)
        counts += labels == np.arange(len(logits))[:, None, None, None]
    return counts


@pytest.fixture(scope="module")
def drawn():
    grid, geometry = make_geometry("heart", 5, 0, (24, 24, 6))
    del grid
    return posterior_of(geometry), frequencies(logits_of(geometry), 400, seed=7), 400


def test_marginals_are_the_posterior_at_every_voxel(drawn):
    """Bernstein's bound at a total error probability of 1e-6 over all voxels and classes."""
    posterior, counts, draws = drawn
    log_term = np.log(2 * posterior.size / 1e-6)
    bound = np.sqrt(2 * posterior * (1 - posterior) * log_term / draws) + 2 * log_term / (3 * draws)
    assert (np.abs(counts / draws - posterior) <= bound).all()


def chi_square_per_cell(posterior: np.ndarray, counts: np.ndarray, draws: int) -> float:
    """Mean of `(n - N pi)^2 / (N pi (1 - pi))` over cells with enough counts; its expectation is 1."""
    cells = (posterior * draws > 5) & ((1 - posterior) * draws > 5)
    expected = draws * posterior[cells]
    return float(np.mean((counts[cells] - expected) ** 2 / (expected * (1 - posterior[cells]))))


def test_overall_chi_square_accepts_the_posterior_and_rejects_others(drawn):
    """Some 1000 independent cells of variance 2 (noise spans a few voxels) give an error of 0.045."""
    posterior, counts, draws = drawn
    assert chi_square_per_cell(posterior, counts, draws) == pytest.approx(1.0, abs=0.2)
    warmer = posterior ** (1 / 1.15)
    assert chi_square_per_cell(warmer / warmer.sum(axis=0), counts, draws) > 1.3


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_posterior_sums_to_one(anatomy):
    case = make_case(anatomy, 0, 1, SMALL[anatomy])
    assert case.posterior.dtype == np.float32
    assert np.abs(case.posterior.sum(axis=0, dtype=np.float64) - 1).max() < 1e-6
    assert case.posterior.shape == (len(case.class_names), *case.labels.shape)


@pytest.mark.parametrize(
    ("anatomy", "pair"), [("heart", (2, 3)), ("tumor", (1, 3)), ("hippocampus", (1, 2)), ("tumor", (2, 3))]
)
def test_boundary_is_ambiguous_between_its_two_sides_only(anatomy, pair):
    """Where two classes tie and the others lie 2 widths away, those have little probability."""
    ties, clear = 0, 0
    for index in range(2):
        geometry = full_geometry(anatomy, index)
        distances, posterior = geometry.distances_mm, posterior_of(geometry)
        others = [k for k in range(len(distances)) if k not in pair]
        tie = (np.abs(distances[list(pair)]) < 0.3 * geometry.width_mm).all(axis=0)
        far = tie & (distances[others] < -2 * geometry.width_mm).all(axis=0)
        # each other class at most exp(-2), each side at least exp(-0.3)
        bound = len(others) * np.exp(-2) / (2 * np.exp(-0.3))
        assert (posterior[others].sum(axis=0)[far] <= bound).all()
        assert (posterior[0][far] <= np.exp(-2) / (2 * np.exp(-0.3))).all()
        ties, clear = ties + tie.sum(), clear + far.sum()
    assert clear > 0.3 * ties > 0


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_exactly_one_distance_is_positive_away_from_boundaries(anatomy):
    _, geometry = make_geometry(anatomy, 0, 2, SMALL[anatomy])
    ordered = np.sort(geometry.distances_mm, axis=0)
    assert (ordered[-1] >= 0).all()
    assert (ordered[-2] <= 1e-9).all()


def test_carved_solids_share_a_border_without_background():
    first = np.array([[2.0, 1.0, 0.0, -1.0, -4.0]])
    second = np.array([[-1.0, 3.0, 3.0, 3.0, -2.0]])
    distances = carve(np.stack([first, second]))
    np.testing.assert_array_equal(distances[1], first)
    np.testing.assert_array_equal(distances[2], [[-2.0, -1.0, 0.0, 1.0, -2.0]])
    np.testing.assert_array_equal(distances[0], [[-2.0, -3.0, -3.0, -3.0, 2.0]])


def test_ellipsoid_distance_of_a_sphere_is_exact():
    points = np.stack(np.meshgrid(*[np.linspace(-9, 9, 7)] * 3, indexing="ij"))
    expected = 5 - np.sqrt((points**2).sum(axis=0))
    np.testing.assert_allclose(ellipsoid(points, (0, 0, 0), (5, 5, 5)), expected, atol=1e-5)


# --- cases ---


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_image_ignores_the_label_noise(anatomy):
    one, two = (make_case(anatomy, 4, 0, SMALL[anatomy], rater=r) for r in (0, 1))
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.posterior, two.posterior)
    assert (one.labels != two.labels).any()


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_cases_and_seeds_differ(anatomy):
    cases = [make_case(anatomy, seed, index, SMALL[anatomy]) for seed, index in ((0, 0), (0, 1), (1, 0))]
    for other in cases[1:]:
        assert (cases[0].images != other.images).mean() > 0.2
        assert (cases[0].labels != other.labels).any()


@pytest.mark.parametrize("anatomy", ["heart", "tumor", "hippocampus"])
def test_shape_keeps_the_field_of_view(anatomy):
    (grid, default), (small_grid, small) = (make_geometry(anatomy, 0, 0, s) for s in (None, SMALL[anatomy]))
    assert small.width_mm.shape == SMALL[anatomy]
    np.testing.assert_allclose(grid.extent_mm, small_grid.extent_mm)
    shares = [posterior_of(geometry)[1:].sum(axis=0).mean() for geometry in (default, small)]
    assert shares[1] == pytest.approx(shares[0], rel=0.25)  # another grid draws another deformation


def test_systole_has_a_smaller_cavity_and_the_same_grid():
    diastole, systole = (make_case("heart", 0, 0, phase=phase) for phase in ("ED", "ES"))
    assert diastole.spacing_mm == systole.spacing_mm
    volumes = [case.posterior[3].sum() for case in (diastole, systole)]
    assert 0.2 < volumes[1] / volumes[0] < 0.7


def test_tumor_without_rim_occurs_in_about_one_of_eight():
    geometries = (make_geometry("tumor", 0, index, (16, 16, 16))[1] for index in range(40))
    absent = sum(posterior_of(geometry)[3].max() < 1e-6 for geometry in geometries)
    assert 1 <= absent <= 14  # 40 draws at 1/8: outside with a probability of 0.005


def test_every_organ_exists_and_sizes_span_two_orders():
    geometry = make_geometry("abdomen", 0, 0, (80, 68, 24))[1]
    voxels = np.bincount(geometry.distances_mm.argmax(axis=0).ravel(), minlength=14)[1:]
    assert voxels.min() >= 5
    assert voxels.max() >= 100 * voxels.min()


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_labels_are_drawn_not_salt_and_pepper(anatomy):
    """Neighbors in plane disagree little more often than in the smooth argmax of the posterior."""
    case = make_case(anatomy, 6, 0, (48, 48, 12))
    best = case.posterior.argmax(axis=0)
    rates = [(np.diff(volume.astype(int), axis=0) != 0).mean() for volume in (case.labels, best)]
    assert rates[0] < 2 * rates[1]


# --- the oracle scored against the labels ---


def top_label_ece(confidence: np.ndarray, right: np.ndarray) -> float:
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = np.bincount(bins, weights=confidence - right, minlength=15)
    return float(np.abs(gaps).sum() / len(bins))


def oracle(anatomy: str, cases: int, shape: tuple[int, int, int] | None) -> tuple[float, float, float]:
    """Mean class Dice of argmax pi; 15-bin top-label ECE near the foreground of pi, and of pi at T = 0.7."""
    drawn = [make_case(anatomy, 11, index, shape) for index in range(cases)]
    overlap = np.zeros((3, len(ANATOMIES[anatomy].class_names)))
    confident, sharper, hits = [], [], []
    for case in drawn:
        best = case.posterior.argmax(axis=0)
        for row, member in enumerate((case.labels[best == case.labels], case.labels, best)):
            overlap[row] += np.bincount(member.ravel(), minlength=overlap.shape[1])
        region = case.posterior[0] < 0.999
        posterior = case.posterior[:, region].astype(np.float64)
        confident.append(posterior.max(axis=0))
        sharper.append((posterior ** (1 / 0.7)).max(axis=0) / (posterior ** (1 / 0.7)).sum(axis=0))
        hits.append((best == case.labels)[region])
    right = np.concatenate(hits)
    errors = [top_label_ece(np.concatenate(values), right) for values in (confident, sharper)]
    dice = 2 * overlap[0] / (overlap[1] + overlap[2])
    return float(dice[1:].mean()), errors[0], errors[1]


@pytest.mark.parametrize(
    ("anatomy", "cases", "shape"),
    [
        ("heart", 6, None),
        ("tumor", 3, (52, 58, 46)),
        ("abdomen", 1, (80, 68, 24)),
        ("hippocampus", 6, None),
    ],
)
def test_bayes_classifier_is_good_but_not_perfect_and_calibrated(anatomy, cases, shape):
    """The ECE of the truth is sampling error alone.

    With n independent patches the gaps of 15 bins add up to about sqrt(15 p (1 - p) / n), p (1 - p) < 0.15:
    below 0.015 for n > 10 000. Each set has over 30 000 voxels there, most with p (1 - p) far smaller.
    """
    dice, ece, sharpened = oracle(anatomy, cases, shape)
    assert 0.8 <= dice <= 0.97
    assert ece < 0.015
    assert sharpened > 0.015  # the bound would catch an overconfident posterior


def test_geometry_is_positive_where_it_must_be():
    for anatomy in ANATOMIES:
        geometry: Geometry = make_geometry(anatomy, 0, 0, SMALL[anatomy])[1]
        assert geometry.width_mm.min() > 0
        assert np.isfinite(geometry.distances_mm).all()
        assert np.isfinite(geometry.tissue).all()
