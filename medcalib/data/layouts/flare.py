"""FLARE: `images/<case>_0000.nii.gz` beside `labels/<case>.nii.gz`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from medcalib.data.case import Case
from medcalib.data.layouts.common import Problems, check_below, posterior, report_unpaired, volumes
from medcalib.data.layouts.patients import EVERY, Patient, by_patient, check_patient
from medcalib.data.nifti import stem

_SUFFIX = "_0000"


def flare(
    root: Path,
    problems: Problems,
    *,
    images: Annotated[str, "folder of the images"] = "images",
    labels: Annotated[str, "folder of the labels"] = "labels",
    labelled_classes: Annotated[Mapping[str, Sequence[str]], "case id: the classes that were annotated in it"] = {},
    patient: Patient = EVERY,
) -> list[Case]:
    """Cases of FLARE 2021 to 2023; `images` and `labels` name the two folders below `root`.

    2021 has TrainingImg and TrainingMask, 2022 images and labels, 2023 imagesTr2200 and labelsTr2200. From
    2023 on a case may carry only some organs: `labelled_classes` says which ones, case by case.
    `patient`: as of the layout `files`.
    """
    check_below("images", images)
    check_below("labels", labels)
    check_patient(patient)
    found = {stem(f).removesuffix(_SUFFIX): f for f in volumes(root / images, problems)}
    references = {stem(f): f for f in volumes(root / labels, problems)}
    report_unpaired("label", "an image", references.keys() - found.keys(), problems)
    report_unpaired("image", "a label", found.keys() - references.keys(), problems)
    cases = [
        Case(
            name,
            name,
            (image,),
            references.get(name),
            None,
            posterior(root / labels, name),
            tuple(labelled_classes[name]) if name in labelled_classes else None,
        )
        for name, image in sorted(found.items())
    ]
    return by_patient(cases, patient, problems)
