"""The page in a real browser: no message, no request, slider and sorting work, names stay text, paper holds all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from browser import Tab, find_browser
from pages import EVIL, REGIONS, make

from medcalib.report import build_report

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on PATH; install one to run these tests")
VISIBLE = (
    "[...document.querySelectorAll('.case')].map(c => [...c.querySelectorAll('.row')].map(r => r.checkVisibility()))"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("page")
    folders = [make(root / name, name, sharpness, maps=True) for name, sharpness in (("sharp", 4.0), ("soft", 1.9))]
    maps = [folder / "maps" for folder in folders]
    return build_report(folders, root / "report.html", maps=maps, title=EVIL).as_uri()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with Tab(str(BROWSER), tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def column(tab: Tab, index: int) -> list[str]:
    return tab.run(f"[...document.querySelectorAll('#case-table tbody tr')].map(r => r.cells[{index}].textContent)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_loads_without_a_message_or_a_request_and_fits_the_window(tab: Tab, page: str, scheme: str, width: int) -> None:
    tab.size(width, 900)
    tab.open(page, prefers_color_scheme=scheme)
    assert tab.complaints() == []
    assert tab.requests() == [page]
    assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    drawn = tab.run("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert drawn
    assert all(drawn)
    dark = tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 25, 31)"
    assert dark == (scheme == "dark")


def test_the_verdict_is_on_the_first_screen(tab: Tab, page: str) -> None:
    tab.size(1280, 900)
    tab.open(page)
    places = tab.run(
        "[...document.querySelectorAll('.card, .lead > :first-child')].map(c => c.getBoundingClientRect().top)"
    )
    assert len(places) == 3
    assert max(places) < 900


def test_three_methods_fit_without_blank_or_scrolling(tab: Tab, tmp_path: Path) -> None:
    regions = (*REGIONS, "pred_foreground", "boundary")
    names = {"ce": 4.0, "ce + temperature": 2.5, "mbls": 1.9}
    folders = [make(tmp_path / n, n, s, regions=regions, prefix="patient019_frame0") for n, s in names.items()]
    tab.size(1300, 900)
    tab.open(build_report(folders, tmp_path / "r.html").as_uri())
    assert tab.run("document.querySelectorAll('#case-table th').length") == 14
    assert tab.run("(t => t.scrollWidth <= t.clientWidth)(document.querySelector('#case-table').parentElement)")
    corners = "[...document.querySelectorAll('.lead > *')].map(f => f.getBoundingClientRect()).map(r => [r.%s, r.%s])"
    assert len({tuple(ends) for ends in tab.run(corners % ("top", "bottom"))}) == 1  # one row, as high
    tab.size(820, 900)
    first, *others = tab.run(corners % ("left", "right"))
    assert first == [others[0][0], others[1][1]]  # above the two others, as wide


def test_the_policy_refuses_other_scripts_and_requests(tab: Tab, page: str) -> None:
    tab.open(page)
    tab.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    tab.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    assert tab.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert tab.run("window.ran === undefined")
    assert [said for said in tab.complaints() if "Content Security Policy" in said]


def test_the_slider_changes_the_slice(tab: Tab, page: str) -> None:
    tab.open(page)
    before = tab.run(VISIBLE)
    assert [sum(rows) for rows in before] == [1] * len(before)
    tab.run("document.querySelector('.case input').focus()")
    tab.press("ArrowRight", 39)
    after = tab.run(VISIBLE)
    assert before[0].index(True) + 1 == after[0].index(True)
    assert before[1:] == after[1:]
    shown = tab.run("document.querySelector('.case output').textContent")
    assert shown == f"{after[0].index(True) + 1} of {len(after[0])}"


def test_a_table_is_sorted_by_keyboard_and_says_so(tab: Tab, page: str) -> None:
    tab.open(page)
    heads = tab.run("[...document.querySelectorAll('#case-table th')].map(h => h.textContent.trim())")
    at = heads.index("ECE foreground")
    values = [float(text) for text in column(tab, at)]
    assert values != sorted(values)
    tab.run(f"document.querySelectorAll('#case-table th button')[{at}].focus()")
    for order, reverse in (("ascending", False), ("descending", True)):
        tab.press("Enter", 13, "\r")
        assert [float(text) for text in column(tab, at)] == sorted(values, reverse=reverse)
        states = tab.run("[...document.querySelectorAll('#case-table th')].map(h => h.getAttribute('aria-sort'))")
        assert states == [order if k == at else "none" for k in range(len(heads))]
        assert order in tab.run("document.querySelector('[role=status]').textContent")


def test_markup_in_a_name_stays_text(tab: Tab, tmp_path: Path) -> None:
    classes = ("background", EVIL, '"onload=x')
    folder = make(tmp_path / "s", EVIL, 2.0, cases=3, prefix=EVIL, class_names=classes)
    tab.open(build_report([folder], tmp_path / "r.html", title=EVIL).as_uri())
    assert tab.complaints() == []
    assert tab.run("document.scripts.length") == 1
    assert column(tab, 0) == [f"{EVIL}{k}" for k in range(3)]
    assert tab.run("document.title") == EVIL


def test_without_scripts_every_slice_is_shown(tab: Tab, page: str) -> None:
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(page)
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
    assert all(all(rows) for rows in tab.run(VISIBLE))
    assert not tab.run("document.querySelector('.stepper').checkVisibility()")


def test_paper_shows_every_slice_and_no_clipped_table(tab: Tab, page: str) -> None:
    tab.open(page)
    tab.send("Emulation.setEmulatedMedia", media="print")
    try:
        assert all(all(rows) for rows in tab.run(VISIBLE))
        kept = tab.run("[...document.querySelectorAll('.scroll')].map(s => getComputedStyle(s).overflowX)")
        assert set(kept) == {"visible"}
    finally:
        tab.send("Emulation.setEmulatedMedia", media="")
