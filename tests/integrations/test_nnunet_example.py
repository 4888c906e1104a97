"""The trainer for nnU-Net: on a stand-in with nnU-Net's methods, and on nnU-Net itself where it is installed."""

from __future__ import annotations

import runpy
import sys
from copy import deepcopy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import REPOSITORY
from torch import Tensor, nn

from medcalib import losses
from medcalib.integrations.pooled import PooledCalibration

TRAINER = REPOSITORY / "docs" / "interoperate" / "nnunet" / "nnUNetTrainerMedcalib.py"
PARENT = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
CLASSES, IGNORED, WEIGHTS = 3, 3, (0.75, 0.25)


class Levels(nn.Module):
    """nnU-Net's loss and its wrapper: here, cross-entropy at each level."""

    weight_factors = WEIGHTS

    def forward(self, outputs: Any, targets: Any) -> Tensor:
        if not isinstance(outputs, list):
            return nn.functional.cross_entropy(outputs, targets[:, 0].long(), ignore_index=IGNORED)
        return sum(w * self(z, y) for w, z, y in zip(WEIGHTS, outputs, targets, strict=True))  # type: ignore[return-value]


class StandIn:
    """What the trainer uses of nnU-Net's, under the same names and in the same order."""

    def __init__(self, *, regions: bool = False, deep: bool = True) -> None:
        self.label_manager = SimpleNamespace(has_regions=regions, ignore_label=IGNORED, num_segmentation_heads=CLASSES)
        self.enable_deep_supervision, self.device = deep, torch.device("cpu")
        self.local_rank, self.disable_checkpointing = 0, False
        self.network = nn.Conv3d(1, CLASSES, 1)
        self.log: list[str] = []
        self.loss: Any = self._build_loss()

    def _build_loss(self) -> nn.Module:
        return Levels()

    def on_train_epoch_start(self) -> None:
        self.network.train()

    def on_validation_epoch_start(self) -> None:
        self.network.eval()

    def validation_step(self, outputs: list[Tensor], targets: list[Tensor]) -> dict[str, Any]:
        loss = self.loss(outputs, targets)
        targets[0][targets[0] == IGNORED] = 0  # as nnU-Net does after the loss
        return {"loss": loss}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        self.log.append(f"{len(val_outputs)} batches")

    def print_to_log_file(self, *words: Any) -> None:
        self.log.append(" ".join(map(str, words)))

    def save_checkpoint(self, filename: str) -> None:
        if self.local_rank == 0 and not self.disable_checkpointing:
            torch.save({"network_weights": self.network.state_dict()}, filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        self.network.load_state_dict(torch.load(filename_or_checkpoint, weights_only=False)["network_weights"])


@pytest.fixture
def trainer_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    names = PARENT.split(".")
    for depth in range(1, len(names) + 1):
        monkeypatch.setitem(sys.modules, ".".join(names[:depth]), ModuleType(names[depth - 1]))
    sys.modules[PARENT].nnUNetTrainer = StandIn  # type: ignore[attr-defined]
    return runpy.run_path(str(TRAINER))["nnUNetTrainerMedcalib"]


def batch(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Two levels of outputs, and targets with ignored voxels, as nnU-Net's loader makes them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((2, 8, 8, 8), (2, 4, 4, 4))
    outputs = [torch.randn(b, CLASSES, *size, generator=generator) for b, *size in sizes]
    targets = [torch.randint(0, CLASSES + 1, (b, 1, *size), generator=generator).short() for b, *size in sizes]
    return outputs, targets


def penalty() -> losses.Objective:
    return losses.build_terms([("crac", 1.0, {"margin": 5.0})], CLASSES, ignore_index=IGNORED)


def multipliers_of(trainer: Any) -> Tensor:
    return trainer.loss.objective.terms["crac"].multipliers.lam  # type: ignore[no-any-return]


def test_the_loss_is_nnunets_and_a_penalty_at_full_resolution(trainer_class: Any) -> None:
    outputs, targets = batch(0)
    deep, flat = trainer_class(), trainer_class(deep=False)
    alone = penalty()(outputs[0], targets[0][:, 0])
    torch.testing.assert_close(deep.loss(outputs, targets), Levels()(outputs, targets) + WEIGHTS[0] * alone)
    torch.testing.assert_close(flat.loss(outputs[0], targets[0]), Levels()(outputs[0], targets[0]) + alone)


def test_validation_drives_the_multipliers_and_is_scored_without_ignored_voxels(trainer_class: Any) -> None:
    trainer, expected = trainer_class(), penalty()
    options: Any = {"ignore_index": IGNORED, "region": "pred_foreground", "from_logits": True}
    ece = PooledCalibration(CLASSES, **options)
    trainer.on_train_epoch_start()
    trainer.loss(*batch(9))  # a training batch is not observed
    trainer.on_validation_epoch_start()
    found = []
    for seed in range(3):
        outputs, targets = batch(seed)
        expected.observe(outputs[0], targets[0][:, 0])
        ece.update(outputs[0], targets[0][:, 0])
        found.append(trainer.validation_step(outputs, targets))
    outputs, targets = batch(3)
    outputs[0][0, 0, 0, 0, 0] = torch.inf
    found.append(trainer.validation_step(outputs, targets))  # nor one whose logits overflowed
    trainer.on_validation_epoch_end(found)
    expected.update()
    assert torch.equal(multipliers_of(trainer), expected.terms["crac"].multipliers.lam)
    assert trainer.log[-1].endswith(f"{ece.compute():.4f}")


def test_a_checkpoint_brings_the_multipliers_back(trainer_class: Any, tmp_path: Path) -> None:
    trainer, path = trainer_class(), str(tmp_path / "checkpoint_best.pth")
    trainer.on_validation_epoch_start()
    trainer.on_validation_epoch_end([trainer.validation_step(*batch(0))])
    trainer.save_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint_best.pth"]
    other = trainer_class()
    assert not torch.equal(multipliers_of(other), multipliers_of(trainer))
    other.load_checkpoint(path)
    assert torch.equal(multipliers_of(other), multipliers_of(trainer))
    assert torch.equal(other.network.weight, trainer.network.weight)
    StandIn().save_checkpoint(path)
    with pytest.raises(RuntimeError, match="not written by nnUNetTrainerMedcalib"):
        other.load_checkpoint(path)


def test_ranks_that_write_no_checkpoint_write_none(trainer_class: Any, tmp_path: Path) -> None:
    trainer = trainer_class()
    for trainer.local_rank, trainer.disable_checkpointing in ((1, False), (0, True)):
        trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert not list(tmp_path.iterdir())


def test_regions_are_refused_with_the_way_out(trainer_class: Any) -> None:
    with pytest.raises(RuntimeError, match="declares regions.*drop regions_class_order"):
        trainer_class(regions=True)


PLANS: dict[str, Any] = {
    "dataset_name": "Dataset900_Phantom",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "label_manager": "LabelManager",
    "continue_training": False,
    "configurations": {
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "batch_size": 2,
            "patch_size": [16, 16, 16],
            "spacing": [1.0, 1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "batch_dice": False,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": [4, 8, 8],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3, 3, 3]] * 3,
                    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                    "n_conv_per_stage": [1, 1, 1],
                    "n_conv_per_stage_decoder": [1, 1],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
            },
        }
    },
}
DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "a": 1, "b": 2, "ignore": 3},
    "file_ending": ".nii.gz",
}


