"""The whole story on a phantom: two networks and a repaired one, their scores, maps and one report."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.data.phantom import write_dataset
from medcalib.engine.calibrate import calibrate
from medcalib.engine.evaluate import evaluate
from medcalib.engine.predict import predict
from medcalib.engine.train import train
from medcalib.report import build_report
from medcalib.report.maps import write_maps
from medcalib.report.page_templates import require_drawing
from medcalib.report.run_page import RunPage
from medcalib.report.text import score_text
from medcalib.report.underlays import underlays

log = logging.getLogger(__name__)
METHODS = {"ce": "ce", "mbls": "{name: mbls, margin: 5}"}  # 5: the margin of the MbLS authors for hearts
PATIENTS = 28  # 7 are tested: with fewer no difference between three methods can reach p < 0.05 (Wilcoxon, Holm)


def run_demo(out: Path) -> Path:
    """Generate a heart phantom, train cross-entropy and MbLS, repair the former, compare; returns the report's path."""
    require_drawing()
    data = out / "data"
    if not data.exists():
        log.info("generating %d phantom patients with a known posterior in %s", PATIENTS, data)
        partial = out / "data.partial"  # an interrupted generation must not be taken for a dataset
        shutil.rmtree(partial, ignore_errors=True)
        write_dataset("acdc", PATIENTS, 0, partial).rename(data)
    folders = []
    for method, loss in METHODS.items():
        config = load(bundled()["phantom"], data=str(data), overrides=[f"loss={loss}"])
        log.info("training %s in %s", method, out / method)
        run = out / method / "run"
        train(config, run, resume=True, followers=[RunPage(run)])
        folders.append(_evaluated(config, out / method, run))
    log.info("temperature scaling of ce, fitted on its validation patients")
    run, file = out / "ce" / "run", out / "ce" / "temperature.safetensors"
    calibrate(run, file, weights="last")
    config = load(run / "config.yaml")
    folders.append(_evaluated(config, out / "ce_temperature", run, calibrator=file))
    return build_report(
        [folder / "scores" for folder in folders],
        out / "report.html",
        maps=[folder / "maps" for folder in folders],
        underlays=underlays(config),
        title="medcalib demo: a heart phantom",
    )


def _evaluated(config: RunConfig, folder: Path, run: Path, *, calibrator: Path | None = None) -> Path:
    """Predict, score and map the test patients into `folder`; returns it.

    With the last weights, as nnU-Net: the longer a network trains on few patients, the more confident it grows.
    """
    index = predict(run, folder / "predictions", calibrator=calibrator, weights="last")
    found = evaluate(folder / "predictions", config.root, folder / "scores", config=config)
    log.info("\n%s on the test patients", index["method"]["name"])
    for line in [*score_text(found).splitlines(), ""]:
        log.info("%s", line)
    write_maps(folder / "predictions", config.root, folder / "maps", data=config.data)
    return folder
