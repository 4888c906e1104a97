"""Laws of every calibrator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fits import OPTIONS, SPATIAL, images_of, nll, volume
from safetensors.torch import load_file, save_file
from torch import Tensor

from medcalib import calibrators
from medcalib.calibrators import Calibrator, build, inverse_temperature
from medcalib.errors import CheckpointError

NAMES = calibrators.names()
LOOSE = [name for name in NAMES if name not in SPATIAL]
KEEPING = [name for name in NAMES if build(name, 4).keeps_argmax]
CHEAP = {"local_temperature": {"steps": 8}}


def made(name: str, classes: int = 4) -> Calibrator:
    return build(name, classes, **CHEAP.get(name, {}))


def fitted(name: str, logits: Tensor, labels: Tensor, **more: Any) -> Calibrator:
    return made(name, logits.shape[1]).fit(logits, labels, **more)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_after_a_fit_on_their_own_voxels_are_no_worse(name: str) -> None:
    """Least squares on steps, isotonic and histogram, do not minimize the NLL; they lower the Brier score."""
    logits, labels = volume(3.0)
    after = fitted(name, logits, labels)(logits)
    onehot = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1)
    brier = [float((z.softmax(1) - onehot).square().sum(1).mean()) for z in (logits, after)]
    assert brier[1] < brier[0]
    if name not in ("isotonic", "histogram"):
        assert nll(after, labels) < nll(logits, labels) - 0.1
    assert after.shape == logits.shape


def hard(kind: str) -> Tensor:
    """Logits (1, 4, 20, 20) that are hard to keep the order of."""
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(1, 4, 20, 20, generator=generator)
    if kind == "ties":
        return torch.randint(0, 3, z.shape, generator=generator).float()
    if kind == "neighbors":  # the two largest one unit in the last place apart, the larger one behind
        base = z.abs().amax(1) + 1
        return torch.stack([z[:, 0] - 9, base, torch.nextafter(base, torch.tensor(99.0)), base - 5], 1)
    return {"huge": 2000 * z.sign() * torch.rand(z.shape, generator=generator), "sure": 40 * z, "tiny": 1e-6 * z}[kind]


@pytest.mark.parametrize("kind", ["ties", "neighbors", "huge", "sure", "tiny"])
@pytest.mark.parametrize("name", KEEPING)
def test_the_arg_max_and_with_it_every_dice_stays(name: str, kind: str) -> None:
    logits, labels = volume(3.0)
    method = fitted(name, logits, labels)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        z = hard(kind).to(dtype)
        after = method(z)
        assert after.dtype == dtype
        assert torch.isfinite(after).all()
        assert torch.equal(after.argmax(1), z.argmax(1))


@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_give_probabilities(name: str) -> None:
    logits, labels = volume(3.0)
    method = fitted(name, logits, labels)
    for kind in ("ties", "huge", "sure", "tiny"):
        probs = method(hard(kind)).softmax(1)
        torch.testing.assert_close(probs.sum(1), torch.ones(1, 20, 20), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("vector", "matrix", "local_temperature")])
def test_a_constant_added_to_a_voxel_changes_nothing(name: str) -> None:
    """Vector and matrix scaling, and the windows of local temperature scaling, see the logits themselves."""
    logits, labels = volume(3.0)
    shift = torch.linspace(-30, 30, labels.numel(), dtype=torch.float64).reshape(labels.shape)[:, None]
    one, two = fitted(name, logits, labels), fitted(name, logits + shift, labels)
    torch.testing.assert_close(two(logits + shift).softmax(1), one(logits).softmax(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", LOOSE)
def test_order_and_number_of_equal_voxels_and_shape_change_nothing(name: str) -> None:
    logits, labels = volume(3.0)
    rows, flat = logits.movedim(1, -1).reshape(-1, 4), labels.flatten()
    expected = fitted(name, rows, flat)(rows).softmax(1)
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
    for z, y in (
        (rows[order], flat[order]),
        (torch.cat([rows, rows]), torch.cat([flat, flat])),
        (logits, labels),
        ([logits[:1, :, :9], logits[:1, :, 9:], logits[1:]], [labels[:1, :9], labels[:1, 9:], labels[1:]]),
    ):
        method = made(name).fit(z, y)
        torch.testing.assert_close(method(rows).softmax(1), expected, rtol=0, atol=1e-6)
    # the last digit may differ: a processor's vector instructions round pow otherwise than its scalar ones
    torch.testing.assert_close(method(logits).movedim(1, -1).reshape(-1, 4), method(rows), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("name", LOOSE)
def test_a_mapped_file_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    logits, labels = volume(3.0)
    logits = logits.float()
    stored = np.memmap(tmp_path / "z", np.float32, "w+", shape=tuple(logits.shape))
    stored[:] = logits.numpy()
    one, two = fitted(name, logits, labels), fitted(name, torch.from_numpy(stored), labels)
    assert torch.equal(one(logits), two(logits))


@pytest.mark.parametrize("name", NAMES)
def test_masked_voxels_may_hold_any_label_and_loose_ones_any_logits(name: str) -> None:
    logits, labels = volume(3.0)
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    expected = fitted(name, logits, labels, mask=mask)(logits)
    wrong, spoiled = labels.clone(), logits.clone()
    wrong[~mask] = 255
    if name in LOOSE:
        spoiled.movedim(1, -1)[~mask] = torch.nan
    assert torch.equal(fitted(name, spoiled, wrong, mask=mask)(logits), expected)
    if name in LOOSE:
        rows = logits.movedim(1, -1)[mask]
        alone = fitted(name, rows, labels[mask])(logits.movedim(1, -1).reshape(-1, 4))
        torch.testing.assert_close(expected.movedim(1, -1).reshape(-1, 4), alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["temperature", "focal_temperature", "isotonic"])
def test_a_monotone_map_keeps_the_order_of_confidence_of_two_classes(name: str) -> None:
    """So the area under risk against coverage stays; pooled isotonic regression may merge neighbors in ties, which
    takes no voxel past another."""
    logits, labels = volume(3.0)
    two, correct = logits[:, :2].movedim(1, -1).reshape(-1, 2), labels.clamp(max=1).flatten()
    after = fitted(name, two, correct)(two)
    before, now = (z.softmax(1).amax(1) for z in (two, after))
    order = before.argsort(stable=True)
    assert (now[order].diff() >= -1e-12).all()
    if name != "isotonic":
        wrong = (two.argmax(1) != correct).double()
        areas = [
            (wrong[c.argsort(descending=True, stable=True)].cumsum(0) / torch.arange(1, len(wrong) + 1)).mean()
            for c in (before, now)
        ]
        assert areas[0].item() == pytest.approx(areas[1].item(), abs=1e-9)


@pytest.mark.parametrize("name", ["temperature", "classwise_temperature", "region_temperature"])
def test_a_sampled_start_ends_in_the_same_minimum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = volume(3.0)
    expected = fitted(name, logits, labels)(logits)
    monkeypatch.setattr(inverse_temperature, "SAMPLE", 150)
    torch.testing.assert_close(fitted(name, logits, labels)(logits), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_fitting_twice_gives_the_same_bits(name: str) -> None:
    logits, labels = volume(3.0)
    assert torch.equal(fitted(name, logits, labels)(logits), fitted(name, logits, labels)(logits))


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_rare_class_and_saturated_logits_are_fitted(name: str, scale: float) -> None:
    """99.9 % background, a class of some voxels; times 100 float32 confidences are 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, 3, 120, 120, generator=generator)
    z[:, 0] += 9
    z[:, 1, :2, :7] += 9
    z[:, 2, 1:3, 3:9] += 9
    labels = torch.multinomial(z[0].flatten(1).T.softmax(1), 1, generator=generator).reshape(1, 120, 120)
    labels[0, 0, :3], labels[0, 2, 3:6] = 1, 2
    logits = (2 * scale * z).float()
    after = fitted(name, logits, labels)(logits)
    assert torch.isfinite(after).all()
    assert nll(after, labels) < nll(logits, labels)


