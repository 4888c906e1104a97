"""Whose a case is: by a pattern that the case id matches, and a warning where several cases look like one patient's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from medcalib.data.case import Case
from medcalib.data.layouts.common import Problems
from medcalib.errors import Problem

EVERY = "(.+)"  # each case is a patient of its own
Patient = Annotated[
    str,
    "regular expression that matches the whole case id; its one group is the patient, whose cases stay on one side of "
    "the split. The default takes each case as a patient of its own; `'(.+)_.*'` drops what follows the last `_`",
]
_LAST = "(.+)[_-][^_-]+"
_LAST_IF_ANY = "(.+?)(?:[_-][^_-]+)?"
_BIDS = "(sub-[A-Za-z0-9]+)_.*"


def check_patient(patient: str) -> None:
    """ValueError for a pattern that can yield no patient."""
    try:
        groups = re.compile(patient).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"patient is no regular expression ({error}); expected one such as (sub-[0-9]+)_.*, got {patient!r}"
        ) from error
    if groups != 1:
        raise ValueError(f"patient needs one group in parentheses, such as (sub-[0-9]+)_.*, got {patient!r}")


def by_patient(cases: Sequence[Case], patient: str, problems: Problems) -> list[Case]:
    """The cases with the patient that the pattern finds in their ids; an id that does not match is a problem."""
    owners = [_owner(patient, case.id) for case in cases]
    if not all(owners):
        message = _no_match(cases, patient)  # the same for every case, so that they are told together
        unknown = (case for case, owner in zip(cases, owners, strict=True) if not owner)
        problems += [Problem(case.id, "no_patient", message) for case in unknown]
    return [replace(case, patient_id=owner) for case, owner in zip(cases, owners, strict=True) if owner]


def _owner(patient: str, name: str) -> str:
    """The patient of a case id; empty where the pattern does not match all of it."""
    match = re.fullmatch(patient, name, re.DOTALL)  # an id with a line break is refused with a word of its own
    return (match[1] or "") if match else ""


def _no_match(cases: Sequence[Case], patient: str) -> str:
    longer = f"{patient}.*"
    fits = all(_owner(longer, case.id) for case in cases)
    fix = f"write '{longer}', which does" if fits else "correct it"
    return f"`data.layout.patient: '{patient}'` must match the whole case id, and does not; {fix}"


def shared_patients(cases: Sequence[Case]) -> list[Problem]:
    """A warning where each case counts as a patient, and the ids look as if patients had several cases.

    They do where what is left of them without their last part (after `_` or `-`) is shared by some cases, and each such
    rest has a number that no other has: of `FLARE22_Tr_0001` all cases share it, of `case_0001` it has no number.
    """
    if len({case.patient_id for case in cases}) < len(cases):
        return []
    ids = sorted(case.id for case in cases)
    for pattern in (_BIDS, _LAST, _LAST_IF_ANY):
        owners = [_owner(pattern, name) for name in ids]
        if all(owners):
            break
    patients: dict[str, list[str]] = {}
    for owner, name in zip(owners, ids, strict=True):
        patients.setdefault(owner, []).append(name)
    numbers = {tuple(re.findall(r"\d+", name)) for name in patients}
    if not 1 < len(patients) < len(ids) or () in numbers or len(numbers) < len(patients):
        return []
    example = next(names for names in patients.values() if len(names) > 1)
    return [
        Problem(
            "patients",
            "shared_patient",
            f"each of {len(ids)} cases counts as a patient of its own, but their ids look like {len(patients)} "
            f"patients ({example[0]} and {example[1]} of one), who may then lie in train and test; if they are, write "
            f"`patient: '{pattern}'` into `data.layout`",
            "warning",
        )
    ]
