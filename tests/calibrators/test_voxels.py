"""The voxels of a fit: pieces, masks, samples, refusals."""

from __future__ import annotations

import pytest
import torch
from fits import drawn, volume

from medcalib.calibrators import voxels as module
from medcalib.calibrators.voxels import Voxels, predicted


def gathered(voxels: Voxels) -> tuple[torch.Tensor, torch.Tensor]:
    chunks = list(voxels.chunks())
    return torch.cat([chunk.logits for chunk in chunks], 1), torch.cat([chunk.labels for chunk in chunks])


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "piece_size", lambda _: 70)


def test_volumes_sequences_and_rows_are_the_same_voxels() -> None:
    logits, labels = volume(2.0, (2, 5, 7, 6))
    rows = logits.movedim(1, -1).reshape(-1, 4)
    expected = gathered(Voxels.of(rows, labels.flatten(), 4))
    for z, y in (
        (logits, labels),
        ([logits[:1], logits[1:]], [labels[:1], labels[1:]]),
        (list(logits[:, None]), list(labels[:, None].byte())),
    ):
        found = gathered(Voxels.of(z, y, 4))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_float_type_is_taken_as_it_is(dtype: torch.dtype) -> None:
    logits, labels = drawn(2.0, 200)
    found, _ = gathered(Voxels.of(logits.to(dtype), labels.to(torch.int16), 4))
    assert torch.equal(found, logits.to(dtype).double().T)


def test_masked_voxels_may_be_anything() -> None:
    logits, labels = drawn(2.0, 500)
    mask = torch.rand(500, generator=torch.Generator().manual_seed(0)) < 0.3
    mask[70:210] = False  # whole pieces
    spoiled, wrong = logits.clone(), labels.clone()
    spoiled[~mask], wrong[~mask] = torch.nan, 255
    voxels = Voxels.of(spoiled, wrong, 4, mask=mask)
    assert voxels.total == int(mask.sum())
    found = gathered(voxels)
    assert torch.equal(found[0], logits[mask].T)
    assert torch.equal(found[1], labels[mask])
    assert all(len(chunk.labels) for chunk in voxels.chunks())


def test_a_sample_is_drawn_evenly_without_replacement_and_with_its_groups() -> None:
    logits = torch.arange(40000.0).reshape(2, 2, 100, 100)
    labels = torch.zeros(2, 100, 100, dtype=torch.int64)
    mask = (torch.arange(20000) % 5 > 0).reshape(labels.shape)
    groups = logits[:, 0].long()
    voxels = Voxels.of(logits, labels, 2, mask=mask, groups=groups)
    sample = voxels.sample(4000)
    drawn_, _ = gathered(sample)
    assert sample.total == drawn_.shape[1] == len(drawn_[0].unique())
    assert abs(sample.total - 4000) < 5 * (4000 * 0.75) ** 0.5  # five standard errors
    assert abs(float((drawn_[0] < 20000).double().mean()) - 0.5) < 5 * 0.5 / 4000**0.5
    assert torch.equal(torch.cat([chunk.groups for chunk in sample.chunks()]), drawn_[0].long())
    assert torch.equal(gathered(voxels.sample(4000))[0], drawn_)
    assert voxels.sample(voxels.total) is voxels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, y: (z[:, :3], y), r"floating logits \(B, 4"),
        (lambda z, y: (z.long(), y), "floating logits"),
        (lambda z, y: (z, y[:-1]), r"expected labels \(200,\), got \(199,\)"),
        (lambda z, y: (z, y.double()), "integer type"),
        (lambda z, y: (z, y + 1), r"0\.\.3, got 1\.\.4; leave ignored voxels out by `mask`"),
        (lambda z, y: (z, y - 1), r"0\.\.3"),
        (lambda z, y: (torch.full_like(z, torch.inf), y), "finite"),
        (lambda z, y: (z * torch.nan, y), "finite"),
        (lambda z, y: ([z, z], [y]), "as many labels"),
        (lambda z, y: (z[:0], y[:0]), "at least one voxel"),
        (lambda *_: ([], []), "at least one voxel"),
    ],
)
def test_what_does_not_fit_is_refused(change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(ValueError, match=message):
        Voxels.of(*change(*drawn(2.0, 200)), 4)


def test_masks_that_do_not_fit_or_leave_nothing_are_refused() -> None:
    logits, labels = drawn(2.0, 200)
    with pytest.raises(ValueError, match="expected mask"):
        Voxels.of(logits, labels, 4, mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one voxel"):
        Voxels.of(logits, labels, 4, mask=torch.zeros(200, dtype=torch.bool))


def test_the_predicted_class_is_the_first_of_the_largest() -> None:
    values = torch.randint(0, 3, (50, 6, 20), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(predicted(values), values.argmax(1))
    assert torch.equal(predicted(values, 0), values.argmax(0))
