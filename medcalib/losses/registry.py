"""Every term and every published method: the one place where they are registered."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from medcalib.losses.cross_entropy import CrossEntropy, LabelSmoothing
from medcalib.losses.dice import DiceLoss
from medcalib.losses.focal import FocalLoss
from medcalib.losses.margin import MarginPenalty
from medcalib.losses.term import Term

CE = "cross_entropy"

TERMS: dict[str, type[Term]] = {
    CE: CrossEntropy,
    "label_smoothing": LabelSmoothing,
    "focal": FocalLoss,
    "dice": DiceLoss,
    "margin": MarginPenalty,
}


class Recipe(NamedTuple):
    """A published method as a weighted sum of terms.

    All terms but the last have weight 1; `weight` is the default weight of the last one, and a hyperparameter
    of the method when there are several terms. `equation` is one line, w the weight; `cite` names entries of
    references.bib; `defaults` are hyperparameters whose default differs from that of the term.
    """

    terms: tuple[str, ...]
    weight: float
    equation: str
    cite: tuple[str, ...]
    defaults: Mapping[str, Any] = MappingProxyType({})


RECIPES: dict[str, Recipe] = {
    "ce": Recipe((CE,), 1.0, "-log p_t", ("bishop2006",)),
    "dice": Recipe(("dice",), 1.0, "1 - mean_k Dice_k(p, q)", ("milletari2016vnet",)),
    "dice_ce": Recipe((CE, "dice"), 1.0, "CE + w (1 - mean_k Dice_k(p, q))", ("isensee2021nnunet",)),
    "label_smoothing": Recipe(
        ("label_smoothing",), 1.0, "-sum_k ((1-a) q_k + a/C) log p_k, a = smoothing", ("szegedy2016inception",)
    ),
    "focal": Recipe(("focal",), 1.0, "-(1 - p_t)^gamma log p_t", ("lin2017focal", "mukhoti2020focal")),
    "mbls": Recipe(
        (CE, "margin"),
        0.1,
        "CE + w mean_k relu(max_j z_j - z_k - margin)^power",
        ("liu2022mbls", "murugesan2023mbls"),
    ),
}
