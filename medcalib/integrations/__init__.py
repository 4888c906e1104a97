"""The exact calibration scores inside other people's loops, each module over one library:

    medcalib.integrations.pooled        no library: update, compute, reset, over all ranks
    medcalib.integrations.monai         a CumulativeIterationMetric
    medcalib.integrations.ignite        a handler that attaches to an engine of ignite or MONAI
    medcalib.integrations.torchmetrics  a Metric, as Lightning logs it

State is a table of integers: it does not grow with the voxels seen, and ranks and batches add up to the same bits.
"""

from medcalib.lazy import lazily

__all__ = ["ignite", "monai", "pooled", "torchmetrics"]

__getattr__ = lazily(__name__, __all__)