def real_trainer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A trainer of the installed nnU-Net on plans of a toy network."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(folder / name))
    images = folder / "preprocessed" / "Dataset900_Phantom" / "nnUNetPlans_3d_fullres"
    images.mkdir(parents=True, exist_ok=True)
    (images / "case.b2nd").touch()  # by its ending nnU-Net knows the format
    trainer = runpy.run_path(str(TRAINER))["nnUNetTrainerMedcalib"](
        deepcopy(PLANS), "3d_fullres", 0, DATASET, torch.device("cpu")
    )
    trainer.initialize()
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_the_real_nnunet_trains_validates_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nnunetv2", reason="needs nnunetv2")
    trainer = real_trainer(tmp_path, monkeypatch)
    generator = torch.Generator().manual_seed(0)

    def step() -> dict[str, Any]:
        labels = torch.randint(0, CLASSES + 1, (2, 1, 16, 16, 16), generator=generator).short()
        targets = [labels, labels[..., ::2, ::2, ::2].clone()]
        return {"data": torch.randn(2, 1, 16, 16, 16, generator=generator), "target": targets}

    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(step()) for _ in range(2)])
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.on_validation_epoch_end([trainer.validation_step(step()) for _ in range(2)])
    trainer.on_epoch_end()
    assert int(trainer.loss.objective.terms["crac"].multipliers.updates) == 1
    resumed = real_trainer(tmp_path, monkeypatch)
    resumed.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_best.pth"))
    assert resumed.current_epoch == 1
    assert torch.equal(multipliers_of(resumed), multipliers_of(trainer))
