"""Draw the pictures of the documentation from phantoms: `make figures`.

No network is trained. A prediction is the softmax of the phantom's own scores, blurred by smooth noise and made too
sharp, so that it is overconfident; dividing the sharpened scores by a temperature repairs it in part. Equal on every
run. The picture of the report needs Chromium or Chrome; without one the old picture stays.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from medcalib.data.phantom import make_case
from medcalib.files import write_json
from medcalib.metrics import score_case
from medcalib.metrics.case import CaseScores
from medcalib.metrics.summary import summarize
from medcalib.report import build_report, plots
from medcalib.report.content import Method
from medcalib.report.distances import DistanceSums, sums_by_distance
from medcalib.report.findings import gaps_of
from medcalib.report.slices import display

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATIENTS = 10
SHARPNESS = {"network": 2.6, "network + temperature": 1.3}
NOISE, NOISE_VOXELS = 0.8, 2.0
REGION = "pred_foreground"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OUT = Path(__file__).parent / "figures"


class Volume(NamedTuple):
    """One phantom and the probabilities that a method gives it."""

    image: np.ndarray
    labels: np.ndarray
    probs: np.ndarray
    spacing_mm: tuple[float, float, float]
    score: CaseScores


def volumes(sharpness: float) -> list[Volume]:
    """The phantoms, predicted with one sharpness."""
    found = []
    for index in range(PATIENTS):
        case = make_case("heart", 0, index)
        scores = np.log(np.maximum(case.posterior, 1e-9))
        rng = np.random.default_rng(index)
        noise = [gaussian_filter(rng.standard_normal(scores.shape[1:]), NOISE_VOXELS) for _ in scores]
        blurred = scores + NOISE * np.stack(noise) / np.std(noise)
        probs = torch.softmax(torch.from_numpy(sharpness * blurred), 0)
        name = f"phantom{index:02d}"
        score = score_case(
            probs,
            torch.from_numpy(case.labels),
            case_id=name,
            patient_id=name,
            class_names=case.class_names,
            spacing_mm=case.spacing_mm,
            posterior=torch.from_numpy(case.posterior),
            distances=False,
        )
        found.append(Volume(case.images[0], case.labels, probs.float().numpy(), case.spacing_mm, score))
    return found


def figures() -> Iterator[tuple[str, Callable[[], Axes]]]:
    """Name and drawing of each picture."""
    methods = {name: volumes(sharpness) for name, sharpness in SHARPNESS.items()}
    first, second = methods.values()
    counts = {name: [v.score.regions[REGION].calibration for v in found] for name, found in methods.items()}
    before, after = (reduce(add, parts) for parts in counts.values())
    patients = [(v.score.patient_id, v.score.regions[REGION].calibration) for v in first]
    yield "reliability", partial(plots.plot_reliability, before, region=REGION, per_case=patients)
    yield "reliability_class", partial(plots.plot_reliability, before, channel=3, region="MYO", per_case=patients)
    yield "before_after", partial(plots.plot_before_after, before, after, title=REGION)
    cases = next(iter(counts.values()))
    yield "reliability_histogram", partial(plots.plot_reliability_histogram, cases, region=REGION)
    yield "confidence_histogram", partial(plots.plot_confidence_histogram, before, region=REGION)
    yield "risk_coverage", partial(plots.plot_risk_coverage, before, name="network", region=REGION)
    summaries = {}
    for name, found in methods.items():
        scores = [v.score for v in found]
        summaries[name] = summarize(scores, expected=PATIENTS, refused=[]) | {"method": {"name": name}}
    yield "cases", partial(plots.plot_case_ece_against_dice, summaries["network"])
    yield "methods", partial(plots.plot_method_comparison, list(summaries.values()))
    read = [Method(name, summaries[name], tuple(v.score for v in found), None) for name, found in methods.items()]
    yield "gaps", partial(plots.plot_gaps, [(m.name, gaps_of(m)) for m in read])
    sums = [(v.score.patient_id, distance_sums(v)) for v in first]
    yield "gap_by_distance", partial(plots.plot_gap_by_distance, sums, name="from the predicted surface")
    yield "overlay", partial(overlay, second[0])


def distance_sums(volume: Volume) -> DistanceSums:
    """Gap by distance to the surface of the predicted foreground."""
    predicted = volume.probs.argmax(0)
    return sums_by_distance(volume.probs.max(0), predicted != volume.labels, predicted > 0, volume.spacing_mm)


def overlay(volume: Volume) -> Axes:
    """Confidence over the middle slice, in radiological view."""
    at = volume.labels.shape[2] // 2
    planes = [display(v[..., at]) for v in (volume.probs.max(0), volume.image, volume.labels)]
    return plots.plot_overlay(planes[0], kind="confidence", image=planes[1], label=planes[2], title="confidence")


def photograph(out: Path) -> None:
    """The first screen of a report on these phantoms, as PNG."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folders = [write_scores(root / f"scores{k}", *entry) for k, entry in enumerate(SHARPNESS.items())]
        page = build_report(folders, root / "report.html", title="Two methods on ten heart phantoms")
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
        places = [f"--user-data-dir={root / 'profile'}", f"--screenshot={out}", "--window-size=1240,880"]
        command = [browser, *quiet, *places, page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603 # a browser on PATH


def write_scores(folder: Path, name: str, sharpness: float) -> Path:
    """A scores folder of one method, as `medcalib score` writes it."""
    scores = [volume.score for volume in volumes(sharpness)]
    for score in scores:
        score.save(folder / f"{score.case_id}.npz")
    found = summarize(scores, expected=PATIENTS, refused=[])
    write_json(folder / "scores.json", found | {"method": {"name": name}, "dataset": "phantom"})
    return folder


def main() -> None:
    """Write every picture as SVG, with text as text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in figures():
        (out / f"{name}.svg").write_bytes(plots.svg(draw, tight=True))
    photograph(out / "report.png")


if __name__ == "__main__":
    main()
