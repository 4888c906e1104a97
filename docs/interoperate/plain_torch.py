"""medcalib in a plain PyTorch loop with automatic mixed precision; started again, it goes on where it stopped:

python docs/interoperate/plain_torch.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from medcalib import calibrators, losses
from medcalib.data.phantom import make_case
from medcalib.integrations.pooled import PooledCalibration

CLASSES = 3
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISION = torch.bfloat16  # or torch.float16, which needs the scaler
Loader = DataLoader[tuple[Tensor, ...]]


def volumes(first: int, count: int) -> Loader:
    """Phantom hippocampi in place of your data: images (B, 1, *S) float32, labels (B, *S) integers."""
    cases = [make_case("hippocampus", seed=0, index=first + k, shape=(24, 32, 24)) for k in range(count)]
    images = torch.stack([torch.from_numpy(case.images / case.images.std() - 3) for case in cases])
    return DataLoader(TensorDataset(images, torch.stack([torch.from_numpy(case.labels) for case in cases])))


def score() -> PooledCalibration:
    """Integer counts, so that the ECE is exact on whole volumes; the region is part of what is measured."""
    return PooledCalibration(CLASSES, score="ece", region="pred_foreground", from_logits=True)


def train(training: Loader, validation: Loader, out: Path, epochs: int, driven_by: str) -> tuple[nn.Module, nn.Module]:
    """The network and its objective. Multipliers are `driven_by` "validation", as published, or "training" batches."""
    model = UNet(3, in_channels=1, out_channels=CLASSES, channels=(8, 16, 32), strides=(2, 2)).to(DEVICE)
    objective = losses.build("crac", CLASSES, margin=5).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=PRECISION is torch.float16)
    state = {"model": model, "objective": objective, "optimizer": optimizer, "scaler": scaler}
    done = restore(out / "last.pt", state)
    for epoch in range(done + 1, epochs + 1):
        model.train()
        for images, labels in training:
            with torch.autocast(DEVICE.type, PRECISION):
                logits = model(images.to(DEVICE))
                # terms compute in float32 inside autocast, too; remember: one pass gives loss and multipliers' sums
                parts = objective.parts(logits, labels.to(DEVICE), remember=driven_by == "training")
            loss = torch.stack(list(parts.values())).sum()  # without their names: loss = objective(logits, labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if driven_by == "training" and bool(loss.isfinite()):
                objective.observe_remembered()
        ece = score()
        model.eval()
        with torch.no_grad():
            for images, labels in validation:
                logits, labels = model(images.to(DEVICE)), labels.to(DEVICE)
                ece.update(logits, labels)
                if driven_by == "validation":
                    objective.observe(logits, labels)
        objective.update()  # once after the last batch, and before the checkpoint
        torch.save({name: part.state_dict() for name, part in state.items()} | {"epoch": epoch}, out / "last.pt")
        print(f"epoch {epoch}  loss {loss.item():.4f}  validation ECE {ece.compute().item():.4f}")
    return model.eval(), objective


def restore(checkpoint: Path, state: dict[str, Any]) -> int:
    """Load what was saved, multipliers included, and say how many epochs are done."""
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, map_location=DEVICE, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return int(saved["epoch"])


def main(out: Path, epochs: int = 10, driven_by: str = "validation") -> dict[str, Any]:
    """Train, fit a calibrator on the validation cases, and score the test cases before and after it."""
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    validation = volumes(6, 2)
    model, objective = train(volumes(0, 6), validation, out, epochs, driven_by)
    before, after = score(), score()
    with torch.no_grad():
        held_out = [(model(images.to(DEVICE)).cpu(), labels) for images, labels in validation]
        repair = calibrators.build("region_temperature", CLASSES)
        repair.fit([logits for logits, _ in held_out], [labels for _, labels in held_out])
        repair.save(out / "repair.safetensors")
        for images, labels in volumes(8, 2):
            logits = model(images.to(DEVICE)).cpu()
            before.update(logits, labels)
            after.update(repair(logits), labels)
    return {"before": before.compute().item(), "after": after.compute().item(), "objective": objective}


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    print(f"test ECE {found['before']:.4f}, repaired {found['after']:.4f}")
