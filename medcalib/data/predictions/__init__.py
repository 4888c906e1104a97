"""Predictions of any tool beside their references: found, described, oriented by proof, checked, read by slabs."""

from medcalib.data.predictions.arrays import SEGMENTATIONS
from medcalib.data.predictions.channels import Channels, channels_of, label_map_of, labels_for
from medcalib.data.predictions.class_order import class_order_problem
from medcalib.data.predictions.compared import Compared, Pair, read_pair
from medcalib.data.predictions.listing import find_predictions, input_files, list_predictions
from medcalib.data.predictions.pairs import (
    INDEX,
    expected_cases,
    flat_references,
    pair_up,
    same_classes,
    without_folders,
)
from medcalib.data.predictions.writing import remove_prediction, write_prediction

__all__ = [
    "INDEX",
    "SEGMENTATIONS",
    "Channels",
    "Compared",
    "Pair",
    "channels_of",
    "class_order_problem",
    "expected_cases",
    "find_predictions",
    "flat_references",
    "input_files",
    "label_map_of",
    "labels_for",
    "list_predictions",
    "pair_up",
    "read_pair",
    "remove_prediction",
    "same_classes",
    "without_folders",
    "write_prediction",
]