@pytest.mark.parametrize("classes", [2, 118])
@pytest.mark.parametrize("name", NAMES)
def test_two_and_118_classes(name: str, classes: int) -> None:
    generator = torch.Generator().manual_seed(2)
    shape = (1, classes, 30, 40) if classes > 2 else (1, classes, 20, 20)
    logits = 3 * torch.randn(shape, generator=generator)
    labels = torch.multinomial((logits[0].flatten(1).T / 2).softmax(1), 1, generator=generator).reshape(1, *shape[2:])
    labels.view(-1)[:classes] = torch.arange(classes)
    options = {"off_diagonal": 0.1, "bias": 0.1} if name in ("matrix", "dirichlet") else CHEAP.get(name, {})
    after = build(name, classes, **options).fit(logits, labels)(logits)
    assert nll(after, labels) < nll(logits, labels) or name in ("isotonic", "histogram")


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    logits, labels = volume(3.0)
    images = images_of(logits)
    method = build(name, 4, **OPTIONS[name]).fit(logits, labels, images=images)
    method.facts = {"cases": ["a"], "nll": [1.5, 1.25]}
    method.save(tmp_path / "c.safetensors")
    again = calibrators.load(tmp_path / "c.safetensors")
    assert torch.equal(again(logits, images), method(logits, images))
    assert again.facts == method.facts
    assert again.options == method.options
    assert again.plain() == method.plain()
    assert json.dumps(again.plain())
    assert repr(again) == repr(method)


