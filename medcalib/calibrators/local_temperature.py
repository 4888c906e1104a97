"""Local temperature scaling: a temperature for every voxel, from the logits (and the image) around it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, cross_entropy, pad, relu

from medcalib.calibrators.calibrator import Calibrator
from medcalib.calibrators.inverse_temperature import one_temperature
from medcalib.calibrators.region_temperature import radii
from medcalib.calibrators.voxels import Batches, Voxels, as_sequence

log = logging.getLogger(__name__)
LEAVES = {"full": 4, "light": 2, "mean": 4}
_SLAB = 1 << 18  # voxels whose temperatures are computed at a time
_LOWEST = 1e-8
Variant = Literal["full", "light", "mean"]


class Item(NamedTuple):
    """One volume to fit on: logits (1, C, *S), labels (1, *S), mask (1, *S) bool, images (1, M, *S) or None."""

    logits: Tensor
    labels: Tensor
    mask: Tensor
    images: Tensor | None


class LocalTemperature(Calibrator):
    """z(x) / T(x), T(x) = relu(t(x) + 1) + 1e-8, t a tree of gates m(a, b; s) = a sigmoid(s) + b (1 - sigmoid(s)):

        t1 = m(c1 + 1, c2 + 1; a1),  t2 = m(c3 + 1, c4 + 1; a2),  t = m(t1, t2; a3)

    with c and a convolutions of the logits, windows of `kernel_size` with holes of `dilation`, edges reflected
    (repeated where a volume is thinner than the window). With `image_channels` M > 0 the last gate is t = m(t, c_I + 1;
    a_I), c_I a convolution of images (B, M, *S). `variant`: "full"; "light" is t1 alone; "mean" is the mean of T over
    each volume, one temperature an image. The arg-max stays, since T > 0.

    The fit starts at the T of temperature scaling everywhere (the official zeros give T = 2) and minimizes the NLL by
    `steps` of Adam over the volumes in a seeded order; it keeps the start where that did not help. `lr` is the learning
    rate of Adam, `seed` that of the order.

    Reference: Z. Ding et al., Local Temperature Scaling for Probability Calibration, ICCV 2021; the
    official network is 2D, this one is 2D or 3D.
    """

    name = "local_temperature"
    formula = "softmax(z / T(x)), T(x) = relu(t(x) + 1) + 1e-8, t a tree of gates of convolutions of z around x"
    reference = "Z. Ding et al., ICCV 2021"
    keeps_argmax = True

    def __init__(
        self,
        num_classes: int,
        *,
        variant: Variant = "full",
        image_channels: int = 0,
        kernel_size: int = 5,
        dilation: int = 2,
        steps: int = 200,
        lr: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_classes,
            variant=variant,
            image_channels=image_channels,
            kernel_size=kernel_size,
            dilation=dilation,
            steps=steps,
            lr=lr,
            seed=seed,
        )
        if kernel_size < 1 or not kernel_size % 2 or min(dilation, steps) < 1 or lr <= 0 or image_channels < 0:
            raise ValueError(
                "expected an odd kernel_size, dilation and steps of 1 or more, lr above 0 and image_channels of 0 or "
                f"more, got {kernel_size}, {dilation}, {steps}, {lr:g} and {image_channels}"
            )
        self.reach = dilation * (kernel_size // 2)
        self.sees_all = variant == "mean"
        self.image_channels = image_channels
        self.weight_: Tensor
        self.bias_: Tensor
        self.declare("weight_", None)
        self.declare("bias_", None)
        if image_channels:
            self.image_weight_: Tensor
            self.image_bias_: Tensor
            self.declare("image_weight_", None)
            self.declare("image_bias_")

    def fit(
        self, logits: Batches, labels: Batches, *, mask: Batches | None = None, images: Batches | None = None
    ) -> Self:
        """As `Calibrator.fit`, on volumes; with `image_channels` also images (B, M, *S).

        `mask`: as there. Raises ValueError for images that are missing or not asked for. `mask`: as there. Raises
        ValueError for images that are missing or not asked for.
        """
        voxels = Voxels.of(logits, labels, self.num_classes, mask=mask)
        items = list(_items(as_sequence(logits), as_sequence(labels), mask, images))
        for item in items:
            radii(self, item.logits)
            self._check_images(item.logits, item.images)
            if not all(bool(torch.isfinite(x).all()) for x in (item.logits, item.images) if x is not None):
                raise ValueError(
                    "logits and images must be finite under the mask, too: windows reach there; set such voxels to 0"
                )
        self._start(one_temperature(voxels), items[0].logits.ndim - 2)
        before = {key: value.clone() for key, value in self.state_dict().items()}
        first = self._nll(items)
        self._descend(items)
        reached = self._nll(items)
        if not reached <= first:
            log.warning("local_temperature: the fit did not improve on one temperature, which is kept")
            self.load_state_dict(before)
        return self

    def set_parameters(self, parameters: dict[str, Tensor]) -> None:
        """As `Calibrator.set_parameters`, of parameters (...) by name.

        Raises ValueError, too, for windows of another size than the options say.
        """
        super().set_parameters(parameters)
        axes = self.weight_.ndim - 2
        if axes not in (2, 3):
            raise ValueError(f"weight_ must have 2 or 3 spatial axes, got {axes}")
        found = {key: value.shape for key, value in self.named_buffers()}
        self._start(1.0, axes)
        wanted = {key: value.shape for key, value in self.named_buffers()}
        if found != wanted:
            raise ValueError(f"expected the shapes {_listed(wanted)}, got {_listed(found)}")
        super().set_parameters(parameters)

    def forward(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """z / T(x), in the type of the logits (computed in float32 at least).

        Raises ValueError before a fit, and for images that are missing or not asked for.
        """
        self.check(logits)
        self._check_images(logits, images)
        return self.finished(logits, logits / self.temperature(logits, images).to(logits.dtype))

    def temperature(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """T(x), (B, 1, *S)."""
        reach = radii(self, logits)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        convolved = [(_padded(logits.to(dtype), reach), self.weight_.to(dtype), self.bias_.to(dtype))]
        if images is not None and self.image_channels:
            weight, bias = self.image_weight_.to(dtype), self.image_bias_.to(dtype)[None]
            convolved.append((_padded(images.to(dtype), reach), weight, bias))
        depth = max(1, _SLAB // math.prod(logits.shape[2:-1]))
        found = []
        for at in range(0, logits.shape[-1], depth):
            seen = slice(at, min(at + depth, logits.shape[-1]) + 2 * reach[-1])
            responses = [self._convolve(x[..., seen], weight, bias) for x, weight, bias in convolved]
            found.append(_tree(*responses))
        temperature = torch.cat(found, -1)
        if self.options["variant"] == "mean":
            temperature = temperature.mean(tuple(range(1, temperature.ndim)), keepdim=True).expand_as(temperature)
        return temperature

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        convolution = conv3d if x.ndim == 5 else conv2d
        return convolution(x, weight, bias, dilation=self.options["dilation"])

    def _check_images(self, logits: Tensor, images: Tensor | None) -> None:
        if not self.image_channels:
            return
        wanted = (logits.shape[0], self.image_channels, *logits.shape[2:])
        if images is None or images.shape != wanted:
            got = None if images is None else tuple(images.shape)
            raise ValueError(f"expected images {wanted}, as image_channels={self.image_channels} asks for, got {got}")

    def _start(self, temperature: float, axes: int) -> None:
        """Zero windows; biases that make T the same everywhere."""
        leaves = LEAVES[self.options["variant"]]
        outputs = 2 * leaves - 1 + (1 if self.image_channels else 0)
        window = (self.options["kernel_size"],) * axes
        self.weight_ = torch.zeros(outputs, self.num_classes, *window, dtype=torch.float64)
        self.bias_ = torch.zeros(outputs, dtype=torch.float64)
        self.bias_[:leaves] = temperature - 2
        if self.image_channels:
            self.image_weight_ = torch.zeros(1, self.image_channels, *window, dtype=torch.float64)
            self.image_bias_ = torch.tensor(temperature - 2, dtype=torch.float64)

    def _descend(self, items: Sequence[Item]) -> None:
        """Adam on the mean NLL of one volume a step, windows in units of their inputs' size."""
        generator = torch.Generator().manual_seed(self.options["seed"])
        units = self._units(items)
        trained = {key: value.div(units[key]).float().requires_grad_() for key, value in self.named_buffers()}
        optimizer = torch.optim.Adam(trained.values(), lr=self.options["lr"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.options["steps"])
        order: list[int] = []
        for _ in range(self.options["steps"]):
            order = order or torch.randperm(len(items), generator=generator).tolist()
            item = items[order.pop()]
            with torch.enable_grad():
                for key, value in trained.items():
                    setattr(self, key, value * units[key])
                optimizer.zero_grad()
                _lost(self, item, torch.float32)[0].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        for key, value in trained.items():
            setattr(self, key, value.detach().double() * units[key])

    def _units(self, items: Sequence[Item]) -> dict[str, float]:
        """What one unit of a trained parameter means, so that a step changes T by as much for any scale of logits and
        any window: neighbors are alike, so that their contributions add up."""
        window = self.weight_[0, 0].numel()
        units = {key: 1.0 for key, _ in self.named_buffers()}
        units["weight_"] = 1 / (window * _size(item.logits for item in items))
        if self.image_channels:
            units["image_weight_"] = 1 / (window * _size(item.images for item in items if item.images is not None))
        return units

    def _nll(self, items: Sequence[Item]) -> float:
        """Mean NLL over the voxels of all volumes, float64."""
        with torch.no_grad():
            sums = [_lost(self, item, torch.float64) for item in items]
        return sum(float(mean) * n for mean, n in sums) / sum(n for _, n in sums)


def _listed(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{key} {tuple(shape)}" for key, shape in shapes.items())


def _lost(calibrator: LocalTemperature, item: Item, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Mean NLL over the used voxels of a volume, and their number."""
    logits = item.logits.to(dtype)
    scaled = logits / calibrator.temperature(logits, item.images)
    used = item.mask
    return cross_entropy(scaled.movedim(1, -1)[used], item.labels[used].long()), int(used.sum())


def _size(volumes: Iterable[Tensor]) -> float:
    """Root mean square of the values, 1 where all are 0."""
    squares = [float(volume.double().square().mean()) for volume in volumes]
    return math.sqrt(sum(squares) / len(squares)) or 1.0


def _tree(gates: Tensor, image: Tensor | None = None) -> Tensor:
    """T (B, 1, *S) of the convolutions (B, K, *S): c1, c2(, c3, c4), a1(, a2, a3), and a_I with an image."""
    rows = list(torch.split(gates, 1, 1))
    last = rows.pop() if image is not None else None
    leaves = (len(rows) + 1) // 2
    values, switches = [row + 1 for row in rows[:leaves]], rows[leaves:]
    while len(values) > 1:
        values = [_gate(values[k], values[k + 1], switches.pop(0)) for k in range(0, len(values), 2)]
    if image is not None and last is not None:
        values = [_gate(values[0], image + 1, last)]
    return relu(values[0] + 1) + _LOWEST


def _gate(a: Tensor, b: Tensor, switch: Tensor) -> Tensor:
    share = torch.sigmoid(switch)
    return a * share + b * (1 - share)


def _padded(x: Tensor, reach: Sequence[int]) -> Tensor:
    margin = [n for r in reversed(reach) for n in (r, r)]
    fits = all(size > r for size, r in zip(x.shape[2:], reach, strict=True))
    return pad(x, margin, mode="reflect" if fits else "replicate")


def _items(
    logits: Sequence[Tensor], labels: Sequence[Tensor], mask: Batches | None, images: Batches | None
) -> Iterator[Item]:
    """Volumes one by one; those without a voxel to use are left out."""
    masks = [torch.ones_like(part, dtype=torch.bool) for part in labels] if mask is None else as_sequence(mask)
    pictures: Sequence[Tensor | None] = [None] * len(logits) if images is None else as_sequence(images)
    for z, y, used, image in zip(logits, labels, masks, pictures, strict=True):
        for b in range(len(z)):
            if bool(used[b].any()):
                own = None if image is None else image[b : b + 1]
                yield Item(z[b : b + 1], y[b : b + 1], used[b : b + 1].bool(), own)
