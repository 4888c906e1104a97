"""A pytest plugin: which fault of fault_list.py each test checks, and, with `--faults FILE`, what came out.

Tests may measure: `record_property("measured", "200 flips: 200 refused")` puts the sentence beside the fault.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fault_list import FAULTS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", metavar="FILE", help="write fault -> tests -> results as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(*numbers): the faults of tests/fault_list.py that a test checks")
    if config.getoption("--faults") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(Path(config.getoption("--faults"))), "fault-recorder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        numbers = [number for mark in item.iter_markers("fault") for number in mark.args]
        unknown = [number for number in numbers if number not in FAULTS]
        if unknown:
            raise pytest.UsageError(
                f"{item.nodeid}: no such fault: {unknown}; tests/fault_list.py has 1 to {max(FAULTS)}"
            )
        if numbers:
            item.user_properties.append(("faults", sorted(set(numbers))))


class _Recorder:
    """Outcomes by fault and test; under xdist it sees the reports of all workers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[int, dict[str, dict[str, object]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        properties = list(report.user_properties)
        measured = [value for key, value in properties if key == "measured"]
        for number in next((value for key, value in properties if key == "faults"), []):
            row = {"outcome": report.outcome, "measured": measured}
            self.results.setdefault(number, {})[report.nodeid] = row

    def pytest_sessionfinish(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        ordered = {str(number): dict(sorted(self.results[number].items())) for number in sorted(self.results)}
        self.path.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