@pytest.mark.parametrize("name", NAMES)
def test_before_a_fit_and_for_other_classes_it_is_refused(name: str) -> None:
    logits, labels = volume(3.0)
    with pytest.raises(ValueError, match=f"{name} is not fitted; call fit"):
        made(name)(logits)
    method = fitted(name, logits, labels)
    with pytest.raises(ValueError, match=r"expected logits \(B, 4, \*S\)"):
        method(logits[:, :3])
    with pytest.raises(ValueError, match="floating logits"):
        made(name, 3).fit(logits, labels)


def test_nonsense_is_refused_with_what_is_known() -> None:
    with pytest.raises(ValueError, match="unknown calibrator 'platt'; known: temperature"):
        build("platt", 4)
    with pytest.raises(ValueError, match="has no option bins; it has search, criterion"):
        build("temperature", 4, bins=3)
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        build("temperature", 1)
    for name, options in OPTIONS.items():
        for key in options:
            with pytest.raises(ValueError, match=key):
                build(name, 4, **{key: "nonsense"})


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """The file with other contents."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        meta = json.loads(stored.metadata()["medcalib"])
    tensors = load_file(path)
    change(meta, tensors)
    save_file(tensors, path, {"medcalib": json.dumps(meta)})


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    logits, labels = volume(3.0)
    path = tmp_path / "c.safetensors"
    method = fitted(name, logits, labels)
    key = next(key for key, value in method.named_buffers() if value.is_floating_point())

    def spoil(value: Tensor) -> Tensor:
        other = value.clone()
        other.view(-1)[0] = torch.nan
        return other

    changes: list[Callable[[dict[str, Any], dict[str, Tensor]], Any]] = [
        lambda _, tensors: tensors.update({key: spoil(tensors[key])}),
        lambda _, tensors: tensors.update({key: tensors[key].float()}),
        lambda _, tensors: tensors.update({key: tensors[key][None].contiguous()}),
        lambda _, tensors: tensors.pop(key),
        lambda _, tensors: tensors.update({"more_": torch.zeros(1)}),
        lambda meta, _: meta.update(method="platt"),
        lambda meta, _: meta.update(num_classes="4"),
        lambda meta, _: meta.update(options={"unknown": 1}),
        lambda meta, _: meta.update(options=[1]),
        lambda meta, _: meta.pop("facts"),
        lambda meta, _: meta.pop("method"),
    ]
    for change in changes:
        method.save(path)
        rewritten(path, change)
        with pytest.raises(CheckpointError, match="is no calibrator of this version"):
            calibrators.load(path)


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    for content in (b"\x80\x04cos\nsystem\n", b"", b"\xff" * 100):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(CheckpointError, match="no saved calibrator"):
            calibrators.load(tmp_path / "x")
    for meta in ({}, {"medcalib": "{"}, {"medcalib": "[" * 100000}):
        save_file({"a": torch.zeros(1)}, tmp_path / "y", meta)
        with pytest.raises(CheckpointError, match="no saved calibrator"):
            calibrators.load(tmp_path / "y")
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="no saved calibrator"):
            calibrators.load(place)


def test_values_that_would_turn_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="not in 1e-09"):
        build("temperature", 4).set_parameters({"temperature_": torch.tensor(-1.0, dtype=torch.float64)})
    with pytest.raises(ValueError, match="do not fit together"):
        build("isotonic", 4).set_parameters(
            {
                "thresholds_": torch.tensor([0.0, 1.0]).double(),
                "values_": torch.tensor([0.0]).double(),
                "first_": torch.tensor([0]),
            }
        )
    with pytest.raises(ValueError, match="expected the shapes"):
        build("local_temperature", 4).set_parameters(
            {"weight_": torch.zeros(7, 4, 3, 3).double(), "bias_": torch.zeros(7).double()}
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_method_tells_its_formula_and_reference(name: str) -> None:
    method = build(name, 4)
    assert method.name == name
    assert method.formula
    assert method.reference
