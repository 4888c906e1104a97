"""The study of estimators: its tables against the library's counts, its laws, and its page against its numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import REPOSITORY

from medcalib.metrics import score_case
from medcalib.metrics.squared import debiased_squared_error

RESULTS = REPOSITORY / "docs" / "results"
sys.path.insert(0, str(REPOSITORY / "docs" / "studies"))

from estimators import estimates, page, pictures  # noqa: E402
from estimators.experiments import Design, pooled, thinned  # noqa: E402
from estimators.population import Patient, population  # noqa: E402
from estimators.predictors import PREDICTORS  # noqa: E402
from estimators.study import TINY, read, study, write  # noqa: E402
from estimators.tables import FIXED, REGIONS, Scored, Table, score_population  # noqa: E402

CLASSES = ("background", "RV", "MYO", "LV")


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return population("heart", 2, 12, 0)


@pytest.fixture(scope="module")
def exact(patients: list[Patient]) -> Scored:
    return score_population(patients, PREDICTORS["exact"], 0)


@pytest.fixture(scope="module")
def sharp(patients: list[Patient]) -> Scored:
    return score_population(patients, PREDICTORS["T = 0.5"], 0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    path = tmp_path_factory.mktemp("study") / "numbers.csv"
    write(study(TINY, 0), path)
    return read(path)


def test_every_region_has_the_ece_of_the_library(patients: list[Patient], sharp: Scored) -> None:
    patient, rater = patients[1], 3
    probs = PREDICTORS["T = 0.5"](patient).astype(np.float32)
    found = score_case(
        torch.from_numpy(probs),
        torch.from_numpy(patient.labels[rater].reshape(probs.shape[1:])),
        case_id="a",
        class_names=CLASSES,
        spacing_mm=patient.spacing_mm,
        posterior=torch.from_numpy(patient.posterior.astype(np.float32)),
        distances=False,
    )
    place = 12 + rater
    for region in set(REGIONS) - {"pred_boundary"}:
        table, counts = sharp.measured[region], found.regions[region].calibration
        one = Table(table.n[place], table.confidence[place], table.hits[place], table.of_cell)
        assert estimates.ece(one, 15) == pytest.approx(counts.ece(15), abs=1e-9)
        assert estimates.ece(one, 50, "left") == pytest.approx(counts.ece(50, "left"), abs=1e-9)
        assert estimates.ece_equal_mass(one)[0] == pytest.approx(counts.ece_equal_mass(15), abs=1e-9)
        assert estimates.ace_bins(one) == pytest.approx(counts.ace_bins(15), abs=1e-9)
        assert estimates.mce(one) == pytest.approx(counts.mce(15), abs=1e-9)
        debiased = float(debiased_squared_error(counts.reliability(0)))
        assert estimates.debiased_squared(one) == pytest.approx(debiased, abs=1e-9)
    limit = sharp.limit["pred_foreground"]
    own = Table(limit.n[1], limit.confidence[1], limit.hits[1], limit.of_cell)
    assert estimates.ece(own, 15) == pytest.approx(
        found.regions["pred_foreground"].calibration.ece(15, true=True), abs=1e-6
    )


def test_limits_are_what_labels_have_on_average(exact: Scored) -> None:
    """Voxels and hits of every region, over 12 label maps of 2 patients; gaps within 4 standard errors."""
    for region in REGIONS:
        measured, limit = exact.measured[region], exact.limit[region]
        for part, expected in ((measured.n, limit.n), (measured.hits, limit.hits)):
            sums = part.sum(-1).reshape(2, 12)
            error = sums.std(1, ddof=1) / np.sqrt(12) + 1e-6
            assert (np.abs(sums.mean(1) - expected.sum(-1)) < 4 * error).all(), region


def test_the_exact_posterior_is_calibrated_only_where_the_prediction_chooses_the_region(exact: Scored) -> None:
    errors = {region: float(estimates.ece(exact.limit[region].pooled(), 15)) for region in REGIONS}
    assert all(errors[region] < 1e-6 for region in FIXED)
    assert errors["foreground"] > 0.02
    assert errors["gt_foreground"] > 0.003
    assert max(exact.voxel_gap.values()) < 1e-6
    assert float(estimates.ece(exact.marginal["foreground"].pooled(), 15)) < 1e-6


def test_finer_bins_and_voxels_never_lower_the_true_error(patients: list[Patient]) -> None:
    scored = score_population(patients, PREDICTORS["opposed"], 0)
    limit = scored.limit["pred_foreground"].pooled()
    chain = [float(estimates.ece(limit, bins)) for bins in (5, 10, 50, 100)]
    chain += [float(estimates.mean_gap(limit)), scored.voxel_gap["pred_foreground"]]
    assert chain == sorted(chain)
    assert chain[-1] > 1.2 * chain[0]


def test_temperatures_err_in_their_direction(patients: list[Patient], sharp: Scored) -> None:
    soft = score_population(patients, PREDICTORS["T = 1.5"], 0)
    for scored, sign in ((sharp, 1), (soft, -1)):
        assert sign * scored.limit["pred_foreground"].gap.sum() > 0


def test_labels_of_neighbors_are_dependent(exact: Scored) -> None:
    drawn = exact.measured["pred_foreground"].gap.sum(-1).reshape(2, 12).var(1, ddof=1)
    table = exact.measured["pred_foreground"]
    apart = (table.confidence - exact.independent["pred_foreground"]).sum(-1).reshape(2, 12).var(1, ddof=1)
    assert drawn.mean() > 4 * apart.mean()


def test_pooling_adds_the_picked_tables(exact: Scored) -> None:
    table, picks = exact.measured["all"], np.array([[0, 5, 5], [23, 1, 2]])
    found = pooled(table, picks)
    np.testing.assert_allclose(found.hits, table.hits[picks].sum(1))
    np.testing.assert_allclose(found.gap, table.gap[picks].sum(1), atol=1e-9)


def test_a_share_of_the_voxels_has_the_share_of_hits(exact: Scored) -> None:
    whole = pooled(exact.measured["all"], Design(1, (8,)).picks(exact, 8))
    part = thinned(whole, 0.1, np.random.default_rng(0))
    assert part.n.sum() == pytest.approx(0.1 * whole.n.sum(), rel=0.02)
    assert part.hits.sum() / part.n.sum() == pytest.approx(whole.hits.sum() / whole.n.sum(), abs=0.005)
    assert (part.hits <= part.n).all()


def test_the_sweep_stops_before_the_first_bin_that_falls() -> None:
    """Accuracies 0.2, 0.8, 0.5, 0.9 of four equal cells: two bins rise (0.5, 0.7), three (0.2, 0.65, 0.9) and not four.

    Cells of 10 voxels fall into three bins as 1, 2, 1.
    """
    hits, confidence = np.array([[2.0, 8, 5, 9]]), np.array([[3.0, 5, 6, 9]])
    table = Table(np.full((1, 4), 10.0), confidence, hits, np.arange(4))
    assert estimates.ece_sweep(table)[0] == pytest.approx((1 + 2 + 0) / 40)


def test_the_jackknife_by_hand() -> None:
    """Gaps 3 and -1 of 10 voxels each: 2 * 2 / 20 - 1 * mean(1 / 10, 3 / 10)."""
    assert estimates.ece_jackknife(np.array([[3.0], [-1.0]]), np.array([10.0, 10.0])) == pytest.approx(0.0)


def test_squares_across_patients_have_no_bias() -> None:
    rng = np.random.default_rng(0)
    gaps = 1.0 + 3 * rng.standard_normal((20000, 5, 2))
    found = estimates.squared_across(gaps, np.full((20000, 5, 2), 10.0))
    assert found.mean() == pytest.approx(0.01, abs=4 * found.std() / np.sqrt(20000))


def test_a_run_is_repeatable_and_complete(rows: list[dict[str, str]]) -> None:
    kinds = {"truth", "estimators", "regions", "dependence", "variance", "coverage", "temperature", "edges"}
    assert {row["study"] for row in rows} == kinds
    assert {row["predictor"] for row in rows if row["study"] == "truth"} == set(PREDICTORS)
    repeated = score_population(population("heart", 1, 2, 0), PREDICTORS["exact"], 0)
    again = score_population(population("heart", 1, 2, 0), PREDICTORS["exact"], 0)
    np.testing.assert_array_equal(repeated.measured["boundary"].hits, again.measured["boundary"].hits)


def test_errors_add_up_in_every_row(rows: list[dict[str, str]]) -> None:
    found = [row for row in rows if row["rmse"]]
    assert len(found) > 100
    for row in found:
        bias, sd, rmse = (float(row[key]) for key in ("bias", "sd", "rmse"))
        assert rmse**2 == pytest.approx(bias**2 + sd**2, rel=1e-4, abs=1e-12)
        assert float(row["mean"]) - float(row["true"]) == pytest.approx(bias, abs=1e-5)


def test_the_page_is_what_its_numbers_say() -> None:
    numbers = read(RESULTS / "estimators.csv")
    text = page.render(numbers, page.TEMPLATE.read_text(encoding="utf-8"))
    assert (RESULTS / "estimators.md").read_text(encoding="utf-8") == text


def test_the_claims_of_the_page_hold_in_its_numbers() -> None:
    numbers = read(RESULTS / "estimators.csv")

    def value(column: str, **wanted: str) -> float:
        return float(page.select(numbers, **wanted)[column])

    calibrated: dict[str, Any] = {"study": "estimators", "predictor": "exact"}
    for patients in ("8", "32"):
        plain = page.select(numbers, **calibrated, estimator="ece (15 bins)", patients=patients)
        across = page.select(numbers, **calibrated, estimator="ece across", patients=patients)
        assert float(plain["bias"]) > float(plain["sd"])
        assert abs(float(across["bias"])) < 0.2 * float(plain["bias"])
    one, many = (value("mean", **calibrated, estimator="mean over cases", patients=n) for n in ("1", "32"))
    assert many > 0.9 * one
    assert value("covered", study="coverage", predictor="exact", estimator="ece: BCa (medcalib)", patients="32") < 0.05
    assert value("covered", study="coverage", predictor="exact", estimator="ece across: Student", patients="32") > 0.85
    about = {"study": "truth", "estimator": "ece (15 bins)", "region": "foreground"}
    assert value("true", **about, predictor="T = 1.5") < value("true", **about, predictor="exact")


def images() -> Iterator[Path]:
    yield from (RESULTS / "figures").glob("estimators_*.svg")


def test_the_figures_are_there_and_small() -> None:
    pytest.importorskip("matplotlib")
    assert {path.stem.removeprefix("estimators_") for path in images()} == set(pictures.PICTURES)
    assert sum(path.stat().st_size for path in images()) < 400_000


def test_a_lookup_that_is_not_of_one_row_is_refused(rows: list[dict[str, str]]) -> None:
    with pytest.raises(LookupError, match="rows have"):
        page.render(rows, "{{true 4 | study=truth; predictor=exact}}")
    with pytest.raises(LookupError, match="0 rows"):
        page.render(rows, "{{true 4 | study=nothing}}")
