"""progress.html shows the numbers of metrics.jsonl, asks nobody for anything, and stops refreshing at the end."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from medcalib.errors import MissingExtraError
from medcalib.report import run_charts
from medcalib.report.run_charts import BUCKETS, HEIGHT, LEFT, WIDTH, Columns, Series, chart, charts, number, thinned
from medcalib.report.run_page import RunPage, described, duration, remaining

CONFIG = {"name": "trial <b>", "train": {"epochs": 4}}
PROVENANCE: dict[str, Any] = {
    "started": "2025-01-01T00:00:00Z",
    "starts": 2,
    "command": None,
    "config_sha256": "ab" * 32,
    "seed": 7,
    "data": {"files": 3, "bytes": 2_500_000, "kind": "ends"},
    "host": {"device": "cpu", "cpu": None, "cores": 2, "system": "Linux"},
    "ranks": 1,
    "threads": 2,
    "loss_backend": "native",
    "versions": {"torch": "2.8", "cuda": None},
    "source": {"commit": "c" * 40, "dirty": True},
}


def line(epoch: int, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "loss": 2.0 / epoch, "parts": {"ce": 2.0 / epoch}, "skipped_steps": 0, **more}


def columns(*lines: dict[str, Any]) -> Columns:
    found = Columns()
    for one in lines:
        found.add(one)
    return found


def page(run: Path) -> str:
    return (run / "progress.html").read_text(encoding="utf-8")


def test_it_refreshes_until_the_end(tmp_path: Path) -> None:
    follower = RunPage(tmp_path)
    follower.start(CONFIG, PROVENANCE)
    assert 'http-equiv="refresh"' in page(tmp_path)
    assert "The first epoch is at work" in page(tmp_path)
    follower.log(line(1), 1)
    assert 'http-equiv="refresh"' in page(tmp_path)
    assert "<dd>1 of 4</dd>" in page(tmp_path)
    follower.finish("preempted")
    assert 'http-equiv="refresh"' not in page(tmp_path)
    assert "trial &lt;b&gt;: preempted" in page(tmp_path)


def test_it_asks_nobody_for_anything(tmp_path: Path) -> None:
    follower = RunPage(tmp_path)
    follower.start(CONFIG, PROVENANCE)
    follower.log(line(1, val_dice=0.5), 1)
    assert not re.search(r"(src|href|url|import)\s*[=(:]|https?:|<script", page(tmp_path))
    assert "default-src 'none'" in page(tmp_path)
    assert page(tmp_path).count("<svg") > 2


def test_a_continued_run_shows_all_its_epochs(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line(e)) + "\n" for e in (1, 2)))
    follower = RunPage(tmp_path)
    follower.start(CONFIG, {})
    follower.log(line(3, skipped_steps=2, val_dice=0.25), 3)
    follower.log(line(4, val_dice=0.125), 4)
    text = page(tmp_path)
    for shown in ("<dd>4 of 4</dd>", "<dd>0.25, epoch 3</dd>", "<dd>0.125</dd>", "<dt>skipped steps</dt><dd>2</dd>"):
        assert shown in text


@pytest.mark.fault(74)
def test_without_jinja_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"medcalib\[report\]"):
        RunPage(tmp_path).start(CONFIG, {})


def test_what_it_was_made_from() -> None:
    found = described(PROVENANCE)
    assert found["data"] == "3 files, 2.5 MB, hashed at both ends"
    assert found["source"] == "cccccccccccc and changes"
    assert found["versions"] == "torch 2.8"
    assert found["command"] == "from Python"
    told = described(PROVENANCE | {"command": ["train", "…", "--data", "…", "--loss", "ce"]})["command"]
    assert told == "train … --data … --loss ce (… is left out: it may name places or people)"
    assert described(PROVENANCE | {"command": ["demo"]})["command"] == "demo"
    assert described(PROVENANCE | {"source": None})["source"] == "installed package"
    assert described({}) == {}


def test_the_rest_is_foretold_by_the_last_five_epochs() -> None:
    assert remaining([0.0], 3) is None
    assert remaining([0.0, 4.0], 3) == 12.0
    assert remaining([0.0, 100.0, 102.0, 104.0, 106.0, 108.0, 110.0], 10) == 20.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_points_lie_where_their_values_are() -> None:
    """Epoch 1 left, the last one right; 0 to 1 in ticks of 0.2."""
    drawn = chart("t", {"a": Series([1, 3, 5], [0.0, 1.0, 0.5])}, 5)
    (x1, y1), (x2, y2), (x3, y3) = ([float(n) for n in pair.split(",")] for pair in drawn.lines[0].points.split())
    right = WIDTH - run_charts.RIGHT
    assert (x1, x2, x3) == (LEFT, (LEFT + right) / 2, right)
    assert (y1, y2) == (HEIGHT - run_charts.BOTTOM, run_charts.TOP)
    assert y3 == (y1 + y2) / 2
    assert drawn.lines[0].end == (x3, y3)
    assert [tick.text for tick in drawn.y] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [tick.text for tick in drawn.x] == ["1", "2", "3", "4", "5"]


def test_wide_ranges_are_logarithmic() -> None:
    drawn = chart("t", {"a": Series([1, 2, 3], [1e-6, 1e-3, 1.0])}, 3)
    assert drawn.log
    ys = [float(pair.split(",")[1]) for pair in drawn.lines[0].points.split()]
    assert ys[1] == pytest.approx((ys[0] + ys[2]) / 2, abs=0.11)
    assert {"1e-6", "1"} <= {tick.text for tick in drawn.y}


@pytest.mark.parametrize("value", [0.0, 1e-6, -3.0, 1e9])
def test_a_constant_can_be_drawn(value: float) -> None:
    drawn = chart("t", {"a": Series([1, 2], [value, value])}, 2)
    _, y = (float(n) for n in drawn.lines[0].points.split()[0].split(","))
    assert 0 <= y <= HEIGHT
    assert len(drawn.y) > 1


def test_one_epoch_can_be_drawn() -> None:
    assert chart("t", {"a": Series([1], [2.0])}, 1).lines[0].last == "2"


def test_thinning_keeps_every_spike_and_the_last_point() -> None:
    values = [0.0] * 1000
    values[500], values[700] = 9.0, -9.0
    epochs, kept = thinned(Series(list(range(1, 1001)), values), 1000)
    assert len(kept) <= 2 * BUCKETS + 3
    found = dict(zip(epochs.tolist(), kept.tolist(), strict=True))
    assert (found[501.0], found[701.0]) == (9.0, -9.0)
    assert epochs[-1] == 1000
    assert sorted(epochs.tolist()) == epochs.tolist()


def test_multipliers_have_a_chart_for_each_region() -> None:
    values = {"names": ["boundary/RV", "boundary/LV", "interior/RV", "interior/LV"]}
    values |= {"lam": [1.0, 2.0, 3.0, None], "rho": [0.1, 0.1, 0.1, 0.1]}
    found = charts(columns(line(1, multipliers={"crac": values})), 2)
    lam = [c for c in found if ": lam" in c.title]
    assert [c.title for c in lam] == ["crac: lam, boundary", "crac: lam, interior"]
    assert [[(one.name, one.last) for one in c.lines] for c in lam] == [[("RV", "1"), ("LV", "2")], [("RV", "3")]]
    assert [c.title for c in found if ": rho" in c.title] == ["crac: rho, boundary", "crac: rho, interior"]


def test_a_class_whose_name_holds_a_slash_is_no_region() -> None:
    found = charts(columns(line(1, multipliers={"cals": {"names": ["a/b"], "lam": [1.0]}})), 2)
    assert [(c.title, c.lines[0].name) for c in found if "lam" in c.title] == [("cals: lam", "a/b")]


def test_what_has_no_number_has_no_chart() -> None:
    titles = [c.title for c in charts(columns(line(1, loss=None, val_dice=None)), 2)]
    assert titles == []
    titles = [c.title for c in charts(columns(line(1), line(2, skipped_steps=1)), 2)]
    assert titles == ["Loss and its parts", "Skipped steps an epoch"]


def test_classes_share_one_chart_of_dice() -> None:
    """A class that no case has leaves a gap; one class alone is the mean, which has its chart."""
    by_class = [{"RV": 0.5, "MYO": None}, {"RV": 0.75, "MYO": 0.25}]
    drawn = charts(columns(*(line(e, val_dice=0.5, val_dice_by_class=d) for e, d in enumerate(by_class, 1))), 2)
    assert [c.title for c in drawn[1:]] == ["Validation: mean foreground Dice", "Validation: Dice of each class"]
    assert [(one.name, one.last, len(one.points.split())) for one in drawn[2].lines] == [
        ("RV", "0.75", 2),
        ("MYO", "0.25", 1),
    ]
    titles = [c.title for c in charts(columns(line(1, val_dice=0.5, val_dice_by_class={"liver": 0.5})), 2)]
    assert titles == ["Loss and its parts", "Validation: mean foreground Dice"]


def test_parts_are_drawn_where_there_are_several() -> None:
    (one,) = charts(columns(line(1)), 2)
    assert [series.name for series in one.lines] == ["loss"]
    (two,) = charts(columns(line(1, parts={"ce": 1.0, "margin": 0.5})), 2)
    assert [series.name for series in two.lines] == ["loss", "ce", "margin"]


@pytest.mark.parametrize(("value", "text"), [(1e-6, "1e-6"), (0.1234567, "0.1235"), (2.0, "2"), (1e9, "1e+9")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
