"""The tables and the page of `medcalib compare`, from its folder alone: no GPU, images or networks."""

from medcalib.report.comparison.text import comparison_text
from medcalib.report.comparison.write import write_comparison

__all__ = ["comparison_text", "write_comparison"]
