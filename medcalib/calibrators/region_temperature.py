"""A temperature for the interior and one for the boundary of what is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d, pad

from medcalib.calibrators.calibrator import Calibrator
from medcalib.calibrators.group_temperature import GroupTemperature
from medcalib.calibrators.voxels import Batches, Voxels, as_sequence, predicted


class RegionTemperature(GroupTemperature):
    """z / T_r: r = 0 where the window around a voxel is predicted as one class (interior), else 1 (boundary).

    The regions are those of the region-adaptive losses, taken from the prediction, since a new image has no labels.
    `kernel_size` is the window, odd, one number or one per axis (thick slices: `[3, 3, 1]`); the edge of the volume
    is repeated. With `classwise` each predicted class has both, T_{k,r}. Works on volumes (B, C, *S) only.

    A form of its own of this toolkit; no paper proposes it. Each temperature is the exact minimum of its NLL.
    """

    name = "region_temperature"
    formula = "softmax(z / T_r), r = 0 where the window around the voxel is predicted as one class, else 1"
    reference = "medcalib: class-based temperature scaling over the regions of CRaC"

    def __init__(self, num_classes: int, *, kernel_size: int | Sequence[int] = 3, classwise: bool = False) -> None:
        sizes = [kernel_size] if isinstance(kernel_size, int) else list(kernel_size)
        if not all(size > 0 and size % 2 for size in sizes) or not any(size > 1 for size in sizes):
            raise ValueError(f"kernel_size must be odd, and above 1 along an axis, got {kernel_size}")
        shape = (num_classes, 2) if classwise else (2,)
        super().__init__(num_classes, *shape, kernel_size=kernel_size, classwise=classwise)
        reach = tuple(size // 2 for size in sizes)
        self.reach = reach[0] if isinstance(kernel_size, int) else reach

    def fit(
        self, logits: Batches, labels: Batches, *, mask: Batches | None = None, images: Batches | None = None
    ) -> Self:
        """As `Calibrator.fit`, on volumes. `mask`: as there."""
        del images
        groups = [self.groups(part) for part in as_sequence(logits)]
        self.fit_voxels(Voxels.of(logits, labels, self.num_classes, mask=mask, groups=groups))
        return self

    def groups(self, logits: Tensor) -> Tensor:
        """Interior 0 or boundary 1; with `classwise` plus twice the predicted class. Raises ValueError as `radii`."""
        classes = predicted(logits)
        radius = radii(self, logits)
        boundary = _mixed(classes, radius).long()
        return boundary + 2 * classes if self.options["classwise"] else boundary


def radii(calibrator: Calibrator, logits: Tensor) -> tuple[int, ...]:
    """`reach` along each axis of logits (B, C, *S). Raises ValueError for loose voxels and for other axes."""
    axes = logits.ndim - 2
    reach = calibrator.reach
    found = (reach,) * axes if isinstance(reach, int) else reach
    if axes not in (2, 3) or len(found) != axes:
        wanted = "2 or 3" if isinstance(reach, int) else str(len(reach))
        raise ValueError(
            f"{calibrator.name} looks at neighbors: expected logits with {wanted} spatial axes, got {axes}"
        )
    return found


def _mixed(classes: Tensor, radius: Sequence[int]) -> Tensor:
    """Whether the window around each voxel holds several classes: its largest is not its smallest."""
    pool = max_pool3d if len(radius) == 3 else max_pool2d
    margin = [n for r in reversed(radius) for n in (r, r)]
    padded = pad(classes[:, None].float(), margin, mode="replicate")
    size = [2 * r + 1 for r in radius]
    largest, smallest = pool(padded, size, 1), -pool(-padded, size, 1)
    return (largest != smallest)[:, 0]
