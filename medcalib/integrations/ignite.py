"""Handlers for engines of ignite and MONAI: the score of an epoch, and multipliers that learn from validation."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

from torch import Tensor

from medcalib.errors import MissingExtraError
from medcalib.integrations.monai import PooledCalibrationMetric
from medcalib.integrations.pooled import class_indices

__all__ = ["ObjectiveHandler", "calibration_handler"]


class Learner(Protocol):
    """What `ObjectiveHandler` drives; every objective of `medcalib.losses` is one."""

    def observe(self, logits: Tensor, labels: Tensor) -> None:
        """Add up what a batch of logits (B, C, *S) and labels (B, *S) says."""

    def update(self) -> None:
        """Take one step from everything observed."""


class ObjectiveHandler:
    """`val_handlers=[ObjectiveHandler(objective)]` of a MONAI evaluator: the objective observes each batch of logits
    and labels, and is updated once when the evaluator's epoch ends.

    logits `pred` (B, C, *S) and `label` (B, 1, *S), (B, *S) or one-hot (B, C, *S). In the trainer the
    `ValidationHandler` must stand before the `CheckpointSaver`, or what is saved lacks the last update. Not for a plain
    ignite engine, which has no event between its forward pass and the end of an iteration. Raises ValueError for
    anything but an objective.
    """

    def __init__(self, objective: Learner) -> None:
        if not callable(getattr(objective, "observe", None)) or not callable(getattr(objective, "update", None)):
            raise ValueError(
                f"expected an objective of medcalib.losses.build, with observe() and update(), got "
                f"{type(objective).__name__}"
            )
        self.objective = objective

    def attach(self, engine: Any) -> None:
        """Register with an evaluator of `monai.engines`.

        Raises `MissingExtraError` without ignite, ValueError for another engine.
        """
        _need_ignite()
        from ignite.engine import Events
        from monai.engines import IterationEvents, Workflow

        if not isinstance(engine, Workflow):
            raise ValueError(
                "expected an evaluator of monai.engines, such as SupervisedEvaluator(val_handlers=[...]); in other "
                "loops call objective.observe(logits, labels) and objective.update()"
            )
        # when the model is done, a MONAI engine decollates its output into single images and post-processes them
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._observe)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._update)

    def _observe(self, engine: Any) -> None:
        logits = engine.state.output["pred"]
        self.objective.observe(logits, class_indices(logits, engine.state.output["label"]))

    def _update(self, engine: Any) -> None:
        self.objective.update()


def calibration_handler(
    num_classes: int, *, output_transform: Callable[[Any], Any] = lambda output: output, **options: Any
) -> Any:
    """An ignite `Metric`: `.attach(engine, "ece")`, or `key_val_metric={"ece": handler}` of a MONAI evaluator.

    `output_transform` makes `(values, labels)` of the engine's output, see `PooledCalibrationMetric`; for MONAI,
    `monai.handlers.from_engine(["pred", "label"])`. Options are those of `PooledCalibration`. Raises
    `MissingExtraError` without ignite. `num_classes`: background included.
    """
    _need_ignite()
    from monai.handlers import IgniteMetricHandler

    metric = PooledCalibrationMetric(num_classes, **options)
    return IgniteMetricHandler(metric_fn=metric, output_transform=output_transform, save_details=False)


def _need_ignite() -> None:
    if find_spec("ignite") is None:
        raise MissingExtraError("ignite", "pytorch-ignite")
