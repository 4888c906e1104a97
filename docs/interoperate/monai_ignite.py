"""medcalib in MONAI's SupervisedTrainer and SupervisedEvaluator, which run on ignite:

python docs/interoperate/monai_ignite.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver, StatsHandler, ValidationHandler, from_engine
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from monai.transforms import Lambdad

from medcalib import calibrators, losses
from medcalib.data.phantom import make_case
from medcalib.integrations.ignite import ObjectiveHandler, calibration_handler

CLASSES = 3
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def volumes(first: int, count: int) -> DataLoader:
    """Phantom hippocampi in place of your data: `image` (1, *S) float32 and `label` (1, *S), as MONAI loads them."""
    cases = [make_case("hippocampus", seed=0, index=first + k, shape=(24, 32, 24)) for k in range(count)]
    items = [
        {"image": torch.from_numpy(case.images / case.images.std() - 3), "label": torch.from_numpy(case.labels)[None]}
        for case in cases
    ]
    return DataLoader(items, batch_size=1)


def evaluator_of(
    model: torch.nn.Module, loader: DataLoader, handlers: Any = (), after: Any = None
) -> SupervisedEvaluator:
    """Sliding windows, and the exact ECE of everything that an epoch predicts."""
    pairs = from_engine(["pred", "label"])
    ece = calibration_handler(CLASSES, region="pred_foreground", from_logits=True, output_transform=pairs)
    return SupervisedEvaluator(
        device=DEVICE,
        val_data_loader=loader,
        network=model,
        inferer=SlidingWindowInferer((16, 16, 16), sw_batch_size=4, mode="gaussian"),
        key_val_metric={"ece": ece},
        metric_cmp_fn=lambda new, best: new < best,  # the smaller the better
        val_handlers=handlers,
        postprocessing=after,
    )


def main(out: Path, epochs: int = 10, resume: Path | None = None) -> dict[str, Any]:
    """Train for `epochs`, going on from the checkpoint `resume` where it is given; then repair."""
    torch.manual_seed(0)
    model = UNet(3, in_channels=1, out_channels=CLASSES, channels=(8, 16, 32), strides=(2, 2)).to(DEVICE)
    objective = losses.build("crac", CLASSES, margin=5).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    validation = volumes(6, 2)
    evaluator = evaluator_of(model, validation, [StatsHandler(iteration_log=False), ObjectiveHandler(objective)])
    state = {"model": model, "objective": objective, "optimizer": optimizer}
    trainer = SupervisedTrainer(
        device=DEVICE,
        max_epochs=epochs,
        train_data_loader=volumes(0, 6),
        network=model,
        optimizer=optimizer,
        loss_function=lambda logits, labels: objective(logits, labels[:, 0].long()),  # MONAI: a channel, often float
        train_handlers=[
            ValidationHandler(1, evaluator),
            CheckpointSaver(str(out), state, save_interval=1, n_saved=1),  # after validation: with its update
        ],
        amp=DEVICE.type == "cuda",  # the terms compute in float32 all the same
    )
    state["trainer"] = trainer  # for the number of epochs done
    if resume is not None:
        CheckpointLoader(str(resume), state, map_location=DEVICE).attach(trainer)
    trainer.run()

    model.eval()
    with torch.no_grad():
        held_out = [(evaluator.inferer(b["image"].to(DEVICE), model).cpu(), b["label"][:, 0]) for b in validation]
    repair = calibrators.build("region_temperature", CLASSES)
    repair.fit([logits for logits, _ in held_out], [labels for _, labels in held_out])
    repair.save(out / "repair.safetensors")
    repaired = Lambdad("pred", lambda logits: repair(logits[None])[0])  # of whole volumes, not inside the windows
    scores = {}
    for name, after in {"before": None, "after": repaired}.items():
        test = evaluator_of(model, volumes(8, 2), after=after)
        test.run()
        scores[name] = test.state.metrics["ece"]
    return scores | {"objective": objective, "epochs": trainer.state.epoch}


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    print(f"test ECE {found['before']:.4f}, repaired {found['after']:.4f}")
