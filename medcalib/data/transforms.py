"""From a loaded case to network input and back. MONAI's transforms; MetaTensor ends here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcalib.data.geometry import Affine, is_sheared, reoriented, voxel_sizes
from medcalib.data.labels import IGNORE
from medcalib.data.load import LoadedCase
from medcalib.data.nifti_header import MAX_VOXELS
from medcalib.errors import DataError

Item = dict[str, Any]


@dataclass(frozen=True)
class Preprocess:
    """Deterministic part: reorient, resample, normalize. Orientation codes name the array order."""

    orientation: str
    spacing_mm: tuple[float, float, float] | None
    normalize: Callable[[Any], Any]

    def shape_of(self, shape: Sequence[int], affine: Affine) -> tuple[int, ...]:
        """The size that a volume (i, j, k) on the grid `affine` will have, without computing it."""
        moved, grid = reoriented(np.broadcast_to(np.uint8(0), tuple(shape)), affine, _oriented(self.orientation))
        if self.spacing_mm is None:
            return moved.shape
        pairs = zip(moved.shape, voxel_sizes(grid), self.spacing_mm, strict=True)
        return tuple(round((n - 1) * old / new + 1) for n, old, new in pairs)  # from center to center, as MONAI

    def __call__(self, loaded: LoadedCase) -> Item:
        """Plain tensors: image (M, *S) float32, label (*S) uint8 if there is one, and the affine of their grid."""
        target = _oriented(self.orientation)
        image, affine = _moved(loaded.image, loaded.affine, target)
        tensor = torch.from_numpy(np.array(image, order="C"))  # a copy: MONAI normalizes in place
        label = None
        if loaded.label is not None:
            moved, _ = reoriented(loaded.label, loaded.affine, target)
            label = torch.from_numpy(np.ascontiguousarray(moved))
        if self.spacing_mm is not None:
            if is_sheared(affine):
                raise DataError(
                    "sheared_resampling",
                    f"{loaded.case.id}: a sheared volume cannot be resampled; exclude it, or set "
                    "`preprocess.spacing_mm: null`",
                )
            _require_room(loaded.case.id, tensor.shape[1:], affine, self.spacing_mm)
            tensor, label, affine = _resampled(tensor, label, affine, self.spacing_mm)
        tensor = plain(self.normalize(tensor)).float()
        if not bool(torch.isfinite(tensor).all()):
            raise DataError(
                "bad_normalization",
                f"{loaded.case.id}: normalized intensities are not finite; look at its values and at "
                "`preprocess.intensity`",
            )
        item: Item = {"image": tensor, "affine": affine}
        if label is not None:
            item["label"] = label
        return item


def to_native(
    values: Tensor, affine: Affine, native_affine: Affine, native_shape: Sequence[int]
) -> NDArray[np.float32]:
    """values (C, *S) on the network's grid, on the image's own grid (C, i, j, k).

    Flips and permutations are exact; only a change of voxel size interpolates (linear, edges repeated, so that
    no voxel at the border falls out of the field).
    """
    array, moved = _moved(values.numpy(), affine, native_affine)
    if array.shape[1:] != tuple(native_shape) or not np.allclose(moved, native_affine, atol=1e-3):
        from monai.data import MetaTensor
        from monai.transforms import SpatialResample

        resample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=False, dtype=torch.float32)
        tensor = MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), affine=torch.from_numpy(moved))
        array = plain(
            resample(tensor, dst_affine=torch.from_numpy(native_affine), spatial_size=tuple(native_shape))
        ).numpy()
    return np.ascontiguousarray(array, dtype=np.float32)


class PatchSampler:
    """One random training patch of a preprocessed item: pad, crop, then the random changes, all MONAI's.

    The result depends on the seed given with each call alone, not on what was drawn before: so resuming is
    exact and the number of loader workers changes nothing.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        foreground_share: float,
        *,
        flip_axes: Sequence[int] = (),
        rotate_degrees: float = 0.0,
        zoom: float = 0.0,
        noise_std: float = 0.0,
        intensity_shift: float = 0.0,
        intensity_scale: float = 0.0,
        probability: float = 0.3,
    ) -> None:
        from monai import transforms as mt

        keys = ["image", "label"]
        crop = mt.RandCropByPosNegLabeld(
            keys, "foreground", patch_size, pos=foreground_share, neg=1 - foreground_share, num_samples=1
        )
        self._patch_size = tuple(patch_size)
        steps: list[Any] = [crop]
        steps += [mt.RandFlipd(keys, 0.5, axis) for axis in flip_axes]
        if rotate_degrees or zoom:
            angle = (0.0, 0.0, float(np.deg2rad(rotate_degrees)))
            modes = {"mode": ("bilinear", "nearest"), "padding_mode": ("border", "border")}
            steps.append(mt.RandAffined(keys, prob=probability, rotate_range=angle, scale_range=(zoom,) * 3, **modes))
        if intensity_scale:
            steps.append(mt.RandScaleIntensityd("image", intensity_scale, probability))
        if intensity_shift:
            steps.append(mt.RandShiftIntensityd("image", intensity_shift, prob=probability))
        if noise_std:
            steps.append(mt.RandGaussianNoised("image", probability, 0.0, noise_std))
        self._steps = mt.Compose(steps)

    def __call__(self, item: Item, seed: int) -> tuple[Tensor, Tensor]:
        """image (M, *patch) float32 and label (*patch) uint8."""
        self._steps.set_random_state(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI warns at each volume that has no foreground
            label = item["label"][None]
            foreground = (label > 0) & (label != IGNORE)  # ignored voxels teach nothing: no patch is centered there
            # outside the volume is no tissue: the darkest value, and a label that counts nowhere
            parts = {
                "image": (item["image"], float(item["image"].min())),
                "label": (label, IGNORE),
                "foreground": (foreground.to(torch.uint8), 0),
            }
            patch = self._steps({key: _grown(array, self._patch_size, fill) for key, (array, fill) in parts.items()})[0]
        return plain(patch["image"]).float(), plain(patch["label"])[0].to(torch.uint8)


def _grown(array: Tensor, size: Sequence[int], fill: float) -> Tensor:
    """array (K, *S) padded evenly with `fill` up to `size` where it is smaller."""
    missing = [max(wanted - got, 0) for wanted, got in zip(size, array.shape[1:], strict=True)]
    margin = [n for gap in reversed(missing) for n in (gap // 2, gap - gap // 2)]
    return torch.nn.functional.pad(array, margin, value=fill) if any(missing) else array


def plain(value: Any) -> Tensor:
    """A plain tensor of a MetaTensor, tensor or array."""
    tensor = torch.as_tensor(value)
    return tensor.as_subclass(torch.Tensor)


def _oriented(code: str) -> Affine:
    """An affine whose axes run along the codes: 'RAS' is the identity."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(code):
        row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        affine[row, axis] = 1.0 if letter in "RAS" else -1.0
    return affine


def _moved(array: NDArray[Any], affine: Affine, target: Affine) -> tuple[NDArray[Any], Affine]:
    """`reoriented` for arrays with the channel first."""
    moved, new_affine = reoriented(np.moveaxis(array, 0, -1), affine, target)
    return np.moveaxis(moved, -1, 0), new_affine


def _require_room(case_id: str, shape: Sequence[int], affine: Affine, spacing_mm: Sequence[float]) -> None:
    """Refuse a voxel size so small that no volume of that many voxels can be held."""
    own = voxel_sizes(affine)
    size = [round(n * old / new) for n, old, new in zip(shape, own, spacing_mm, strict=True)]
    if prod(size) > MAX_VOXELS:
        raise DataError(
            "too_large",
            f"{case_id}: resampled to {list(spacing_mm)} mm it would have {' x '.join(map(str, size))} voxels; choose "
            f"a larger `preprocess.spacing_mm` (its own is {[round(n, 3) for n in own]})",
        )


def _resampled(
    image: Tensor, label: Tensor | None, affine: Affine, spacing_mm: tuple[float, float, float]
) -> tuple[Tensor, Tensor | None, Affine]:
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    start = torch.from_numpy(affine)
    moved = Spacing(spacing_mm, mode="bilinear", padding_mode="border", dtype=torch.float32)(
        MetaTensor(image, affine=start)
    )
    if label is not None:
        nearest = Spacing(spacing_mm, mode="nearest", padding_mode="border")
        label = plain(nearest(MetaTensor(label[None].float(), affine=start)))[0].to(torch.uint8)
    return plain(moved), label, moved.affine.numpy().astype(np.float64)
