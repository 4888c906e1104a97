"""What a newcomer must not forget: every loss, layout and config has its test, its row, and its place."""

from __future__ import annotations

import re

import pytest
from helpers import REPOSITORY

from medcalib import calibrators, losses
from medcalib.config.bundled import bundled
from medcalib.data.layouts import LAYOUTS
from medcalib.losses.citations import entries

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
REPAIR, DATA = ((REPOSITORY / "docs" / page).read_text(encoding="utf-8") for page in ("repair.md", "data.md"))
NEEDED = {  # in the test of a term
    "by_hand": "test_a_voxel_by_hand: a value computed by hand",
    "check_gradient": "check_gradient of cases.py",
    "check_ignored": "check_ignored of cases.py",
    "golden": "check_golden of cases.py; docs/extend.md says how its file is made, and what to do where there is none",
}


@pytest.mark.parametrize("name", losses.names())
def test_every_loss_has_a_row_in_the_readme(name: str) -> None:
    terms = losses.RECIPES[name].terms
    row = re.search(rf"^\| `{name}` \| (.+?) \|", README, re.MULTILINE)
    assert row, f"add a row for `{name}` to the losses table of README.md"
    for term in terms:
        assert term in row[1], f"name the term {term} in the row of `{name}` in README.md"


@pytest.mark.parametrize("name", losses.names())
def test_every_loss_cites_entries_of_the_bibliography(name: str) -> None:
    missing = set(losses.RECIPES[name].cite) - set(entries())
    assert not missing, f"add {', '.join(sorted(missing))}, cited by `{name}`, to medcalib/losses/references.bib"


@pytest.mark.parametrize("name", losses.TERMS)
def test_every_term_has_a_test_and_a_reference(name: str) -> None:
    module = losses.TERMS[name].__module__.rsplit(".", 1)[1]
    test = REPOSITORY / "tests" / "losses" / f"test_{module}.py"
    assert test.is_file(), f"write {test.relative_to(REPOSITORY)}"
    text = test.read_text(encoding="utf-8")
    for needed, what in NEEDED.items():
        assert needed in text.lower(), f"{test.name} lacks `{needed}`; add {what}"
    assert losses.TERMS[name].__doc__, f"give {losses.TERMS[name].__name__} a docstring: what it does, paper, equation"


@pytest.mark.parametrize("name", calibrators.names())
def test_every_calibrator_has_a_test_and_a_row_in_its_page(name: str) -> None:
    test = REPOSITORY / "tests" / "calibrators" / f"test_{name}.py"
    assert test.is_file(), f"write {test.relative_to(REPOSITORY)}"
    options = (test.parent / "fits.py").read_text(encoding="utf-8")
    assert f'"{name}": {{' in options, f"add `{name}` with options for its laws, or {{}}, to OPTIONS of fits.py"
    assert re.search(rf"^\| `{name}` \| .+ \|", REPAIR, re.MULTILINE), f"add a row for `{name}` to docs/repair.md"
    method = calibrators.CALIBRATORS[name]
    assert method.__doc__, f"give {method.__name__} a docstring"
    for attribute in ("name", "formula", "reference"):
        assert getattr(method, attribute, ""), f"set `{attribute}` in {method.__name__}"


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_a_test_and_a_row_in_its_page(name: str) -> None:
    tests = (REPOSITORY / "tests" / "data" / "test_layouts.py").read_text(encoding="utf-8")
    assert re.search(rf"\b{name}\b", tests), f"add tests of the layout `{name}` to tests/data/test_layouts.py"
    assert re.search(rf"^\|.*\b{name}", DATA, re.MULTILINE), f"add a row for the layout `{name}` to docs/data.md"


def test_the_page_about_data_names_every_config() -> None:
    missing = [name for name in bundled() if name != "phantom" and f"`{name}`" not in DATA]
    assert not missing, f"name the configs {', '.join(missing)} in docs/data.md"


def test_no_volume_is_committed() -> None:
    volumes = [p for p in REPOSITORY.rglob("*.nii*") if ".venv" not in p.parts and "demo" not in p.parts]
    assert not [p for p in volumes if (REPOSITORY / "tests") in p.parents or (REPOSITORY / "medcalib") in p.parents]
