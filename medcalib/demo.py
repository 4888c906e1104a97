"""The whole story on a phantom: two networks, their scores, maps and one report."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from medcalib.config import load
from medcalib.config.bundled import bundled
from medcalib.data.phantom import write_dataset
from medcalib.engine.evaluate import evaluate
from medcalib.engine.predict import predict
from medcalib.engine.train import train
from medcalib.errors import MissingExtraError
from medcalib.report import build_report
from medcalib.report.maps import write_maps
from medcalib.report.text import score_text
from medcalib.report.underlays import underlays

log = logging.getLogger(__name__)
METHODS = {"ce": "ce", "mbls": "{name: mbls, margin: 5}"}  # 5: the margin of the MbLS authors for hearts
PATIENTS = 24


def run_demo(out: Path, *, seed: int = 0) -> Path:
    """Generate a heart phantom, train cross-entropy and MbLS on it, and compare them; returns the report's path."""
    _require_drawing()
    data = out / "data"
    if not data.exists():
        log.info("generating %d phantom patients with a known posterior in %s", PATIENTS, data)
        partial = out / "data.partial"  # an interrupted generation must not be taken for a dataset
        shutil.rmtree(partial, ignore_errors=True)
        write_dataset("acdc", PATIENTS, seed, partial).rename(data)
    scores, maps = [], []
    for method, loss in METHODS.items():
        folder = out / method
        config = load(bundled()["phantom"], data=str(data), overrides=[f"loss={loss}", f"train.seed={seed}"])
        log.info("training %s in %s", method, folder)
        train(config, folder / "run", resume=True)
        predict(folder / "run", folder / "predictions")
        found = evaluate(folder / "predictions", data, folder / "scores", config=config)
        log.info("\n%s on the test patients\n%s\n", method, score_text(found))
        write_maps(folder / "predictions", data, folder / "maps", data=config.data)
        scores.append(folder / "scores")
        maps.append(folder / "maps")
    return build_report(
        scores,
        out / "report.html",
        maps=maps,
        underlays=underlays(config),
        title="medcalib demo: a heart phantom",
    )


def _require_drawing() -> None:
    """Say at the start, not after the training, that the report cannot be drawn."""
    try:
        import jinja2
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("report", str(error.name)) from error
    del jinja2, matplotlib
