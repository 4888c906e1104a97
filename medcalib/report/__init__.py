"""One self-contained HTML page from saved scores. Needs the extra `report`, no GPU and no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcalib.report.html import build_report

__all__ = ["build_report"]


def __getattr__(name: str) -> Any:
    # the text tables of the command line live here too and must not wait for torch
    if name == "build_report":
        from medcalib.report.html import build_report

        return build_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
