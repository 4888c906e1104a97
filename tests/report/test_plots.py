"""What is drawn equals the counts, and nothing global is touched."""

import sys

import numpy as np
import pytest
import torch

from medcalib.metrics import CalibrationCounts

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from medcalib.report import plots
from medcalib.report.distances import DistanceSums


def counts_of(top: list[float], labels: list[int], posterior: list[float] | None = None) -> CalibrationCounts:
    """Two classes; `top` is the probability of class 1."""

    def pair(values: list[float]) -> torch.Tensor:
        p = torch.tensor(values, dtype=torch.float64)
        return torch.stack([1 - p, p])[None]

    known = None if posterior is None else pair(posterior)
    return CalibrationCounts.from_probs(pair(top), torch.tensor([labels]), posterior=known)


def line(ax, name: str):
    return next(entry for entry in ax.lines if entry.get_gid() == name)


def test_points_are_the_counts_of_a_hand_made_case() -> None:
    # ten bins: two voxels at 0.75 (one right), four at 0.95 (three right)
    counts = counts_of([0.75, 0.75, 0.95, 0.95, 0.95, 0.95], [1, 0, 1, 1, 1, 0])
    ax = plots.plot_reliability(counts, bins=10, region="foreground")
    drawn = line(ax, "reliability")
    np.testing.assert_allclose(drawn.get_xdata(), [0.75, 0.95], rtol=1e-12)
    np.testing.assert_allclose(drawn.get_ydata(), [0.5, 0.75], rtol=1e-12)
    strip = ax.child_axes[0]
    assert [bar.get_height() for bar in strip.patches] == [0, 0, 0, 0, 0, 0, 0, 2, 0, 4]
    assert strip.get_yscale() == "log"
    assert ax.get_title(loc="left") == "foreground"
    assert strip.get_xlabel() == "confidence (n = 6)"
    # gaps of 0.25 and 0.2, weighed by two and four voxels
    assert drawn.get_label() == f"ECE {1.3 / 6:.4f}" == f"ECE {counts.ece(10):.4f}"


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("edges", ["right", "left"])
def test_points_equal_reliability(channel: int, edges: str) -> None:
    rng = np.random.default_rng(0)
    p = rng.random(500)
    truth = np.clip(p + 0.1 * rng.normal(size=500), 0, 1)
    counts = counts_of(p.tolist(), (rng.random(500) < truth).astype(int).tolist(), truth.tolist())
    ax = plots.plot_reliability(counts, channel=channel, bins=12, edges=edges)
    for name, true in (("reliability", False), ("true", True)):
        curve = counts.reliability(channel, bins=12, edges=edges, true=true)
        filled = curve.n > 0
        drawn = line(ax, name)
        np.testing.assert_array_equal(drawn.get_xdata(), (curve.confidence / curve.n)[filled])
        np.testing.assert_array_equal(drawn.get_ydata(), (curve.accuracy / curve.n)[filled])


def test_empty_counts_are_drawn_without_a_number() -> None:
    counts = CalibrationCounts.zeros(3)
    ax = plots.plot_reliability(counts, region="empty", per_case=[("a", counts)])
    assert line(ax, "reliability").get_label() == "no voxel"
    assert plots.svg(lambda: ax).startswith(b"<?xml")


def test_band_needs_three_patients_and_holds_the_curve() -> None:
    rng = np.random.default_rng(1)
    parts = []
    for k in range(6):
        p = rng.random(400)
        parts.append((f"p{k}", counts_of(p.tolist(), (rng.random(400) < p).astype(int).tolist())))
    low, high = plots.reliability_band(parts[:2], bins=10)
    assert np.isnan(low).all()
    assert np.isnan(high).all()
    low, high = plots.reliability_band(parts, channel=2, bins=10)
    pooled = sum((c for _, c in parts), CalibrationCounts.zeros(2)).reliability(2, bins=10)
    rate = (pooled.accuracy / pooled.n).numpy()
    assert ((low <= rate) & (rate <= high)).all()
    # two volumes of one patient are one patient
    same = [("a", c) for _, c in parts]
    assert np.isnan(plots.reliability_band(same, bins=10)[0]).all()


def test_band_of_equal_patients_has_no_width() -> None:
    counts = counts_of([0.75, 0.75, 0.95, 0.95], [1, 0, 1, 1])
    low, high = plots.reliability_band([(name, counts) for name in "abcd"], bins=10)
    np.testing.assert_allclose(low[[7, 9]], [0.5, 1.0])
    np.testing.assert_allclose(high[[7, 9]], [0.5, 1.0])


