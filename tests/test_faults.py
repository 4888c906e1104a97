"""Every fault of the list has a test that carries its number."""

from __future__ import annotations

import ast
from pathlib import Path

from fault_list import FAULTS


def _marked(path: Path) -> set[int]:
    calls = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
    marks = (call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "fault")
    return {argument.value for mark in marks for argument in mark.args if isinstance(argument, ast.Constant)}


def test_every_fault_is_checked_by_a_test() -> None:
    marked = set().union(*(_marked(path) for path in Path(__file__).parent.rglob("test_*.py")))
    assert marked == set(FAULTS), f"without a test: {sorted(set(FAULTS) - marked)}"
