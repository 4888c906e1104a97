"""Predictions whose miscalibration is known: the phantom's posterior, distorted by a formula. Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from estimators.population import Patient
from medcalib.metrics.regions import near_surface

Floats = NDArray[np.float64]
Predictor = Callable[[Patient], Floats]
TINY = 1e-30


def tempered(posterior: Floats, temperature: Floats | float) -> Floats:
    """softmax(log pi / T), (C, *S); T below 1 is overconfident."""
    logits = np.log(np.maximum(posterior, TINY)) / temperature
    powered = np.exp(logits - logits.max(0))
    return powered / powered.sum(0)


def _temperature(temperature: float) -> Predictor:
    return lambda patient: tempered(patient.posterior, temperature)


def _mix(patient: Patient) -> Floats:
    """0.9 pi + 0.1 / C, the best answer to smoothed labels."""
    return 0.9 * patient.posterior + 0.1 / len(patient.posterior)


def _surface(patient: Patient) -> Floats:
    """T = 0.5 at voxels that touch a predicted surface, pi elsewhere."""
    at = near_surface(torch.from_numpy(patient.posterior.argmax(0)), patient.spacing_mm, width_mm=0.0).numpy()
    return tempered(patient.posterior, np.where(at, 0.5, 1.0))


def _opposed(patient: Patient) -> Floats:
    """T = 0.5 where an odd class is predicted, 2 elsewhere: at one confidence, both directions."""
    return tempered(patient.posterior, np.where(patient.posterior.argmax(0) % 2 == 1, 0.5, 2.0))


def _noisy(patient: Patient) -> Floats:
    """Log pi plus smooth noise of standard deviation 0.8: a network that does not know pi, with other outlines."""
    rng = np.random.default_rng(patient.index)
    noise = np.stack(
        [gaussian_filter(rng.standard_normal(patient.posterior.shape[1:]), 2.0) for _ in patient.posterior]
    )
    return tempered(patient.posterior * np.exp(0.8 * noise / noise.std()), 1.0)


PREDICTORS: dict[str, Predictor] = {
    "exact": _temperature(1.0),
    "T = 0.5": _temperature(0.5),
    "T = 0.8": _temperature(0.8),
    "T = 1.5": _temperature(1.5),
    "mix": _mix,
    "surface": _surface,
    "opposed": _opposed,
    "noisy": _noisy,
}
TEXT = {
    "exact": "the posterior itself: perfectly calibrated",
    "T = 0.5": "log posterior / 0.5: strongly overconfident",
    "T = 0.8": "log posterior / 0.8: slightly overconfident",
    "T = 1.5": "log posterior / 1.5: underconfident",
    "mix": "0.9 posterior + 0.1 / C: what smoothed labels teach",
    "surface": "T = 0.5 at the voxels that touch a predicted surface, exact elsewhere",
    "opposed": "T = 0.5 where class 1 or 3 is predicted, T = 2 elsewhere: errors that cancel",
    "noisy": "log posterior + smooth noise (SD 0.8): wrong voxel by voxel, other outlines",
}
