"""One self-contained HTML page from saved scores. Needs the extra `report`, no GPU and no network."""

from medcalib.report.html import build_report

__all__ = ["build_report"]
