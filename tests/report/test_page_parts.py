"""Parts of the page that depend on what there is: extra maps, calibrators, protocols, settings, definitions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pages import SHAPE, make

from medcalib.data.nifti import write_volume
from medcalib.files import write_json

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from medcalib.metrics.definitions import DEFINITIONS
from medcalib.report import build_report, page_figures
from medcalib.report.content import read_methods
from medcalib.report.pictures import region_colors

AFFINE = np.diag([1.0, 1.0, 4.0, 1.0])


def page(folder: Path, **options: object) -> str:
    return build_report([folder], folder / "r.html", **options).read_text(encoding="utf-8")


def change(folder: Path, **entries: object) -> None:
    numbers = json.loads((folder / "scores.json").read_text())
    write_json(folder / "scores.json", numbers | entries)


def test_further_maps_are_shown_where_they_are_with_their_meaning(tmp_path: Path) -> None:
    folder = make(tmp_path, "m", 2.0, cases=3, maps=True)
    before = page(folder, maps=[folder / "maps"])
    assert 'ramp-entropy"' not in before
    assert "foreground interior" not in before
    for k in range(3):
        for kind, top in (("entropy", 1.0), ("true_gap", 0.4), ("region", 3)):
            plane = np.full(SHAPE, top, np.uint8 if kind == "region" else np.float32)
            write_volume(folder / "maps" / f"case{k}_{kind}.nii.gz", plane, AFFINE)
    write_json(folder / "maps" / "maps.json", {"window_mm": 9.0, "maps": {"region": "code of the region <b>"}})
    text = page(folder, maps=[folder / "maps"])
    for caption in ("entropy over ln C", "confidence minus known probability", "regions"):
        assert f"<figcaption>{caption}<" in text
    assert 'class="ramp ramp-entropy"' in text
    assert "code of the region &lt;b&gt;" in text
    for name, color in region_colors():
        assert f'<i style="background: {color}"></i>{name}<' in text
    assert "in a window of 9 mm" in text


@pytest.mark.parametrize("region", ["pred_foreground", "foreground"])
def test_missed_voxels_are_named_where_the_ece_does_not_hold_them(tmp_path: Path, region: str) -> None:
    folder = make(tmp_path, "m", 2.0, cases=3, maps=True, regions=(region,))
    text = page(folder, maps=[folder / "maps"])
    told = re.findall(r"<figcaption>errors; ([1-9]\d*) missed voxels, not in the ECE<", text)
    assert bool(told) == (region == "pred_foreground")
    assert ("it holds no missed voxels" in text) == (region == "pred_foreground")


def test_gap_by_distance_needs_maps_and_the_page_says_so(tmp_path: Path) -> None:
    folder = make(tmp_path, "m", 2.0, cases=3, maps=True)
    assert "made without them" in page(folder)
    text = page(folder, maps=[folder / "maps"])
    assert "distance to the predicted surface" in text
    assert "made without them" not in text


def test_large_volumes_take_part_by_an_even_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path, "m", 2.0, cases=5, maps=True)
    (method,) = read_methods([folder], [folder / "maps"])
    assert len(page_figures.distance_cases(method)) == 5
    monkeypatch.setattr(page_figures, "MAX_DISTANCE_VOXELS", 1)
    assert page_figures.distance_cases(method) == ["case0", "case2", "case4"]
    assert "m: 3 of 5 cases." in page(folder, maps=[folder / "maps"])


def test_a_calibrator_is_shown_before_and_after(tmp_path: Path) -> None:
    folders = [make(tmp_path / name, name, sharpness) for name, sharpness in (("ce", 4.0), ("repaired", 2.0))]
    methods = read_methods(folders)
    assert list(page_figures.repairs(methods)) == []
    for folder, calibrator in zip(folders, ({}, {"calibrator": {"name": "temperature"}}), strict=True):
        change(folder, method={"name": folder.name, "weights_sha256": "abc", **calibrator})
    for order in (folders, folders[::-1]):
        (found,) = page_figures.repairs(read_methods(order))
        assert found.text == "Reliability before and after the calibrator of repaired, foreground"
    change(folders[1], method={"name": "other", "weights_sha256": "def", "calibrator": {"name": "temperature"}})
    assert list(page_figures.repairs(read_methods(folders))) == []


def test_protocols_stand_in_the_table_and_are_defined(tmp_path: Path) -> None:
    folder = make(tmp_path, "m", 2.0, cases=3)
    entry = {"mean": {"ece": 0.1234}, "cases": {}, "definition": "as <they> did"}
    change(folder, protocols={"marginloss": entry})
    text = page(folder)
    assert "Protocol marginloss" in text
    assert "0.1234" in text
    assert "as &lt;they&gt; did" in text


def test_every_setting_and_definition_is_on_the_page(tmp_path: Path) -> None:
    folder = make(tmp_path, "m", 2.0, cases=3)
    settings = json.loads((folder / "scores.json").read_text())["settings"]
    change(folder, settings=settings | {"new_width_mm": 7.25})
    text = page(folder)
    for name in DEFINITIONS:
        assert f"<dt>{name}</dt>" in text
    assert "<dt>new_width_mm</dt><dd>7.25</dd>" in text
    assert "<dt>verdict</dt>" in text


def test_every_number_of_the_scores_is_defined() -> None:
    named = {name for key in DEFINITIONS for name in key.split(", ")}
    for name in ("voxels", "n", "value", "low", "high", "ece_low", "ece_high", "zero_probability", "n_scored"):
        assert name in named