def entry(name: str, ece: float, dice: float | None) -> dict:
    value = {"value": dice, "low": None if dice is None else dice - 0.1, "high": dice, "n": 1}
    cases = {"a": {"dice": {"x": dice, "y": None}, "regions": {"foreground": {"ece": ece}}}}
    pooled = {"all": {"ece": 0.5}, "foreground": {"ece": ece, "ece_low": None, "ece_high": None}}
    settings = {"classes": ["background", "x", "y"]}
    return {
        "method": {"name": name},
        "pooled": pooled,
        "mean": {"dice": {"foreground": value}},
        "cases": cases,
        "settings": settings,
    }


def test_case_and_method_points() -> None:
    ax = plots.plot_case_ece_against_dice(entry("$m_1$", 0.2, 0.9))
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[0.9, 0.2]])
    plots.plot_case_ece_against_dice(entry("second", 0.8, 0.1), ax)
    assert ax.get_ylim()[1] > 0.8  # points of the second call are not cut off
    assert ax.get_ylim()[0] == 0
    ax = plots.plot_method_comparison([entry("a", 0.2, 0.9), entry("b", 0.1, None)])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a"]
    points = [(e.lines[0].get_xdata()[0], e.lines[0].get_ydata()[0]) for e in ax.containers]
    assert points == [(0.9, 0.2)]


def test_given_axes_are_used_and_no_global_state_is_made() -> None:
    before = set(sys.modules)
    ax = Figure().add_subplot()
    assert plots.plot_reliability(counts_of([0.7], [1]), ax) is ax
    assert "matplotlib.pyplot" not in set(sys.modules) - before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_svg_is_deterministic_and_takes_names_literally() -> None:
    counts = counts_of([0.7, 0.8], [1, 0])
    name = "$\\frac{<script>\x00"
    first, second = (plots.svg(lambda: plots.plot_reliability(counts, region=name)) for _ in range(2))
    assert first == second
    assert b"<script" not in first
    assert b"\x00" not in first
    assert b"&lt;script" in first


def test_before_and_after_are_both_curves_of_the_same_voxels() -> None:
    before = counts_of([0.95, 0.95, 0.95, 0.95], [1, 1, 1, 0])
    after = counts_of([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0])
    ax = plots.plot_before_after(before, after, bins=10, title="all")
    for name, x in (("before", 0.95), ("after", 0.75)):
        np.testing.assert_allclose(line(ax, name).get_xydata(), [[x, 0.75]], rtol=1e-12)
    assert line(ax, "before").get_label() == "before: ECE 0.2000"
    assert line(ax, "after").get_label() == "after: ECE 0.0000"
    with pytest.raises(ValueError, match="same voxels, got 4 before and 1 after"):
        plots.plot_before_after(before, counts_of([0.7], [1]))


def test_a_reliability_histogram_counts_cases_not_voxels() -> None:
    # two bins; the first case fills both, with accuracies 0 and 1, the second the upper one with 0.5
    cases = [counts_of([0.3, 0.9, 0.9], [1, 1, 1]), counts_of([0.9, 0.9], [1, 0])]
    found = plots.reliability_histogram(cases, channel=2, bins=2)
    assert found.tolist() == [[0, 0], [1, 2]]  # class 1: frequencies 1 | 1 and 0.5
    ax = plots.plot_reliability_histogram(cases, channel=2, bins=2, region="all")
    np.testing.assert_array_equal(np.asarray(ax.collections[0].get_array()).ravel(), [0, 0, 1, 2])
    assert ax.get_title(loc="left") == "all, n = 2 cases"
    small, large = counts_of([0.9] * 2, [1, 0]), counts_of([0.9] * 100, [1, 0] * 50)
    one, other = (plots.reliability_histogram([c]) for c in (small, large))
    np.testing.assert_array_equal(one, other)


def test_a_confidence_histogram_parts_right_from_wrong() -> None:
    counts = counts_of([0.75, 0.75, 0.95, 0.95, 0.95, 0.95], [1, 0, 1, 1, 1, 0])
    ax = plots.plot_confidence_histogram(counts, bins=10, region="all")
    drawn = {patch.get_gid(): patch.get_data().values for patch in ax.patches if patch.get_gid()}
    assert drawn["right"].tolist() == [0] * 7 + [1, 0, 3]
    assert drawn["wrong"].tolist() == [0] * 7 + [1, 0, 1]
    assert line(ax, "confidence").get_xdata()[0] == pytest.approx((2 * 0.75 + 4 * 0.95) / 6)
    assert line(ax, "accuracy").get_xdata()[0] == pytest.approx(4 / 6)
    assert ax.get_yscale() == "log"
    plots.svg(lambda: plots.plot_confidence_histogram(CalibrationCounts.zeros(2)))


