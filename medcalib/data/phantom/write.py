"""Writing phantom cases as a data set: one function a layout, with the real names and side files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medcalib.data.nifti import write_volume
from medcalib.data.phantom.model import PhantomCase, lookup, make_case
from medcalib.files import write_json, write_text

DEFAULT_ANATOMY = {
    "acdc": "heart",
    "brats": "tumor",
    "flare": "abdomen",
    "msd": "hippocampus",
    "nnunet": "tumor",
}
FIXED_ANATOMY = ("acdc", "brats", "flare")
BRATS_CODES = np.array([0, 1, 2, 4], dtype=np.uint8)  # NCR, ED, ET as in the challenges of 2017 to 2021
_UNLABELED = 100_000  # index of the first MSD test case: far from every training case
_INFO = 3  # random stream of the ACDC side file; the model uses 0 to 2


def write_dataset(
    layout: str,
    cases: int,
    seed: int,
    out: Path | str,
    anatomy: str | None = None,
    shape: Sequence[int] | None = None,
) -> Path:
    """Write a phantom data set with labels and, beside each label, its true posterior.

    Args:
        layout: "acdc", "brats", "flare", "msd" or "nnunet".
        cases: number of labeled cases; of patients, with two frames each, for acdc.
        seed: not negative; equal seeds give equal bytes (on one version of numpy, scipy and zlib), and case i
            is the same whatever `cases` is.
        out: folder to write to, made when missing.
        anatomy: "heart", "tumor", "abdomen" or "hippocampus"; free for msd and nnunet, fixed for the others.
        shape: other grid size for every case; the field of view in mm stays.

    Returns:
        The root of the data set: `out` itself, or the task folder below it for msd and nnunet.

    Raises:
        ValueError: for an unknown layout or anatomy, a pair that does not go together, a number below range.
        FileExistsError: when the root is there and not empty.
    """
    name = _checked(layout, cases, seed, anatomy)
    root = Path(out) / ROOTS.get(layout, "")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not an empty folder; delete it or choose another one")
    root.mkdir(parents=True, exist_ok=True)
    WRITERS[layout](root, name, cases, seed, shape)
    return root


def _checked(layout: str, cases: int, seed: int, anatomy: str | None) -> str:
    """Check the arguments of `write_dataset` before anything is written; return the name of the anatomy."""
    if layout not in WRITERS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(WRITERS)}")
    if cases < 1 or seed < 0:
        raise ValueError(f"cases must be at least 1 and seed at least 0, got cases={cases} and seed={seed}")
    default = DEFAULT_ANATOMY[layout]
    if anatomy not in (None, default) and layout in FIXED_ANATOMY:
        raise ValueError(f"layout {layout} goes with anatomy {default}, got {anatomy!r}; msd and nnunet take any")
    lookup(anatomy or default)
    return anatomy or default


def _write_image(path: Path, case: PhantomCase, anatomy: str, channel: int | None = None) -> None:
    """One channel, or all of them with the channel last; a single channel is a 3-D volume."""
    images = np.moveaxis(case.images, 0, -1) if channel is None else case.images[channel]
    if channel is None and len(case.images) == 1:
        images = images[..., 0]
    write_volume(path, images.astype(np.int16) if lookup(anatomy).integer else images, case.affine)


def _write_posterior(folder: Path, name: str, case: PhantomCase) -> None:
    """(x, y, z, C) float32 beside the label."""
    write_volume(folder / f"{name}_posterior.nii.gz", np.moveaxis(case.posterior, 0, -1), case.affine)


def _info(seed: int, index: int) -> dict[str, str | int]:
    """What Info.cfg says of one patient. Every eighth patient, from the second on, does not start at ED."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index], spawn_key=(_INFO,)))
    start = 4 if index % 8 == 1 else 1
    return {
        "ED": start,
        "ES": start + int(rng.integers(7, 13)),
        "Group": str(rng.choice(["DCM", "HCM", "MINF", "NOR", "RV"])),
        "Height": f"{rng.integers(150, 191)}.0",
        "NbFrame": int(rng.integers(18, 31)),
        "Weight": f"{rng.integers(50, 101)}.0",
    }


def _acdc(root: Path, anatomy: str, cases: int, seed: int, shape: Sequence[int] | None) -> None:
    """Two frames a patient; of two or more patients the last quarter (at least one) goes to testing/."""
    training = cases - (max(1, round(cases / 4)) if cases > 1 else 0)
    for index in range(cases):
        patient = f"patient{index + 1:03d}"
        folder = root / ("training" if index < training else "testing") / patient
        info = _info(seed, index)
        write_text(folder / "Info.cfg", "".join(f"{key}: {value}\n" for key, value in info.items()))
        for phase in ("ED", "ES"):
            case = make_case(anatomy, seed, index, shape, phase=phase)
            frame = f"{patient}_frame{info[phase]:02d}"
            _write_image(folder / f"{frame}.nii.gz", case, anatomy)
            write_volume(folder / f"{frame}_gt.nii.gz", case.labels, case.affine)
            _write_posterior(folder, frame, case)


