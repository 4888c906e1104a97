"""BraTS: one folder a case, `<case><separator><modality>.nii[.gz]` and `<case><separator>seg.nii[.gz]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from medcalib.data.case import Case
from medcalib.data.layouts.common import Problems, check_below, check_once, existing, folder, is_file, posterior
from medcalib.data.layouts.patients import EVERY, by_patient, check_patient
from medcalib.data.nifti import is_nifti
from medcalib.errors import Problem

_MAX_DEPTH = 3  # root / HGG / case
_EXAMS = r"(.+?)(?:-[0-9]{3})?"  # BraTS-GLI-00000-001 is an exam of BraTS-GLI-00000


def brats(
    root: Path,
    problems: Problems,
    *,
    modalities: Annotated[Sequence[str], "endings of the images, in the order of the input channels"] = (
        "t1",
        "t1ce",
        "t2",
        "flair",
    ),
    separator: Annotated[Literal["_", "-"], "what stands before an ending; `-` from 2023 on"] = "_",
    label: Annotated[str, "ending of the label"] = "seg",
    label_files: Annotated[Mapping[str, str], "case id: the label file of a case whose label is misnamed"] = {},
    patient: Annotated[
        str | None, "as of the layout `files`; null: every case, and with the separator `-` as from 2023 on"
    ] = None,
) -> list[Case]:
    """Cases of BraTS 2013 to 2024, at any depth below `root` (HGG/LGG folders are looked into).

    2018 to 2021 name files `<case>_t1ce.nii.gz`; from 2023 on `<case>-t1c.nii.gz` (t1n, t1c, t2w, t2f):
    set `separator` and `modalities`. The order of `modalities` is the order of the input channels.
    `label_files` names the label file of single cases, such as BraTS20_Training_355, whose label is misnamed.
    From 2023 on the patient of BraTS-GLI-00000-001 is BraTS-GLI-00000; otherwise every case is a patient.
    `patient` says it for other names, as of the layout `files`.
    """
    check_once("modalities", modalities)
    owner = (_EXAMS if separator == "-" else EVERY) if patient is None else patient
    check_patient(owner)
    for name in label_files.values():
        check_below("label_files", name)
    cases = []
    for path in _case_folders(root, separator, 0, problems):
        images = [existing(path, f"{path.name}{separator}{name}", problems, path.name) for name in modalities]
        missing = [m for m, image in zip(modalities, images, strict=True) if image is None]
        if missing:
            problems.append(_missing_modality(path, missing))
            continue
        found = path / label_files[path.name] if path.name in label_files else None
        if found is not None and not is_file(found):
            problems.append(
                Problem(
                    path.name,
                    "missing_label",
                    f"`data.layout.label_files` names {found.name}, which is absent; correct the name",
                )
            )
        found = found or existing(path, f"{path.name}{separator}{label}", problems, path.name)
        if found is None:
            _report_label(path, separator, modalities, problems)
        known = tuple(image for image in images if image is not None)
        cases.append(Case(path.name, path.name, known, found, None, posterior(path, path.name)))
    return by_patient(cases, owner, problems)


def _case_folders(path: Path, separator: str, depth: int, problems: Problems) -> list[Path]:
    entries = folder(path, problems)
    if any(is_nifti(f) and f.name.startswith(path.name + separator) for f in entries):
        return [path]
    above = {path.resolve(), *path.resolve().parents}  # a link to one of them would lead in a circle
    below = [entry for entry in entries if entry.is_dir() and entry.resolve() not in above]
    if depth == _MAX_DEPTH:
        return []
    return [case for entry in below for case in _case_folders(entry, separator, depth + 1, problems)]


def _missing_modality(path: Path, missing: list[str]) -> Problem:
    names = sorted(f.name for f in path.iterdir() if is_nifti(f))
    seen = (", ".join(names[:5]) + (", ..." if len(names) > 5 else "")) or "no NIfTI file"
    return Problem(
        path.name,
        "missing_modality",
        f"no file for {', '.join(missing)} (found: {seen}); name the modalities that exist in "
        "`data.layout.modalities`, or remove the case",
    )


def _report_label(path: Path, separator: str, modalities: Sequence[str], problems: Problems) -> None:
    """A case without a label may be meant for inference; one with a misnamed label is a fault."""
    expected = tuple(f"{path.name}{separator}{m}." for m in modalities)
    prefix = path.name + separator
    others = [f.name for f in sorted(path.iterdir()) if is_nifti(f) and not f.name.startswith((*expected, prefix))]
    if others:
        problems.append(
            Problem(
                path.name,
                "misnamed_label",
                f"no label file, but {others[0]} lies there; if it is the label, set "
                f"`data.layout.label_files: {{{path.name}: {others[0]}}}`",
            )
        )
