"""Interior and boundary temperatures: regions by hand, edges, thin volumes, 2D and 3D."""

from __future__ import annotations

import pytest
import torch
from fits import drawn, volume

from medcalib.calibrators import build
from medcalib.calibrators.region_temperature import RegionTemperature
from medcalib.calibrators.temperature import Temperature


def onehot(classes: list[list[int]]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 3).movedim(-1, 0)[None].double()


def test_regions_by_hand() -> None:
    """The border between columns 1 and 2 mixes both; the lone 2 in a corner mixes the four around it."""
    logits = onehot([[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 2]])
    expected = [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert RegionTemperature(3).groups(logits)[0].tolist() == expected
    by_class = RegionTemperature(3, classwise=True).groups(logits)[0]
    assert by_class[0].tolist() == [0, 1, 3, 2, 2]
    assert by_class[4].tolist() == [0, 1, 3, 3, 5]


def test_a_window_of_one_looks_along_the_other_axis_only() -> None:
    logits = onehot([[0, 0, 1], [0, 0, 1], [1, 1, 1]])
    assert RegionTemperature(3, kernel_size=[3, 1]).groups(logits)[0].tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize("shape", [(2, 30, 35), (2, 12, 11, 20), (1, 40, 30, 1)])
@pytest.mark.parametrize("classwise", [False, True])
def test_each_temperature_is_that_of_its_voxels(shape: tuple[int, ...], classwise: bool) -> None:
    logits, labels = volume(2.0, shape)
    fitted = RegionTemperature(4, classwise=classwise).fit(logits, labels)
    groups, loose = fitted.groups(logits), logits.movedim(1, -1)
    assert fitted.own_.any()
    for group, temperature in enumerate(fitted.temperature_.flatten()):
        own = groups == group
        if fitted.own_.flatten()[group]:
            alone = Temperature(4).fit(loose[own], labels[own]).temperature_.item()
            assert temperature.item() == pytest.approx(alone, rel=1e-10)
    assert torch.equal(fitted(logits), logits / fitted.temperature_.flatten()[groups][:, None])


def test_it_needs_volumes_and_odd_windows() -> None:
    with pytest.raises(ValueError, match="2 or 3 spatial axes, got 0"):
        RegionTemperature(4).fit(*drawn())
    with pytest.raises(ValueError, match="3 spatial axes, got 2"):
        RegionTemperature(4, kernel_size=[3, 3, 1]).fit(*volume())
    for wrong in (2, 1, [1, 1], [3, 4]):
        with pytest.raises(ValueError, match="odd"):
            build("region_temperature", 4, kernel_size=wrong)
    assert build("region_temperature", 4, kernel_size=[5, 3, 1]).reach == (2, 1, 0)
