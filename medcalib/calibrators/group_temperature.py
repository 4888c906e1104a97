"""One temperature for each group of voxels, groups that the logits themselves decide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medcalib.calibrators.calibrator import LOWEST, Calibrator
from medcalib.calibrators.inverse_temperature import one_temperature, temperatures
from medcalib.calibrators.voxels import Chunk, Voxels


class GroupTemperature(Calibrator):
    """z / T_g, g the group of the voxel. The groups come from the prediction, so they are known for new images.

    The NLL is a sum over groups, so each temperature is the exact minimum of its own. A group without a minimum
    (absent, or all right in the data of the fit) takes the temperature of all voxels; `own_` tells which have their
    own. Dividing by a positive number keeps the arg-max.
    """

    keeps_argmax = True

    def __init__(self, num_classes: int, *shape: int, **options: Any) -> None:
        super().__init__(num_classes, **options)
        self.temperature_: Tensor
        self.own_: Tensor
        self.declare("temperature_", shape, low=LOWEST)
        self.register_buffer("own_", torch.zeros(shape, dtype=torch.bool))

    def groups(self, logits: Tensor) -> Tensor:
        """The group of each voxel (B, *S) int64 of logits (B, C, *S)."""
        raise TypeError(f"{type(self).__name__} does not define groups(logits)")

    def group_of(self, chunk: Chunk) -> Tensor:
        """The group of each voxel (n,) of a chunk."""
        return self.groups(chunk.logits[None])[0] if chunk.groups is None else chunk.groups

    def fit_voxels(self, voxels: Voxels) -> None:
        """Find the temperatures. Raises ValueError when the NLL of all voxels together has no minimum."""
        everywhere = one_temperature(voxels)
        found = temperatures(voxels, self.group_of, self.temperature_.numel()).reshape(self.temperature_.shape)
        self.own_ = ~found.isnan()
        self.temperature_ = found.nan_to_num(everywhere)

    def forward(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """logits / T_g, in the type of the logits."""
        del images
        self.check(logits)
        chosen = self.temperature_.flatten().to(logits.dtype)[self.groups(logits)]
        return self.finished(logits, logits / chosen[:, None])
