"""Dataset layouts: functions `(root, problems, **options) -> list[Case]`. Their signatures are their config.

A layout appends to `problems` and goes on, so that one run reports everything that is wrong with a folder.
"""

from collections.abc import Callable

from medcalib.data.case import Case
from medcalib.data.layouts.acdc import acdc
from medcalib.data.layouts.brats import brats
from medcalib.data.layouts.files import files
from medcalib.data.layouts.flare import flare
from medcalib.data.layouts.msd import msd
from medcalib.data.layouts.nnunet import nnunet

LAYOUTS: dict[str, Callable[..., list[Case]]] = {
    "acdc": acdc,
    "brats": brats,
    "flare": flare,
    "msd": msd,
    "nnunet": nnunet,
    "files": files,
}

__all__ = ["LAYOUTS", "acdc", "brats", "files", "flare", "msd", "nnunet"]
