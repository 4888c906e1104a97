"""The study of methods: its rule of choice, and that its page says what its numbers say."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

STUDY = REPOSITORY / "docs/studies/methods"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDY))
    for name in ("choose", "page"):
        sys.modules.pop(name, None)


def test_the_pages_say_what_the_numbers_say() -> None:
    import page

    texts = [path.read_text("utf-8") for path in page.PAGES]
    assert sum(text.count("<!-- table:") for text in texts) == len(page.TABLES)
    for text in texts:
        assert page.page(text) == text
        changed = text.replace("| ce | ", "| ce | 9", 1)
        assert changed != text
        assert page.page(changed) == text


def test_the_rule_of_choice(tmp_path: Path) -> None:
    from choose import choose

    options = {
        "ce": {"name": "ce"},
        "nacl": {"name": "nacl", "weight": 0.1},
        "nacl_low": {"name": "nacl", "weight": 0.01},
        "nacl_bad": {"name": "nacl", "weight": 1.0},
        "mbls": {"name": "mbls"},
        "crac": {"name": "crac"},
        "crac_both": {"name": "crac", "margin": 8},
    }
    (tmp_path / "compare.json").write_text(json.dumps({"methods": options}))
    rows = [
        ("ce", 0.85, 0.02, 0.1),
        ("nacl", 0.85, 0.03, 0.05),  # the best in foreground is the default, which is not repeated
        ("nacl_low", 0.846, 0.01, 0.09),
        ("nacl_bad", 0.844, 0.001, 0.001),  # loses more Dice than the rule allows
        ("mbls", 0.85, 0.02, 0.1),
        ("crac", 0.85, 0.02, 0.1),
        ("crac_both", 0.85, 0.01, 0.01),  # chosen once, though it is the best in both regions
    ]
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["method", "state", "dice", "ece/pred_foreground", "ece/foreground"])
        table.writerows([name, "done", *numbers] for name, *numbers in rows)
    assert choose(tmp_path) == {"nacl_pf": options["nacl_low"], "crac_pf": options["crac_both"]}
