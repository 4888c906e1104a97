"""What the commands call: `medcalib.engine.train.train` is `medcalib train`, and so on.

What a name means everywhere in here: `config` a `RunConfig`; `run` a run folder; `out` what is written; `data` a folder
that takes the place of `data.root`; `device` "auto", "cpu", "cuda" or "cuda:0"; `weights` "best" (of the highest
validation Dice) or "last" (of the last epoch); `assume_logits` takes values for logits where nothing says what they
are, `assume_orientation` an array's axes for the documented ones without proof.

A module a command, imported on first use: a cell of a comparison takes its lock before it imports torch.
"""

from medcalib.lazy import lazily

__all__ = ["apply", "calibrate", "evaluate", "fit_samples", "merge", "predict", "shards", "tracking", "train"]

__getattr__ = lazily(__name__, __all__)
