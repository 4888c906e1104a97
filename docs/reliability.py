"""Write docs/reliability.md: which fault is checked by which test, and what came out.

    pytest -m fault --faults=build/faults.json; python docs/reliability.py build/faults.json

The words around the table are in docs/reliability.in.md, where `<!-- table -->` stands for it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from fault_list import FAULTS  # noqa: E402

Results = dict[str, dict[str, dict[str, object]]]


def table(results: Results) -> str:
    """One table an area of faults."""
    parts = []
    for area, numbers in groupby(FAULTS, lambda number: FAULTS[number].area):
        rows = [row(number, results.get(str(number), {})) for number in numbers]
        head = f"### {area}\n\n| | fault | expected | tests | result |\n|---|---|---|---|---|\n"
        parts.append("\n".join([head + "\n".join(rows), *measured(results, area)]))
    return "\n\n".join(parts)


def row(number: int, tests: dict[str, dict[str, object]]) -> str:
    """One line: number, fault, expectation, the test functions, and the outcomes."""
    functions = dict.fromkeys(node.split("[")[0] for node in tests)
    links = (
        "<br>".join(f"[{name.split('::')[-1]}](../{name.split('::')[0]})" for name in functions) or "not in this run"
    )
    outcomes = Counter(str(test["outcome"]) for test in tests.values())
    result = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "not in this run"
    fault = FAULTS[number]
    return f"| {number} | {fault.what} | {fault.expected} | {links} | {result} |"


def measured(results: Results, area: str) -> list[str]:
    """What the tests of an area measured, a line each, below an empty line."""
    found = dict.fromkeys(
        f"- {number}: {sentence}"
        for number in FAULTS
        if FAULTS[number].area == area
        for test in results.get(str(number), {}).values()
        for sentence in test["measured"]  # type: ignore[attr-defined]
    )
    return ["", "Measured, by fault:", "", *found] if found else []


def summary(results: Results) -> str:
    """How many faults took part in the run, and how their tests ended."""
    outcomes = Counter(str(test["outcome"]) for tests in results.values() for test in tests.values())
    checked = sum(bool(results.get(str(number))) for number in FAULTS)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    return f"In the run that this page shows {checked} of {len(FAULTS)} faults took part; of their tests {counts}."


def main() -> None:
    """Read results, write the page."""
    results: Results = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    page = (HERE / "reliability.in.md").read_text("utf-8")
    page = page.replace("<!-- summary -->", summary(results)).replace("<!-- table -->", table(results))
    (HERE / "reliability.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
