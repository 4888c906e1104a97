"""Every term and every published method: the one place where they are registered."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from medcalib.losses.ace import HardACE, SoftACE
from medcalib.losses.acls import ACLSPenalty
from medcalib.losses.adafocal import AdaFocalLoss
from medcalib.losses.brier import AdaptiveBrierScore, BrierScore
from medcalib.losses.cals import CALSHeuristic, CALSPenalty
from medcalib.losses.cpc import CPCPenalty
from medcalib.losses.crac import CRaCPenalty
from medcalib.losses.cross_entropy import CrossEntropy, LabelSmoothing
from medcalib.losses.dca import DCAPenalty
from medcalib.losses.dice import DiceLoss
from medcalib.losses.entropy import EntropyPenalty
from medcalib.losses.focal import DualFocalLoss, FLSD53Loss, FocalLoss
from medcalib.losses.margin import MarginPenalty
from medcalib.losses.mdca import MDCAPenalty
from medcalib.losses.mmce import MMCEPenalty
from medcalib.losses.nacl import NeighborPenalty
from medcalib.losses.sdc import SDCPenalty
from medcalib.losses.svls import SVLSLoss
from medcalib.losses.term import Term
from medcalib.losses.uniform import UniformPenalty

CE = "cross_entropy"

TERMS: dict[str, type[Term]] = {
    CE: CrossEntropy,
    "label_smoothing": LabelSmoothing,
    "focal": FocalLoss,
    "flsd53": FLSD53Loss,
    "dual_focal": DualFocalLoss,
    "adafocal": AdaFocalLoss,
    "dice": DiceLoss,
    "entropy": EntropyPenalty,
    "brier": BrierScore,
    "adaptive_brier": AdaptiveBrierScore,
    "uniform": UniformPenalty,
    "mdca": MDCAPenalty,
    "dca": DCAPenalty,
    "cpc": CPCPenalty,
    "acls": ACLSPenalty,
    "margin": MarginPenalty,
    "cals_alm": CALSPenalty,
    "cals_hr": CALSHeuristic,
    "svls": SVLSLoss,
    "nacl": NeighborPenalty,
    "crac": CRaCPenalty,
    "sdc": SDCPenalty,
    "mmce": MMCEPenalty,
    "ml1_ace_hard": HardACE,
    "ml1_ace_soft": SoftACE,
}


class Recipe(NamedTuple):
    """A published method as a weighted sum of terms.

    All terms but the last have weight 1; `weight` is the default weight of the last one, and a hyperparameter
    of the method when there are several terms. `equation` is one line, w the weight; `cite` names entries of
    references.bib; `defaults` are hyperparameters whose default differs from that of the term; `note` is what a
    study of medcalib found of the published defaults, with the page that holds it.
    """

    terms: tuple[str, ...]
    weight: float
    equation: str
    cite: tuple[str, ...]
    defaults: Mapping[str, Any] = MappingProxyType({})
    note: str = ""


_STUDY = "on 208 hippocampi (docs/results/methods.md)"
_NO_EFFECT = f"{_STUDY} margin 10 had no effect after 1000 steps; start with a margin that cross-entropy exceeds: 6"

RECIPES: dict[str, Recipe] = {
    "ce": Recipe((CE,), 1.0, "-log p_t", ()),
    "dice": Recipe(("dice",), 1.0, "1 - mean_k Dice_k(p, q)", ("milletari2016vnet",)),
    "dice_ce": Recipe((CE, "dice"), 1.0, "CE + w (1 - mean_k Dice_k(p, q))", ("isensee2021nnunet",)),
    "label_smoothing": Recipe(
        ("label_smoothing",), 1.0, "-sum_k ((1-a) q_k + a/C) log p_k, a = smoothing", ("szegedy2016inception",)
    ),
    "focal": Recipe(("focal",), 1.0, "-(1 - p_t)^gamma log p_t", ("lin2017focal", "mukhoti2020focal")),
    "flsd53": Recipe(
        ("flsd53",), 1.0, "-(1 - p_t)^g log p_t, g = 5 (p_t < 0.2), 3 (p_t < 0.5), else gamma", ("mukhoti2020focal",)
    ),
    "dual_focal": Recipe(
        ("dual_focal",),
        1.0,
        "-(1 - p_t + p_j)^gamma log p_t, p_j = largest probability below p_t",
        ("tao2023dualfocal",),
    ),
    "ecp": Recipe((CE, "entropy"), 0.1, "CE + w mean_k p_k log p_k", ("pereyra2017ecp",)),
    "brier": Recipe(("brier",), 1.0, "sum_k (p_k - q_k)^2", ("brier1950",)),
    "fcl": Recipe(
        ("focal", "brier"),
        1.0,
        "-(1 - p_t)^gamma log p_t + w sum_k (p_k - q_k)^2",
        ("liang2024fcl",),
        defaults={"gamma": 2.0},
    ),
    "sa_fcl": Recipe(
        ("focal", "adaptive_brier"),
        1.0,
        "-(1 - p_t)^gamma log p_t + w sg((1 - p_t)^gamma_calibration) sum_k (p_k - q_k)^2",
        ("liang2024fcl",),
        defaults={"gamma": 2.0},
    ),
    "penalty_l1": Recipe((CE, "uniform"), 1.0, "CE + w sum_k |p_k - 1/C|", ("liu2022mbls",)),
    "mdca": Recipe((CE, "mdca"), 1.0, "CE + w mean_k |mean_i p_ik - mean_i q_ik|", ("hebbalaguppe2022mdca",)),
    "dca": Recipe((CE, "dca"), 1.0, "CE + w |mean_i max_k p_ik - accuracy|", ("liang2020dca",)),
    "cpc": Recipe(
        (CE, "cpc"),
        1.0,
        "CE + w (weight_bdc mean_k softplus(z_k - z_t) + weight_bec sum_jk softplus(z_k - z_j) / (2 (C-1)(C-2)))",
        ("cheng2022cpc",),
    ),
    "acls": Recipe(
        (CE, "acls"),
        0.1,
        "CE + w (weight_top relu(M - margin)^2 + weight_rest sum_k relu(sg(M) - z_k - margin)^2 / (C-1)), M = max z",
        ("park2023acls",),
        note=_NO_EFFECT,
    ),
    "adafocal": Recipe(
        ("adafocal",), 1.0, "-(1 - sign(g) p_t)^|g| log p_t, g by the bin of p_t", ("ghosh2022adafocal",)
    ),
    "mbls": Recipe(
        (CE, "margin"),
        0.1,
        "CE + w mean_k relu(max_j z_j - z_k - margin)^power",
        ("liu2022mbls", "murugesan2023mbls"),
        note=_NO_EFFECT,
    ),
    "cals_alm": Recipe(
        (CE, "cals_alm"),
        1.0,
        "CE + w mean_k P(h_k; lam_k, rho_k), h_k = (max_j z_j - z_k) / margin - 1",
        ("liu2023cals",),
        note=f"{_STUDY} margin 10 had no effect after 1000 steps; margin 4 with weight 0.1 had",
    ),
    "cals_hr": Recipe((CE, "cals_hr"), 0.1, "CE + w mean_k lam_k relu(max_j z_j - z_k - margin)", ("liu2023cals",)),
    "svls": Recipe(("svls",), 1.0, "-sum_k s_k log p_k, s = labels blurred over the window", ("islam2021svls",)),
    "nacl": Recipe(
        (CE, "nacl"),
        0.1,
        "CE + w mean_k |tau_k - z_k|, tau = class proportions of the window",
        ("murugesan2023nacl", "murugesan2024nacl"),
        note=f"{_STUDY} weight 0.1 made it underconfident; start with 0.01 to 0.03",
    ),
    "crac": Recipe(
        (CE, "crac"),
        1.0,
        "CE + w mean_k,r P(h_k; lam_kr, rho_kr), h_k = |m_r tau_k - z_k|, r = boundary (m=1), interior (m=margin)",
        ("murugesan2024crac",),
        note=f"{_STUDY} the default made it underconfident; start with margin 8 and rho 0.01",
    ),
    "sdc": Recipe(
        (CE, "sdc"),
        0.1,
        "CE + w mean_k (|u_k - p_k| + |2 p_k - 1 - sdf_k| / sdf_scale), u = boundaries, sdf = signed distances",
        ("liang2025sdc",),
    ),
    "mmce": Recipe(
        (CE, "mmce"), 1.0, "CE + w mean_ij (c_i - m_i) (c_j - m_j) exp(-|m_i - m_j| / kernel_width)", ("kumar2018mmce",)
    ),
    "ml1_ace_hard": Recipe(
        (CE, "ml1_ace_hard"),
        1.0,
        "CE + w mean_bk mean_bins |mean p_k - mean q_k|, bins hard",
        ("barfoot2024ace", "barfoot2025ace"),
    ),
    "ml1_ace_soft": Recipe(
        (CE, "ml1_ace_soft"),
        1.0,
        "CE + w mean_bk mean_bins |mean p_k - mean q_k|, bins soft",
        ("barfoot2024ace", "barfoot2025ace"),
    ),
}
