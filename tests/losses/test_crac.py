"""The class- and region-adaptive constraints of CRaC."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import (
    check_all_ignored,
    check_golden_sequence,
    check_gradient,
    check_ignored,
    golden_case,
    random_batch,
    tensors,
)

from medcalib import losses
from medcalib.ops import heterogeneous

STEP: dict[str, Any] = {"rho_step": 1}


def lam_of(objective: losses.Objective) -> list[float]:
    return objective.terms["crac"].multipliers.lam.tolist()


def test_two_voxels_by_hand() -> None:
    """A row 0 0 1 in windows of three, edges replicated: the first voxel is interior, the others boundary.

    h of the first: |m (1, 0) - z|; of the second: |(2/3, 1/3) - z|; of the third: |(1/3, 2/3) - z|.
    """
    logits = torch.tensor([[3.0, 1.0, -1.0], [0.5, 2.0, 4.0]], dtype=torch.float64).reshape(1, 2, 1, 3)
    labels = torch.tensor([[[0, 0, 1]]])
    objective = losses.build("crac", 2, margin=5.0, kernel_size=(1, 3), padding="replicate", rho=2.0, lam_min=0.5)
    interior = [2.0, 0.5]
    boundary = [[1 - 2 / 3, 2 - 1 / 3], [1 + 1 / 3, 4 - 2 / 3]]
    values = [0.5 * h + h**2 for h in (*interior, *boundary[0], *boundary[1])]
    assert objective.parts(logits, labels)["crac"].item() == pytest.approx(sum(values) / (3 * 2 * 2), rel=1e-14)
    objective.observe(logits, labels)
    objective.update()
    first = [0.5 + 2 * (boundary[0][k] + boundary[1][k]) / 3 for k in (0, 1)]
    last = [0.5 + 2 * interior[k] / 3 for k in (0, 1)]
    assert lam_of(objective) == pytest.approx([*first, *last], rel=1e-14)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_sequences_by_class_and_region(case: str) -> None:
    variants = {
        "exact_index_rs1": STEP,
        "exact_index_p2": STEP | {"penalty": "p2"},
        "exact_index_p3": STEP | {"penalty": "p3"},
    }
    check_golden_sequence(f"crac_class_region__{case}.npz", "crac", variants)


@pytest.mark.parametrize("case", ["2d_c4", "2d_allbg"])
def test_official_sequences_with_the_boundaries_of_the_official_code(case: str) -> None:
    """Its rounding is reproduced, and so are its values.

    Not those of 2d_c2: one voxel lies in the tail of a vector loop, where torch adds in another order.
    """
    official = {"compat": "official"}
    check_golden_sequence(
        f"crac_class_region__{case}.npz", "crac", {"official": official, "official_rs1": STEP | official}
    )


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "2d_allbg"])
def test_official_boundaries(case: str) -> None:
    stored, _, _, labels = golden_case(f"crac_class_region__{case}.npz")
    assert (heterogeneous(labels).numpy() == stored["region_exact"]).all()
    for dtype, name in ((torch.float32, "f32"), (torch.float64, "f64")):
        assert (heterogeneous(labels, by_rounding=dtype).numpy() == stored[f"region_official_{name}"]).all()


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4"])
def test_official_sequences_by_class(case: str) -> None:
    own = STEP | {"granularity": "class"}
    variants = {
        "official_rs1": own,
        "derived_rs1": own,
        "official_max_rs1": own | {"one_sided": True},
        "official_softmax_m1": own | {"softmax": True, "margin": 1.0},
    }
    check_golden_sequence(f"crac_class__{case}.npz", "crac", variants)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_intended_sequences_by_region(case: str) -> None:
    check_golden_sequence(f"crac_region__{case}.npz", "crac", {"intended_rs1": STEP | {"granularity": "region"}})


@pytest.mark.parametrize("case", ["2d_c4", "3d_c4"])
def test_official_sequences_with_one_multiplier(case: str) -> None:
    own = STEP | {"granularity": "scalar"}
    check_golden_sequence(f"crac_scalar__{case}.npz", "crac", {"official_rs1": own, "derived_rs1": own})


def test_the_multiplier_of_an_absent_class_is_kept() -> None:
    """The official code divides by the class count and gets NaN everywhere."""
    logits, labels = random_batch(4)
    labels = labels.clamp_max(2)
    objective = losses.build("crac", 4, granularity="class")
    for _ in range(2):
        objective.observe(logits, labels)
        objective.update()
    lam = lam_of(objective)
    assert all(0 < value < float("inf") for value in lam)
    assert lam[3] == 1e-6
    assert min(lam[:3]) > 1e-3


def test_the_rounding_of_the_official_code_misses_boundaries_and_invents_none() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(2, 24, 24, generator=generator) > 0.9).long()
    logits = torch.zeros(2, 2, 24, 24, dtype=torch.float64)
    valid = torch.ones_like(labels, dtype=torch.bool)
    exact, official = (
        losses.build("crac", 2, compat=compat).terms["crac"].constraint(logits, labels, valid).boundary
        for compat in ("exact", "official")
    )
    assert not (official & ~exact).any()
    assert (exact & ~official).any()


@pytest.mark.parametrize("granularity", ["scalar", "class", "region", "class_region"])
def test_gradient_and_ignored_voxels(granularity: str) -> None:
    check_gradient("crac", granularity=granularity)
    check_ignored("crac", granularity=granularity, cropped=False)
    check_all_ignored("crac", granularity=granularity)


@pytest.mark.parametrize("granularity", ["scalar", "class", "region", "class_region"])
def test_ignored_voxels_do_not_move_multipliers(granularity: str) -> None:
    """A half that is ignored leaves windows and means: as if the volume ended there, but for what lies beyond."""
    logits, labels = random_batch(shape=(1, 4, 4, 4))
    labels[:, 2:] = 255
    options = {"granularity": granularity, "kernel_size": (1, 3, 3), "ignore_index": 255}
    whole, half = (losses.build("crac", 3, **options) for _ in range(2))
    wild = torch.where(torch.arange(4).reshape(-1, 1, 1) >= 2, torch.inf, logits)
    whole.observe(wild, labels)
    half.observe(logits[:, :, :2], labels[:, :2])
    whole.update()
    half.update()
    torch.testing.assert_close(tensors(whole), tensors(half), rtol=1e-14, atol=0)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="margin must be positive"):
        losses.build("crac", 3, margin=-1.0)
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        losses.build("crac", 3, kernel_size=4)
