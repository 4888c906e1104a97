"""A temperature for each predicted class: each its own optimum, absent classes that of all."""

from __future__ import annotations

import pytest
import torch
from fits import drawn, nll

from medcalib.calibrators.classwise_temperature import ClasswiseTemperature
from medcalib.calibrators.temperature import Temperature


def test_each_temperature_is_that_of_the_voxels_predicted_as_its_class() -> None:
    logits, labels = drawn(2.0)
    fitted = ClasswiseTemperature(4).fit(logits, labels)
    for k in range(4):
        own = logits.argmax(1) == k
        alone = Temperature(4).fit(logits[own], labels[own]).temperature_.item()
        assert fitted.temperature_[k].item() == pytest.approx(alone, rel=1e-10)
    assert fitted.own_.all()
    assert nll(fitted(logits), labels) < nll(Temperature(4).fit(logits, labels)(logits), labels)


def test_temperatures_that_made_the_labels_are_found() -> None:
    true = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    logits, _ = drawn(1.0, 60000)
    probs = (logits / true[logits.argmax(1)][:, None]).softmax(1)
    labels = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(1))[:, 0]
    found = ClasswiseTemperature(4).fit(logits, labels).temperature_
    torch.testing.assert_close(found, true, rtol=0.08, atol=0)  # some 15000 voxels each: errors of 1 to 2 %


def test_a_class_that_is_never_predicted_or_always_right_takes_the_temperature_of_all() -> None:
    logits, labels = drawn(2.0)
    logits[:, 3] -= 100
    right = logits.argmax(1) == 2
    labels[right] = 2
    fitted = ClasswiseTemperature(4).fit(logits, labels)
    everywhere = Temperature(4).fit(logits, labels).temperature_
    assert fitted.own_.tolist() == [True, True, False, False]
    assert torch.equal(fitted.temperature_[2:], everywhere.expand(2))
    assert fitted.plain()["own"] == [True, True, False, False]
