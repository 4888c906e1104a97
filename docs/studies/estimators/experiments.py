"""The experiments: data sets of a few patients are drawn again and again, and estimates compared with the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from estimators import estimates
from estimators.population import Patient
from estimators.predictors import tempered
from estimators.tables import FIXED, REGIONS, Scored, Table, score_population
from medcalib.metrics.across import ece_across

Floats = NDArray[np.float64]
Picks = NDArray[np.intp]
Row = dict[str, Any]
REGION = "pred_foreground"
BINS = 15
FRACTIONS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
TEMPERATURES = tuple(round(0.8 + 0.05 * k, 2) for k in range(17))
POOLED: dict[str, tuple[int, Callable[[Table], Floats]]] = {
    **{f"ece ({bins} bins)": (bins, lambda t, b=bins: estimates.ece(t, b)) for bins in estimates.BINS},
    "ece_equal_mass": (BINS, estimates.ece_equal_mass),
    "ece_sweep": (0, estimates.ece_sweep),
    "ace_bins": (BINS, estimates.ace_bins),
    "mce": (BINS, estimates.mce),
    "rms": (BINS, lambda t: np.sqrt(estimates.squared(t))),
    "debiased rms": (BINS, lambda t: estimates.root(estimates.debiased_squared(t))),
    "gap": (1, lambda t: t.gap.sum(-1) / t.n.sum(-1)),
}


@dataclass(frozen=True)
class Design:
    """How often data sets are drawn, and of how many patients."""

    draws: int
    patients: tuple[int, ...]
    seed: int = 0

    def picks(self, scored: Scored, patients: int) -> Picks:
        """(draws, patients) places of measured tables: patients with replacement, each with any of its label maps."""
        rng = np.random.default_rng([self.seed, patients])
        found: Picks = rng.integers(len(scored.measured["all"].n), size=(self.draws, patients))
        return found


def pooled(table: Table, picks: Picks) -> Table:
    """Tables (draws, K) of the picked patients together."""
    draws, patients = picks.shape
    at = (np.ones(picks.size), picks.reshape(-1), np.arange(0, picks.size + 1, patients))
    choose = csr_matrix(at, shape=(draws, len(table.n)))
    return Table(*(choose @ part for part in (table.n, table.confidence, table.hits)), table.of_cell)


def against(truth: float, found: Floats, **names: Any) -> Row:
    """One row: the truth, and mean, bias, SD and RMSE of estimates (draws,), without data sets that hold no voxel."""
    found = found[np.isfinite(found)]
    error = found - truth
    numbers = {"true": truth, "mean": found.mean(), "bias": error.mean(), "sd": found.std()}
    return names | {key: float(v) for key, v in numbers.items()} | {"rmse": float(np.sqrt((error**2).mean()))}


def truths(scored: Scored, **names: Any) -> Iterator[Row]:
    """What the calibration error is, for infinitely many labels: by voxel and by bins of every size."""
    for region in REGIONS:
        limit, marginal = scored.limit[region].pooled(), scored.marginal[region].pooled()
        values = {f"ece ({bins} bins)": float(estimates.ece(limit, bins)) for bins in estimates.BINS}
        values |= {"ece (finest)": float(estimates.mean_gap(limit)), "gap": float(limit.gap.sum() / limit.n.sum())}
        values["ece_true (15 bins)"] = float(estimates.ece(marginal, BINS))
        if region in FIXED:
            values["voxel gap"] = scored.voxel_gap[region]
        for estimator, value in values.items():
            yield names | {"study": "truth", "region": region, "estimator": estimator, "true": value}


def compared(scored: Scored, design: Design, **names: Any) -> Iterator[Row]:
    """Every estimator in one region, by number of patients, against its own value for infinitely many labels."""
    limit = scored.limit[REGION]
    for patients in design.patients:
        picks = design.picks(scored, patients)
        tables = pooled(scored.measured[REGION], picks)
        about = names | {"study": "estimators", "region": REGION, "patients": patients}
        for estimator, (_, of) in POOLED.items():
            truth = float(np.squeeze(of(limit.pooled())))
            yield against(truth, of(tables), **about, estimator=estimator)
        yield from _by_patient(scored, picks, about)


def _by_patient(scored: Scored, picks: Picks, about: Row) -> Iterator[Row]:
    """The estimators that look at patients, or classes, one by one."""
    measured, limit = scored.measured[REGION].binned(BINS), scored.limit[REGION].binned(BINS)
    each, truth = estimates.mean_gap(measured), float(estimates.mean_gap(limit).mean())
    yield against(truth, each[picks].mean(-1), **about, estimator="mean over cases")
    voxels = scored.class_voxels[np.arange(len(each)) // (len(each) // len(scored.class_voxels))]
    by_class = np.abs(scored.class_gap[picks].sum(1)).sum(-1) / voxels[picks].sum(-1)[:, None]
    of_class = np.abs(scored.class_limit.sum(0)).sum(-1) / scored.class_voxels.sum()
    yield against(float(of_class.mean()), by_class.mean(-1), **about, estimator="classwise_ece")
    if picks.shape[1] < 2:
        return
    gaps, n = measured.gap[picks], measured.n[picks]
    total = limit.pooled()
    truth = float(estimates.mean_gap(total))
    for name, of in (("ece across", ece_across), ("ece jackknife", estimates.ece_jackknife)):
        yield against(truth, of(gaps, n.sum(-1)), **about, estimator=name)
    of_squares = float(np.sqrt(estimates.squared(scored.limit[REGION].pooled(), BINS)))
    yield against(of_squares, estimates.root(estimates.squared_across(gaps, n)), **about, estimator="rms across")


def regions(scored: Scored, design: Design, **names: Any) -> Iterator[Row]:
    """ECE with 15 bins in every region, against the value of the same region for infinitely many labels."""
    for region in REGIONS:
        truth = float(estimates.ece(scored.limit[region].pooled(), BINS))
        for patients in design.patients:
            found = estimates.ece(pooled(scored.measured[region], design.picks(scored, patients)), BINS)
            about = {"study": "regions", "region": region, "patients": patients, "estimator": "ece (15 bins)"}
            yield against(truth, found, **names, **about)


def dependence(scored: Scored, design: Design, patients: int, **names: Any) -> Iterator[Row]:
    """ECE of a random share of the voxels; labels as drawn, and labels drawn anew at every voxel."""
    measured, rng = scored.measured[REGION], np.random.default_rng(design.seed)
    apart = Table(measured.n, measured.confidence, scored.independent[REGION], measured.of_cell)
    truth = float(estimates.ece(scored.limit[REGION].pooled(), BINS))
    picks = design.picks(scored, patients)
    for labels, source in (("as drawn", measured), ("independent", apart)):
        whole = pooled(source, picks)
        for fraction in FRACTIONS:
            found = estimates.ece(thinned(whole, fraction, rng), BINS)
            about = {"study": "dependence", "region": REGION, "patients": patients, "fraction": fraction}
            voxels = float(whole.n.sum(-1).mean() * fraction)
            yield against(truth, found, **names, **about, estimator=f"labels {labels}", value=voxels)
    yield from _variances(scored, names)


def thinned(table: Table, fraction: float, rng: np.random.Generator) -> Table:
    """Each voxel kept with that probability; confidence within a cell is taken as its mean there."""
    if fraction >= 1:
        return table
    hits, n = (np.rint(part).astype(np.int64) for part in (table.hits, table.n))
    kept = rng.binomial(hits, fraction)
    held = kept + rng.binomial(n - hits, fraction)
    mean = table.confidence / np.maximum(table.n, 1)
    return Table(held.astype(float), held * mean, kept.astype(float), table.of_cell)


def _variances(scored: Scored, names: Row) -> Iterator[Row]:
    """Variance of one patient's summed gap, from labels as drawn, from independent ones, and between patients."""
    for region in FIXED:
        table, expected = scored.measured[region], scored.limit[region].gap.sum(-1)
        patients = len(expected)
        summed = {"drawn": table.gap, "independent": table.confidence - scored.independent[region]}
        within = {key: float(gap.sum(-1).reshape(patients, -1).var(1, ddof=1).mean()) for key, gap in summed.items()}
        voxels = float(scored.limit[region].n.sum(-1).mean())
        inflation = within["drawn"] / within["independent"]
        ratio = expected.sum() / scored.limit[region].n.sum()
        between = float((expected - ratio * scored.limit[region].n.sum(-1)).var(ddof=1))
        for key, value in {
            "variance inflation": inflation,
            "voxels per patient": voxels,
            "effective voxels per patient": voxels / inflation,
            "share of variance between patients": between / (between + within["drawn"]),
        }.items():
            yield names | {"study": "variance", "region": region, "estimator": key, "value": value}


def best_temperature(patients: Sequence[Patient], **names: Any) -> Iterator[Row]:
    """The ECE of softmax(log pi / T) for infinitely many labels by T: which T a region takes for calibrated."""
    for temperature in TEMPERATURES:
        scored = score_population(patients, lambda patient, t=temperature: tempered(patient.posterior, t), 0)
        for region in REGIONS:
            value = float(estimates.ece(scored.limit[region].pooled(), BINS))
            about = {"study": "temperature", "region": region, "estimator": "ece (15 bins)", "true": value}
            yield names | about | {"predictor": f"T = {temperature:g}", "value": temperature}
