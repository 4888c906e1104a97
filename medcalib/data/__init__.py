"""Cases, splits, layouts, and reading and writing volumes."""

from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.layouts import LAYOUTS
from medcalib.data.load import LoadedCase, load_case
from medcalib.data.nifti import Volume, read_volume, write_volume

__all__ = ["LAYOUTS", "Case", "LabelMap", "LoadedCase", "Volume", "load_case", "read_volume", "write_volume"]
