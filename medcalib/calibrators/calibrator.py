"""What every calibrator is: logits to logits, fitted once, saved as plain numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor, nn

from medcalib.calibrators.voxels import Batches, Voxels, piece_size, predicted
from medcalib.errors import CheckpointError
from medcalib.files import atomic

_KEY = "medcalib"
LOWEST = 1e-9  # of temperatures: below, logits overflow


class Calibrator(nn.Module):
    """A map logits (B, C, *S) -> logits (B, C, *S), to be fitted on held-out cases and then frozen.

    Fitted parameters are float64 buffers whose names end in `_`, NaN or empty before the fit. `facts` holds what is
    saved with them: what it was fitted on, and the scores before and after. `options` are the constructor's.

    The softmax of what it returns is the repaired probability. Its arg-max is the old one if `keeps_argmax`. `reach`
    is how many voxels away along each axis a voxel's result may depend on (0: on its own logits alone). `sees_all`: on
    the whole volume.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    reference: ClassVar[str]
    keeps_argmax: ClassVar[bool] = False
    reach: tuple[int, ...] | int = 0
    sees_all: bool = False
    image_channels: int = 0

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2 (background included), got {num_classes}")
        self.num_classes = num_classes
        self.options = options
        self.facts: dict[str, Any] = {}
        self._bounds: dict[str, tuple[float, float]] = {}

    def fit(
        self, logits: Batches, labels: Batches, *, mask: Batches | None = None, images: Batches | None = None
    ) -> Self:
        """Fit by held-out voxels; returns self.

        logits (B, C, *S) or (N, C), labels and mask (B, *S) or (N,): tensors, or sequences of them for volumes of
        several sizes. Where `mask` is false a voxel is not fitted on and its label may be anything. `images`
        (B, M, *S) only where the method takes them. Everything is computed in float64, in pieces of bounded size,
        and the parts may be mapped files. Raises ValueError where the fit is impossible. TypeError in a subclass
        without a `fit_voxels`.
        """
        del images
        self.fit_voxels(Voxels.of(logits, labels, self.num_classes, mask=mask))
        return self

    def fit_voxels(self, voxels: Voxels) -> None:
        """Set the parameters by these voxels.

        To be defined by a subclass; raises TypeError otherwise, ValueError where the fit is impossible.
        """
        raise TypeError(f"{type(self).__name__} does not define fit_voxels(voxels)")

    def forward(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """The repaired logits, in the type of `logits`; computed in float64. Raises ValueError before a fit.

        TypeError in a subclass without a `map`.
        """
        del images
        self.check(logits)
        flat = logits.T[None] if logits.ndim == 2 else logits.flatten(2)
        pieces = torch.split(flat, piece_size(self.num_classes), 2)
        repaired = torch.cat([self.finished(piece, self.map(piece.double())) for piece in pieces], 2)
        return repaired[0].T if logits.ndim == 2 else repaired.reshape(logits.shape)

    def map(self, logits: Tensor) -> Tensor:
        """The repaired logits of (B, C, n) float64. To be defined by a subclass; raises TypeError otherwise."""
        raise TypeError(f"{type(self).__name__} does not define map(logits)")

    def finished(self, logits: Tensor, repaired: Tensor) -> Tensor:
        """What `map` gave, in the type of the logits, arg-max kept where it must be.

        Shapes: logits (B, C, *S), repaired (B, C, *S). A map that keeps the order can still round two numbers to one;
        there the old arg-max is lifted by 4 units in the last place, so that it is that of the softmax, too.
        """
        repaired = repaired.to(logits.dtype)
        if not self.keeps_argmax:
            return repaired
        before, after = predicted(logits)[:, None], predicted(repaired)[:, None]
        top = repaired.amax(1, keepdim=True)
        lifted = top + 4 * torch.finfo(top.dtype).eps * top.abs().clamp(min=1)
        return repaired.scatter(1, before, torch.where(before == after, top, lifted))

    def check(self, logits: Tensor) -> None:
        """Refuse to work before a fit, or on another number of classes. Raises ValueError."""
        if any(math.isnan(float(value.sum())) or not value.numel() for value in self.buffers()):
            raise ValueError(f"{self.name} is not fitted; call fit(logits, labels) on held-out cases first")
        if logits.ndim < 2 or logits.shape[1] != self.num_classes:
            raise ValueError(f"expected logits (B, {self.num_classes}, *S), got {tuple(logits.shape)}")

    def plain(self) -> dict[str, Any]:
        """The fitted parameters as lists and numbers, with the formula that they stand in."""
        parameters = {key.removesuffix("_"): value.tolist() for key, value in self.state_dict().items()}
        return {"method": self.name, "formula": self.formula, **self.options, **parameters}

    def extra_repr(self) -> str:
        """The fitted parameters, if they are few."""
        shown = ((key, value) for key, value in self.state_dict().items() if value.numel() <= 32)
        return ", ".join(f"{key.removesuffix('_')}={_short(value)}" for key, value in shown)

    def save(self, path: Path) -> None:
        """Write parameters, options and facts into one safetensors file at `path`, atomically."""
        meta = {"method": self.name, "num_classes": self.num_classes, "options": self.options, "facts": self.facts}
        with atomic(path) as temporary:
            tensors = {key: value.contiguous() for key, value in self.state_dict().items()}
            temporary.write_bytes(serialized(tensors, described(meta)))

    def set_parameters(self, parameters: dict[str, Tensor]) -> None:
        """Take over the parameters of a fitted calibrator of the same method. Raises ValueError if they do not fit."""
        own = dict(self.named_buffers())
        if own.keys() != parameters.keys():
            raise ValueError(f"expected the parameters {_named(own)}, got {_named(parameters)}")
        for key, value in parameters.items():
            before, (low, high) = own[key], self._bounds.get(key, (-math.inf, math.inf))
            if value.dtype != before.dtype or (before.numel() and value.shape != before.shape):
                raise ValueError(
                    f"{key} is {value.dtype} {tuple(value.shape)}; expected {before.dtype} {tuple(before.shape)}"
                )
            if not bool(torch.isfinite(value).all()) or not bool(((value >= low) & (value <= high)).all()):
                raise ValueError(f"{key} holds numbers that are not finite, or not in {low:g}..{high:g}")
            setattr(self, key, value.clone())

    def declare(
        self, name: str, shape: tuple[int, ...] | None = (), low: float = -math.inf, high: float = math.inf
    ) -> None:
        """Register the fitted parameter `name`: NaN before a fit, float64, of this `shape` (None: the fit sets it).

        A file is refused whose values are not in `low`..`high`.
        """
        self._bounds[name] = (low, high)
        empty = torch.empty(0) if shape is None else torch.full(shape, math.nan)
        self.register_buffer(name, empty.double())


def described(meta: dict[str, Any]) -> dict[str, str]:
    """The metadata of the file."""
    return {_KEY: json.dumps(meta, allow_nan=False)}


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and parameters of a saved calibrator; nothing in the file is executed."""
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, no saved calibrator; name the file that `calibrate` wrote")
    if not path.is_file():
        came = "no regular file" if path.exists() else "missing"
        raise CheckpointError(f"{path} is no saved calibrator: it is {came}; name the file that `calibrate` wrote")
    try:
        with safe_open(path, framework="pt") as stored:
            meta = json.loads((stored.metadata() or {}).get(_KEY, ""))
            return meta, {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - no mapping
    except OSError as error:
        raise CheckpointError(f"{path} is no saved calibrator: {error.strerror or error}") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no saved calibrator, or is damaged; name what `calibrate` wrote") from error


def _named(parameters: Mapping[str, Tensor]) -> str:
    return ", ".join(key.removesuffix("_") for key in parameters) or "none"


def _short(value: Tensor) -> str:
    numbers = ", ".join(f"{float(entry):.4g}" for entry in value.flatten())
    return numbers if not value.ndim else f"[{numbers}]"
