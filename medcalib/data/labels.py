"""From the codes in a label file to classes 0..C-1 and back, by a named convention, never by guessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.errors import DataError

IGNORE = 255  # class index of ignored voxels; LabelMap allows at most 255 classes
_PIECE = 1 << 22
_TOLERANCE = 1e-3  # scl_slope stores 1 as 0.99999997; a resampled mask (0.6) must still be refused

# What the codes of published datasets mean. Code 4 is enhancing tumor in one year and a resection cavity in
# another, so the convention is named in the config and checked, never derived from the values.
CONVENTIONS: dict[str, dict[str, int]] = {
    "acdc": {"RV": 1, "MYO": 2, "LV": 3},
    "brats2013": {"NCR": 1, "ED": 2, "NET": 3, "ET": 4},
    "brats2017-2021": {"NCR": 1, "ED": 2, "ET": 4},
    "brats2023": {"NCR": 1, "ED": 2, "ET": 3},
    "brats2024": {"NETC": 1, "SNFH": 2, "ET": 3, "RC": 4},
    "msd_brats": {"ED": 1, "NCR": 2, "ET": 3},
    "flare21": {"liver": 1, "kidney": 2, "spleen": 3, "pancreas": 4},
    "flare22": {
        "liver": 1,
        "right kidney": 2,
        "spleen": 3,
        "pancreas": 4,
        "aorta": 5,
        "inferior vena cava": 6,
        "right adrenal gland": 7,
        "left adrenal gland": 8,
        "gallbladder": 9,
        "esophagus": 10,
        "stomach": 11,
        "duodenum": 12,
        "left kidney": 13,
    },
}


@dataclass(frozen=True)
class LabelMap:
    """`class_names` in order (background first) and the file `codes` of each; several codes may form one class.

    Voxels of `ignore_code` count nowhere; None: there are no such voxels.
    """

    class_names: tuple[str, ...]
    codes: tuple[tuple[int, ...], ...]
    ignore_code: int | None = None

    @classmethod
    def consecutive(cls, class_names: Sequence[str]) -> LabelMap:
        """Codes 0..C-1 in the order of the names. `class_names`: background first."""
        return cls(tuple(class_names), tuple((k,) for k in range(len(class_names))))

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)

    def encode(self, array: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """Class indices (i, j, k) uint8, ignored voxels = 255, of an array (i, j, k) of file codes.

        Values are rounded within 1e-3. Raises `DataError`, which begins with `where`, names the codes and says how many
        voxels hold them, when a value is not finite, not an integer, or not declared.
        """
        table = {code: index for index, codes in enumerate(self.codes) for code in codes}
        if self.ignore_code is not None:
            table[self.ignore_code] = IGNORE
        if array.dtype in (np.uint8, np.uint16):
            return self._encode_small(array, table, where)
        values, inverse = np.unique(array, return_inverse=True)
        whole = np.round(values.astype(np.float64))
        if not np.isfinite(whole).all():
            raise DataError(
                "label_not_finite",
                f"{where}: the label holds NaN or infinite values; give those voxels a code, such as 0",
            )
        fractional = np.abs(values - whole) > _TOLERANCE
        if fractional.any():
            shown = ", ".join(f"{v:g}" for v in values[fractional][:5])
            raise DataError(
                "label_not_integer",
                f"{where}: label values {shown} are not whole numbers; was it resampled with interpolation? Nearest "
                "neighbor keeps the codes",
            )
        unknown = [int(v) for v in whole if int(v) not in table]
        if unknown:
            self._refuse(unknown, whole, np.bincount(inverse.ravel(), minlength=len(values)), where)
        lookup = np.array([table[int(v)] for v in whole], np.uint8)
        return lookup[inverse].reshape(array.shape)

    def _encode_small(self, array: NDArray[Any], table: Mapping[int, int], where: str) -> NDArray[np.uint8]:
        """As `encode`, by counting and a lookup: no sort of hundreds of millions of voxels."""
        size = int(np.iinfo(array.dtype).max) + 1
        flat = array.ravel(order="K")
        counts = np.zeros(size, np.int64)
        for start in range(0, flat.size, _PIECE):  # bincount makes int64 of its input: eight bytes a voxel
            counts += np.bincount(flat[start : start + _PIECE], minlength=size)
        whole = np.flatnonzero(counts)
        unknown = [int(code) for code in whole if int(code) not in table]
        if unknown:
            self._refuse(unknown, whole, counts[whole], where)
        lookup = np.zeros(size, np.uint8)
        for code, index in table.items():
            if 0 <= code < size:
                lookup[code] = index
        classes: NDArray[np.uint8] = lookup[array]
        return classes

    def _refuse(self, unknown: list[int], whole: NDArray[Any], counts: NDArray[Any], where: str) -> None:
        shown = ", ".join(f"{v} ({counts[whole == v].sum():,} voxels)" for v in sorted(set(unknown))[:8])
        declared = ", ".join(f"{n}={'/'.join(map(str, c))}" for n, c in zip(self.class_names, self.codes, strict=True))
        raise DataError(
            "unknown_label",
            f"{where}: label code {shown} is not declared ({declared}); add it to the classes (`labels` of a config, "
            "`codes` of a sidecar), or name it as the code to ignore (`ignore_label`, `ignore_code`)",
        )

    def decode(self, classes: NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.int32]:
        """File codes of `classes` (i, j, k), indices or 255; where several codes form one class, the first one."""
        lookup = np.zeros(256, np.int32)
        for index, codes in enumerate(self.codes):
            lookup[index] = codes[0]
        if self.ignore_code is not None:
            lookup[IGNORE] = self.ignore_code
        decoded: NDArray[np.int32] = lookup[classes]
        return decoded.astype(np.uint8) if lookup.min() >= 0 and lookup.max() < 256 else decoded


def convention_errors(convention: str, labels: Mapping[str, tuple[int, ...]]) -> list[tuple[str, str]]:
    """What in `labels` contradicts the named convention: (class, one sentence) each."""
    known = CONVENTIONS[convention]
    by_code = {code: name for name, code in known.items()}
    errors = []
    for name, codes in labels.items():
        if name in known and known[name] not in codes:
            shown = "/".join(map(str, codes))
            errors.append(
                (name, f"{name} has code {shown}, but convention {convention!r} says {name} is {known[name]}")
            )
        elif absent := [code for code in codes if code != 0 and code not in by_code]:
            errors.append((name, f"{name} has code {absent[0]}, which convention {convention!r} does not have"))
    return errors
