"""The page of results: a text in which every number is looked up in the rows of the study.

In the text, `{{mean 4 | predictor=exact; patients=8}}` is the column `mean` with 4 places of the one row that these
values select, and `{{table NAME}}` a table of this module.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from estimators.experiments import REGION, TEMPERATURES
from estimators.predictors import PREDICTORS, TEXT
from estimators.tables import FIXED, REGIONS

Rows = Sequence[dict[str, str]]
TEMPLATE = Path(__file__).with_name("page.md")
DEFAULTS = {"anatomy": "heart", "region": REGION}
NUMBERS = ("1", "2", "4", "8", "16", "32")
SHOWN = ("exact", "T = 0.8", "noisy")
ESTIMATORS = {
    **{f"ece ({bins} bins)": f"ECE, {bins} bins of equal width" for bins in (5, 10, 15, 20, 50, 100)},
    "ece_equal_mass": "ECE, 15 bins of equal mass",
    "ece_sweep": "ECE, monotone sweep",
    "ace_bins": "`ace_bins`, 15",
    "mce": "MCE, 15",
    "classwise_ece": "classwise ECE, 15, mean of classes",
    "mean over cases": "mean over cases of the ECE, 15",
    "ece jackknife": "ECE, 15, jackknife over patients",
    "ece across": "ECE, 15, across patients",
    "rms": "RMS, 15",
    "debiased rms": "RMS, 15, debiased by voxels",
    "rms across": "RMS, 15, across patients",
    "gap": "mean confidence - accuracy",
}


def select(rows: Rows, **wanted: str) -> dict[str, str]:
    """The one row with these values; raises LookupError for none or several."""
    wanted = DEFAULTS | wanted
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows have {wanted}; expected one")
    return found[0]


def number(text: str, places: int = 4) -> str:
    """Fixed places; a minus sign where one is; no minus zero."""
    value = round(float(text), places) + 0.0
    return f"{value:,.{places}f}"


def _signed(text: str) -> str:
    return f"{round(float(text), 4) + 0.0:+.4f}"


def _share(text: str) -> str:
    return f"{100 * float(text):.0f} %"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def predictors(rows: Rows) -> str:
    """What each prediction is; words only."""
    del rows
    return _table(("prediction", "what it is"), [(name, TEXT[name]) for name in PREDICTORS])


def truths(rows: Rows) -> str:
    """True calibration error in `pred_foreground`, by voxel and by bins."""
    columns = ("voxel gap", "ece (finest)", "ece (100 bins)", "ece (15 bins)", "ece (5 bins)", "gap")
    head = ("prediction", "by voxel", "finest cells", "100 bins", "15 bins", "5 bins", "signed gap")
    body = [
        (name, *(number(select(rows, study="truth", predictor=name, estimator=c)["true"]) for c in columns))
        for name in PREDICTORS
    ]
    return _table(head, body)


def regions(rows: Rows) -> str:
    """The ECE with 15 bins that each region converges to."""
    about = {"study": "truth", "estimator": "ece (15 bins)"}
    body = [
        (name, *(number(select(rows, **about, predictor=name, region=region)["true"]) for region in REGIONS))
        for name in PREDICTORS
    ]
    return _table(("prediction", *(f"`{region}`" for region in REGIONS)), body)


def region_noise(rows: Rows) -> str:
    """Limit, bias and SD by region."""
    body = []
    for name in ("exact", "T = 0.8"):
        for region in REGIONS:
            found = [select(rows, study="regions", predictor=name, region=region, patients=n) for n in ("1", "8", "32")]
            cells = [f"{_signed(row['bias'])} ± {number(row['sd'])}" for row in found]
            body.append((name, f"`{region}`", number(found[0]["true"]), *cells))
    return _table(("prediction", "region", "limit", "1 patient", "8 patients", "32 patients"), body)


def best_temperatures(rows: Rows) -> str:
    """The temperature at which the ECE of each region is smallest, the ECE there and at 1."""
    body = []
    for region in REGIONS:
        cells = [f"`{region}`"]
        for anatomy in ("heart", "hippocampus"):
            about = {"study": "temperature", "anatomy": anatomy, "region": region}
            found = {t: float(select(rows, **about, predictor=f"T = {t:g}")["true"]) for t in TEMPERATURES}
            best = min(found, key=lambda t, of=found: of[t])
            cells += [f"{best:g}", number(str(found[best])), number(str(found[1.0]))]
        body.append(cells)
    head = [
        f"{anatomy}: {what}" for anatomy in ("heart", "hippocampus") for what in ("best T", "ECE there", "at T = 1")
    ]
    return _table(("region", *head), body)


def estimators(rows: Rows) -> str:
    """Bias and SD of every estimator at 1, 8 and 32 patients."""
    body = []
    for name, text in ESTIMATORS.items():
        for predictor in SHOWN:
            about = {"study": "estimators", "predictor": predictor, "estimator": name}
            alone = name in ("ece jackknife", "ece across", "rms across")
            few = ["" if alone and n == "1" else _bias(rows, about, n) for n in ("1", "8", "32")]
            truth = number(select(rows, **about, patients="8")["true"])
            body.append((text if predictor == SHOWN[0] else "", predictor, truth, *few))
    return _table(("estimator", "prediction", "limit", "1 patient", "8 patients", "32 patients"), body)


def _bias(rows: Rows, about: dict[str, str], patients: str) -> str:
    row = select(rows, **about, patients=patients)
    return f"{_signed(row['bias'])} ± {number(row['sd'])}"


def floors(rows: Rows) -> str:
    """The mean estimate of a calibrated prediction, by patients and bins."""
    names = (*(f"ece ({bins} bins)" for bins in (5, 10, 15, 20, 50, 100)), "ece_equal_mass", "mean over cases")
    body = []
    for name in names:
        about = {"study": "estimators", "predictor": "exact", "estimator": name}
        body.append((ESTIMATORS[name], *(number(select(rows, **about, patients=n)["mean"]) for n in NUMBERS)))
    return _table(("estimator", *(f"{n} patient{'s' * (n != '1')}" for n in NUMBERS)), body)


def dependence(rows: Rows) -> str:
    """ECE of a share of the voxels of 8 patients, for labels as drawn and independent ones."""
    chosen = [r for r in rows if r["study"] == "dependence" and r["anatomy"] == "heart" and r["predictor"] == "exact"]
    body = []
    for row in [r for r in chosen if r["estimator"] == "labels as drawn"]:
        other = next(r for r in chosen if r["fraction"] == row["fraction"] and r["estimator"] == "labels independent")
        cells = [f"{number(r['mean'])} ± {number(r['sd'])}" for r in (row, other)]
        body.append((f"{100 * float(row['fraction']):g} %", number(row["value"], 0), *cells))
    return _table(("voxels kept", "voxels", "labels as drawn", "independent labels"), body)


def variances(rows: Rows) -> str:
    """How many independent voxels a patient is worth, by anatomy and region."""
    columns = ("voxels per patient", "variance inflation", "effective voxels per patient")
    body = []
    for anatomy in ("heart", "hippocampus"):
        for region in FIXED:
            about = {"anatomy": anatomy, "study": "variance", "predictor": "exact", "region": region}
            values = [select(rows, **about, estimator=c)["value"] for c in columns]
            cells = (number(values[0], 0), number(values[1], 1), number(values[2], 0))
            about["predictor"] = "T = 0.8"
            between = select(rows, **about, estimator="share of variance between patients")["value"]
            body.append((anatomy, f"`{region}`", *cells, _share(between)))
    last = "variance between patients (T = 0.8)"
    return _table(("anatomy", "region", "voxels a patient", "variance inflation", "effective voxels", last), body)


def coverage(rows: Rows) -> str:
    """How often 95 % intervals hold the true value."""
    body = []
    names = dict.fromkeys(row["estimator"] for row in rows if row["study"] == "coverage")
    for name in names:
        for predictor in SHOWN:
            about = {"study": "coverage", "predictor": predictor, "estimator": name}
            found = [select(rows, **about, patients=n) for n in ("4", "8", "16", "32")]
            cells = [f"{_share(row['covered'])} ({number(row['width'])})" for row in found]
            body.append((name if predictor == SHOWN[0] else "", predictor, *cells))
    return _table(("interval", "prediction", *(f"{n} patients" for n in (4, 8, 16, 32))), body)


def edges(rows: Rows) -> str:
    """ECE by edge rule."""
    body = []
    for dtype in ("float64", "float32"):
        for bins in (10, 15, 20):
            about = {"study": "edges", "predictor": f"votes, {dtype}"}
            values = [
                select(rows, **about, estimator=f"ece ({bins} bins, {rule})")["value"] for rule in ("right", "left")
            ]
            body.append((dtype, str(bins), *(number(v) for v in values)))
    return _table(("stored as", "bins", "(a, b]", "[a, b)"), body)


def anatomies(rows: Rows) -> str:
    """The main numbers on both anatomies."""
    truth, found, held = {"study": "truth"}, {"study": "estimators"}, {"study": "coverage"}
    exact, sharp = {"predictor": "exact"}, {"predictor": "T = 0.8"}
    plain = {"estimator": "ece (15 bins)"}
    bca, across, gap = ({"estimator": name} for name in ("ece: BCa (medcalib)", "ece across: Student", "gap: Student"))
    lines: list[tuple[str, dict[str, str], str]] = [
        *((f"exact: limit in `{r}`", truth | exact | plain | {"region": r}, "true") for r in REGIONS if r not in FIXED),
        ("T = 0.8: limit in `pred_foreground`", truth | sharp | plain, "true"),
        *(
            (f"exact: mean, {n} patient{'s' * (n != '1')}", found | exact | plain | {"patients": n}, "mean")
            for n in ("1", "8", "32")
        ),
        ("T = 0.8: SD, 8 patients", found | sharp | plain | {"patients": "8"}, "sd"),
    ]
    for name, interval in (("BCa", bca), ("across", across), ("signed gap", gap)):
        for predictor in (exact, sharp):
            for n in ("8", "32"):
                about = held | predictor | interval | {"patients": n}
                lines.append((f"{predictor['predictor']}: {name} interval covers, {n} patients", about, "covered"))
    body = []
    for text, wanted, column in lines:
        values = [select(rows, **wanted, anatomy=anatomy)[column] for anatomy in ("heart", "hippocampus")]
        body.append((text, *(_share(value) if column == "covered" else number(value) for value in values)))
    return _table(("", "heart", "hippocampus"), body)


TABLES: dict[str, Callable[[Rows], str]] = {
    table.__name__: table
    for table in (
        predictors,
        truths,
        regions,
        region_noise,
        best_temperatures,
        estimators,
        floors,
        dependence,
        variances,
        coverage,
        edges,
        anatomies,
    )
}


def render(rows: Rows, template: str) -> str:
    """The text with every lookup and table filled in. Raises LookupError for a lookup that is not of one row."""

    def filled(match: re.Match[str]) -> str:
        inner = match[1].strip()
        if inner.startswith("table "):
            return TABLES[inner.removeprefix("table ")](rows)
        what, _, where = inner.partition("|")
        column, places = what.split()
        wanted = dict(part.strip().split("=", 1) for part in where.split(";"))
        row = select(rows, **{key.strip(): value.strip() for key, value in wanted.items()})
        return _share(row[column]) if places == "%" else number(row[column], int(places))

    blocks = re.sub(r"\{\{(.+?)\}\}", filled, template).strip().split("\n\n")
    return "\n\n".join(_wrapped(block) for block in blocks) + "\n"


def _wrapped(block: str) -> str:
    """A paragraph, or the points of a list, in lines of at most 120; tables, headings and figures as they are."""
    if block.startswith(("|", "#", "!")):
        return block
    points = re.split(r"\n(?=- |\d+\. )", block)
    return "\n".join(_filled(" ".join(point.split())) for point in points)


def _filled(text: str) -> str:
    mark = re.match(r"(- |\d+\. )?", text)
    indent = " " * len(mark[0]) if mark else ""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def write_page(rows: Rows, path: Path) -> None:
    """The page of these rows."""
    path.write_text(render(rows, TEMPLATE.read_text(encoding="utf-8")), encoding="utf-8")
