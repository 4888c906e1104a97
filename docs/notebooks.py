"""Write notebooks/*.ipynb from their sources, notebooks/*.py in the percent format: `make notebooks`.

Equal sources give equal bytes: cells are numbered, and neither outputs nor execution counts are stored.
"""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent.parent / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sources() -> list[Path]:
    """The percent scripts, in order."""
    return sorted(FOLDER.glob("*.py"))


def notebook_of(source: Path) -> nbformat.NotebookNode:
    """The notebook of a percent script, ready to run."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem[:2]}-{number:02d}"
        cell.metadata = nbformat.from_dict({})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return notebook


def text_of(source: Path) -> str:
    """What the file beside a percent script holds."""
    return nbformat.writes(notebook_of(source)) + "\n"


def main() -> None:
    """Write every notebook that differs from its source."""
    for source in sources():
        path, text = source.with_suffix(".ipynb"), text_of(source)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
