"""Local temperature scaling: the official network, its start, thin volumes, slabs, images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fits import GOLDEN, close, drawn, images_of, nll, volume

from medcalib.calibrators import build, local_temperature
from medcalib.calibrators.local_temperature import LocalTemperature
from medcalib.calibrators.temperature import Temperature


def official(variant: str) -> tuple[LocalTemperature, np.lib.npyio.NpzFile]:
    """The official weights in our layout: values, then switches, the image's last."""
    stored = np.load(GOLDEN / "local_temperature_scaling__2d_c4.npz")
    gates = ["conv1", "conv2", "conv3", "conv4", "param1", "param2", "param3", "param_img"]
    if variant == "light":
        gates = ["conv1", "conv2", "param1", "param_img"]
    weight, bias = (
        torch.cat([torch.from_numpy(stored[f"w__temperature_level_2_{gate}.{part}"]) for gate in gates])
        for part in ("weight", "bias")
    )
    image = {
        f"image_{part}_": torch.from_numpy(stored[f"w__temperature_level_2_conv_img.{part}"])
        for part in ("weight", "bias")
    }
    image["image_bias_"] = image["image_bias_"][0]
    made = LocalTemperature(4, variant=variant, image_channels=1)
    made.set_parameters({"weight_": weight, "bias_": bias, **image})
    return made, stored


def test_the_golden_network() -> None:
    made, stored = official("full")
    logits, image = torch.from_numpy(stored["logits"]), torch.from_numpy(stored["image"])
    close(made.temperature(logits, image), stored["temperature__full"], 1e-12)
    close(made(logits, image), stored["scaled__full"], 1e-12)


def test_the_golden_light_network() -> None:
    """LTS_LW: t1, and the gate of the image."""
    made, stored = official("light")
    close(made(torch.from_numpy(stored["logits"]), torch.from_numpy(stored["image"])), stored["scaled__lw"], 1e-12)


def test_the_golden_start() -> None:
    """The official zeros give T = 2."""
    made, stored = official("full")
    made.set_parameters({key: torch.zeros_like(value) for key, value in made.named_buffers()})
    logits, image = torch.from_numpy(stored["logits"]), torch.from_numpy(stored["image"])
    close(made.temperature(logits, image), stored["temperature__init"], 1e-12)


@pytest.mark.parametrize("variant", ["full", "light", "mean"])
@pytest.mark.parametrize("shape", [(2, 30, 35), (2, 12, 14, 3)])
def test_it_is_no_worse_than_temperature_scaling(variant: str, shape: tuple[int, ...]) -> None:
    """(2, 12, 14, 3): thinner than the window, whose edge is repeated instead of reflected."""
    logits, labels = volume(2.0, shape)
    fitted = build("local_temperature", 4, variant=variant, steps=15).fit(logits, labels)
    plain = Temperature(4).fit(logits, labels)
    assert nll(fitted(logits), labels) <= nll(plain(logits), labels) + 1e-9
    assert (fitted.temperature(logits) > 0).all()
    if variant == "mean":
        assert all(len(own.unique()) == 1 for own in fitted.temperature(logits))


def test_a_start_that_training_does_not_beat_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    logits, labels = volume(2.0)
    fitted = build("local_temperature", 4, steps=2, lr=50.0).fit(logits, labels)
    assert "one temperature, which is kept" in caplog.text
    expected = Temperature(4).fit(logits, labels).temperature_.expand(logits[:, :1].shape)
    close(fitted.temperature(logits), expected, 1e-6)


@pytest.mark.parametrize("image_channels", [0, 2])
def test_slabs_change_nothing(image_channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = volume(2.0, (2, 9, 8, 12))
    images = images_of(logits)
    fitted = build("local_temperature", 4, image_channels=image_channels, steps=3)
    fitted.fit(logits, labels, images=images)
    whole = fitted(logits, images)
    monkeypatch.setattr(local_temperature, "_SLAB", 9 * 8 * 5)
    close(fitted(logits, images), whole, 1e-12)


def test_the_reach_is_what_a_voxel_depends_on() -> None:
    logits, labels = volume(2.0, (1, 30, 30))
    fitted = build("local_temperature", 4, kernel_size=3, dilation=3, steps=5).fit(logits, labels)
    assert fitted.reach == 3
    other = logits.clone()
    other[0, :, 15, 15] += torch.tensor([5.0, 0, 0, 0], dtype=torch.float64)
    changed = (fitted.temperature(other) != fitted.temperature(logits))[0, 0].nonzero()
    assert (changed - 15).abs().max() == 3


def test_images_are_asked_for_where_they_are_needed() -> None:
    logits, labels = volume(2.0)
    with pytest.raises(ValueError, match=r"expected images \(1, 2, 30, 35\).*got None"):
        build("local_temperature", 4, image_channels=2).fit(logits, labels)
    fitted = build("local_temperature", 4, image_channels=2, steps=2).fit(logits, labels, images=images_of(logits))
    with pytest.raises(ValueError, match="expected images"):
        fitted(logits, images_of(logits, 1))


def test_what_windows_cannot_see_is_refused() -> None:
    with pytest.raises(ValueError, match="2 or 3 spatial axes, got 0"):
        LocalTemperature(4).fit(*drawn())
    logits, labels = volume(2.0)
    mask = torch.ones_like(labels, dtype=torch.bool)
    mask[0, 0, 0] = False
    logits[0, :, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="under the mask, too"):
        LocalTemperature(4).fit(logits, labels, mask=mask)
    for wrong in ({"kernel_size": 4}, {"dilation": 0}, {"steps": 0}, {"lr": 0.0}, {"image_channels": -1}):
        with pytest.raises(ValueError, match="odd kernel_size"):
            build("local_temperature", 4, **wrong)


def test_an_image_whose_mask_is_empty_is_left_out() -> None:
    logits, labels = volume(2.0)
    mask = torch.ones_like(labels, dtype=torch.bool)
    mask[1] = False
    both = build("local_temperature", 4, steps=3).fit(logits, labels, mask=mask)
    one = build("local_temperature", 4, steps=3).fit(logits[:1], labels[:1])
    assert torch.equal(both.weight_, one.weight_)
