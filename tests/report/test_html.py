"""The page holds the numbers of `scores.json`, opens without a network, and takes every name as text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pages import EVIL, REGIONS, make

from medcalib.errors import ConfigError, DataError
from medcalib.files import write_json

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from medcalib.report import build_report
from medcalib.report.content import read_methods
from medcalib.report.headlines import headline
from medcalib.report.side_by_side import comparison


class Page(HTMLParser):
    """Tags, links, and the cells of tables by their texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data + " "


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    root = tmp_path_factory.mktemp("report")
    sharpness = {"sharp": 4.0, "soft": 1.9}
    folders = [make(root / name, name, s, maps=True, regions=REGIONS) for name, s in sharpness.items()]
    out = build_report(folders, root / "out" / "r.html", maps=[f / "maps" for f in folders], title="A & B")
    return out, folders


def test_page_is_self_contained_and_small(built: tuple[Path, list[Path]]) -> None:
    text = built[0].read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.links
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "http:" not in text
    assert "https:" not in text
    assert page.tags.count("script") == 1
    assert "link" not in page.tags
    assert "A &amp; B" in text
    assert "not a medical device" in page.text
    assert len(text) < 2_000_000  # a case costs one row of the table: 50 of them add some 50 kB


def test_table_shows_the_numbers_of_the_json(built: tuple[Path, list[Path]]) -> None:
    out, folders = built
    rows = Page(out.read_text(encoding="utf-8")).rows
    scores = [json.loads((folder / "scores.json").read_text()) for folder in folders]
    regions = [row[0].split()[1] for row in rows if row and row[0].startswith("Region ")]
    assert regions == ["foreground", "all", "gt_foreground"]
    pooled = [row[1:] for row in rows if row and row[0].strip() == "ECE, pooled over voxels"]
    true = [row[1:] for row in rows if row and row[0].strip() == "true ECE, pooled"]
    for k, region in enumerate(regions):
        for m, entry in enumerate(scores):
            p = entry["pooled"][region]
            expected = [f"{p['ece']:.4f}", f"{p['ece_low']:.4f}", "to", f"{p['ece_high']:.4f}"]
            assert pooled[k][m].split() == expected
            assert true[k][m].split()[0] == f"{p['ece_true']:.4f}"
    dice = next(row for row in rows if row[0].startswith("Dice, mean of foreground"))
    expected = [f"{entry['mean']['dice']['foreground']['value']:.4f}" for entry in scores]
    assert [cell.split()[0] for cell in dice[1:]] == expected


def test_case_table_shows_the_numbers_of_the_json(built: tuple[Path, list[Path]]) -> None:
    out, folders = built
    rows = Page(out.read_text(encoding="utf-8")).rows
    for folder in folders:
        entry = json.loads((folder / "scores.json").read_text())
        for case_id, case in entry["cases"].items():
            shown = next(r for r in rows if r[0].strip() == case_id and r[1].strip() == entry["method"]["name"])
            numbers = [*case["dice"].values()]
            regions = ("foreground", "all", "gt_foreground")
            numbers += [case["regions"][r][key] for key in ("ece", "ece_true") for r in regions]
            assert [cell.strip() for cell in shown[2:]] == [f"{value:.4f}" for value in numbers]


def test_every_ece_in_words_is_in_the_json(built: tuple[Path, list[Path]]) -> None:
    out, folders = built
    text = Page(out.read_text(encoding="utf-8")).text
    stored = set(re.findall(r"\d\.\d+", " ".join((f / "scores.json").read_text() for f in folders)))
    known = {f"{float(number):.{digits}f}" for number in stored for digits in (3, 4)}
    said = re.findall(r"ECE (\d\.\d+)", text)
    assert said
    assert set(said) <= known


