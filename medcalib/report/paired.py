"""Paired differences over patients and their words: one rule for the report of scores and for `compare`'s page."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.metrics.over_seeds import Contrast, Estimate
from medcalib.metrics.signed_rank import signed_rank

Array = NDArray[np.float64]
Numbers = dict[str, Any]
ALPHA = 0.05
CLEAR = f"the 95 % interval of the paired difference leaves out 0 and Holm's p is below {ALPHA:g}"


def difference(contrast: Contrast, estimate: Estimate, by_patient: Array) -> Numbers:
    """The numbers of one comparison. `by_patient` (models, P): mean of the values of a patient's cases."""
    p, patients = None, 0
    if contrast.of:
        first, second = (by_patient[list(models)].mean(0) for models in (contrast.less, contrast.of))
        p, patients = signed_rank(first, second)
    return {
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "p": p,
        "n_seeds": len(contrast.of),
        "n_patients": patients,
    }


def judged(entry: Numbers) -> str:
    """`higher`, `lower`, `open`, `equal` in every case, or `unknown` where there is no difference."""
    if entry["difference"] is None:
        return "unknown"
    if entry["difference"] == 0 and entry["p"] is None:
        return "equal"
    low, high, p = entry["low"], entry["high"], entry["p_holm"]
    if low is None or p is None or p >= ALPHA or low <= 0 <= high:
        return "open"
    return "higher" if entry["difference"] > 0 else "lower"


def told(entry: Numbers, reference: str = "") -> str:
    """The verdict on a difference from `reference` with its size, interval and p; the reference is named if given."""
    verdict = judged(entry)
    if verdict == "unknown":
        return "unknown"
    if verdict == "equal":
        return f"equal to {reference}" if reference else "equal"
    if verdict in ("higher", "lower"):
        low, high = sorted((abs(entry["low"]), abs(entry["high"])))
        size = f"{plain(abs(entry['difference']))} [{plain(low)}, {plain(high)}]"
        return f"{verdict}{f' than {reference}' if reference else ''} by {size}{_p(entry)}"
    interval = "" if entry["low"] is None else f" [{_signed(entry['low'])}, {_signed(entry['high'])}]"
    against = f" from {reference}" if reference else ""
    return f"not shown to differ{against} ({_signed(entry['difference'])}{interval}{_p(entry)})"


def out_of_reach(patients: int, comparisons: int) -> str:
    """A sentence where so few patients, all of one sign, leave Holm's p of so many comparisons too large; or empty.

    Wilcoxon's two-sided p is 2^(1 - patients) or more, and Holm multiplies the smallest by the comparisons.
    """
    least = 2.0 ** (1 - patients) * comparisons
    if least < ALPHA:
        return ""
    if 2.0 ** (1 - patients) >= ALPHA:
        return f"With {patients} patients no test can reach p < {ALPHA:g}: every difference is left open."
    return (
        f"With {patients} patients and {comparisons} comparisons p_holm cannot be below {least:.3f}: "
        "these differences are left open."
    )


def p_text(value: float | None) -> str:
    """A p value in three digits; tiny ones as a bound."""
    if value is None:
        return "n/a"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plain(value: float) -> str:
    """Four digits."""
    return f"{value:.4f}"


def _p(entry: Numbers) -> str:
    return "" if entry["p_holm"] is None else f", p_holm {p_text(entry['p_holm'])}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")
