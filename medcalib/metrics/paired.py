"""Two methods on the same cases: is the difference larger than what patients make it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcalib.metrics.intervals import of_mean
from medcalib.metrics.signed_rank import signed_rank

__all__ = ["Paired", "compare", "holm", "paired_difference"]


@dataclass(frozen=True)
class Paired:
    """Mean over cases of second minus first, its 95 % interval over patients, and p values; None where undefined.

    `p` is of one comparison, `p_holm` corrected for all that were made together. `n` cases of `patients` have both
    values; `left_out` have one or none. `low` and `high` are the ends of the interval.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    n: int
    patients: int
    left_out: int


def compare(first: Mapping[str, Any], second: Mapping[str, Any], scores: Sequence[str]) -> dict[str, Paired]:
    """Compare the contents of two `scores.json`, case by case, for scores such as "dice/LV" or "regions/all/ece".

    Intervals are BCa over patients; p is of Wilcoxon's signed-rank test on the patients' mean differences, two-sided,
    and Holm's correction is over `scores`. Raises ValueError when the two do not hold the same cases, of the same
    patients, scored alike, and when no case has such a score at all. Differences are second minus first.
    """
    _check_paired(first, second)
    cases = sorted(first["cases"])
    owners = [first["cases"][case]["patient_id"] for case in cases]
    if isinstance(scores, str):
        raise ValueError(f'scores must be a list of names, such as ["dice/LV", "regions/all/ece"], got {scores!r}')
    found = {}
    for score in scores:
        pairs = [(_read(first, case, score), _read(second, case, score)) for case in cases]
        found[score] = paired_difference([a for a, _ in pairs], [b for _, b in pairs], owners)
    corrected = holm({score: result.p for score, result in found.items()})
    return {score: Paired(**{**vars(result), "p_holm": corrected[score]}) for score, result in found.items()}


def paired_difference(first: Sequence[float | None], second: Sequence[float | None], patients: Sequence[str]) -> Paired:
    """Compare the values of two methods, one entry a case in the same order; None is absent.

    Differences are second minus first; patients are the units of interval and test.
    """
    known = [
        (b - a, patient)
        for a, b, patient in zip(first, second, patients, strict=True)
        if a is not None and b is not None
    ]
    absent = len(patients) - len(known)
    if not known:
        return Paired(None, None, None, None, None, 0, 0, absent)
    owners = sorted({patient for _, patient in known})
    sums, counts = np.zeros(len(owners)), np.zeros(len(owners))
    for value, patient in known:
        sums[owners.index(patient)] += value
        counts[owners.index(patient)] += 1
    interval = of_mean(sums, counts)
    differences = sums / counts
    p, _ = signed_rank(np.zeros_like(differences), differences)
    difference = float(sums.sum() / counts.sum())
    return Paired(difference, interval.low, interval.high, p, p, len(known), len(owners), absent)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The p values by name, corrected for their number; None does not count and stays.

    `p_values` sorted ascending, the i-th of m becomes the largest (m - j + 1) p_j over j <= i, at most 1.

    Reference: S. Holm, Scandinavian J. Statistics 1979.
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[name] = largest
    return corrected


def _check_paired(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    for side, scores in (("first", first), ("second", second)):
        if not isinstance(scores, Mapping) or not {"cases", "settings"} <= scores.keys():
            raise ValueError(f"the {side} is no content of a scores.json: read the file with json.load first")
    unpaired = sorted(set(first["cases"]) ^ set(second["cases"]))
    if unpaired:
        side = "first" if unpaired[0] in first["cases"] else "second"
        raise ValueError(
            f"{len(unpaired)} cases are in one set only, {unpaired[0]} in the {side}; score the same cases "
            "with both methods"
        )
    for case, numbers in first["cases"].items():
        ours, theirs = numbers["patient_id"], second["cases"][case]["patient_id"]
        if ours != theirs:
            raise ValueError(
                f"{case} belongs to different patients, {ours} in the first set and {theirs} in the second; score both "
                "with the same config"
            )
    ours, theirs = ({k: v for k, v in s["settings"].items() if k != "definitions"} for s in (first, second))
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            raise ValueError(f"the two sets differ in {key}: {ours.get(key)} and {theirs.get(key)}; score both alike")


def _read(scores: Mapping[str, Any], case: str, score: str) -> float | None:
    value: Any = scores["cases"][case]
    rest = score
    while rest:
        there = list(value) if isinstance(value, Mapping) else []
        name = max((k for k in there if f"{rest}/".startswith(f"{k}/")), key=len, default=None)  # a name may hold a /
        if name is None:
            raise ValueError(f"{case} has no score {score!r}; it has {', '.join(there) or 'nothing'} there")
        value, rest = value[name], rest[len(name) + 1 :]
    if isinstance(value, (Mapping, str, list)):
        if not isinstance(value, Mapping):
            raise ValueError(f"{score!r} is no number but {value!r}; name a number, such as 'regions/all/ece'")
        raise ValueError(f"{score!r} is no number but {', '.join(value)}; name one of them, as in {score}/NAME")
    return None if value is None else float(value)
