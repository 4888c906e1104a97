"""One verdict and two sentences a method, in plain words."""

from __future__ import annotations

from dataclasses import dataclass

from medcalib.metrics.intervals import Interval
from medcalib.report.content import Method, in_words
from medcalib.report.findings import Finding, findings, main_finding, with_ece_interval, worst_class

VERDICTS = {
    "over": "Overconfident",
    "under": "Underconfident",
    "open": "Direction left open",
    "none": "No evidence of miscalibration",
}
# of an independent region, the worst one: its probability against its frequency
CHANNEL_VERDICTS = {
    "over": "Probabilities of {} too high",
    "under": "Probabilities of {} too low",
    "open": "Direction left open for {}",
    "none": "No evidence of miscalibration of {}",
}


@dataclass(frozen=True)
class Headline:
    """What stands on a method's card; `finding` is None where there is nothing to judge, and `verdict` says why."""

    method: Method
    verdict: str
    direction: str = ""
    finding: Finding | None = None
    sentences: tuple[str, ...] = ()


def headline(method: Method) -> Headline:
    """What a reader needs of one method at once: direction and size of the gap, and where it is worst."""
    found = main_finding(method)
    if found is None:
        return Headline(method, "No voxel to score" if method.cases else "No case was scored")
    said = CHANNEL_VERDICTS[found.direction].format(found.name) if found.channel else VERDICTS[found.direction]
    verdict = f"{said} {in_words(found.region)}"
    sentences = (
        _main_sentence(method, found),
        _worst_sentence(method),
        _boundary_sentence(method),
        _sign_sentence(found),
        _true_sentence(method),
    )
    return Headline(method, verdict, found.direction, found, tuple(text for text in sentences if text))


def _main_sentence(method: Method, found: Finding) -> str:
    patients = f"{method.patients} patient{'s' if method.patients != 1 else ''}"
    interval = span(found.ece_interval)
    limits = f"95 % interval {interval} over {patients}" if interval else f"no interval: {patients}, 3 are needed"
    return f"{_says(found)} (ECE {found.ece:.3f}, {limits})."


def _says(found: Finding) -> str:
    if found.channel:
        return (
            f"It gives {found.name} a probability of {found.says:.3f} and finds it in {found.right:.3f} of the voxels"
        )
    return f"It says {found.says:.3f} and is right {found.right:.3f} of the time"


def _worst_sentence(method: Method) -> str:
    """The worst class. Regions are not ranked: those chosen by the reference are biased by that choice."""
    worst = None if method.binary else worst_class(method)
    if worst is None:
        return ""
    worst = with_ece_interval(method, worst)
    interval = span(worst.ece_interval)
    sign = {"over": ", too probable", "under": ", not probable enough"}.get(worst.direction, "")
    return f"Worst class: {worst.name} (classwise ECE {worst.ece:.3f}{f', {interval}' if interval else ''}{sign})."


def _boundary_sentence(method: Method) -> str:
    if method.binary or "boundary" not in method.regions or method.region == "boundary":
        return ""
    found = findings(method, [("boundary", 0)])
    if not found:
        return ""
    where = in_words("boundary").capitalize()
    return f"{where} it says {found[0].says:.3f} and is right {found[0].right:.3f} of the time."


def _sign_sentence(found: Finding) -> str:
    if abs(found.gap) >= 0.5 * found.ece:
        return ""
    return "Over- and underconfident bins cancel in the gap, so the ECE is larger than it."


def _true_sentence(method: Method) -> str:
    true = method.main.get("ece_true")
    return "" if true is None else f"True ECE, against the known probabilities: {true:.3f}."


def span(interval: Interval, digits: int = 3) -> str:
    """`0.030 to 0.060`, empty where there is no interval."""
    if interval.low is None or interval.high is None:
        return ""
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"
