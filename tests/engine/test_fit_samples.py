"""What of a case a calibrator is fitted on: sizes, regions, seeds, and blocks that see what the whole volume sees."""

from __future__ import annotations

import pytest
import torch
from helpers import smooth_case

from medcalib import calibrators
from medcalib.data.case import Case
from medcalib.data.labels import IGNORE
from medcalib.engine import fit_samples
from medcalib.engine.fit_samples import FitVolume, Sampling, sample_of
from medcalib.errors import ConfigError

SPACING = (1.0, 1.0, 2.0)


def volume(seed: int = 0, shape: tuple[int, ...] = (20, 24, 10)) -> FitVolume:
    probs, labels = smooth_case(seed, shape=shape)
    labels[:3] = IGNORE
    return FitVolume(Case(f"c{seed}", f"p{seed}", ()), probs.log(), labels, SPACING)


def test_a_sample_has_the_size_asked_for_and_no_ignored_voxel() -> None:
    found = sample_of(volume(), calibrators.build("temperature", 4), Sampling(500))
    assert found.voxels == 500
    assert found.logits[0].shape == (1, 4, 500)
    assert int(found.labels[0].max()) < 4
    everything = sample_of(volume(), calibrators.build("temperature", 4), Sampling(None))
    assert everything.voxels == 17 * 24 * 10


def test_it_depends_on_the_seed_and_the_case_alone() -> None:
    method = calibrators.build("temperature", 4)
    first, again = (sample_of(volume(), method, Sampling(200, seed=3)).logits[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sample_of(volume(), method, Sampling(200, seed=4)).logits[0])


@pytest.mark.parametrize("region", ["foreground", "gt_foreground", "pred_foreground", "boundary"])
def test_a_region_holds_its_voxels_only(region: str) -> None:
    source = volume()
    found = sample_of(source, calibrators.build("temperature", 4), Sampling(None, region))
    labels, predicted = found.labels[0][0] > 0, found.logits[0][0].argmax(0) > 0
    known = source.labels != IGNORE
    truth, wanted = source.labels > 0, source.logits.argmax(0) > 0
    if region == "foreground":
        assert bool((labels | predicted).all())
        assert found.voxels == int(((truth | wanted) & known).sum())
    elif region == "gt_foreground":
        assert bool(labels.all())
        assert found.voxels == int((truth & known).sum())
    elif region == "pred_foreground":
        assert bool(predicted.all())
        assert found.voxels == int((wanted & known).sum())
    else:
        assert 0 < found.voxels < int(known.sum())


@pytest.mark.parametrize("name", ["region_temperature", "local_temperature"])
def test_blocks_see_what_the_whole_volume_sees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_samples, "BLOCK", 7)
    source = volume(shape=(20, 24, 15))
    method = calibrators.build(name, 4)
    whole = calibrators.build(name, 4, **({"steps": 3} if name == "local_temperature" else {}))
    labels = source.labels.clamp_max(3)
    whole.fit(source.logits[None], labels[None])
    if name == "local_temperature":
        generator = torch.Generator().manual_seed(0)
        whole.weight_ = torch.randn(whole.weight_.shape, generator=generator, dtype=torch.float64) / 100
    repaired = whole(source.logits[None])[0]
    sample = sample_of(source, method, Sampling(2000))
    assert sample.voxels >= 2000
    assert len(sample.logits) > 1
    for logits, mask in zip(sample.logits, sample.masks, strict=True):
        seen = whole(logits).movedim(1, -1)[mask]
        rows = repaired.flatten(1).T
        for row in seen[:: max(1, len(seen) // 5)]:
            assert float((rows - row).abs().amax(1).min()) < 1e-4


def test_a_small_volume_is_taken_whole() -> None:
    sample = sample_of(volume(), calibrators.build("region_temperature", 4), Sampling(10_000))
    assert [tuple(part.shape) for part in sample.logits] == [(1, 4, 20, 24, 10)]
    assert not bool(sample.masks[0][0, :3].any())


def test_a_method_that_sees_the_whole_volume_gets_it() -> None:
    sample = sample_of(volume(), calibrators.build("local_temperature", 4, variant="mean"), Sampling(100))
    assert [tuple(part.shape) for part in sample.logits] == [(1, 4, 20, 24, 10)]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown region 'edge'; known: all, foreground"):
        Sampling(10, "edge")
    with pytest.raises(ConfigError, match="1 or more, got -1"):
        Sampling(-1)
