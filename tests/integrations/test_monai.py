"""The metric behaves as MONAI's do, and says what `CalibrationCounts` say."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.metrics import CalibrationErrorMetric, CumulativeIterationMetric
from test_pooled import batch

from medcalib.integrations.monai import PooledCalibrationMetric
from medcalib.metrics import CalibrationCounts


def test_a_loop_as_monai_writes_it() -> None:
    probs, labels = batch()
    metric = PooledCalibrationMetric(3, bins=20, region="gt_foreground")
    assert isinstance(metric, CumulativeIterationMetric)
    for part in (slice(0, 2), slice(2, 5)):
        outputs = decollate_batch(MetaTensor(probs[part]))
        each = metric(y_pred=outputs, y=decollate_batch(MetaTensor(labels[part][:, None].float())))
        assert each.shape == (len(outputs), 1)
    expected = CalibrationCounts.from_probs(probs, labels, mask=labels > 0).ece(20)
    assert metric.aggregate().item() == expected
    assert metric.get_buffer() is None
    metric.reset()
    assert torch.isnan(metric.aggregate())


def test_a_call_returns_the_score_of_each_image() -> None:
    probs, labels = batch(3)
    each = PooledCalibrationMetric(3, score="classwise_ece")(probs, labels)
    for image, row in enumerate(each):
        counts = CalibrationCounts.from_probs(probs[image : image + 1], labels[image : image + 1])
        assert torch.equal(row, counts.classwise_ece())


def test_it_agrees_with_monai_on_small_volumes() -> None:
    """There float32 sums still hold, MONAI's to about 1e-6; its rule of edges is [a, b), its score classwise."""
    probs, labels = batch(1)
    onehot = torch.nn.functional.one_hot(labels.long(), 3).movedim(-1, 1).float()
    theirs = CalibrationErrorMetric(num_bins=20, metric_reduction="none")
    theirs(y_pred=probs, y=onehot)
    ours = PooledCalibrationMetric(3, score="classwise_ece", bins=20, edges="left")
    ours(y_pred=probs, y=onehot)
    torch.testing.assert_close(ours.aggregate(), theirs.aggregate()[0].double(), rtol=0, atol=2e-6)


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match="expected labels y"):
        PooledCalibrationMetric(3)(batch(1)[0])
