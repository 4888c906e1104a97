"""What a newcomer must not forget: every loss, layout and config has its test, its row, and its place."""

from __future__ import annotations

import re

import pytest
from helpers import REPOSITORY

from medcalib import calibrators, losses
from medcalib.config.bundled import bundled
from medcalib.data.layouts import LAYOUTS

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
REPAIR, DATA = ((REPOSITORY / "docs" / page).read_text(encoding="utf-8") for page in ("repair.md", "data.md"))


@pytest.mark.parametrize("name", losses.names())
def test_every_loss_has_a_row_in_the_readme(name: str) -> None:
    terms = losses.RECIPES[name].terms
    row = re.search(rf"^\| `{name}` \| (.+?) \|", README, re.MULTILINE)
    assert row, f"add a row for `{name}` to the losses table of README.md"
    assert all(term in row[1] for term in terms)


@pytest.mark.parametrize("name", losses.TERMS)
def test_every_term_has_a_test_and_a_reference(name: str) -> None:
    module = losses.TERMS[name].__module__.rsplit(".", 1)[1]
    test = REPOSITORY / "tests" / "losses" / f"test_{module}.py"
    assert test.is_file(), f"write {test.relative_to(REPOSITORY)}"
    text = test.read_text(encoding="utf-8")
    for needed in ("by_hand", "check_gradient", "check_ignored", "golden"):
        assert needed in text.lower(), f"{test.name} has no {needed}"
    assert losses.TERMS[name].__doc__


@pytest.mark.parametrize("name", calibrators.names())
def test_every_calibrator_has_a_test_and_a_row_in_its_page(name: str) -> None:
    assert (REPOSITORY / "tests" / "calibrators" / f"test_{name}.py").is_file()
    assert re.search(rf"^\| `{name}` \| .+ \|", REPAIR, re.MULTILINE), f"add a row for `{name}` to docs/repair.md"
    method = calibrators.CALIBRATORS[name]
    assert all((method.__doc__, method.formula, method.reference))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_a_test(name: str) -> None:
    tests = (REPOSITORY / "tests" / "data" / "test_layouts.py").read_text(encoding="utf-8")
    assert re.search(rf"\b{name}\b", tests)


def test_the_page_about_data_names_every_config() -> None:
    assert all(name == "phantom" or f"`{name}`" in DATA for name in bundled())


def test_no_volume_is_committed() -> None:
    volumes = [p for p in REPOSITORY.rglob("*.nii*") if ".venv" not in p.parts and "demo" not in p.parts]
    assert not [p for p in volumes if (REPOSITORY / "tests") in p.parents or (REPOSITORY / "medcalib") in p.parents]
