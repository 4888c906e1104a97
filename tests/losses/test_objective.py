"""What holds for every method: types, shapes, precision, errors, state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import check_infinite_ignored, random_batch
from monai.data import MetaTensor

from medcalib import losses


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 4, 5, 6)])
@pytest.mark.parametrize("classes", [2, 5])
def test_two_and_three_dimensions_any_class_count(name: str, shape: tuple[int, ...], classes: int) -> None:
    logits, labels = random_batch(classes, shape)
    loss = losses.build(name, classes)(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.shape == ()
    assert loss.dtype == torch.float64
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", losses.names())
def test_half_logits_are_computed_in_float32(name: str) -> None:
    """Under autocast, and for logits whose half-precision softmax would not be finite."""
    logits, labels = random_batch()
    half = (logits * 100).to(torch.bfloat16)
    objective = losses.build(name, 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(half, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, objective(half.float(), labels))


@pytest.mark.parametrize("name", losses.names())
def test_an_infinite_logit_at_an_ignored_voxel_is_harmless(name: str) -> None:
    check_infinite_ignored(name)


@pytest.mark.parametrize("name", losses.names())
def test_a_metatensor_gives_a_plain_tensor(name: str) -> None:
    logits, labels = random_batch()
    objective = losses.build(name, 3)
    loss = objective(MetaTensor(logits), MetaTensor(labels))
    assert type(loss) is torch.Tensor
    torch.testing.assert_close(loss, objective(logits, labels))


@pytest.mark.parametrize("name", losses.names())
def test_parts_add_up_to_the_loss(name: str) -> None:
    logits, labels = random_batch()
    objective = losses.build(name, 3)
    parts = objective.parts(logits, labels)
    assert list(parts) == list(losses.RECIPES[name].terms)
    assert sum(p.item() for p in parts.values()) == pytest.approx(objective(logits, labels).item(), rel=1e-14)


def test_an_unknown_name_or_hyperparameter_lists_what_exists() -> None:
    with pytest.raises(ValueError, match="unknown loss 'mbsl'; known: .*mbls"):
        losses.build("mbsl", 3)
    with pytest.raises(ValueError, match="mbls has no hyperparameter alpha; it has margin"):
        losses.build("mbls", 3, alpha=1.0)


def test_two_likelihoods_are_refused() -> None:
    with pytest.raises(ValueError, match="both likelihoods"):
        losses.build_terms([("cross_entropy", 1.0, {}), ("focal", 1.0, {})], 3)


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2), r"expected logits \(B, 3, \*S\)"),
        (torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2), "labels have no channel axis"),
        (torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 255), "pass ignore_index=255"),
        (torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), -1), r"lie in 0\.\.2"),
    ],
)
def test_wrong_inputs_say_what_was_expected(logits: torch.Tensor, labels: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        losses.build("ce", 3)(logits, labels)


class Counting(losses.Term):
    """A term with a multiplier that doubles with each update and counts the voxels it observed."""

    likelihood = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("lam", torch.ones((), dtype=torch.float64))
        self.seen = 0

    def forward(self, logits: Any, labels: Any, valid: Any) -> torch.Tensor:
        return self.lam * logits.square().mean()

    def observe(self, logits: Any, labels: Any, valid: Any) -> None:
        self.seen += int(valid.sum())

    def update(self) -> None:
        self.lam *= 2


def test_terms_with_multipliers_observe_update_and_are_saved() -> None:
    logits, labels = random_batch()
    labels[0] = 255
    terms = [losses.objective.WeightedTerm("counting", 1.0, Counting())]
    objective = losses.Objective(terms, 3, ignore_index=255)
    objective.observe(logits, labels)
    objective.update()
    assert objective.terms["counting"].seen == labels[1].numel()
    again = losses.Objective([losses.objective.WeightedTerm("counting", 1.0, Counting())], 3)
    again.load_state_dict(objective.state_dict())
    assert again.terms["counting"].lam.item() == 2


def test_a_misspelled_choice_is_refused() -> None:
    """It would pass for the other one."""
    with pytest.raises(ValueError, match="distance must be one of 'l1', 'l2', got 'L1'"):
        losses.build("nacl", 3, distance="L1")
    with pytest.raises(ValueError, match="granularity must be one of 'scalar', 'class', 'region', 'class_region'"):
        losses.build("crac", 3, granularity="voxel")


def test_a_weight_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="weight must be finite and not negative, got inf"):
        losses.build("nacl", 3, weight=float("inf"))


def test_a_recipe_may_change_the_default_of_a_term() -> None:
    assert losses.parameters("fcl")["gamma"].default == 2.0
    assert losses.build("fcl", 3).terms["focal"].gamma == 2.0
    assert losses.build("fcl", 3, gamma=1.0).terms["focal"].gamma == 1.0
