"""Every notebook is the twin of its percent script, holds no output, and runs from a folder of its own."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import REPOSITORY

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")
pytest.importorskip("matplotlib")

SOURCES = sorted((REPOSITORY / "notebooks").glob("*.py"))
NAMES = [source.stem for source in SOURCES]


def pairing() -> ModuleType:
    """docs/notebooks.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("pairing", REPOSITORY / "docs" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outputs_of(cells: list[Any], key: str) -> list[Any]:
    """What all cells gave under one key: a stream's text, or a MIME type."""
    found = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    streams = [output.text for output in found if output.output_type == "stream" and output.name == key]
    return streams + [output.data[key] for output in found if key in output.get("data", {})]


def test_each_script_has_one_notebook_and_the_reverse() -> None:
    assert len(SOURCES) == 5
    assert sorted(path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_notebook_is_what_make_notebooks_writes(source: Path) -> None:
    written = pairing().text_of(source)
    assert source.with_suffix(".ipynb").read_text(encoding="utf-8") == written, "run `make notebooks`"
    cells = json.loads(written)["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_nothing_that_ran_is_stored(source: Path) -> None:
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert not any(str(REPOSITORY) in cell.source for cell in notebook.cells)


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_notebook_begins_with_what_is_learned_and_ends_with_what_to_try(source: Path) -> None:
    cells = pairing().notebook_of(source).cells
    title, *lines = [line for line in cells[0].source.splitlines() if line]
    assert title.startswith(f"# {int(source.stem[:2])}. ")
    assert len([line for line in lines if line.startswith("- ")]) == 5
    assert cells[-1].cell_type == "markdown"
    assert "## What to try next" in cells[-1].source


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_notebook_runs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("MEDCALIB_NOTEBOOK_FAST", "1")
    monkeypatch.setenv("MEDCALIB_NOTEBOOK_DIR", str(tmp_path / "made"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # nothing of the user's own configuration
    notebook = pairing().notebook_of(source)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=300, resources=place).execute()
    assert len(outputs_of(notebook.cells, "image/png")) >= 2
    assert not [text for text in outputs_of(notebook.cells, "stderr") if "Warning" in text]
    assert {path.name for path in tmp_path.iterdir()} <= {"made", "ipython"}
