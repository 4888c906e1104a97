"""The phantoms of the study: posteriors, and many label maps drawn from each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from medcalib.data.phantom.fields import sample_labels
from medcalib.data.phantom.model import logits_of, lookup, make_geometry, posterior_of
from medcalib.metrics.regions import near_surface


@dataclass(frozen=True)
class Patient:
    """One geometry: posterior (C, *S) float64; R draws of labels (R, V) uint8 and their bands (R, V) bool."""

    index: int
    posterior: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    labels: NDArray[np.uint8]
    near: NDArray[np.bool_]


def draw_patient(anatomy: str, seed: int, index: int, raters: int) -> Patient:
    """Patient `index` of the data set of that seed, with labels of `raters` independent raters."""
    spec = lookup(anatomy)
    grid, geometry = make_geometry(anatomy, seed, index)
    logits = logits_of(geometry)
    drawn, near = [], []
    for rater in range(raters):
        rng = np.random.default_rng([seed, index, rater])
        labels = sample_labels(logits, rng, grid.spacing_mm, spec.label_length_mm)
        drawn.append(labels.reshape(-1))
        near.append(near_surface(torch.from_numpy(labels), grid.spacing_mm).numpy().reshape(-1))
    return Patient(index, posterior_of(geometry), grid.spacing_mm, np.stack(drawn), np.stack(near))


def population(anatomy: str, patients: int, raters: int, seed: int) -> list[Patient]:
    """All patients; subsets of them, each with one of its label maps, are the data sets of the study."""
    return [draw_patient(anatomy, seed, index, raters) for index in range(patients)]


def part_of(patients: list[Patient], raters: int) -> list[Patient]:
    """The same patients with the first `raters` label maps only."""
    return [replace(patient, labels=patient.labels[:raters], near=patient.near[:raters]) for patient in patients]
