"""The parts of the comparison that say something: fronts, places, verdicts, sweeps, and their figures."""

from typing import Any

import pytest

from medcalib.report.comparison.fronts import pareto
from medcalib.report.comparison.marks import places
from medcalib.report.comparison.plan import Plan
from medcalib.report.comparison.sweeps import sweep_values
from medcalib.report.comparison.verdicts import row_name
from medcalib.report.paired import judged, out_of_reach, p_text, told

pytest.importorskip("matplotlib")
from matplotlib.text import Text

from medcalib.report.plots import svg
from medcalib.report.plots.pareto import Spot, plot_pareto
from medcalib.report.plots.ranks import plot_mean_ranks
from medcalib.report.plots.sweep import Series, plot_sweep


def _rows(points: dict[str, tuple[float | None, float | None]], n_seeds: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "method": name,
            "calibrator": "none",
            "seeds_expected": [0],
            "values": {
                "dice": {"value": dice, "n_seeds": n_seeds},
                "ece/all": {"value": ece, "n_seeds": n_seeds},
            },
        }
        for name, (dice, ece) in points.items()
    ]


def test_the_front_holds_what_no_other_row_beats() -> None:
    rows = _rows(
        {"a": (0.9, 0.1), "b": (0.8, 0.05), "c": (0.85, 0.12), "d": (0.9, 0.2), "e": (None, 0.0), "f": (0.8, 0.05)}
    )
    assert pareto(rows) == {"ece/all": [["a", "none"], ["b", "none"], ["f", "none"]]}


def test_places_go_by_the_printed_value_and_need_all_seeds() -> None:
    column = {"key": "dice", "better": "higher", "digits": 3}
    rows = _rows({"a": (0.9001, None), "b": (0.90, None), "c": (0.8, None), "d": (0.7, None), "e": (None, None)})
    assert places(rows, column) == {0: 1, 1: 1, 2: 2}
    assert places(rows, {**column, "better": "lower"}) == {3: 1, 2: 2}
    rows[0]["seeds_expected"] = rows[1]["seeds_expected"] = [0, 1]
    assert places(rows, column) == {2: 1, 3: 2}


@pytest.mark.parametrize(
    ("difference", "low", "high", "p", "verdict"),
    [
        (-0.1, -0.2, -0.05, 0.01, "lower"),
        (0.1, 0.05, 0.2, 0.01, "higher"),
        (0.1, 0.05, 0.2, 0.06, "open"),
        (0.1, -0.01, 0.2, 0.01, "open"),
        (0.1, None, None, 0.01, "open"),
        (0.0, 0.0, 0.0, None, "equal"),
        (None, None, None, None, "unknown"),
    ],
)
def test_a_verdict_needs_both_the_interval_and_the_test(
    difference: float | None, low: float | None, high: float | None, p: float | None, verdict: str
) -> None:
    assert judged({"difference": difference, "low": low, "high": high, "p": p, "p_holm": p}) == verdict


def test_names_and_p_values() -> None:
    assert row_name(("ce", "none")) == "ce"
    assert row_name({"method": "ce", "calibrator": "temperature"}) == "ce + temperature"
    assert [p_text(p) for p in (None, 0.0004, 0.04)] == ["n/a", "< 0.001", "0.040"]


def test_a_sweep_reads_the_option_or_the_label() -> None:
    methods = {"m=1": {"name": "mbls", "margin": 1}, "m=2": {"name": "mbls", "terms": {"margin": 2.5}}, "m=x": {}}
    sweeps = {"mbls.margin": ("m=1",), "mbls.terms.margin": ("m=2",), "mbls.kernel": ("m=x", "m=2")}
    plan = Plan(methods, (0,), ("none",), sweeps, "test", "best", "m=1", {})
    values = {name: [entry["value"] for entry in entries] for name, entries in sweep_values(plan).items()}
    assert values == {"mbls.margin": [1], "mbls.terms.margin": [2.5], "mbls.kernel": ["x", 2.0]}


def test_labels_of_the_front_figure_lie_apart() -> None:
    spots = [
        Spot(f"method-{k}", k, 0, 0.8 + 0.0005 * k, (0.79, 0.81), 0.05 + 0.0002 * k, (0.04, 0.06), k == 0)
        for k in range(12)
    ]
    ax = plot_pareto(spots, region="all", markers=["none"])
    for text in ax.texts:
        text.get_window_extent()  # puts the text where it is; the extent itself holds the line to the marker too
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    assert len(boxes) >= 6
    crossing = [(a, b) for k, a in enumerate(boxes) for b in boxes[:k] if a.shrunk(0.9, 0.8).overlaps(b)]
    assert not crossing
    assert svg(lambda: plot_pareto(spots)) == svg(lambda: plot_pareto(spots))


def test_a_rank_diagram_names_every_method_at_its_rank() -> None:
    ranks = {"b": 2.5, "a": 1.2, "c": 2.3}
    ax = plot_mean_ranks(ranks, critical_difference=1.5, alike=[["c", "b"]], title="Dice")
    shown = " ".join(text.get_text() for text in ax.texts)
    assert all(f"{rank:.2f}" in shown for rank in ranks.values())
    assert "critical difference 1.50" in shown


def test_a_sweep_over_decades_has_a_log_axis() -> None:
    series = Series("as it is", [0.1, None, 0.3], [0.0, None, 0.2], [0.2, None, 0.4])
    assert plot_sweep("mbls.margin", [0.01, 0.1, 1], [("Dice", [series]), ("ECE", [series])]).get_xscale() == "log"
    assert plot_sweep("mbls.margin", [5, 10, 15], [("Dice", [series])]).get_xscale() == "linear"
    assert plot_sweep("mbls.margin", [0, 10, 100], [("Dice", [series])]).get_xscale() == "linear"
    words = plot_sweep("nacl.norm", ["L1", "L2", "x"], [("Dice", [series])])
    assert [t.get_text() for t in words.get_xticklabels()] == ["L1", "L2", "x"]


@pytest.mark.parametrize(
    ("patients", "comparisons", "said"),
    [
        (5, 1, "With 5 patients no test can reach p < 0.05"),
        (6, 1, ""),
        (6, 2, "With 6 patients and 2 comparisons p_holm cannot be below 0.062"),
        (7, 3, ""),
        (7, 4, "With 7 patients and 4 comparisons p_holm cannot be below 0.062"),
    ],
)
def test_it_is_said_where_no_p_can_be_small(patients: int, comparisons: int, said: str) -> None:
    text = out_of_reach(patients, comparisons)
    assert text.startswith(said)
    assert bool(text) == bool(said)


def test_a_verdict_tells_size_interval_and_p() -> None:
    entry = {"difference": -0.02, "low": -0.03, "high": -0.01, "p": 0.01, "p_holm": 0.02}
    assert told(entry, "ce") == "lower than ce by 0.0200 [0.0100, 0.0300], p_holm 0.020"
    assert told(entry | {"p_holm": 0.06}) == "not shown to differ (−0.0200 [−0.0300, −0.0100], p_holm 0.060)"
