"""A temperature for each predicted class."""

from __future__ import annotations

from torch import Tensor

from medcalib.calibrators.group_temperature import GroupTemperature
from medcalib.calibrators.voxels import predicted


class ClasswiseTemperature(GroupTemperature):
    """z / T_k with k the most probable class.

    Background outnumbers a tumor by thousands, so that one temperature is that of the background; here each class
    that a network predicts has its own, and none changes what it predicts.

    Reference: L. Frenkel and J. Goldberger, Network Calibration by Class-based Temperature Scaling, EUSIPCO 2021
    (there each temperature minimizes an ECE on a grid; here the NLL, exactly).
    """

    name = "classwise_temperature"
    formula = "softmax(z / T_k), k = argmax z"
    reference = "L. Frenkel and J. Goldberger, EUSIPCO 2021"

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, num_classes)

    def groups(self, logits: Tensor) -> Tensor:
        """The predicted class."""
        return predicted(logits)
