"""The work of one cell: the scores are those of predict and score, the same again, and nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import assert_same_runs
from tiny import changed

from medcalib import calibrators
from medcalib.config import RunConfig
from medcalib.engine.calibrate import calibrate
from medcalib.engine.compare import work as module
from medcalib.engine.compare.folder import CellFolder, CellId
from medcalib.engine.compare.plan import Plan, shared
from medcalib.engine.compare.work import work
from medcalib.engine.evaluate import evaluate
from medcalib.engine.predict import predict
from medcalib.errors import ConfigError

CELL = CellId("m", 3)


def quick(tiny: RunConfig) -> RunConfig:
    """Little is scored."""
    score = tiny.score.model_copy(update={"regions": ("all", "pred_foreground"), "distances": False})
    return tiny.model_copy(update={"score": score})


def numbers(folder: CellFolder, row: str) -> dict[str, object]:
    """The scores without the hash of the checkpoint, whose file holds a name that is drawn at random."""
    scores = json.loads((folder.scores(row) / "scores.json").read_text())
    del scores["method"]["weights_sha256"]
    return scores


def begun(tiny: RunConfig, out: Path, *names: str, split: str = "test") -> CellFolder:
    methods = {"m": {"name": "mbls", "margin": 2}}
    base = changed(quick(tiny), epochs=1, steps_per_epoch=2)
    Plan(shared(base), methods, {}, [3], list(names), split, "best", "m").write(out)
    return CellFolder(out, CELL)


def test_scores_are_those_of_predict_and_score(tiny: RunConfig, tmp_path: Path) -> None:
    folder = begun(tiny, tmp_path / "out", "temperature")
    work(tmp_path / "out", folder, "cpu", None, keep=True)
    for row, file in (("none", None), ("temperature", folder.calibrator("temperature"))):
        predict(folder.run, tmp_path / row, calibrator=file)
        evaluate(tmp_path / row, tiny.root, tmp_path / f"{row}_scores", config=quick(tiny))
        expected = (tmp_path / f"{row}_scores" / "scores.json").read_bytes()
        assert (folder.scores(row) / "scores.json").read_bytes() == expected
        kept = {path.name: path.read_bytes() for path in folder.predictions(row).glob("*.*")}
        assert kept == {path.name: path.read_bytes() for path in (tmp_path / row).glob("*.*")}
    state = folder.state()
    assert state["scores"] == {"none": "scores", "temperature": "scores_temperature"}
    assert (state["weights_epoch"], state["peak_mib"], state["device"], state["refused"]) == (1, None, "cpu", 0)
    assert list(state["seconds"]) == ["train", "temperature", "predict", "score"]
    assert set(state["seconds"]["temperature"]) == {"fit", "apply and score"}
    config = json.loads((folder.scores("none") / "scores.json").read_text())["method"]
    assert (config["train"]["seed"], config["loss"]["margin"]) == (3, 2)


def test_the_same_cell_again_gives_the_same_numbers(tiny: RunConfig, tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        folder = begun(tiny, tmp_path / name, "temperature")
        work(tmp_path / name, folder, "cpu", None)
        assert not folder.predictions("none").exists()
        found.append([numbers(folder, row) for row in ("none", "temperature")])
    assert found[0] == found[1]
    assert_same_runs(*(CellFolder(tmp_path / name, CELL).run for name in ("a", "b")))


def test_only_what_is_missing_is_done(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(tiny, tmp_path)
    work(tmp_path, folder, "cpu", None)
    before = (folder.scores("none") / "scores.json").stat().st_mtime_ns
    monkeypatch.setattr(module, "train", None)
    begun(tiny, tmp_path, "temperature")
    work(tmp_path, folder, "cpu", None)
    assert (folder.scores("none") / "scores.json").stat().st_mtime_ns == before
    assert folder.unscored(["temperature"]) == []
    assert (folder.state()["seconds"]["train"]) > 0
    monkeypatch.setattr(module, "calibrate", None)
    (folder.scores("temperature") / "scores.json").unlink()
    work(tmp_path, folder, "cpu", None)
    assert folder.unscored(["temperature"]) == []


def test_a_calibrator_that_cannot_be_fitted_costs_its_own_row(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(run: Path, out: Path, *, method: str, **options: object) -> None:
        if method == "matrix":
            raise ConfigError("cannot be fitted")
        calibrate(run, out, method=method, **options)

    monkeypatch.setattr(module, "calibrate", fit)
    folder = begun(tiny, tmp_path, "matrix", "temperature")
    with pytest.raises(ConfigError, match="^matrix: cannot be fitted$"):
        work(tmp_path, folder, "cpu", None)
    assert list(folder.state()["scores"]) == ["none", "temperature"]
    assert folder.unscored(["matrix", "temperature"]) == ["matrix"]


def test_calibrators_of_the_validation_split_are_cross_fitted(tiny: RunConfig, tmp_path: Path) -> None:
    folder = begun(tiny, tmp_path, "temperature", split="val")
    work(tmp_path, folder, "cpu", None)
    facts = calibrators.load(folder.calibrator("temperature")).facts
    patients = set(facts["patients"].values())
    assert len(facts["folds"]) == min(5, len(patients)) > 1
    scores = json.loads((folder.scores("temperature") / "scores.json").read_text())
    assert (scores["split"], set(scores["cases"])) == ("val", set(facts["cases"]))


def test_a_run_folder_that_was_only_begun_is_made_again(tiny: RunConfig, tmp_path: Path) -> None:
    folder = begun(tiny, tmp_path)
    folder.run.mkdir(parents=True)
    (folder.run / "config.yaml").write_text("name: half")
    work(tmp_path, folder, "cpu", None)
    assert folder.unscored([]) == []
