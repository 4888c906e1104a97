"""A saved calibrator and whom it may be applied to: nobody that it was fitted on, unless it was cross-fitted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medcalib import calibrators
from medcalib.calibrators import Calibrator
from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.errors import CheckpointError, ConfigError, in_words


@dataclass(frozen=True)
class Fitted:
    """The calibrator of all patients of a fit, and for each of them one that was fitted without that patient."""

    calibrator: Calibrator
    without: dict[str, Calibrator]

    def for_case(self, case: Case) -> Calibrator:
        """The one that knows nothing of the case's patient."""
        return self.without.get(self.patient_of(case), self.calibrator)

    def patient_of(self, case: Case) -> str:
        """Whose the case is: by the fit where it was part of it, since files alone do not tell."""
        return str(self.calibrator.facts.get("patients", {}).get(case.id, case.patient_id))


def load_fitted(path: Path) -> Fitted:
    """Read a file that `calibrate` wrote. Raises `CheckpointError`."""
    calibrator = calibrators.load(path)
    without: dict[str, Calibrator] = {}
    try:
        for fold in calibrator.facts.get("folds") or []:
            own = calibrators.build(calibrator.name, calibrator.num_classes, **calibrator.options)
            kinds = {key: value.dtype for key, value in own.named_buffers()}
            own.set_parameters({key: torch.tensor(v, dtype=kinds[key]) for key, v in fold["parameters"].items()})
            without |= {str(patient): own for patient in fold["patients"]}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its folds are damaged ({in_words(error)}); fit it again") from error
    return Fitted(calibrator, without)


def refuse_fitted_cases(fitted: Fitted, path: Path, cases: Iterable[Case]) -> None:
    """Raise `ConfigError` for cases of patients that the calibrator was fitted on and not cross-fitted for."""
    facts = fitted.calibrator.facts
    seen = {*facts.get("cases", []), *facts.get("patients", {}).values()}
    whose = {case.id: fitted.patient_of(case) for case in cases}
    shared = sorted(case for case, patient in whose.items() if {case, patient} & seen and patient not in fitted.without)
    if shared:
        raise ConfigError(
            f"{path} was fitted on {', '.join(shared[:3])} ({len(shared)} of these cases) or on their patients; scores "
            "of them would be too good. Choose other cases, or fit with --folds: each patient is repaired by the rest"
        )


def refuse_other_model(fitted: Fitted, path: Path, weights_sha256: str | None, what: str) -> None:
    """Raise `ConfigError` where both sides name the weights of a network, and they differ."""
    own = fitted.calibrator.facts.get("weights_sha256")
    if own is not None and weights_sha256 is not None and own != weights_sha256:
        raise ConfigError(
            f"{path} was fitted to other weights than those of {what}; fit it to these, or choose the --weights (best "
            "or last) that it was fitted to"
        )


def refuse_other_classes(fitted: Fitted, path: Path, label_map: LabelMap, what: str) -> None:
    """Raise `ConfigError` unless the classes are those of the fit, in their order."""
    names = fitted.calibrator.facts.get("classes")
    if fitted.calibrator.num_classes != label_map.num_classes or names not in (None, list(label_map.class_names)):
        raise ConfigError(
            f"{path} was fitted to the classes {', '.join(names or [str(fitted.calibrator.num_classes)])}; {what} has "
            f"{', '.join(label_map.class_names)}"
        )


def described(fitted: Fitted) -> dict[str, Any]:
    """What sidecars and scores say of a calibrator: its method, parameters if they are few, and the fit's scores."""
    calibrator = fitted.calibrator
    plain = calibrator.plain()
    few = {key: value for key, value in plain.items() if not isinstance(value, list) or len(str(value)) < 2000}
    facts = {key: calibrator.facts[key] for key in ("before", "after", "held_out") if calibrator.facts.get(key)}
    return {**few, "name": calibrator.name, "fitted_on": len(calibrator.facts.get("cases", [])), **facts}


def contents(path: Path) -> dict[str, Any]:
    """Everything that a file holds, as plain numbers: formula, parameters, what it was fitted on, scores."""
    calibrator = load_fitted(path).calibrator
    plain = calibrator.plain()
    return {"name": plain.pop("method"), **plain, **calibrator.facts}
