"""medcalib in Lightning; started again, it goes on where it stopped:

python docs/interoperate/lightning_module.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from medcalib import calibrators, losses
from medcalib.data.phantom import make_case
from medcalib.integrations.torchmetrics import PooledCalibrationError

CLASSES = 3
Batch = tuple[Tensor, Tensor]


def volumes(first: int, count: int) -> DataLoader[tuple[Tensor, ...]]:
    """Phantom hippocampi in place of your data: images (B, 1, *S) float32, labels (B, *S) integers."""
    cases = [make_case("hippocampus", seed=0, index=first + k, shape=(24, 32, 24)) for k in range(count)]
    images = torch.stack([torch.from_numpy(case.images / case.images.std() - 3) for case in cases])
    return DataLoader(TensorDataset(images, torch.stack([torch.from_numpy(case.labels) for case in cases])))


class Segmentation(lightning.LightningModule):
    """A network, its objective, and the exact ECE. As a submodule the objective moves, is saved and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.network = UNet(3, in_channels=1, out_channels=CLASSES, channels=(8, 16, 32), strides=(2, 2))
        self.objective = losses.build("crac", CLASSES, margin=5)
        self.repair: nn.Module = nn.Identity()  # a fitted calibrator after training
        self.ece = PooledCalibrationError(CLASSES, region="pred_foreground", from_logits=True)
        self.repaired_ece = self.ece.clone()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Not over self.parameters(), should you choose terms or calibrators that have some."""
        return torch.optim.Adam(self.network.parameters(), 0.01)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The terms by name in the log; under precision="bf16-mixed" they compute in float32."""
        parts = self.objective.parts(self.network(batch[0]), batch[1])
        self.log_dict(parts, prog_bar=True)
        return torch.stack(list(parts.values())).sum()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Counts for the score and sums for the multipliers."""
        logits = self.network(batch[0])
        self.ece.update(logits, batch[1])
        self.log("ece", self.ece, prog_bar=True)
        if not self.trainer.sanity_checking:  # Lightning validates two batches before training: no step from those
            self.objective.observe(logits, batch[1])

    def on_validation_epoch_end(self) -> None:
        """One step of the multipliers, over all ranks; ModelCheckpoint writes after this."""
        if not self.trainer.sanity_checking:
            self.objective.update()

    def test_step(self, batch: Batch, index: int) -> None:
        """The score before and after the calibrator."""
        logits = self.network(batch[0])
        self.ece.update(logits, batch[1])
        self.repaired_ece.update(self.repair(logits), batch[1])
        self.log_dict({"before": self.ece, "after": self.repaired_ece})


def main(out: Path, epochs: int = 10, **options: Any) -> dict[str, Any]:
    """Train for `epochs`, or go on from OUT/last.ckpt; repair and score. `options` go to Lightning's Trainer."""
    lightning.seed_everything(0, verbose=False)
    module, validation = Segmentation(), volumes(6, 2)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[ModelCheckpoint(out, monitor="ece", mode="min", save_last=True)],
        logger=False,
        log_every_n_steps=1,
        **options,
    )
    last = out / "last.ckpt"
    trainer.fit(module, volumes(0, 6), validation, ckpt_path=last if last.exists() else None)
    module.eval()
    with torch.no_grad():
        held_out = [(module.network(images.to(module.device)).cpu(), labels) for images, labels in validation]
    repair = calibrators.build("region_temperature", CLASSES)
    repair.fit([logits for logits, _ in held_out], [labels for _, labels in held_out])
    repair.save(out / "repair.safetensors")
    module.repair = repair
    scores = trainer.test(module, volumes(8, 2), verbose=False)[0]
    return {**scores, "objective": module.objective, "epochs": trainer.current_epoch}


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    print(f"test ECE {found['before']:.4f}, repaired {found['after']:.4f}")
