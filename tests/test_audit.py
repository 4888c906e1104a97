"""The report of known vulnerabilities never says that nothing was found where nobody was asked."""

from __future__ import annotations

import json
import runpy

import pytest
from helpers import REPOSITORY

verdict = runpy.run_path(str(REPOSITORY / ".ci" / "audit.py"))["verdict"]
SKIPPED = {"name": "a", "skip_reason": "Dependency not found on PyPI and could not be audited: a (1)"}
SOUND = {"name": "b", "version": "2", "vulns": []}
WEAK = {"name": "c", "version": "3", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1"]}]}


@pytest.mark.parametrize(
    ("dependencies", "lines"),
    [
        ([SKIPPED], ["audit: the advisory service was not reached; 1 packages were NOT audited"]),
        ([SOUND], ["audit: 1 of 1 packages audited, 0 known vulnerabilities"]),
        (
            [SKIPPED, SOUND, WEAK],
            [
                "audit: 2 of 3 packages audited, 1 known vulnerabilities",
                "  c 3: PYSEC-1, repaired in 3.1",
                "  NOT audited: a",
            ],
        ),
    ],
)
def test_it_counts_who_was_asked(dependencies: list[dict[str, object]], lines: list[str]) -> None:
    assert verdict(json.dumps({"dependencies": dependencies})) == lines


def test_without_a_report_it_gives_the_reason() -> None:
    assert verdict("", "Traceback\nConnectionError: no route") == [
        "audit: the advisory service was not reached; NOTHING was audited: ConnectionError: no route"
    ]
