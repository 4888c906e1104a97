"""What the commands call: `medcalib.engine.train.train` is `medcalib train`, and so on.

A module a command, imported on first use: a cell of a comparison takes its lock before it imports torch.
"""

from medcalib.lazy import lazily

__all__ = ["apply", "calibrate", "evaluate", "fit_samples", "merge", "predict", "shards", "tracking", "train"]

__getattr__ = lazily(__name__, __all__)
