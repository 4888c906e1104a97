"""Tensors without the subclass that a library wrapped them in."""

from __future__ import annotations

from torch import Tensor


def plain(tensor: Tensor) -> Tensor:
    """`tensor` as a `torch.Tensor`: a MetaTensor costs time in every operation and cannot be traced."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)
