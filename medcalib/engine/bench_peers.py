"""What `medcalib bench losses` times: the losses, their peers as one would write them, and the batch they see."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcalib import losses
from medcalib.losses.multipliers import Multipliers

Shape = tuple[int, ...]
Loss = Callable[[Tensor, Tensor], Tensor]

# A to D are patches as people train on them; E and F are large enough to fill a GPU
SHAPES: dict[str, Shape] = {
    "A": (2, 4, 96, 96, 96),
    "B": (1, 4, 128, 128, 128),
    "C": (1, 14, 128, 128, 128),
    "D": (2, 4, 16, 256, 256),
    "E": (2, 4, 128, 128, 128),
    "F": (2, 14, 160, 160, 160),
}
CPU_SHAPES = ("A", "B", "C", "D")
BASELINE, COPY, COMPILED = "F.cross_entropy", "copy", "compiled"
OURS = ("medcalib ce", "medcalib mbls", "medcalib nacl", "medcalib crac")
MARGIN, RHO, WEIGHT = 5.0, 0.1, 0.1  # of the published crac, crac, and nacl and mbls
BLOB, SPREAD = 16, 4.0


class Contestant(NamedTuple):
    """A loss by number of classes; the same in plain torch, trusted in float64; and whom it has to beat."""

    build: Callable[[int], Loss] | None  # None: copies the logits, and has no loss
    oracle: Loss | None = None
    rival: str | None = None

    def ready(self, classes: int, device: str) -> Loss:
        """The loss on a device."""
        if self.build is None:
            raise ValueError("a copy has no loss")
        loss = self.build(classes)
        return loss.to(device) if isinstance(loss, nn.Module) else loss


def contestants(*, compiled: bool = False) -> dict[str, Contestant]:
    """Everything that can be timed, in the order of the table."""
    found = {
        COPY: Contestant(None),
        BASELINE: Contestant(lambda _: F.cross_entropy, F.cross_entropy),
        "medcalib ce": Contestant(partial(_ours, "ce"), F.cross_entropy),
        "medcalib mbls": Contestant(partial(_ours, "mbls"), plain_mbls),
        "medcalib nacl": Contestant(partial(_ours, "nacl"), plain_nacl, "MONAI nacl"),
        "medcalib crac": Contestant(partial(_ours, "crac"), plain_crac, "plain crac"),
        "MONAI nacl": Contestant(_monai_nacl, partial(plain_nacl, padding="zeros")),
        "plain nacl": Contestant(lambda _: plain_nacl, plain_nacl),
        "plain crac": Contestant(lambda _: plain_crac, plain_crac),
    }
    if compiled:
        found |= {
            f"{COMPILED} nacl": Contestant(lambda _: _compiled(plain_nacl), plain_nacl),
            f"{COMPILED} crac": Contestant(lambda _: _compiled(plain_crac), plain_crac),
        }
    return found


def batch(shape: Shape, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Random logits (B, C, D, H, W) that ask for a gradient, and smooth labels (B, D, H, W), int64.

    The labels are the largest of C random fields that vary over 16 voxels; with more classes the background is larger,
    so that about 30 % of the voxels are boundary at any C from 4. That is harder than real masks.
    """
    generator = torch.Generator().manual_seed(0)
    images, classes, *size = shape
    coarse = torch.randn(images, classes, *(math.ceil(n / BLOB) + 1 for n in size), generator=generator)
    coarse[:, 0] += max(0.0, 0.85 * math.log(classes / 4))
    labels = F.interpolate(coarse, size=size, mode="trilinear", align_corners=True).argmax(1)
    logits = SPREAD * torch.randn(shape, generator=generator)
    return logits.to(device).requires_grad_(), labels.to(device)


def multipliers(classes: int, device: torch.device | None = None) -> Tensor:
    """One for each class in boundaries, then one for each in the interior, all different."""
    return torch.linspace(0.05, 0.5, 2 * classes, dtype=torch.float64, device=device)


def window_shares(
    labels: Tensor, classes: int, dtype: torch.dtype, padding: Literal["background", "zeros"] = "background"
) -> Tensor:
    """Class proportions (B, C, D, H, W) of the 3 x 3 x 3 window; outside the array is background, or no class."""
    if padding == "background":
        labels = F.pad(labels, (1,) * 6)
    one_hot = F.one_hot(labels, classes).permute(0, 4, 1, 2, 3).contiguous().to(dtype)
    return F.avg_pool3d(one_hot, 3, 1, 1 if padding == "zeros" else 0)


def plain_mbls(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and the margin penalty with its default margin of 10."""
    excess = (logits.amax(1, keepdim=True) - logits - 10).relu()
    return F.cross_entropy(logits, labels) + WEIGHT * excess.mean()


def plain_nacl(logits: Tensor, labels: Tensor, padding: Literal["background", "zeros"] = "background") -> Tensor:
    """NACL by one-hot labels and average pooling."""
    shares = window_shares(labels, logits.shape[1], logits.dtype, padding)
    return F.cross_entropy(logits, labels) + WEIGHT * (shares - logits).abs().mean()


def plain_crac(logits: Tensor, labels: Tensor) -> Tensor:
    """CRaC as a port of the published code to 3D: 2C channels, class by region, and the PHR penalty of each."""
    classes = logits.shape[1]
    shares = window_shares(labels, classes, logits.dtype)
    boundary = (shares.amax(1, keepdim=True) < 1).to(logits.dtype)
    h = torch.cat(
        [(shares - logits).abs() * boundary, (MARGIN * shares - logits).abs() * (1 - boundary)],
        dim=1,
    )
    lam = multipliers(classes, logits.device).to(logits.dtype).reshape(1, -1, 1, 1, 1)
    violated, satisfied = lam * h + RHO / 2 * h.square(), -lam.square() / (2 * RHO)
    return F.cross_entropy(logits, labels) + torch.where(lam + RHO * h >= 0, violated, satisfied).mean()


def _ours(name: str, classes: int) -> Loss:
    """An objective with its default weight; multipliers as in `plain_crac`."""
    objective = losses.build(name, classes)
    for module in objective.modules():
        if isinstance(module, Multipliers):
            module.lam.copy_(multipliers(classes))
    return objective


def _monai_nacl(classes: int) -> Loss:
    from monai.losses import NACLLoss

    loss: Loss = NACLLoss(classes, dim=3, kernel_size=3)
    return loss


def _compiled(loss: Loss) -> Loss:
    torch.compiler.reset()  # after a few shapes torch would give up and run the plain code
    return torch.compile(loss, dynamic=False)
