"""What a reader needs to know first: over- or underconfident, where, by how much, with what interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medcalib.metrics.intervals import Interval, of_ece, of_means
from medcalib.report.content import Method
from medcalib.report.plots import Gap

SMALL_ECE = 0.02  # below it, and with an interval of the gap that holds 0, the page speaks of no evidence
EVIDENCE = (
    "A method is called over- or underconfident where the 95 % interval of its gap lies on one side of 0 (with fewer "
    "than 3 patients there is none, and the sign is that of these cases). Where the interval holds 0, the page says "
    f"that there is no evidence of miscalibration if the ECE is below {SMALL_ECE:g} too, else that the direction is "
    "open. No evidence is no proof of calibration: the ECE is never negative, noise makes it larger, and few patients "
    "make intervals wide."
)
UNKNOWN = Interval(None, None)


@dataclass(frozen=True)
class Finding:
    """Calibration of one channel (0: the top label) in one region, over all cases.

    `says` is the mean confidence, `right` the accuracy (of a class: its probability and its frequency), `gap` their
    difference. Intervals are 95 % over patients, None with fewer than 3.
    """

    region: str
    channel: int
    name: str
    says: float
    right: float
    ece: float
    voxels: int
    gap_interval: Interval = UNKNOWN
    ece_interval: Interval = UNKNOWN

    @property
    def gap(self) -> float:
        """Above 0 is overconfident."""
        return self.says - self.right

    @property
    def direction(self) -> str:
        """`over`, `under`, `none` (no evidence of miscalibration) or `open`; without an interval the gap decides."""
        low, high = self.gap_interval
        if low is not None and high is not None and low <= 0 <= high:
            return "none" if self.ece < SMALL_ECE else "open"
        if abs(self.gap) < 0.0005:
            return "none" if self.ece < SMALL_ECE else "open"
        return "over" if self.gap > 0 else "under"


@dataclass(frozen=True)
class Sums:
    """Per patient (P, bins): voxels, confidence and hits of one channel in one region."""

    voxels: NDArray[np.float64]
    confidence: NDArray[np.float64]
    hits: NDArray[np.float64]


def findings(method: Method, places: Sequence[tuple[str, int]]) -> list[Finding]:
    """The findings at some (region, channel) that hold voxels; intervals of gaps, not yet of ECE."""
    known = [(at, sums) for at in places if (sums := patient_sums(method, *at)).voxels.any()]
    if not known:
        return []
    gaps = np.stack([(sums.confidence - sums.hits).sum(1) for _, sums in known])
    intervals = of_means(gaps, np.stack([sums.voxels.sum(1) for _, sums in known]))
    return [
        replace(_finding(method, at, sums), gap_interval=interval)
        for (at, sums), interval in zip(known, intervals, strict=True)
    ]


def main_finding(method: Method) -> Finding | None:
    """What the summary of a method speaks of: the top label, of independent regions the worst one; None of no voxel."""
    if not method.region or not method.cases:
        return None
    region = method.region
    channels = range(2, len(method.cases[0].channels) + 1) if method.binary else (0,)
    found = findings(method, [(region, channel) for channel in channels])
    return with_ece_interval(method, max(found, key=lambda f: f.ece)) if found else None


def worst_class(method: Method) -> Finding | None:
    """The foreground class (or union of classes) with the largest classwise ECE in the main region."""
    if not method.region or not method.cases:
        return None
    found = findings(method, [(method.region, k) for k in range(2, len(method.cases[0].channels) + 1)])
    return max(found, key=lambda f: f.ece) if len(found) > 1 else None


def with_ece_interval(method: Method, finding: Finding) -> Finding:
    """The finding with the interval of its ECE."""
    sums = patient_sums(method, finding.region, finding.channel)
    return replace(finding, ece_interval=of_ece(sums.confidence - sums.hits, sums.voxels))


def gaps_of(method: Method) -> list[Gap]:
    """Signed gaps of the top label by region, and of each class in the main region."""
    if not method.region or not method.cases:
        return []
    regions = [] if method.binary else [(name, 0) for name in method.regions]
    classes = [(method.region, k) for k in range(2, len(method.cases[0].channels) + 1)]
    return [Gap(row_name(f), f.gap, *f.gap_interval, f.channel > 0) for f in findings(method, [*regions, *classes])]


def row_name(finding: Finding) -> str:
    """A region, or a class in a region."""
    return finding.region if finding.channel == 0 else f"class {finding.name}"


def patient_sums(method: Method, region: str, channel: int) -> Sums:
    """Sums of one channel in one region, cases of a patient together."""
    bins, edges = method.scores["settings"]["bins"], method.scores["settings"]["edges"]
    patients = sorted({case.patient_id for case in method.cases})
    voxels, confidence, hits = (np.zeros((len(patients), bins)) for _ in range(3))
    for case in method.cases:
        curve = case.regions[region].calibration.reliability(channel, bins=bins, edges=edges)
        at = patients.index(case.patient_id)
        voxels[at] += curve.n.numpy()
        confidence[at] += curve.confidence.numpy()
        hits[at] += curve.accuracy.numpy()
    return Sums(voxels, confidence, hits)


def _finding(method: Method, at: tuple[str, int], sums: Sums) -> Finding:
    region, channel = at
    n = sums.voxels.sum()
    ece = np.abs((sums.confidence - sums.hits).sum(0)).sum() / n
    name = "" if channel == 0 else method.cases[0].channels[channel - 1]
    says, right = (float(part.sum() / n) for part in (sums.confidence, sums.hits))
    return Finding(region, channel, name, says, right, float(ece), int(n))
