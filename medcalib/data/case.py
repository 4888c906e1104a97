"""A case: one volume to segment, where its files are, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One volume. A dataset layout is a function `root -> list[Case]`.

    `images` holds one path per channel, or a single 4-D file with the channel axis last (MSD). `label` is
    None where no reference exists (inference only). `split` is set where the dataset's own folders say so.
    `posterior` is the known class posterior of a phantom. `labelled_classes` names the classes that were
    annotated in this case (None: all of them). `id` is unique in a data set, `patient_id` shared by all cases of a
    patient.
    """

    id: str
    patient_id: str
    images: tuple[Path, ...]
    label: Path | None = None
    split: str | None = None
    posterior: Path | None = None
    labelled_classes: tuple[str, ...] | None = None
