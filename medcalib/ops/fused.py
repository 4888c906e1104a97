"""One pass over logits and labels for cross-entropy, a penalty, and what multipliers need: the contract.

The op family behind the terms ce, label_smoothing, svls, mbls, acls, cals_alm, nacl and crac. Whoever has no kernel for
a case computes the terms one by one; both give the same numbers.

Per valid voxel, with logits z, p = softmax(z), label y, d_k = max_j z_j - z_k, and class shares tau of the window:

    cross-entropy   -sum_k t_k log p_k,   t = own [k = y] + rest [k != y], or t = tau ("window")
    "margin"        mean_k of relu(d_k - margin), its square (power 2), or (d_k - margin)^2 (power -2)
    "cals"          mean_k P(h_k; lam_k, rho_k),   h_k = (d_k - margin) inverse_norm
    "acls"          weight_top sum_{k: d_k = 0} relu(z_k - margin)^2
                    + weight_rest/(C-1) sum_k relu(sg(max z) - z_k - margin)^2
    "neighbor"      scale mean_k P(h_k; lam_rk, rho_rk),   h_k = |factor_r tau_k - z_k|;
                    with class_mean: scale P(mean_k h_k)

P is the phr penalty (`losses.multipliers`); r is 0 in boundaries (a window with several labels) and 1 in the interior
where `by_region`, else always 0. The loss parts are means over valid voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Target = Literal["none", "label", "window"]
Penalty = Literal["none", "margin", "cals", "acls", "neighbor"]
Window = Literal["none", "mean", "svls"]
Padding = Literal["background", "replicate", "zeros"]
TARGETS: tuple[Target, ...] = get_args(Target)
PENALTIES: tuple[Penalty, ...] = get_args(Penalty)
WINDOWS: tuple[Window, ...] = get_args(Window)
PADDINGS: tuple[Padding, ...] = get_args(Padding)
NUMBERS = (
    "own", "rest", "margin", "inverse_norm", "weight_top", "weight_rest", "factor_boundary", "factor_interior",
    "scale", "lam_min", "lam_max", "sigma",
)  # fmt: skip
CHOICES = ("target", "penalty", "power", "by_region", "class_mean", "window", "padding")


class FusedSpec(NamedTuple):
    """What to compute; see the module."""

    target: Target = "none"
    own: float = 1.0
    rest: float = 0.0
    penalty: Penalty = "none"
    margin: float = 0.0
    power: int = 1
    inverse_norm: float = 1.0
    weight_top: float = 0.0
    weight_rest: float = 0.0
    by_region: bool = False
    class_mean: bool = False
    factor_boundary: float = 1.0
    factor_interior: float = 1.0
    scale: float = 1.0
    lam_min: float = 0.0
    lam_max: float = float("inf")
    window: Window = "none"
    padding: Padding = "background"
    kernel_size: tuple[int, ...] = ()
    sigma: float = 1.0

    def coded(self) -> dict[str, float | int]:
        """All options but the window's size, by name: names of choices as their numbers."""
        codes: dict[str, float | int] = {
            "target": TARGETS.index(self.target),
            "penalty": PENALTIES.index(self.penalty),
            "window": WINDOWS.index(self.window),
            "padding": PADDINGS.index(self.padding),
        }
        return codes | {name: getattr(self, name) for name in (*NUMBERS, *CHOICES) if name not in codes}

    def numbers(self) -> list[float]:
        """The real options, in the order of their names in `NUMBERS`: an operator takes no other structure."""
        return [float(getattr(self, name)) for name in NUMBERS]

    def choices(self) -> list[int]:
        """The whole-numbered options as in `CHOICES`, then the window's size."""
        coded = self.coded()
        return [*(int(coded[name]) for name in CHOICES), *self.kernel_size]

    @classmethod
    def restore(cls, numbers: Sequence[float], choices: Sequence[int]) -> FusedSpec:
        """From what `numbers` and `choices` gave."""
        codes = dict(zip(CHOICES, choices, strict=False))
        named = {
            "target": TARGETS[codes["target"]],
            "penalty": PENALTIES[codes["penalty"]],
            "power": codes["power"],
            "by_region": bool(codes["by_region"]),
            "class_mean": bool(codes["class_mean"]),
            "window": WINDOWS[codes["window"]],
            "padding": PADDINGS[codes["padding"]],
            "kernel_size": tuple(choices[len(CHOICES) :]),
        }
        return cls(**dict(zip(NUMBERS, numbers, strict=True)), **named)  # type: ignore[arg-type]


def constant_multipliers(lam: float, rho: float, num_classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """lam and rho (2, C) that never change: not to be written to."""
    # what is traced may not look into a cache
    make = _constants if torch.compiler.is_compiling() else _cached_constants
    return make(lam, rho, num_classes, device)


def _constants(lam: float, rho: float, num_classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        shape = 2, num_classes
        return (
            torch.full(shape, lam, dtype=torch.float64, device=device),
            torch.full(shape, rho, dtype=torch.float64, device=device),
        )


_cached_constants = lru_cache(maxsize=256)(_constants)


class FusedStats(NamedTuple):
    """Sums over the valid voxels of a batch, float64; rows: boundary, interior (without regions all in row 0)."""

    voxels: Tensor  # (): valid ones
    boundary_voxels: Tensor  # (): of them in boundaries; 0 without regions
    slope: Tensor  # (2, C): P'(h) within [lam_min, lam_max]; class_mean uses the first column
    violation: Tensor  # (2, C): h
    class_count: Tensor  # (C,): voxels of each label

    @staticmethod
    def size(num_classes: int) -> int:
        """How many numbers there are."""
        return 2 + 5 * num_classes

    @classmethod
    def unpack(cls, flat: Tensor) -> FusedStats:
        """From the flat tensor of the op."""
        classes = (len(flat) - 2) // 5
        slope, violation, class_count = torch.split(flat[2:], [2 * classes, 2 * classes, classes])
        return cls(flat[0], flat[1], slope.reshape(2, -1), violation.reshape(2, -1), class_count)
