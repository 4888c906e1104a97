"""Networks, all of them MONAI's. A builder's signature is its config; `divisor` says which patch sizes fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Annotated, Any, Literal, NamedTuple

from torch import nn

Sizes = Sequence[int | Sequence[int]]  # one entry a level: a number, or one number per axis


class Network(NamedTuple):
    """A builder `(in_channels, num_classes, **options) -> module`; `divisor(options)` checks them too."""

    build: Callable[..., nn.Module]
    divisor: Callable[[dict[str, Any]], tuple[int, int, int]]


def unet(
    in_channels: int,
    num_classes: int,
    *,
    channels: Annotated[Sequence[int], "feature channels of each level"] = (16, 32, 64, 128),
    strides: Annotated[Sizes, "between levels, one fewer than channels; a number, or one per axis"] = (2, 2, 2),
    kernel_size: Annotated[int, "odd"] = 3,
    num_res_units: Annotated[int, "residual units of a level; 0: plain convolutions"] = 0,
    norm: Annotated[Literal["instance", "batch"], "normalization"] = "instance",
    dropout: Annotated[float, "share of features dropped in training"] = 0.0,
) -> nn.Module:
    """MONAI's 3D U-Net: `channels` of each level, `strides` between them (one fewer)."""
    from monai.networks.nets import UNet

    _check_unet(channels, strides, kernel_size, num_res_units, dropout)
    return _module(
        UNet(3, in_channels, num_classes, tuple(channels), _levels(strides), kernel_size, kernel_size, num_res_units,
             norm=norm, dropout=dropout)
    )  # fmt: skip


def dynunet(
    in_channels: int,
    num_classes: int,
    *,
    filters: Annotated[Sequence[int], "feature channels of each level"] = (32, 64, 128, 256),
    kernel_size: Annotated[Sizes, "of each level; a number, or one per axis"] = (3, 3, 3, 3),
    strides: Annotated[Sizes, "into each level; a number, or one per axis"] = (1, 2, 2, 2),
    res_block: Annotated[bool, "residual blocks"] = False,
    dropout: Annotated[float, "share of features dropped in training"] = 0.0,
) -> nn.Module:
    """MONAI's DynUNet, the U-Net of nnU-Net: one entry a level; the first stride is usually 1."""
    from monai.networks.nets import DynUNet

    _check_dynunet(filters, kernel_size, strides, dropout)
    return _module(
        DynUNet(3, in_channels, num_classes, _levels(kernel_size), _levels(strides), _levels(strides)[1:],
                filters=list(filters), res_block=res_block, dropout=dropout or None)
    )  # fmt: skip


def segresnet(
    in_channels: int,
    num_classes: int,
    *,
    init_filters: Annotated[int, "feature channels of the first level, a multiple of 8"] = 16,
    blocks_down: Annotated[Sequence[int], "residual blocks of each level on the way down"] = (1, 2, 2, 4),
    blocks_up: Annotated[Sequence[int], "of each level on the way up, one fewer"] = (1, 1, 1),
    dropout: Annotated[float, "share of features dropped in training"] = 0.0,
) -> nn.Module:
    """MONAI's SegResNet; each level after the first halves the volume. `init_filters` a multiple of 8."""
    from monai.networks.nets import SegResNet

    _check_segresnet(init_filters, blocks_down, blocks_up, dropout)
    return _module(
        SegResNet(3, init_filters, in_channels, num_classes, dropout or None, blocks_down=tuple(blocks_down),
                  blocks_up=tuple(blocks_up))
    )  # fmt: skip


def _check_unet(channels: Sequence[int], strides: Sizes, kernel_size: int, num_res_units: int, dropout: float) -> None:
    if len(channels) < 2:
        raise ValueError(f"channels needs at least two levels, got {len(channels)}; add a level, such as [16, 32]")
    _check_filters("channels", channels)
    if len(strides) != len(channels) - 1:
        raise ValueError(f"strides needs one entry fewer than channels ({len(channels) - 1}), got {len(strides)}")
    _check_levels("strides", strides)
    _check_windows("kernel_size", [kernel_size])
    if num_res_units < 0:
        raise ValueError(f"num_res_units must be 0 or more, got {num_res_units}")
    _check_dropout(dropout)


