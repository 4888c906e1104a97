"""A handler for engines of ignite and MONAI: the score of an epoch in `engine.state.metrics`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from medcalib.errors import MissingExtraError
from medcalib.integrations.monai import PooledCalibrationMetric


def calibration_handler(
    num_classes: int, *, output_transform: Callable[[Any], Any] = lambda output: output, **options: Any
) -> Any:
    """An ignite `Metric`: `.attach(engine, "ece")`, or `key_val_metric={"ece": handler}` of a MONAI evaluator.

    `output_transform` makes `(values, labels)` of the engine's output, see `PooledCalibrationMetric`; for MONAI,
    `monai.handlers.from_engine(["pred", "label"])`. Options are those of `PooledCalibration`. Raises
    `MissingExtraError` without ignite.
    """
    if find_spec("ignite") is None:
        raise MissingExtraError("ignite", "pytorch-ignite")
    from monai.handlers import IgniteMetricHandler

    metric = PooledCalibrationMetric(num_classes, **options)
    return IgniteMetricHandler(metric_fn=metric, output_transform=output_transform, save_details=False)
