"""ACDC: patient001/{Info.cfg, patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz}, and so on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from medcalib.data.case import Case
from medcalib.data.layouts.common import Problems, existing, folder, posterior
from medcalib.errors import Problem


def acdc(
    root: Path,
    problems: Problems,
    *,
    phases: Annotated[Sequence[Literal["ED", "ES"]], "which of the two frames are cases"] = ("ED", "ES"),
) -> list[Case]:
    """Cases of the ACDC challenge (MICCAI 2017): the end-diastolic and end-systolic frames.

    `root` is the folder that holds `training/` (and `testing/`), or its parent. Which frame is ED and which is
    ES is read from Info.cfg: patient090 has ED = 4. Cases below `testing/` get `split="test"`. `phases`: which of the
    two frames are cases.
    """
    base = root / "database" if (root / "database").is_dir() else root
    parts = [(base / "training", None), (base / "testing", "test")]
    if not any(path.is_dir() for path, _ in parts):
        parts = [(base, None)]
    cases = []
    for path, split in parts:
        if path.is_dir():
            patients = [entry for entry in folder(path, problems) if entry.is_dir()]
            if not any((entry / "Info.cfg").is_file() or entry.name.startswith("patient") for entry in patients):
                continue  # another folder than ACDC's: told once, not for everything in it
            cases += [case for entry in patients for case in _patient(entry, split, phases, problems)]
    return cases


def _patient(path: Path, split: str | None, phases: Sequence[str], problems: Problems) -> list[Case]:
    frames = _frames(path / "Info.cfg", problems)
    cases = []
    for phase in phases:
        if phase not in frames:
            continue
        name = f"{path.name}_frame{frames[phase]:02d}"
        image = existing(path, name, problems, path.name)
        if image is None:
            problems.append(
                Problem(
                    path.name,
                    "missing_image",
                    f"Info.cfg says {phase} is {name}, but there is no such file; add it, or exclude the patient",
                )
            )
            continue
        label = existing(path, f"{name}_gt", problems, path.name)
        cases.append(Case(name, path.name, (image,), label, split, posterior(path, name)))
    return cases


def _frames(info: Path, problems: Problems) -> dict[str, int]:
    """ED and ES frame numbers of `key: value` lines (there is no section header)."""
    where = info.parent.name
    if not info.is_file():
        problems.append(
            Problem(where, "missing_info", "no Info.cfg, which names the ED and ES frames; copy it from the dataset")
        )
        return {}
    pairs = (line.partition(":") for line in info.read_text(encoding="utf-8", errors="replace").splitlines())
    values = {key.strip(): value.strip() for key, _, value in pairs}
    frames = {}
    for phase in ("ED", "ES"):
        if re.fullmatch(r"\d{1,4}", values.get(phase, ""), re.ASCII):
            frames[phase] = int(values[phase])
        else:
            came = f"got {values[phase][:40]!r}" if phase in values else "there is none"
            problems.append(Problem(where, "bad_info", f"Info.cfg: expected a line `{phase}: <frame number>`, {came}"))
    return frames