def test_risk_coverage_ends_at_the_error_rate() -> None:
    counts = counts_of([0.95, 0.9, 0.8, 0.7], [1, 1, 0, 1])
    ax = plots.plot_risk_coverage(counts, name="m", region="all")
    np.testing.assert_allclose(line(ax, "risk 0").get_xydata(), [[0.25, 0], [0.5, 0], [0.75, 1 / 3], [1, 0.25]])
    np.testing.assert_allclose(line(ax, "best").get_xydata()[[0, 1, -1]], [[0, 0], [0.75, 0], [1, 0.25]], atol=1e-12)
    assert line(ax, "risk 0").get_label() == "m (n = 4), AURC 0.1458"  # (0 + 0 + 1/3 + 1/4) / 4
    plots.plot_risk_coverage(counts, ax, name="other", number=1)
    assert len(ax.get_legend().get_texts()) == 2
    plots.svg(lambda: plots.plot_risk_coverage(CalibrationCounts.zeros(2)))


def test_gaps_stand_on_their_rows_and_the_axis_is_centered() -> None:
    first = [plots.Gap("all", 0.1, 0.05, 0.2), plots.Gap("class a", None)]
    ax = plots.plot_gaps([("m", first), ("n", [plots.Gap("class a", -0.05)])])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["all", "class a"]
    assert line(ax, "gap 0").get_xdata().tolist() == [0.1]
    assert round(line(ax, "gap 1").get_ydata()[0]) == 1
    left, right = ax.get_xlim()
    assert left == -right
    assert right > 0.2


@pytest.mark.parametrize(
    ("of_class", "label"),
    [
        ([False], "mean confidence minus accuracy (95 % interval)"),
        ([True], "mean probability minus frequency (95 % interval)"),
        (
            [False, True],
            "mean confidence minus accuracy; of a class,\nmean probability minus frequency (95 % interval)",
        ),
    ],
)
def test_the_axis_says_what_the_gap_of_a_class_is(of_class: list[bool], label: str) -> None:
    gaps = [plots.Gap(str(k), 0.1 * k, of_class=kind) for k, kind in enumerate(of_class)]
    ax = plots.plot_gaps([("m", gaps)])
    assert ax.get_xlabel() == label
    assert ax.get_xlim()[1] < 0.2  # the kind is no number


def test_gap_by_distance_draws_means_and_a_band() -> None:
    edges = (-2.0, 0.0, 2.0)
    sums = DistanceSums(edges, np.array([2.0, 4.0]), np.array([-2.0, 4.0]), np.array([1.0, -0.4]))
    ax = plots.plot_gap_by_distance([(name, sums) for name in "abc"], name="m")
    np.testing.assert_allclose(line(ax, "gap 0").get_xydata(), [[-1, 0.5], [1, -0.1]])
    assert [bar.get_height() for bar in ax.child_axes[0].patches] == [6, 12]
    assert ax.get_title(loc="left") == "n = 3 cases, 3 patients"
    plots.plot_gap_by_distance([("a", sums)], ax, name="second", number=1)
    assert len(ax.child_axes) == 1
    plots.svg(lambda: plots.plot_gap_by_distance([]))


@pytest.mark.parametrize("kind", ["confidence", "probability", "entropy", "error", "gap", "true_gap"])
def test_an_overlay_has_a_colorbar_and_an_outline_a_class(kind: str) -> None:
    plane = np.linspace(0, 0.4, 20).reshape(4, 5)
    label = np.zeros((4, 5), int)
    label[1, 1:3], label[2, 3], label[3, 4] = 1, 2, 255
    ax = plots.plot_overlay(plane, kind=kind, image=np.ones((4, 5)), label=label, spacing_mm=(2.0, 1.0))
    assert len(ax.images) == 2
    assert ax.get_aspect() == 2.0
    assert len(ax.child_axes) == 1
    assert len(ax.collections) == 4  # two strokes a class
    low, high = ax.images[1].get_clim()
    assert (low, high) == {"gap": (-0.5, 0.5), "true_gap": (-0.5, 0.5)}.get(kind, (0, 1))
    assert plots.svg(lambda: ax).startswith(b"<?xml")


def test_an_overlay_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="kind must be one of confidence"):
        plots.plot_overlay(np.zeros((2, 2)), kind="dice")
    with pytest.raises(ValueError, match=r"label has shape \(3, 2\), the map \(2, 2\)"):
        plots.plot_overlay(np.zeros((2, 2)), label=np.zeros((3, 2)))
    plots.plot_overlay(np.full((2, 2), np.nan), kind="entropy")


def test_svg_turns_ink_and_paper_where_pages_are_dark() -> None:
    drawn = plots.svg(lambda: plots.plot_reliability(counts_of([0.7], [1]))).decode()
    rules = drawn[drawn.index("<style>") : drawn.index("</style>")]
    assert rules.startswith("<style>@media screen and (prefers-color-scheme:dark){")
    for light in ("#17202a", "#ffffff"):
        assert f'[style*="fill: {light}"]' in rules
        assert f"fill: {light}" in drawn[drawn.index("</style>") :]