def _brats(root: Path, anatomy: str, cases: int, seed: int, shape: Sequence[int] | None) -> None:
    """The layout of 2020, codes 1, 2 and 4; the tables hold the columns of the real ones."""
    years = (
        "BraTS_2017_subject_ID",
        "BraTS_2018_subject_ID",
        "TCGA_TCIA_subject_ID",
        "BraTS_2019_subject_ID",
    )
    mapping = [f"Grade,{','.join(years)},BraTS_2020_subject_ID"]
    survival = ["Brats20ID,Age,Survival_days,Extent_of_Resection"]
    for index in range(cases):
        name = f"BraTS20_Training_{index + 1:03d}"
        case = make_case(anatomy, seed, index, shape)
        for channel, modality in enumerate(lookup(anatomy).channel_names):
            _write_image(root / name / f"{name}_{modality}.nii.gz", case, anatomy, channel)
        write_volume(root / name / f"{name}_seg.nii.gz", BRATS_CODES[case.labels], case.affine)
        _write_posterior(root / name, name, case)
        mapping.append(f"HGG,{','.join(['NA'] * len(years))},{name}")
        survival.append(f"{name},{50 + index % 30}.0,{200 + 10 * (index % 40)},NA")
    write_text(root / "name_mapping.csv", "\n".join(mapping) + "\n")
    write_text(root / "survival_info.csv", "\n".join(survival) + "\n")


def _flare(root: Path, anatomy: str, cases: int, seed: int, shape: Sequence[int] | None) -> None:
    """The labeled part of 2022."""
    for index in range(cases):
        name = f"FLARE22_Tr_{index + 1:04d}"
        case = make_case(anatomy, seed, index, shape)
        _write_image(root / "images" / f"{name}_0000.nii.gz", case, anatomy)
        write_volume(root / "labels" / f"{name}.nii.gz", case.labels, case.affine)
        _write_posterior(root / "labels", name, case)


def _msd(root: Path, anatomy: str, cases: int, seed: int, shape: Sequence[int] | None) -> None:
    """A decathlon task; beside the labeled cases a quarter as many (at least one) in imagesTs."""
    spec = lookup(anatomy)
    names = [f"{anatomy}_{index + 1:03d}" for index in range(cases)]
    for index, name in enumerate(names):
        case = make_case(anatomy, seed, index, shape)
        _write_image(root / "imagesTr" / f"{name}.nii.gz", case, anatomy)
        write_volume(root / "labelsTr" / f"{name}.nii.gz", case.labels, case.affine)
        _write_posterior(root / "labelsTr", name, case)
    tests = [f"{anatomy}_test_{k + 1:03d}" for k in range(max(1, cases // 4))]
    for k, name in enumerate(tests):
        case = make_case(anatomy, seed, _UNLABELED + k, shape)
        _write_image(root / "imagesTs" / f"{name}.nii.gz", case, anatomy)
    description = {
        "name": "Phantom",
        "description": f"Generated {anatomy} phantom with a known posterior",
        "reference": "medcalib",
        "licence": "CC0 1.0",
        "release": "1.0",
        "tensorImageSize": "3D" if len(spec.channel_names) == 1 else "4D",
        "modality": {str(k): channel for k, channel in enumerate(spec.channel_names)},
        "labels": {str(k): label for k, label in enumerate(spec.class_names)},
        "numTraining": len(names),
        "numTest": len(tests),
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": [f"./imagesTs/{n}.nii.gz" for n in tests],
    }
    write_json(root / "dataset.json", description)


def _nnunet(root: Path, anatomy: str, cases: int, seed: int, shape: Sequence[int] | None) -> None:
    """nnU-Net raw data, version 2: one file a channel, labels from name to code."""
    spec = lookup(anatomy)
    for index in range(cases):
        name = f"{anatomy}_{index + 1:03d}"
        case = make_case(anatomy, seed, index, shape)
        for channel in range(len(spec.channel_names)):
            _write_image(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz", case, anatomy, channel)
        write_volume(root / "labelsTr" / f"{name}.nii.gz", case.labels, case.affine)
        _write_posterior(root / "labelsTr", name, case)
    description = {
        "channel_names": {str(k): channel for k, channel in enumerate(spec.channel_names)},
        "labels": {label: k for k, label in enumerate(spec.class_names)},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    write_json(root / "dataset.json", description)


ROOTS = {"msd": "Task90_Phantom", "nnunet": "Dataset900_Phantom"}
WRITERS: dict[str, Callable[[Path, str, int, int, Sequence[int] | None], None]] = {
    "acdc": _acdc,
    "brats": _brats,
    "flare": _flare,
    "msd": _msd,
    "nnunet": _nnunet,
}
