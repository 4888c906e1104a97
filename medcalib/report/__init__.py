"""One self-contained HTML page from saved scores. Needs the extra `report`, no GPU and no network.

Beside it: figures (`plots`), maps of volumes (`maps`), the page of a comparison (`comparison`), text for the terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcalib.lazy import lazily

if TYPE_CHECKING:
    from medcalib.report.html import build_report

__all__ = ["build_report", "comparison", "maps", "plots", "slices", "text"]

# the text tables of the command line live here too and must not wait for torch
__getattr__ = lazily(__name__, __all__, build_report="html")
