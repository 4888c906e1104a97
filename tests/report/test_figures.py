"""`make figures` draws every committed picture, from phantoms alone, and the pictures stay small."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from helpers import REPOSITORY

pytest.importorskip("matplotlib")
from medcalib.report import plots

DOCS = REPOSITORY / "docs"


def test_committed_pictures_are_those_that_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PATIENTS", 3)  # the drawing is the same, the waiting shorter
    drawn = {name: plots.svg(draw, tight=True) for name, draw in module.figures()}
    committed = {path.stem for path in (DOCS / "figures").glob("*.svg")}
    assert set(drawn) == committed
    assert all(picture.startswith(b"<?xml") for picture in drawn.values())


def test_pictures_are_small_and_run_nothing() -> None:
    files: list[Path] = sorted((DOCS / "figures").iterdir())
    assert sum(path.stat().st_size for path in files) < 1_500_000
    for path in files:
        if path.suffix == ".svg":
            text = path.read_text(encoding="utf-8")
            assert "<script" not in text
            assert str(REPOSITORY) not in text
