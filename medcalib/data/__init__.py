"""Cases, layouts, and reading and writing volumes; `phantom` makes volumes whose class posterior is known."""

from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.layouts import LAYOUTS
from medcalib.data.load import LoadedCase, load_case
from medcalib.data.nifti import Volume, read_volume, write_volume
from medcalib.errors import Problem
from medcalib.lazy import lazily

__all__ = [
    "LAYOUTS",
    "Case",
    "LabelMap",
    "LoadedCase",
    "Problem",
    "Volume",
    "load_case",
    "phantom",
    "read_volume",
    "write_volume",
]

__getattr__ = lazily(__name__, __all__)
