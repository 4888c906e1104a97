"""What a checkpoint holds: everything that makes a continued run equal to one that was never stopped."""

from __future__ import annotations

import hashlib
import io
import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from medcalib import distributed
from medcalib.engine.optimization import load_optimizer
from medcalib.errors import CheckpointError, TrainingError, in_words
from medcalib.losses import Objective

log = logging.getLogger(__name__)
_PARTS = ("model", "objective", "optimizer", "schedule", "scaler")


@dataclass
class Progress:
    """The epoch at work: steps done, sums of the loss's parts over this rank's good steps, and what it cost."""

    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    good: int = 0
    bad: int = 0
    seconds: float = 0.0
    line: dict[str, Any] | None = None  # of metrics.jsonl, once all steps are done and validation is due

    def add(self, parts: dict[str, float] | None) -> None:
        """Count a step; None is one that was skipped."""
        self.step += 1
        if parts is None:
            self.bad += 1
            return
        self.good += 1
        for name, value in parts.items():
            self.totals[name] = self.totals.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """The loss's parts by name, mean over good steps and ranks; all ranks must ask."""
        if not self.good:
            return {}
        sums = torch.tensor(list(self.totals.values()), dtype=torch.float64, device=distributed.reduction_device())
        pooled = distributed.all_reduce_sum(sums).tolist()
        return {
            name: total / (self.good * distributed.ranks()) for name, total in zip(self.totals, pooled, strict=True)
        }


@dataclass
class State:
    """Everything that a checkpoint restores."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    in_channels: int
    device: torch.device
    accumulate: int = 1
    epoch: int = 0
    best: float = -1.0
    bad_in_a_row: int = 0
    progress: Progress = field(default_factory=Progress)

    def to_save(self) -> dict[str, Any]:
        """Tensors and plain values only. All ranks must ask, between two steps; each gets the same weights.

        What differs between ranks (random numbers, what terms have observed, sums of losses) is gathered: rank 0's
        lies in the state itself, that of the others in `others`.
        """
        self.share_buffers()
        self.check_weights()
        state = {name: getattr(self, name).state_dict() for name in _PARTS}
        state |= {name: getattr(self, name) for name in ("epoch", "best", "bad_in_a_row", "in_channels")}
        state |= {"progress": asdict(self.progress), "ranks": distributed.ranks()}
        state["batches_per_step"] = distributed.ranks() * self.accumulate
        own = self._own()
        if distributed.is_running():
            stream = io.BytesIO()
            torch.save(own, stream)
            others = distributed.all_gather_bytes(stream.getvalue())[1:]
            state["others"] = [torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True) for raw in others]
        return state | own

    def _own(self) -> dict[str, Any]:
        own: dict[str, Any] = {"objective": self.objective.state_dict(), "totals": self.progress.totals}
        own["rng"] = torch.get_rng_state()
        if self.device.type == "cuda":
            own["cuda_rng"] = [torch.cuda.get_rng_state(self.device)]
        return own

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from what `to_save` gave.

        Raises `CheckpointError` for a checkpoint of another network or optimizer, or of another number of batches a
        step. Other numbers of ranks are taken where ranks x accumulate stays, with a note; but not within an epoch.
        """
        before, own = int(saved.get("ranks", 1)), saved
        if before != distributed.ranks():
            self._check_ranks(saved, before)
            log.info(
                "continued by %d ranks, begun by %d: the patches of each step stay, its bits do not",
                distributed.ranks(),
                before,
            )
        elif distributed.rank():
            own = saved["others"][distributed.rank() - 1]
        self._check_batches(int(saved.get("batches_per_step", 1)))
        try:
            for name in _PARTS:
                if name != "optimizer":
                    getattr(self, name).load_state_dict((own if name == "objective" else saved)[name])
            load_optimizer(self.optimizer, saved["optimizer"])
            self.epoch, self.best = int(saved["epoch"]), float(saved["best"])
            self.bad_in_a_row = int(saved["bad_in_a_row"])
            self.progress = Progress(**saved.get("progress", {}))
            if own is not saved:
                self.progress.totals = dict(own["totals"])
            if before == distributed.ranks():
                self._restore_rng(own)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"the checkpoint does not fit this config: {in_words(error)}; resume with that of the first call, or "
                "choose a new --out"
            ) from error

    def _restore_rng(self, own: dict[str, Any]) -> None:
        torch.set_rng_state(own["rng"])
        if self.device.type == "cuda" and "cuda_rng" in own:
            torch.cuda.set_rng_state(own["cuda_rng"][0], self.device)

    def _check_batches(self, before: int) -> None:
        now = distributed.ranks() * self.accumulate
        if now != before:
            raise CheckpointError(
                f"the run made each step from {before} batches (ranks x train.accumulate), now it would be {now}; "
                f"start as many ranks as before, or choose train.accumulate so that the product is {before}"
            )

    def _check_ranks(self, saved: dict[str, Any], before: int) -> None:
        progress = saved.get("progress", {})
        if progress.get("step", 0) and progress.get("line") is None:
            raise CheckpointError(
                f"the checkpoint lies within an epoch of {before} ranks, and {distributed.ranks()} cannot continue it "
                f"exactly; finish the epoch with {before} ranks, then change their number"
            )

    def share_buffers(self) -> None:
        """Give all ranks the buffers of rank 0: running means of batch normalization are of each rank's own batches."""
        if distributed.is_running():
            for buffer in self.model.buffers():
                distributed.broadcast(buffer)

    def check_weights(self) -> None:
        """Raises `TrainingError` where weights are not finite, or differ between ranks."""
        parameters = [parameter.detach() for parameter in self.model.parameters()]
        if not bool(torch.stack([torch.isfinite(p).all() for p in parameters]).all()):  # one wait for the device
            raise TrainingError(
                "the weights are no longer finite; the last checkpoint is intact. Lower train.lr, in a new --out"
            )
        if distributed.is_running():
            digest = hashlib.sha256()
            for parameter in parameters:
                digest.update(parameter.cpu().contiguous().numpy().tobytes())
            if len(set(distributed.all_gather_bytes(digest.digest()))) > 1:
                raise TrainingError(
                    "the weights differ between ranks; the last checkpoint is intact. Do all ranks run the same "
                    "versions (`medcalib doctor`) on the same kind of device?"
                )
