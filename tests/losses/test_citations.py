"""The papers behind the methods."""

from __future__ import annotations

import re

import pytest

from medcalib.losses import RECIPES
from medcalib.losses.citations import entries, short


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_cites_entries_that_exist(name: str) -> None:
    assert RECIPES[name].cite or name == "ce"
    for key in RECIPES[name].cite:
        assert re.fullmatch(r"[A-Z][\w ]+ et al\. \d{4}.*|Brier 1950", short(key)) or " and " not in entries()[key]


def test_every_entry_is_cited_and_complete() -> None:
    cited = {key for recipe in RECIPES.values() for key in recipe.cite}
    assert cited == set(entries())
    for key, entry in entries().items():
        assert entry.count("{") == entry.count("}"), key
        assert entry.isascii()
        for field in ("author", "title", "year"):
            assert re.search(rf"^  {field} = \{{.+\}},?$", entry, re.MULTILINE), f"{key} has no {field}"
        assert re.search(r"^  (journal|booktitle) = ", entry, re.MULTILINE)


def test_a_short_reference_names_author_year_and_preprint() -> None:
    assert short("liu2022mbls") == "Liu et al. 2022, arXiv 2111.15430"
    assert short("brier1950") == "Brier 1950"
