"""Temperature scaling: theorems, the official optimum, the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fits import close, drawn, golden
from torch.nn.functional import cross_entropy

from medcalib import calibrators
from medcalib.calibrators.grid import by_grid
from medcalib.calibrators.temperature import GRID, Temperature
from medcalib.calibrators.voxels import Voxels
from medcalib.data.phantom import make_case
from medcalib.errors import CheckpointError


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    logits, labels = drawn(temperature, 20000)
    found = Temperature(4).fit(logits, labels).temperature_.item()
    assert found == pytest.approx(temperature, rel=0.05)


def test_the_gradient_vanishes_at_the_fit_and_a_refit_gives_one() -> None:
    logits, labels = drawn(2.5, 20000)
    fitted = Temperature(4).fit(logits, labels)
    log_t = fitted.temperature_.log().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(logits / log_t.exp(), labels), log_t)
    assert abs(gradient.item()) < 1e-12
    assert Temperature(4).fit(fitted(logits), labels).temperature_.item() == pytest.approx(1, abs=1e-9)


def test_predictions_stay_and_the_nll_falls() -> None:
    logits, labels = drawn(3.0, 20000)
    after = Temperature(4).fit(logits, labels)(logits)
    assert torch.equal(after.argmax(1), logits.argmax(1))
    assert cross_entropy(after, labels) < cross_entropy(logits, labels) - 0.1


def test_a_volume_is_its_voxels_and_double_voxels_change_nothing() -> None:
    logits, labels = drawn(2.0, 24 * 5)
    volume = logits.T.reshape(1, 4, 2, 3, 20)
    flat = Temperature(4).fit(logits, labels).temperature_
    torch.testing.assert_close(Temperature(4).fit(volume, labels.reshape(1, 2, 3, 20)).temperature_, flat)
    torch.testing.assert_close(Temperature(4).fit(torch.cat([logits] * 2), torch.cat([labels] * 2)).temperature_, flat)


def test_the_golden_optimum() -> None:
    """CALS' own L-BFGS stops at 2.31284 on these voxels; the exact optimum is 2.31312."""
    stored, meta, logits, labels, after = golden("temperature_scaling")
    fitted = Temperature(4).fit(logits, labels)
    assert fitted.temperature_.item() == pytest.approx(meta["T"]["exact_nll_minimiser"], rel=1e-7)
    close(fitted(after).softmax(1), stored["probs_eval_exact"], 1e-7)


def test_the_golden_grids() -> None:
    stored, meta, logits, labels, _ = golden("temperature_scaling")
    assert np.array_equal(GRID, stored["T_grid"])
    for criterion in ("nll", "ece"):
        scores = by_grid(Voxels.of(logits, labels, 4), lambda z, t: (z / t).log_softmax(0), GRID, criterion, mass=False)
        np.testing.assert_allclose(scores, stored[f"{criterion}_grid"], rtol=0, atol=1e-14)
        fitted = Temperature(4, search="grid", criterion=criterion).fit(logits, labels)
        assert fitted.temperature_.item() == meta["T"][f"focalcal_grid100_{criterion}"]


def test_an_ece_cannot_be_searched_exactly() -> None:
    with pytest.raises(ValueError, match="search grid"):
        calibrators.build("temperature", 4, criterion="ece")


@pytest.mark.parametrize("scale", [1e-2, 100.0, 3e4])
def test_saturated_and_tiny_logits_scale_the_temperature(scale: float) -> None:
    """At scale 3e4 every softmax of the start is 0 or 1 to float64: there the slope has no curvature."""
    logits, labels = drawn(1.0)
    small = Temperature(4).fit(logits / 16, labels).temperature_.item()
    assert Temperature(4).fit(logits / 16 * scale, labels).temperature_.item() == pytest.approx(small * scale, rel=1e-9)


def test_the_true_posterior_of_the_phantom_has_temperature_one() -> None:
    """The labels of a rater are those of the posterior, but neighbors share their noise. The standard error of 1/T is
    1 / sqrt(total information) for free voxels; here voxels within some 3 x 3 x 2 move together, which takes it
    sqrt(18) times up. Three of those are allowed, and the bound must still exclude a posterior made 1.5 times sharper.
    """
    cases = [make_case("heart", 0, k, (32, 32, 6)) for k in range(14)]
    logits = [torch.from_numpy(case.posterior).double().clamp(min=1e-30).log()[None] for case in cases]
    labels = [torch.from_numpy(case.labels).long()[None] for case in cases]
    probs = torch.cat([z.softmax(1).flatten(2)[0] for z in logits], 1)
    z = torch.cat([z.flatten(2)[0] for z in logits], 1)
    information = float(((probs * z.square()).sum(0) - (probs * z).sum(0).square()).sum())
    bound = 3 * np.sqrt(18 / information)
    assert 1 / Temperature(4).fit(logits, labels).temperature_.item() == pytest.approx(1, abs=bound)
    assert bound < 0.2
    sharper = Temperature(4).fit([1.5 * z for z in logits], labels).temperature_.item()
    assert sharper == pytest.approx(1.5 * Temperature(4).fit(logits, labels).temperature_.item(), rel=1e-9)


def test_before_a_fit_it_is_refused_and_after_it_shows_its_temperature() -> None:
    logits, labels = drawn(2.0)
    unfitted = calibrators.build("temperature", 4)
    with pytest.raises(ValueError, match="not fitted"):
        unfitted(logits)
    assert "temperature=2.0" in repr(unfitted.fit(logits, labels)) or "temperature=1.9" in repr(unfitted)


def test_without_a_minimum_the_fit_is_refused() -> None:
    logits = torch.eye(4, dtype=torch.float64) * 5
    with pytest.raises(ValueError, match="no minimum"):
        Temperature(4).fit(logits, torch.arange(4))
    with pytest.raises(ValueError, match="no minimum"):
        Temperature(4).fit(logits, (torch.arange(4) + 1) % 4)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    logits, labels = drawn(2.0)
    fitted = calibrators.build("temperature", 4).fit(logits, labels)
    fitted.facts = {"cases": ["a", "b"]}
    fitted.save(tmp_path / "t.safetensors")
    again = calibrators.load(tmp_path / "t.safetensors")
    assert torch.equal(again(logits), fitted(logits))
    assert again.facts == {"cases": ["a", "b"]}


def test_a_foreign_or_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(CheckpointError, match="no saved calibrator"):
        calibrators.load(tmp_path / "x")
    with pytest.raises(ValueError, match="unknown calibrator 'temprature'"):
        calibrators.build("temprature", 4)