def test_same_input_same_bytes(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", "again", 2.0, cases=2, maps=True)
    pages = [build_report([folder], tmp_path / name, maps=[folder / "maps"]).read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_slices_of_worst_median_and_best(built: tuple[Path, list[Path]]) -> None:
    text = built[0].read_text(encoding="utf-8")
    assert text.count('<article class="case">') == 6
    assert text.count('<input type="range"') == 6
    for rank in ("worst case, ECE", "median case, ECE", "best case, ECE"):
        assert text.count(rank) == 2


def test_words_follow_the_numbers(built: tuple[Path, list[Path]]) -> None:
    methods = read_methods(built[1])
    sharp = headline(methods[0])
    pooled = methods[0].scores["pooled"]["foreground"]
    assert sharp.verdict == "Overconfident in the foreground of reference or prediction"
    says = pooled["accuracy"] + pooled["gap"]
    limits = f"{pooled['ece_low']:.3f} to {pooled['ece_high']:.3f} over 4 patients"
    said = (
        f"It says {says:.3f} and is right {pooled['accuracy']:.3f} of the time (ECE {pooled['ece']:.3f}, 95 % interval"
    )
    assert sharp.sentences[0] == f"{said} {limits})."
    worst = max(("RV", "LV"), key=pooled["classwise_ece"].__getitem__)
    assert sharp.sentences[1].startswith(f"Worst class: {worst} (classwise ECE {pooled['classwise_ece'][worst]:.3f}")
    said = " ".join(comparison(methods))
    assert "soft has the lower ECE" in said
    for word in ("significant", "winner", "better"):
        assert word not in said


@pytest.mark.fault(72)
def test_names_are_text_everywhere(tmp_path: Path) -> None:
    names = ("background", EVIL, '"onload=x')
    folder = make(tmp_path / "s", EVIL, 2.0, cases=3, class_names=names, prefix=EVIL)
    text = build_report([folder], tmp_path / "r.html", maps=[tmp_path], title=EVIL).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "<script>alert" not in text
    assert "{{7*7}}" in page.text
    assert "49" not in re.findall(r"alert\(1\)</script>(\d+)", page.text)
    assert "Missing in the maps folder" in page.text


@pytest.mark.fault(73)
def test_no_case_scored(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", "none", 2.0, cases=0)
    text = Page(build_report([folder], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "No case was scored" in text
    assert "0 of 1 cases" in text
    assert "copy it & score again" in text
    assert "made without images" in text
    assert "--maps" in text
    both = [folder, make(tmp_path / "t", "some", 2.0, cases=2, known=False)]
    text = Page(build_report(both, tmp_path / "r.html", maps=both).read_text(encoding="utf-8")).text
    assert "No case was scored" in text
    assert "known class probabilities" not in text


def test_one_method_without_posterior_or_images(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", "single", 2.0, cases=1, known=False)
    text = Page(build_report([folder], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "true ECE" not in text.replace("ece_true", "")
    assert "has the lower" not in text
    assert "1 of 2 cases" in text


def test_absent_values_say_in_how_many_cases_they_are_defined(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", "x", 2.0, cases=3)
    numbers = json.loads((folder / "scores.json").read_text())
    numbers["mean"]["hd95_mm"]["RV"] = {"value": None, "low": None, "high": None, "n": 0}
    numbers["mean"]["dice"]["LV"]["n"] = 2
    numbers["cases"]["case0"]["dice"]["LV"] = None
    write_json(folder / "scores.json", numbers)
    rows = Page(build_report([folder], tmp_path / "r.html").read_text(encoding="utf-8")).rows
    assert next(r for r in rows if r[0].startswith("HD95, mm, RV"))[1].split() == ["n/a", "n", "=", "0", "of", "3"]
    assert next(r for r in rows if r[0].startswith("Dice, LV"))[1].endswith("n = 2 of 3 ")
    assert next(r for r in rows if r[0].strip() == "case0")[2].strip() == "n/a"


def test_equal_names_are_numbered_and_bad_input_is_refused(tmp_path: Path) -> None:
    folders = [make(tmp_path / name, "ce", 2.0, cases=1) for name in "ab"]
    assert [m.name for m in read_methods(folders)] == ["ce", "ce (2)"]
    with pytest.raises(ConfigError, match="2 scores folders need as many maps folders"):
        build_report(folders, tmp_path / "r.html", maps=[tmp_path])
    (folders[0] / "0.npz").unlink()
    with pytest.raises(DataError, match="lacks the counts of case0"):
        build_report(folders, tmp_path / "r.html")
    write_json(folders[0] / "scores.json", {"pooled": {}})
    with pytest.raises(DataError, match="score again"):
        build_report(folders, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
