"""Whether the values of a prediction can be what they are said to be: refused or warned about, never repaired."""

from __future__ import annotations

from pathlib import Path

from medcalib.data.predictions.channels import Activation
from medcalib.data.predictions.survey import OVERSHOOT, SUM_TOLERANCE, Survey
from medcalib.data.predictions.voxels import Voxels
from medcalib.errors import DataError

LOGIT_SHARE = 0.01  # of voxels beyond [0, 1]: a few are rounding or a fault, many are logits
UNIFORM_SHARE = 0.001
_CROP = "the inverse of a crop fills with 0; fill background with 1, or score the cropped grid"


def quantum(voxels: Voxels) -> float:
    """The step between stored values; 0 for floats."""
    return 0.0 if voxels.dtype.kind == "f" else abs(voxels.slope)


def sum_tolerance(voxels: Voxels) -> float:
    """How far from 1 the sum over channels may lie: 1e-3, and what rounding to the stored step adds."""
    step = quantum(voxels)
    return SUM_TOLERANCE + (len(voxels.channels) * step / 2 if step < 1 else 0.0)


def judge(path: Path, found: Survey, voxels: Voxels, activation: Activation) -> tuple[str, ...]:
    """Warnings on the values of a prediction, or `DataError`.

    Reasons: not_finite, unscaled_probabilities, out_of_range, looks_like_logits, looks_like_probabilities,
    zero_probabilities, sums_off.
    """
    if found.not_finite:
        what = f"{_share(found.not_finite, found)} hold NaN or infinite values"
        raise DataError("not_finite", f"{path}: {what}; predict the case again, in float32")
    if activation == "logits":
        return _judge_logits(path, found, voxels)
    if quantum(voxels) == 1 and found.high > 1:
        raise DataError(
            "unscaled_probabilities",
            f"{path} stores {voxels.dtype} values up to {found.high:g} without a scale; say which value means 1 in its "
            'sidecar, for example "scale": 255',
        )
    if found.outside_range:
        raise _outside(path, found)
    if activation == "softmax":
        _judge_sums(path, found, sum_tolerance(voxels))
    return _warnings(found, voxels, activation)


def _judge_logits(path: Path, found: Survey, voxels: Voxels) -> tuple[str, ...]:
    if found.low >= 0 and found.high <= 1 + OVERSHOOT and not found.off_sum:
        raise DataError(
            "looks_like_probabilities",
            f"{path} is declared as logits, but every voxel's values lie in [0, 1] and sum to 1; leave out --logits, "
            'or correct "activation" in its sidecar',
        )
    return _stored(voxels)


def _outside(path: Path, found: Survey) -> DataError:
    span = f"{found.low:.4g}..{found.high:.4g}"
    where = _share(found.outside_range, found)
    if found.low >= 0 and abs(found.mean_sum - 100) < 1:
        return DataError("out_of_range", f'{path} holds percentages ({span}); say "scale": 100 in its sidecar')
    if found.outside_range > LOGIT_SHARE * found.voxels:
        return DataError(
            "looks_like_logits",
            f"{path}: values {span} in {where} cannot be probabilities; if they are logits, pass --logits or say "
            '"activation": "logits" in its sidecar',
        )
    return DataError("out_of_range", f"{path}: {where} hold values outside [0, 1] ({span}); export probabilities")


def _judge_sums(path: Path, found: Survey, tolerance: float) -> None:
    if found.zero:
        raise DataError(
            "zero_probabilities", f"{path}: {_share(found.zero, found)} have probability 0 for every class; {_CROP}"
        )
    if found.off_sum:
        raise DataError(
            "sums_off",
            f"{path}: in {_share(found.off_sum, found)} the probabilities do not sum to 1 within {tolerance:g} (worst "
            f'sum {found.worst_sum:.4g}); independent region channels need "activation": "sigmoid" and "groups" in '
            "the sidecar, or the dataset.json of nnU-Net",
        )


def _warnings(found: Survey, voxels: Voxels, activation: Activation) -> tuple[str, ...]:
    texts = list(_stored(voxels))
    if activation == "softmax" and found.uniform > UNIFORM_SHARE * found.voxels:
        texts.append(
            f"uniform_probabilities: {_share(found.uniform, found)} have probability 1/{len(voxels.channels)} for "
            "every class, as softmax makes of logits that an inverted crop filled with 0"
        )
    if not found.soft:
        texts.append("hard_labels: every value is 0 or 1: these are labels, not probabilities")
    return tuple(texts)


def _stored(voxels: Voxels) -> tuple[str, ...]:
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize == 2:
        return (
            "float16_probabilities: values are stored with 11 bits: those above 0.99976 became 1 and small ones coarse",
        )
    if 0 < quantum(voxels) < 1:
        return (
            f"quantized_probabilities: values are stored in steps of {quantum(voxels):.3g}; they are divided by their "
            "sum in each voxel",
        )
    return ()


def _share(count: int, found: Survey) -> str:
    voxels = "voxel" if count == 1 else "voxels"
    return f"{count:,} {voxels} ({100 * count / max(1, found.voxels):.3g} %)"
