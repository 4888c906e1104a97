"""medcalib in nnU-Net v2. Copy this file into nnunetv2/training/nnUNetTrainer/variants/loss/, or name its folder:

    export nnUNet_extTrainer=docs/interoperate/nnunet
    nnUNetv2_train DATASET 3d_fullres FOLD -tr nnUNetTrainerMedcalib --npz

The loss is nnU-Net's own (Dice and cross-entropy at every level of deep supervision) plus a penalty of medcalib at full
resolution. Levels below have no part in what is predicted, and a window of 3 voxels means another neighborhood there.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from medcalib import losses
from medcalib.integrations.pooled import PooledCalibration

KEY = "medcalib_objective"


class PenalizedLoss(nn.Module):
    """nnU-Net's loss + weight * penalty at full resolution. In eval mode it also scores, and multipliers observe.

    Called as nnU-Net calls its losses: outputs (B, C, *S) and targets (B, 1, *S), or lists of them, full size first.
    """

    def __init__(self, base: nn.Module, objective: losses.Objective, weight: float) -> None:
        super().__init__()
        self.base, self.objective, self.weight = base, objective, weight
        options: Any = {"ignore_index": objective.ignore_index, "region": "pred_foreground", "from_logits": True}
        self.ece = PooledCalibration(objective.num_classes, **options)

    def forward(self, outputs: Any, targets: Any) -> Tensor:
        """The loss, a scalar."""
        several = isinstance(outputs, (list, tuple))
        logits, labels = (outputs[0], targets[0]) if several else (outputs, targets)
        labels = labels[:, 0]
        watch = not self.training and bool(logits.isfinite().all())
        parts = self.objective.parts(logits, labels, remember=watch)
        if watch:  # now, for nnU-Net's validation step overwrites the ignored labels after the loss
            self.objective.observe_remembered()
            self.ece.update(logits, labels)
        return self.base(outputs, targets) + self.weight * torch.stack(list(parts.values())).sum()


class nnUNetTrainerMedcalib(nnUNetTrainer):  # noqa: N801 - nnU-Net finds trainers by this name
    """The default trainer with CRaC's class- and region-wise constraints; other terms: see `penalty`."""

    loss: PenalizedLoss

    def penalty(self) -> losses.Objective:
        """Terms to add to Dice and cross-entropy; no likelihood, which nnU-Net's loss has. (term, weight, options)."""
        terms = [("crac", 1.0, {"margin": 5.0})]  # or [("nacl", 0.1, {})], [("margin", 0.1, {"margin": 10.0})]
        heads = self.label_manager.num_segmentation_heads
        return losses.build_terms(terms, heads, ignore_index=self.label_manager.ignore_label)

    def _build_loss(self) -> nn.Module:
        if self.label_manager.has_regions:
            raise RuntimeError(
                f"{type(self).__name__} needs exclusive classes, and dataset.json declares regions (lists of labels): "
                "write each label as one number and drop regions_class_order, or train with nnUNetTrainer"
            )
        base = super()._build_loss()
        weight = float(base.weight_factors[0]) if self.enable_deep_supervision else 1.0
        return PenalizedLoss(base, self.penalty(), weight).to(self.device)

    def on_train_epoch_start(self) -> None:
        self.loss.train()
        super().on_train_epoch_start()

    def on_validation_epoch_start(self) -> None:
        self.loss.eval()
        self.loss.ece.reset()
        super().on_validation_epoch_start()

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        self.loss.objective.update()  # over all ranks; checkpoints are written after this
        ece = float(self.loss.ece.compute())
        self.print_to_log_file(f"ECE of the predicted foreground, on validation patches: {ece:.4f}")

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint and one key more, which its inference does not look at."""
        super().save_checkpoint(filename)
        if self.local_rank == 0 and not self.disable_checkpointing:
            checkpoint = torch.load(filename, map_location="cpu", weights_only=False)  # written by the line above
            torch.save(checkpoint | {KEY: self.loss.objective.state_dict()}, filename + ".part")
            os.replace(filename + ".part", filename)  # noqa: PTH105 - nnU-Net's paths are strings

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Restore the multipliers, too."""
        super().load_checkpoint(filename_or_checkpoint)
        checkpoint = filename_or_checkpoint
        if isinstance(checkpoint, str):
            checkpoint = torch.load(checkpoint, map_location=self.device, weights_only=False)  # as nnU-Net does
        if KEY not in checkpoint:
            raise RuntimeError(f"this checkpoint was not written by {type(self).__name__}: it has no {KEY!r}")
        self.loss.objective.load_state_dict(checkpoint[KEY])
