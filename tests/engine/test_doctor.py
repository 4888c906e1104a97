"""`medcalib doctor` lists what pyproject.toml offers to install."""

from __future__ import annotations

import tomllib

import pytest
from helpers import REPOSITORY
from packaging.requirements import Requirement

from medcalib.engine import doctor as module
from medcalib.engine.doctor import EXTRAS, PACKAGES, doctor

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {Requirement(one).name for one in requirements}


def test_every_dependency_is_listed() -> None:
    assert set(PACKAGES) == names(PROJECT["dependencies"])


def test_an_extra_has_the_packages_of_the_project() -> None:
    assert {"report", "tensorboard", "wandb", "mlflow", "notebook"} <= EXTRAS.keys()
    for extra, packages in EXTRAS.items():
        assert set(packages) <= names(PROJECT["optional-dependencies"][extra])


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_package_is_told_with_what_to_install(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = EXTRAS[extra][0]
    monkeypatch.setattr(module, "version", lambda name: None if name == absent else "1.0")
    facts = doctor()
    assert facts["extras"] == {name: name != extra for name in EXTRAS}
    assert [warning for warning in facts["warnings"] if "not installed" in warning] == [
        f'{absent}: not installed; pip install "medcalib[{extra}]"'
    ]
