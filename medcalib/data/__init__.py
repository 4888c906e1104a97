"""Cases, layouts, and reading and writing volumes; `phantom` makes volumes whose class posterior is known.

What a name means everywhere in here: `array` (i, j, k) in the order of the file, `affine` (4, 4) from its indices to mm
in RAS, `spacing_mm` the edges of a voxel (i, j, k); `root` the folder of a data set, `problems` a list that findings
are appended to, `path` a file; `nonfinite` what to do with NaN and Inf in images: "refuse" or "zero"; `seed` makes
whatever is drawn repeatable.
"""

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
