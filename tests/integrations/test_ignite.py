"""The handlers put the pooled score into an engine's metrics, and let an evaluator drive an objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_pooled import batch

from medcalib.errors import MissingExtraError
from medcalib.integrations import ignite
from medcalib.metrics import CalibrationCounts


def test_each_epoch_of_an_engine_has_its_own_score() -> None:
    engine = pytest.importorskip("ignite.engine")
    probs, labels = batch(4)
    evaluator = engine.Engine(lambda _, part: {"pred": probs[part], "label": labels[part][:, None]})
    handler = ignite.calibration_handler(3, output_transform=lambda out: (out["pred"], out["label"]))
    handler.attach(evaluator, "ece")
    for parts in ([slice(0, 1), slice(1, 4)], [slice(2, 4)]):
        seen = torch.cat([torch.arange(4)[part] for part in parts])
        found = evaluator.run(parts).metrics["ece"]
        assert found == CalibrationCounts.from_probs(probs[seen], labels[seen]).ece()


def test_a_monai_evaluator_takes_it() -> None:
    pytest.importorskip("ignite")
    from monai.engines import SupervisedEvaluator
    from monai.handlers import from_engine

    probs, labels = batch(3)
    logits = probs.clamp_min(1e-6).log()
    data = [{"image": values, "label": label[None]} for values, label in zip(logits, labels, strict=True)]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=torch.utils.data.DataLoader(data, batch_size=2),  # type: ignore[arg-type]
        network=torch.nn.Identity(),
        key_val_metric={
            "ece": ignite.calibration_handler(3, from_logits=True, output_transform=from_engine(["pred", "label"]))
        },
    )
    evaluator.run()
    assert evaluator.state.metrics["ece"] == CalibrationCounts.from_logits(logits, labels).ece()


class Recorder:
    """An objective that remembers what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor] | str] = []

    def observe(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.seen.append((logits, labels))

    def update(self) -> None:
        self.seen.append("update")


def test_an_evaluator_drives_an_objective() -> None:
    """Whole batches of logits, before MONAI takes them apart and post-processes them; one update an epoch."""
    pytest.importorskip("ignite")
    from monai.engines import SupervisedEvaluator
    from monai.transforms import AsDiscreted

    probs, labels = batch(3)
    data = [{"image": values, "label": label[None]} for values, label in zip(probs, labels, strict=True)]
    objective = Recorder()
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=torch.utils.data.DataLoader(data, batch_size=2),  # type: ignore[arg-type]
        network=torch.nn.Identity(),
        postprocessing=AsDiscreted("pred", argmax=True),
        val_handlers=[ignite.ObjectiveHandler(objective)],
    )
    evaluator.run()
    first, second, last = objective.seen
    for (values, classes), part in ((first, slice(0, 2)), (second, slice(2, 3))):
        assert torch.equal(torch.as_tensor(values), probs[part])
        assert torch.equal(torch.as_tensor(classes), labels[part].long())
    assert last == "update"
    evaluator.run()
    assert objective.seen.count("update") == 2


@pytest.mark.fault(74)
def test_without_ignite_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Any:
        return None

    monkeypatch.setattr(ignite, "find_spec", nothing)
    with pytest.raises(MissingExtraError, match=r'pip install "medcalib\[ignite\]"'):
        ignite.calibration_handler(3)
    with pytest.raises(MissingExtraError, match="ignite is not installed"):
        ignite.ObjectiveHandler(Recorder()).attach(None)
