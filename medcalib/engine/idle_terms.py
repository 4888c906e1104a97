"""Terms of a loss that were next to nothing: a margin that no logit distance exceeds penalizes nothing."""

from __future__ import annotations

from typing import Any

SHARE = 0.01  # of the loss: on hippocampi margins below it had no effect on ECE, and those above 0.03 had one


def idle_terms(line: dict[str, Any], loss: str) -> list[str]:
    """One warning a term whose mean over the epoch was below 1 % of the loss.

    `line` is one of metrics.jsonl, `loss` the name of the loss in the config.
    """
    help_ = "medcalib losses" if loss == "custom" else f"medcalib losses {loss}"
    parts = {name: value for name, value in line.get("parts", {}).items() if value is not None}
    total = sum(abs(value) for value in parts.values())
    return [
        f"{name} of loss {loss} was {value:.2g} of a loss of {line['loss']:.4g} in the last epoch, less than 1 %: "
        f"hardly more than none; `{help_}` says which options have an effect, docs/margin.md how to choose a margin"
        for name, value in parts.items()
        if abs(value) < SHARE * total
    ]
