"""Calibration maps of volumes as NIfTI on the image's own grid; what each one is stands in `kinds`."""

from medcalib.report.maps.case import maps_of
from medcalib.report.maps.files import INDEX
from medcalib.report.maps.kinds import CHANNEL_KINDS, KINDS
from medcalib.report.maps.window import WINDOW_MM, Window
from medcalib.report.maps.write import write_maps

__all__ = ["CHANNEL_KINDS", "INDEX", "KINDS", "WINDOW_MM", "Window", "maps_of", "write_maps"]
