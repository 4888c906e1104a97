"""The public surface: on record, importable by name, cheap to import, and all that the documentation needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from helpers import REPOSITORY

pytest.importorskip("torchmetrics")
pytest.importorskip("ignite")
pytest.importorskip("matplotlib")
import public_api

RECORD = REPOSITORY / "tests" / "public_api.txt"
PAGES = [
    REPOSITORY / "README.md",
    *(REPOSITORY / "docs").glob("*.md"),
    *(REPOSITORY / "docs" / "interoperate").rglob("*.py"),
    *(REPOSITORY / "notebooks").glob("*.py"),
]
ADVICE = """
Take it over with `python tests/public_api.py > tests/public_api.txt`. What is gone, renamed or takes other parameters
breaks somebody's code: keep the old name for two minor releases, as docs/stability.md says (medcalib/deprecation.py).
"""


def test_the_surface_is_the_one_on_record() -> None:
    now, before = public_api.lines(), RECORD.read_text("utf-8").splitlines()
    gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    told = [f"- {line}" for line in gone] + [f"+ {line}" for line in new]
    assert not told, "the public surface has changed:\n" + "\n".join(told) + ADVICE
    assert now == before, f"{RECORD.name} is not sorted, or holds a line twice{ADVICE}"


@pytest.mark.parametrize("module", list(public_api.modules()), ids=lambda module: module.__name__)
def test_what_a_module_lists_is_there_once(module: ModuleType) -> None:
    listed = public_api.exported(module)
    assert listed
    assert len(listed) == len(set(listed))
    space: dict[str, object] = {}
    exec(f"from {module.__name__} import *", space)  # noqa: S102 - what a star import gives
    assert set(listed) <= space.keys()


def imported(page: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import from medcalib; in a page, those of its blocks."""
    source = text = page.read_text("utf-8")
    if page.suffix == ".md":
        blocks = text.split("```python\n")[1:]
        source = "\n".join(block.split("```")[0] for block in blocks)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medcalib":
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_documentation_imports_public_names_only(page: Path) -> None:
    """What an extension or a notebook needs can be relied on."""
    listed = {module.__name__: set(public_api.exported(module)) for module in public_api.modules()}
    assert [(module, name) for module, name in imported(page) if name not in listed.get(module, ())] == []


def test_some_page_imports_something() -> None:
    found = [pair for page in PAGES for pair in imported(page)]
    assert {("medcalib.losses", "WeightedTerm"), ("medcalib.engine.train", "train")} <= set(found)


def test_packages_are_quick_to_import_and_give_their_modules() -> None:
    code = (
        "import sys, medcalib\n"
        "medcalib.config, medcalib.engine, medcalib.errors, medcalib.integrations, medcalib.report\n"
        "print([m for m in ('torch', 'monai', 'matplotlib', 'nibabel') if m in sys.modules])\n"
        "print(medcalib.engine.shards.Shard.parse('2/4'), 'torch' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["[]", "2/4 False"]


def test_a_name_that_no_package_has_is_told() -> None:
    import medcalib

    for package in (medcalib, medcalib.engine, medcalib.report, medcalib.metrics):
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nosuch'"):
            _ = package.nosuch
