"""The papers behind the methods, from references.bib."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources


@cache
def entries() -> dict[str, str]:
    """Every BibTeX entry by key, in the order of the file."""
    text = resources.files("medcalib.losses").joinpath("references.bib").read_text(encoding="utf-8")
    found = (re.match(r"@\w+\{([^,\s]+),", entry) for entry in text.split("\n\n"))
    return {match[1]: match.string.strip() for match in found if match}


def short(key: str) -> str:
    """First author and year of an entry, such as "Liu et al. 2022, arXiv 2111.15430"."""
    authors = _field(key, "author").split(" and ")
    name = authors[0].split(",")[0] + (" et al." if len(authors) > 1 else "")
    eprint = _field(key, "eprint")
    return f"{name} {_field(key, 'year')}" + (f", arXiv {eprint}" if eprint else "")


def _field(key: str, name: str) -> str:
    found = re.search(rf"^\s*{name}\s*=\s*\{{(.*)\}},?$", entries()[key], re.MULTILINE)
    return found[1] if found else ""
