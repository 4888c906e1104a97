"""Which cases are shown, and that their pictures keep within the budget."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from pages import make

from medcalib.report import viewers
from medcalib.report.content import read_methods


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [
        (12, 3, {11: "worst", 5: "median", 0: "best"}),
        (12, 2, {11: "worst", 5: "median"}),
        (12, 1, {11: "worst"}),
        (2, 3, {1: "worst", 0: "median and best"}),
        (1, 3, {0: "worst and median and best"}),
        (12, 5, {11: "worst", 8: "4. worst of 12", 5: "median", 2: "10. worst of 12", 0: "best"}),
        (0, 3, {}),
    ],
)
def test_places_run_from_the_worst_to_the_best(count: int, wanted: int, expected: dict[int, str]) -> None:
    found = viewers.places(count, wanted)
    assert found == expected
    assert list(found) == sorted(found, reverse=True)


def test_pictures_are_thinned_until_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = read_methods([make(tmp_path, "m", 2.0, cases=3, maps=True)], [tmp_path / "maps"])

    def shown() -> list[viewers.Viewer]:
        return viewers.viewers(methods, {}, 3)["viewers"][0][1]

    whole = shown()
    assert [v.slices.step for v in whole if v.slices] == [1, 1, 1]
    monkeypatch.setattr(viewers, "MAX_BYTES", sum(v.bytes for v in whole) - 1)
    monkeypatch.setattr(viewers, "EDGE", 12)
    monkeypatch.setattr(viewers, "LEAST_EDGE", 4)
    assert all(v.slices.step > 1 for v in shown() if v.slices)
