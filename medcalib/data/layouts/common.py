"""What the layouts share: listing NIfTI files, pairing, and reporting what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath

from medcalib.data.nifti import is_nifti, stem
from medcalib.errors import Problem

POSTERIOR = "_posterior"  # a phantom's known class posterior lies beside the label under this suffix
Problems = list[Problem]


def folder(path: Path, problems: Problems) -> list[Path]:
    """Sorted entries of a folder, dot files left out; a missing folder is a problem."""
    if not path.is_dir():
        came = "is a file, not a folder" if path.exists() else "does not exist"
        problems.append(
            Problem(str(path), "missing_folder", f"the folder {came}, and the layout reads it; correct --data")
        )
        return []
    return sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))


def volumes(path: Path, problems: Problems) -> list[Path]:
    """Sorted NIfTI files of a folder; other files, dot files and posteriors are left out."""
    entries = folder(path, problems)
    found = [f for f in entries if is_nifti(f) and not stem(f).endswith(POSTERIOR)]
    others = sorted({f.suffix for f in entries if f.suffix and f.is_file()})
    if others and not found:
        message = f"holds no NIfTI file (.nii.gz or .nii), but {', '.join(others[:5])}; convert them"
        problems.append(Problem(str(path), "no_files", message))
    for name in (name for name, number in Counter(map(stem, found)).items() if number > 1):
        problems.append(Problem(name, "ambiguous_file", f"{name}.nii and {name}.nii.gz both exist in {path}; keep one"))
    return found


def existing(directory: Path, name: str, problems: Problems, case: str) -> Path | None:
    """`directory/name.nii.gz` or `.nii`, whichever exists; both are a problem of the case."""
    found = [path for path in (directory / f"{name}.nii.gz", directory / f"{name}.nii") if is_file(path)]
    if len(found) > 1:
        problems.append(Problem(case, "ambiguous_file", f"{name}.nii and {name}.nii.gz both exist; keep one"))
    return found[0] if found else None


def posterior(directory: Path, name: str) -> Path | None:
    """The phantom posterior of a case, where there is one."""
    if PurePath(name).name != name:  # such an id is refused later, and leads nowhere until then
        return None
    return existing(directory, name + POSTERIOR, [], name)


def is_file(path: Path) -> bool:
    """Whether a file is there; no error for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def check_below(option: str, value: str) -> None:
    """ValueError for an option that names a file or folder and leads out of the one it belongs to."""
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{option} must name something below the folder, without .. and a leading /, got {value!r}")


def check_once(option: str, values: Sequence[str]) -> None:
    """ValueError for a channel that is named twice."""
    twice = [value for value, number in Counter(values).items() if number > 1]
    if twice:
        raise ValueError(f"{option} names {twice[0]} twice; a channel is read once")


def report_unpaired(kind: str, missing: str, names: Iterable[str], problems: Problems) -> None:
    """One problem for each file that has no partner."""
    for name in sorted(names):
        problems.append(
            Problem(name, "unpaired", f"{kind} without {missing}; add it, or set `data.skip_unpaired: true`")
        )