def _check_dynunet(filters: Sequence[int], kernel_size: Sizes, strides: Sizes, dropout: float) -> None:
    if not len(filters) == len(kernel_size) == len(strides):
        raise ValueError(
            "strides needs as many entries as filters and kernel_size, got "
            f"{len(strides)}, {len(filters)} and {len(kernel_size)}"
        )
    if len(filters) < 3:
        raise ValueError(
            f"filters needs at least three levels, and so do kernel_size and strides, got {len(filters)}; add a level, "
            "or take the network 'unet', which may have two"
        )
    _check_filters("filters", filters)
    _check_levels("strides", strides)
    _check_levels("kernel_size", kernel_size)
    _check_windows("kernel_size", kernel_size)
    _check_dropout(dropout)


def _check_segresnet(init_filters: int, blocks_down: Sequence[int], blocks_up: Sequence[int], dropout: float) -> None:
    if not blocks_down:
        raise ValueError("blocks_down needs at least one level, got 0; add one, such as [1, 2]")
    if len(blocks_up) != len(blocks_down) - 1:
        raise ValueError(
            f"blocks_up needs one entry fewer than blocks_down ({len(blocks_down) - 1}), got {len(blocks_up)}"
        )
    if init_filters < 8 or init_filters % 8:
        raise ValueError(f"init_filters must be a multiple of 8 (group normalization), got {init_filters}")
    _check_filters("blocks_down", blocks_down)
    _check_filters("blocks_up", blocks_up or [1])
    _check_dropout(dropout)


def _check_windows(name: str, sizes: Sizes) -> None:
    """An even window has no middle, and the levels of a U-Net no longer fit together."""
    for size in sizes:
        if any(n < 1 or n % 2 == 0 for n in ((size,) if isinstance(size, int) else size)):
            raise ValueError(f"{name} must be odd and positive, got {size if isinstance(size, int) else list(size)}")


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")


def _check_filters(name: str, numbers: Sequence[int]) -> None:
    if min(numbers) < 1:
        raise ValueError(f"{name} needs a positive number a level, got {min(numbers)}")


def _check_levels(name: str, sizes: Sizes) -> None:
    for size in sizes:
        per_axis = (size,) * 3 if isinstance(size, int) else tuple(size)
        if len(per_axis) != 3 or min(per_axis) < 1:
            raise ValueError(f"{name} needs positive numbers, or three a level (one per axis), got {size}")


def _unet_divisor(options: dict[str, Any]) -> tuple[int, int, int]:
    _check_unet(
        options["channels"], options["strides"], options["kernel_size"], options["num_res_units"], options["dropout"]
    )
    return _product(options["strides"])


def _dynunet_divisor(options: dict[str, Any]) -> tuple[int, int, int]:
    _check_dynunet(options["filters"], options["kernel_size"], options["strides"], options["dropout"])
    return _product(options["strides"])


def _segresnet_divisor(options: dict[str, Any]) -> tuple[int, int, int]:
    _check_segresnet(options["init_filters"], options["blocks_down"], options["blocks_up"], options["dropout"])
    factor = 2 ** (len(options["blocks_down"]) - 1)
    return factor, factor, factor


def _product(strides: Sizes) -> tuple[int, int, int]:
    levels = [(s, s, s) if isinstance(s, int) else tuple(s) for s in strides]
    x, y, z = (prod(level[axis] for level in levels) for axis in range(3))
    return x, y, z


def _levels(sizes: Sizes) -> list[int | list[int]]:
    return [size if isinstance(size, int) else list(size) for size in sizes]


def _module(module: Any) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a module, got {type(module)}")
    return module


NETWORKS = {
    "unet": Network(unet, _unet_divisor),
    "dynunet": Network(dynunet, _dynunet_divisor),
    "segresnet": Network(segresnet, _segresnet_divisor),
}
