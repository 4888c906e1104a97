"""Temperature scaling: theorems, the official optimum, the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from medcalib import calibrators
from medcalib.calibrators.temperature import Temperature
from medcalib.errors import CheckpointError


def drawn(temperature: float, voxels: int = 20000, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(voxels, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    logits, labels = drawn(temperature)
    found = Temperature(4).fit(logits, labels).temperature_.item()
    assert found == pytest.approx(temperature, rel=0.05)


def test_the_gradient_vanishes_at_the_fit_and_a_refit_gives_one() -> None:
    logits, labels = drawn(2.5)
    fitted = Temperature(4).fit(logits, labels)
    log_t = fitted.temperature_.log().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(logits / log_t.exp(), labels), log_t)
    assert abs(gradient.item()) < 1e-12
    assert Temperature(4).fit(fitted(logits), labels).temperature_.item() == pytest.approx(1, abs=1e-9)


def test_predictions_stay_and_the_nll_falls() -> None:
    logits, labels = drawn(3.0)
    after = Temperature(4).fit(logits, labels)(logits)
    assert torch.equal(after.argmax(1), logits.argmax(1))
    assert cross_entropy(after, labels) < cross_entropy(logits, labels) - 0.1


def test_a_volume_is_its_voxels_and_double_voxels_change_nothing() -> None:
    logits, labels = drawn(2.0, 24 * 5)
    volume = logits.T.reshape(1, 4, 2, 3, 20)
    flat = Temperature(4).fit(logits, labels).temperature_
    torch.testing.assert_close(Temperature(4).fit(volume, labels.reshape(1, 2, 3, 20)).temperature_, flat)
    torch.testing.assert_close(Temperature(4).fit(torch.cat([logits] * 2), torch.cat([labels] * 2)).temperature_, flat)


def test_the_official_optimum() -> None:
    """CALS' own L-BFGS stops at 2.31284 on these voxels; the exact optimum is 2.31312."""
    stored = np.load(Path(__file__).parent.parent / "golden" / "temperature_scaling__cal3d_eval2d.npz")
    exact = json.loads(str(stored["meta"]))["T"]["exact_nll_minimiser"]
    labels = torch.from_numpy(stored["labels_cal"].astype(np.int64))
    fitted = Temperature(4).fit(torch.from_numpy(stored["logits_cal"]), labels)
    assert fitted.temperature_.item() == pytest.approx(exact, rel=1e-7)
    probs = fitted(torch.from_numpy(stored["logits_eval"])).softmax(1)
    torch.testing.assert_close(probs, torch.from_numpy(stored["probs_eval_exact"]), rtol=1e-6, atol=1e-7)


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
