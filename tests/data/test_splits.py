"""No patient lies on two sides, whatever the seed, the folds or the lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcalib.data.case import Case
from medcalib.data.splits import Split, checked, kfold, listed
from medcalib.errors import DataRefusedError


def case(patient: int, frame: int = 1, split: str | None = None) -> Case:
    return Case(f"p{patient:03d}_f{frame}", f"p{patient:03d}", (Path("x.nii"),), None, split)


def cohort(patients: int, frames: int = 2, test_from: int | None = None) -> list[Case]:
    """`frames` cases of each patient; those from `test_from` on lie in the test folder."""
    return [
        case(p, f, "test" if test_from is not None and p >= test_from else None)
        for p in range(patients)
        for f in range(1, frames + 1)
    ]


def patients(cases: list[Case]) -> set[str]:
    return {c.patient_id for c in cases}


def sides(split: Split) -> tuple[set[str], set[str], set[str]]:
    return patients(split["train"]), patients(split["val"]), patients(split["test"])


@given(
    st.integers(2, 40),
    st.integers(1, 3),
    st.integers(2, 8),
    st.integers(0, 2**32 - 1),
    st.one_of(st.just("layout"), st.floats(0, 0.9)),
)
@settings(max_examples=80, deadline=None)
def test_folds_partition_the_patients_and_share_the_test_set(
    number: int, frames: int, folds: int, seed: int, test: float | str
) -> None:
    cases = cohort(number, frames, test_from=number - 1)
    left = number - (1 if isinstance(test, str) else round(test * number))
    if 1 < left < folds:
        with pytest.raises(DataRefusedError, match=f"{folds} folds of {left} patients") as caught:
            kfold(cases, folds=folds, seed=seed, test=test)
        assert [p.reason for p in caught.value.problems] == ["too_many_folds"]
        assert f"set `split.folds` to {left} or less" in str(caught.value)
        return
    found = [kfold(cases, folds=folds, fold=fold, seed=seed, test=test) for fold in range(folds)]
    for split in found:
        train, val, held_out = sides(split)
        assert not train & val | train & held_out | val & held_out
        assert sorted(c.id for part in split.values() for c in part) == sorted(c.id for c in cases)
        assert held_out == sides(found[0])[2]
    validated = [patient for split in found for patient in sides(split)[1]]
    assert sorted([*validated, *sides(found[0])[2]]) == sorted(patients(cases))
    sizes = [len(sides(split)[1]) for split in found]
    assert max(sizes) - min(sizes) <= 1


def test_a_share_is_of_patients_and_layout_is_what_the_folders_say() -> None:
    cases = cohort(10, test_from=7)
    assert len(sides(kfold(cases, test=0.2))[2]) == 2
    assert not sides(kfold(cases, test=0.0))[2]
    assert sides(kfold(cases, test="layout"))[2] == {"p007", "p008", "p009"}


def test_the_split_does_not_depend_on_the_order_of_cases_but_on_the_seed() -> None:
    cases = cohort(20)
    splits = [sides(kfold(cases[::step], seed=seed)) for step, seed in ((1, 0), (-1, 0), (1, 1))]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"fold": 5}, r"fold must lie in 0\.\.4, got 5"),
        ({"fold": -1}, r"fold must lie in 0\.\.4, got -1"),
        ({"test": 1.0}, r"test must be a share in \[0, 1\)"),
        ({"test": -0.1}, "test must be a share"),
        ({"test": float("nan")}, "test must be a share"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kfold(cohort(10), **options)


def test_lists_take_patients_and_cases_and_leave_out_the_rest() -> None:
    split = listed(cohort(4), train=["p000", "p001_f1"], val=["p002"])
    assert [c.id for c in split["train"]] == ["p000_f1", "p000_f2", "p001_f1"]
    assert patients(split["val"]) == {"p002"}
    assert not split["test"]


def test_an_unknown_id_is_refused_by_name() -> None:
    with pytest.raises(DataRefusedError, match="p999: no such patient or case"):
        listed(cohort(3), train=["p000", "p999"], val=["p001"])


@pytest.mark.parametrize(
    "lists",
    [
        {"train": ["p000_f1"], "val": ["p000_f2"]},
        {"train": ["p000"], "val": ["p001"], "test": ["p000_f2"]},
        {"train": ["p000", "p001"], "val": ["p001"]},
    ],
)
def test_two_frames_of_a_patient_on_two_sides_are_a_leak(lists: dict[str, list[str]]) -> None:
    with pytest.raises(DataRefusedError, match=r"patient p00[01] is in .* and .*; keep one \[patient_leak\]"):
        checked(listed(cohort(3), **lists))


@pytest.mark.parametrize(("split", "side"), [({"folds": 2, "test": 0.9}, "train"), ({"test": 0.8, "fold": 4}, "val")])
def test_an_empty_side_is_refused(split: dict[str, float], side: str) -> None:
    with pytest.raises(DataRefusedError, match=f"no case is left for {side}"):
        checked(kfold(cohort(5), **split))


def test_every_leak_and_empty_side_is_listed_at_once() -> None:
    with pytest.raises(DataRefusedError) as caught:
        checked({"train": cohort(2), "val": [], "test": cohort(2)})
    assert [p.reason for p in caught.value.problems] == ["patient_leak", "patient_leak", "empty_split"]
