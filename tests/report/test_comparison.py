"""The tables of a comparison are the numbers of its cells; what is missing is told and never averaged."""

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison_cells import case_of, write_cell, write_plan, write_scores

from medcalib.errors import DataError
from medcalib.files import read_json, write_json, write_text

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from medcalib.report.comparison import comparison_text, write_comparison
from medcalib.report.comparison.plan import read_plan
from medcalib.report.comparison.study import read_study

METHODS = {"ce": {"name": "ce"}, "dice_ce": {"name": "dice_ce"}, "mbls-margin=5": {"name": "mbls", "margin": 5.0}}
LOOKS = {"ce": (2.5, 0.7), "dice_ce": (3.0, 0.6), "mbls-margin=5": (1.3, 0.75)}
FILES = ("results.json", "table.csv", "cells.csv", "table.tex", "sweep_mbls.margin.csv", "index.html")
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Three methods, two seeds, temperature; one cell failed, one was not run, one temperature is missing."""
    out = tmp_path_factory.mktemp("compare")
    write_plan(out, METHODS, [0, 1], calibrators=["temperature"], sweeps={"mbls.margin": ["mbls-margin=5"]})
    write_cell(out, "ce", 0, {"none": LOOKS["ce"], "temperature": (1.0, 0.7)})
    write_cell(out, "ce", 1, {"none": LOOKS["ce"]})
    write_cell(out, "dice_ce", 0, {"none": LOOKS["dice_ce"], "temperature": (1.0, 0.6)})
    write_cell(out, "mbls-margin=5", 0, {"none": LOOKS["mbls-margin=5"], "temperature": (1.0, 0.75)})
    failed = {"method": "dice_ce", "seed": 1, "state": "failed", "error": f"out of memory {EVIL}", "scores": {}}
    write_json(out / "cells" / "dice_ce" / "seed1" / "cell.json", failed)
    return out, write_comparison(out)


def _row(results: dict[str, Any], method: str, calibrator: str = "none") -> dict[str, Any]:
    return next(r for r in results["rows"] if (r["method"], r["calibrator"]) == (method, calibrator))


def _scores(out: Path, method: str, seed: int, folder: str = "scores") -> dict[str, Any]:
    found: dict[str, Any] = read_json(out / "cells" / method / f"seed{seed}" / folder / "scores.json")
    return found


def test_values_are_means_over_seeds_of_the_scores(built: tuple[Path, dict[str, Any]]) -> None:
    out, results = built
    values = _row(results, "ce")["values"]
    scores = [_scores(out, "ce", seed) for seed in (0, 1)]
    for region in ("all", "foreground", "gt_foreground", "pred_foreground", "boundary"):
        eces = [s["pooled"][region]["ece"] for s in scores]
        assert values[f"ece/{region}"]["value"] == pytest.approx(np.mean(eces), rel=1e-9)
        assert values[f"ece/{region}"]["sd"] == pytest.approx(abs(eces[0] - eces[1]) / 2**0.5, rel=1e-6)
        assert values[f"ece/{region}"]["n_seeds"] == 2
    for region in ("all", "foreground"):
        aces = [s["pooled"][region]["ace_bins"] for s in scores]
        assert values[f"ace_bins/{region}"]["value"] == pytest.approx(np.mean(aces), rel=1e-9)
    classwise = [np.mean(list(s["pooled"]["all"]["classwise_ece"].values())) for s in scores]
    assert values["classwise_ece/all"]["value"] == pytest.approx(np.mean(classwise), rel=1e-9)
    dice = [s["mean"]["dice"]["foreground"]["value"] for s in scores]
    assert values["dice"]["value"] == pytest.approx(np.mean(dice), rel=1e-9)
    for name in ("brier", "nll"):
        means = [s["mean"]["all"][name]["value"] for s in scores]
        assert values[f"{name}/all"]["value"] == pytest.approx(np.mean(means), rel=1e-9)


def test_one_seed_has_the_interval_of_its_scores_and_no_deviation(built: tuple[Path, dict[str, Any]]) -> None:
    out, results = built
    entry = _row(results, "mbls-margin=5", "temperature")["values"]["ece/all"]
    pooled = _scores(out, "mbls-margin=5", 0, "scores_temperature")["pooled"]["all"]
    assert (entry["low"], entry["high"]) == pytest.approx((pooled["ece_low"], pooled["ece_high"]), rel=0.02)
    assert entry["sd"] is None


def test_differences_are_over_the_seeds_that_both_have(built: tuple[Path, dict[str, Any]]) -> None:
    out, results = built
    against = {entry["method"]: entry for entry in results["references"]}
    assert list(against) == ["ce", "dice_ce"]
    row = next(r for r in against["ce"]["rows"] if r["method"] == "dice_ce" and r["calibrator"] == "none")
    found = row["differences"]["ece/all"]
    first, second = (_scores(out, m, 0)["pooled"]["all"]["ece"] for m in ("ce", "dice_ce"))
    assert found["difference"] == pytest.approx(second - first, rel=1e-9)
    assert found["n_seeds"] == 1
    assert found["low"] < found["difference"] < found["high"]
    assert found["n_patients"] == 4
    assert found["p"] == pytest.approx(2 / 2**4)  # four patients, all worse
    assert found["p_holm"] >= found["p"]
    assert not any(r["method"] == "ce" and r["calibrator"] == "none" for r in against["ce"]["rows"])


def test_what_is_missing_is_listed_and_counted(built: tuple[Path, dict[str, Any]]) -> None:
    _, results = built
    states = {(m["method"], m["seed"], m["calibrator"]): m["state"] for m in results["missing"]}
    assert states == {
        ("ce", 1, "temperature"): "missing",
        ("dice_ce", 1, "none"): "failed",
        ("dice_ce", 1, "temperature"): "failed",
        ("mbls-margin=5", 1, "none"): "missing",
        ("mbls-margin=5", 1, "temperature"): "missing",
    }
    assert (_row(results, "dice_ce")["seeds_done"], _row(results, "dice_ce")["seeds_expected"]) == ([0], [0, 1])
    text = comparison_text(results)
    assert "failed: dice_ce, seed 1: out of memory" in text
    assert "1 of 2" in text


def test_the_tables_hold_the_numbers_of_the_json(built: tuple[Path, dict[str, Any]]) -> None:
    out, results = built
    table = list(csv.DictReader((out / "table.csv").open(encoding="utf-8")))
    assert [(row["method"], row["calibrator"]) for row in table][:2] == [("ce", "none"), ("ce", "temperature")]
    assert float(table[0]["ece/all"]) == _row(results, "ce")["values"]["ece/all"]["value"]
    assert float(table[0]["train_seconds"]) == pytest.approx(10.5)
    assert float(table[0]["peak_mib"]) == 101
    assert table[1]["ece/all sd"] == ""
    cells = list(csv.DictReader((out / "cells.csv").open(encoding="utf-8")))
    assert len(cells) == 3 * 2 * 2
    failed = next(c for c in cells if c["method"] == "dice_ce" and c["seed"] == "1")
    assert (failed["state"], failed["ece/all"]) == ("failed", "")
    done = next(c for c in cells if c["method"] == "ce" and c["seed"] == "1" and c["calibrator"] == "none")
    assert float(done["ece/all"]) == pytest.approx(_scores(out, "ce", 1)["pooled"]["all"]["ece"], rel=1e-9)
    sweep = list(csv.DictReader((out / "sweep_mbls.margin.csv").open(encoding="utf-8")))
    assert [(row["mbls.margin"], row["calibrator"]) for row in sweep] == [("5.0", "none"), ("5.0", "temperature")]


def test_latex_rows_have_one_cell_a_column_and_marks(built: tuple[Path, dict[str, Any]]) -> None:
    out, results = built
    text = (out / "table.tex").read_text(encoding="utf-8")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {len(results["columns"]) + 1}
    assert r"dice\_ce" in text
    assert "dice_ce" not in text
    assert text.count("{") == text.count("}")
    assert r"\toprule" in text
    assert r"\textbf{" in text  # of ce alone: only its row has all seeds
    assert r"pred\_foreground" in text


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.fault(72)
def test_the_page_is_self_contained_and_takes_messages_as_text(built: tuple[Path, dict[str, Any]]) -> None:
    out, results = built
    text = (out / "index.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "http" not in text.replace("http-equiv", "")
    assert page.tags.count("script") == 1
    assert EVIL not in text
    assert "out of memory <script>" in page.text
    assert "/somewhere" not in text
    for sentence in results["verdicts"]:
        assert sentence in page.text
    order = [text.index(f'id="{name}"') for name in ("run", "table", "verdicts", "pareto", "ranks", "differences")]
    assert order == sorted(order)


def test_the_same_cells_give_the_same_bytes(built: tuple[Path, dict[str, Any]]) -> None:
    out, _ = built
    before = {name: (out / name).read_bytes() for name in FILES}
    again = write_comparison(out)
    assert {name: (out / name).read_bytes() for name in FILES} == before
    assert json.loads(before["results.json"]) == again


def test_a_damaged_or_unlike_cell_stands_aside(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    source, _ = built
    out = tmp_path / "copy"
    shutil.copytree(source, out)
    fewer = out / "cells" / "mbls-margin=5" / "seed0" / "scores"
    shutil.rmtree(fewer)
    write_scores(fewer, [case_of(0, k, 1.3, 0.75) for k in range(3)])
    npz = out / "cells" / "dice_ce" / "seed0" / "scores" / "case00.npz"
    npz.write_bytes(npz.read_bytes()[:300])
    write_text(out / "cells" / "ce" / "seed1" / "cell.json", "{")
    study = read_study(out, read_plan(out))
    why = {(e.method, e.seed, e.calibrator): (e.state, e.why) for e in study.entries if e.scored is None}
    assert why["mbls-margin=5", 0, "none"][0] == "left out"
    assert "scored 3 cases, the others 8: it lacks case03" in str(why["mbls-margin=5", 0, "none"][1])
    assert why["dice_ce", 0, "none"][0] == "failed"
    assert "case00.npz is no readable case score" in str(why["dice_ce", 0, "none"][1])
    assert "cell.json is damaged" in str(why["ce", 1, "none"][1])
    assert [(e.method, e.calibrator) for e in study.models] == [
        ("ce", "none"),
        ("ce", "temperature"),
        ("dice_ce", "temperature"),
        ("mbls-margin=5", "temperature"),
    ]


@pytest.mark.fault(73)
def test_nothing_done_yet_is_a_page_too(tmp_path: Path) -> None:
    write_plan(tmp_path, METHODS, [0, 1], sweeps={"mbls.margin": ["mbls-margin=5"]})
    results = write_comparison(tmp_path)
    assert len(results["missing"]) == 6
    assert results["columns"] == []
    assert "No cell has a number yet" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "0 of 2" in comparison_text(results)


@pytest.mark.fault(16)
def test_a_running_cell_and_a_foreign_folder_are_not_read(tmp_path: Path) -> None:
    write_plan(tmp_path, {"ce": {"name": "ce"}}, [0, 1])
    for seed, state, place in ((0, "running", "scores"), (1, "done", "../../../elsewhere")):
        cell = {"state": state, "scores": {"none": place}}
        write_json(tmp_path / "cells" / "ce" / f"seed{seed}" / "cell.json", cell)
    entries = read_study(tmp_path, read_plan(tmp_path)).entries
    assert [entry.state for entry in entries] == ["running", "failed"]
    assert "which is no folder of the cell" in str(entries[1].why)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "this program reads 1"),
        pytest.param({"methods": {"../ce": {}}}, "is no label", marks=pytest.mark.fault(16)),
        pytest.param({"methods": {"..": {}}}, "is no label", marks=pytest.mark.fault(16)),
        ({"reference": "focal"}, "is none of ce"),
        ({"sweeps": {"mbls.margin": ["mbls-margin=7"]}}, "are no methods of the plan"),
        ({"seeds": None}, "no plan"),
        ({"methods": {}}, "no plan"),
    ],
)
def test_a_broken_plan_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    write_plan(tmp_path, {"ce": {"name": "ce"}}, [0], {"reference": None, **change})
    with pytest.raises(DataError, match=told):
        write_comparison(tmp_path)
