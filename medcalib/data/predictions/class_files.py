"""One 3-D NIfTI a class: `<case>_<class>.nii.gz`, `<case>/<class>.nii.gz`, or numbered from 0."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import escape
from pathlib import Path

import numpy as np

from medcalib.data.geometry import Affine
from medcalib.data.nifti import is_nifti, read_header, stem
from medcalib.data.predictions.channels import MAX_VALUES
from medcalib.data.predictions.grid import Grid
from medcalib.data.predictions.volumes import mapped_voxels
from medcalib.data.predictions.voxels import Voxels
from medcalib.errors import DataError

NUMBERED = re.compile(r"(?:prob_(\d{1,3})|(\d{4}))\Z")


def file_names(class_name: str) -> set[str]:
    """How the name of a class may be spelt in a file name: as it is, or with `_` for spaces and slashes."""
    return {class_name, re.sub(r"[^A-Za-z0-9.+-]+", "_", class_name)}


def class_files(prediction: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The files of a prediction by class, in the order of `names`; a single 4-D volume among them holds all classes.

    `prediction` is the folder `<case>` or the prefix `<case>` of its files. Exactly one naming must be complete: by
    class, `prob_<k>` or four digits (`0000`). Raises `DataError`: channel_count (naming what is missing),
    ambiguous_prediction.
    """
    start = f"{prediction.name}_"
    pattern = "*" if prediction.is_dir() else f"{escape(start)}*"
    inside = prediction if prediction.is_dir() else prediction.parent
    files = [path for path in sorted(inside.glob(pattern)) if path.is_file() and is_nifti(path)]
    if len(files) == 1:
        return (files[0],)
    rests = [(stem(path).removeprefix(start), path) for path in files]
    schemes = _schemes(rests, names)
    complete = [tuple(found[k][0] for k in range(len(names))) for found in schemes if _complete(found, names)]
    if len(complete) == 1 and not any(len(paths) > 1 for found in schemes for paths in found.values()):
        return complete[0]
    if complete:
        shown = ", ".join(path.name for path in files[:6])
        raise DataError("ambiguous_prediction", f"{prediction}: several sets of class files ({shown}); keep one")
    whole = [path for path in files if len(read_header(path, max_voxels=MAX_VALUES).shape) == 4]
    if len(whole) == 1:
        return (whole[0],)  # beside a segmentation, say
    best = max(schemes, key=len)
    missing = [name for k, name in enumerate(names) if k not in best]
    extra = f"; numbers above {len(names) - 1} have no class" if best.keys() - set(range(len(names))) else ""
    wrong = f"no file for {', '.join(missing)} among its class files" if missing else "more class files than classes"
    raise DataError("channel_count", f"{prediction}: {wrong}; expected one file for each of {', '.join(names)}{extra}")


def _complete(found: dict[int, list[Path]], names: Sequence[str]) -> bool:
    return found.keys() == set(range(len(names)))


def _schemes(rests: Sequence[tuple[str, Path]], names: Sequence[str]) -> list[dict[int, list[Path]]]:
    """By each naming: class index -> files."""
    by_name: dict[int, list[Path]] = {}
    by_prob: dict[int, list[Path]] = {}
    by_digits: dict[int, list[Path]] = {}
    for rest, path in rests:
        for k, name in enumerate(names):
            if rest in file_names(name):
                by_name.setdefault(k, []).append(path)
        if number := NUMBERED.match(rest):
            (by_digits if number[1] is None else by_prob).setdefault(int(number[1] or number[2]), []).append(path)
    return [by_name, by_prob, by_digits]


def read_class_files(files: Sequence[Path], grid: Grid) -> tuple[Voxels, Affine, tuple[str, ...]]:
    """Channels of one file each, all on one grid (that of the reference) and scaled alike; affine; header warnings."""
    headers = [read_header(path, max_voxels=MAX_VALUES) for path in files]
    first = headers[0]
    for path, header in zip(files, headers, strict=True):
        if len(header.shape) != 3:
            raise DataError("bad_shape", f"{path} has shape {header.shape}; a file of one class is 3-D")
        if header.shape != first.shape or not np.allclose(header.affine, first.affine, atol=1e-3):
            raise DataError(
                "affine_mismatch", f"{path} lies on another grid than {files[0].name}; write all classes on one"
            )
        if (header.slope, header.intercept, header.dtype) != (first.slope, first.intercept, first.dtype):
            raise DataError(
                "mixed_types", f"{path} is stored as {header.dtype}, scaled by {header.slope:g}, {files[0].name} as "
                f"{first.dtype}, scaled by {first.slope:g}; write all classes alike"
            )  # fmt: skip
    grid.check(first, str(files[0]))
    parts = [mapped_voxels(path, header) for path, header in zip(files, headers, strict=True)]
    warnings = tuple(sorted({code for header in headers for code in header.warnings}))
    voxels = Voxels(
        tuple(array for _, array in parts), tuple(mapped for mapped, _ in parts), first.slope, first.intercept
    )
    return voxels, first.affine, warnings
