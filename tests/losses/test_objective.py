"""What holds for every method: types, shapes, precision, errors, state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
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
    with pytest.raises(ValueError, match=r"unknown loss 'mbsl'; did you mean 'mbls'\?$"):
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
    with pytest.raises(ValueError, match="weight must be a finite number, got inf"):
        losses.build("nacl", 3, weight=float("inf"))


def test_a_recipe_may_change_the_default_of_a_term() -> None:
    assert losses.parameters("fcl")["gamma"].default == 2.0
    assert losses.build("fcl", 3).terms["focal"].gamma == 2.0
    assert losses.build("fcl", 3, gamma=1.0).terms["focal"].gamma == 1.0


@pytest.mark.parametrize(
    ("name", "hyper", "words"),
    [
        ("focal", {"gamma": float("nan")}, "gamma must be a finite number, got nan"),
        ("mbls", {"margin": "3"}, "margin must be a finite number, got '3'"),
        ("mbls", {"margin": True}, "margin must be a finite number, got True"),
        ("nacl", {"softmax": "false"}, "softmax must be True or False, got 'false'"),
        ("mmce", {"max_voxels": 2.5}, "max_voxels must be a whole number or None, got 2.5"),
        ("svls", {"kernel_size": [3, 3.0, 3]}, "kernel_size must be a whole number or a list of whole numbers"),
        ("ce", {"ignore_index": "255"}, "ignore_index must be a whole number, got '255'"),
        ("ce", {"ignore_index": True}, "ignore_index must be a whole number, got True"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(name: str, hyper: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        losses.build(name, 3, **hyper)


def test_wrong_terms_and_class_counts_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="unknown term 'foo'; known: cross_entropy"):
        losses.build_terms([("foo", 1.0, {})], 3)
    with pytest.raises(ValueError, match="dice has no option margin; it has include_background"):
        losses.build_terms([("dice", 1.0, {"margin": 1.0})], 3)
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        losses.build("cals_alm", -3)
    with pytest.raises(ValueError, match=r"num_classes must be a whole number, got 3\.0"):
        losses.build("cals_alm", 3.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["reference", ""])
def test_the_hint_names_the_label_that_does_not_fit(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Following it may not drop a class that exists."""
    monkeypatch.setenv("MEDCALIB_BACKEND", backend)
    labels = torch.tensor([0, 1, 2, -100]).reshape(1, 2, 2)
    with pytest.raises(ValueError, match=r"got -100\.\.2; pass ignore_index=-100 if"):
        losses.build("ce", 3)(torch.zeros(1, 3, 2, 2), labels)
    with pytest.raises(ValueError, match=r"got -100\.\.2; ignored are only voxels labelled 255"):
        losses.build("ce", 3, ignore_index=255)(torch.zeros(1, 3, 2, 2), labels)


def test_labels_with_fractions_are_refused() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="whole numbers, got fractions"):
        losses.build("ce", 3)(logits, torch.full((1, 2, 2), 1.9))
    whole = losses.build("ce", 3)(logits, torch.ones(1, 2, 2))
    assert whole.item() == losses.build("ce", 3)(logits, torch.ones(1, 2, 2, dtype=torch.long)).item()


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("shape", [(0, 4, 4, 4), (1, 0, 4, 4)])
def test_an_empty_batch_costs_nothing(name: str, shape: tuple[int, ...]) -> None:
    logits = torch.zeros(shape[0], 3, *shape[1:], requires_grad=True)
    objective = losses.build(name, 3)
    objective.observe(logits, torch.zeros(shape, dtype=torch.long))
    objective.update()
    loss = objective(logits, torch.zeros(shape, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("backend", ["reference", ""])
@pytest.mark.parametrize("name", ["ce", "svls"])
def test_a_class_masked_by_minus_infinity(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not the label its probability is 0 and nothing is NaN."""
    monkeypatch.setenv("MEDCALIB_BACKEND", backend)
    logits = torch.randn(1, 3, 4, 4, 4)
    expected = losses.build(name, 2)(logits[:, :2], torch.zeros(1, 4, 4, 4, dtype=torch.long))
    logits[:, 2] = -torch.inf
    found = losses.build(name, 3)(logits, torch.zeros(1, 4, 4, 4, dtype=torch.long))
    torch.testing.assert_close(found, expected)


def test_a_batch_is_remembered_until_it_is_observed() -> None:
    """Also by a term without a kernel (double logits); a remembered batch that is not observed is replaced."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    expected, found = losses.build("cals_alm", 3, margin=1.0), losses.build("cals_alm", 3, margin=1.0)
    expected.observe(logits, labels)
    found.parts(7 * logits, labels, remember=True)
    found.parts(logits, labels, remember=True)
    found.observe_remembered()
    for objective in (expected, found):
        objective.update()
    assert torch.equal(found.terms["cals_alm"].multipliers.lam, expected.terms["cals_alm"].multipliers.lam)
    with pytest.raises(RuntimeError, match=r"call parts\(\.\.\., remember=True\) before"):
        found.observe_remembered()
    found.parts(logits, labels)
    with pytest.raises(RuntimeError, match="no batch is remembered"):
        found.observe_remembered()
    losses.build("ce", 3).observe_remembered()  # nothing learns, so there is nothing to remember


@pytest.mark.parametrize("weight", [0.25, 1.0, 3.0])
def test_a_part_is_its_weight_times_its_term(weight: float) -> None:
    logits, labels = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 4, 4).long()
    parts = losses.build_terms([("cross_entropy", 1.0, {}), ("dice", weight, {})], 3).parts(logits, labels)
    dice = losses.build("dice", 3)(logits, labels)
    assert parts["dice"].item() == pytest.approx(weight * dice.item(), rel=1e-6)
    assert parts["cross_entropy"].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
