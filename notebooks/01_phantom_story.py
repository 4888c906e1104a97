# %% [markdown]
# # 1. The story on a phantom, in five minutes
#
# - You make a small dataset of hearts whose true class probabilities are known at every voxel.
# - You train the same network twice: with cross-entropy, and with margin-based label smoothing (MbLS).
# - You see that both segment about equally well, and that one of them is far too sure of itself.
# - You repair the overconfident network after training, with temperature scaling.
# - You compare the *measured* calibration error with the *true* one, which no clinical dataset can tell you.

# %% [markdown]
# Everything is written into one folder: a temporary one, or the one that `MEDCALIB_NOTEBOOK_DIR` names. Run the
# notebook again with the same folder, and nothing is trained twice. `MEDCALIB_NOTEBOOK_FAST=1` shrinks everything
# until the notebook runs in seconds; its numbers then mean nothing.

# %%
import logging
import os
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from medcalib.report.plots import STYLE

FAST = os.environ.get("MEDCALIB_NOTEBOOK_FAST") == "1"
FOLDER = Path(os.environ.get("MEDCALIB_NOTEBOOK_DIR") or tempfile.mkdtemp()) / "phantom_story"
plt.rcParams.update({**STYLE, "figure.dpi": 110})
logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.getLogger("medcalib").setLevel(logging.INFO)  # a line for each epoch of training

# %% [markdown]
# ## Hearts with a known truth
#
# `write_dataset` writes files in the layout of the ACDC challenge. Each patient has two volumes. The labels are *drawn*
# from a posterior: at every voxel, a probability of background, right ventricle (RV), myocardium (MYO) and left
# ventricle (LV). That posterior is stored beside the label. It is the best answer that any network could give.

# %%
from medcalib.data.phantom import write_dataset

patients, shape = (6, (32, 32, 6)) if FAST else (16, None)
data = FOLDER / "data"
if not data.exists():
    write_dataset("acdc", patients, seed=0, out=data, shape=shape)
sorted(path.name for path in (data / "training" / "patient001").iterdir())

# %% [markdown]
# One slice of one patient. On the right is the true uncertainty: the probability that the label of a voxel is *not* its
# most probable class. It is high where two structures meet, and nowhere else.

# %%
from medcalib.data.phantom import make_case

case = make_case("heart", seed=0, index=0, shape=shape)
middle = case.labels.shape[2] // 2
panels = {
    "image": (case.images[0], "gray", "intensity"),
    "label": (case.labels, plt.get_cmap("viridis", 4), None),
    "1 - largest true probability": (1 - case.posterior.max(0), "cividis", "probability"),
}
fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
for ax, (title, (volume, colors, unit)) in zip(axes, panels.items(), strict=True):
    shown = ax.imshow(volume[..., middle].T, cmap=colors, interpolation="nearest")
    ax.set_title(title)
    ax.set_axis_off()
    bar = fig.colorbar(shown, ax=ax, label=unit, shrink=0.85)
    if unit is None:
        shown.set_clim(-0.5, 3.5)
        bar.set_ticks(range(4), labels=case.class_names)

# %% [markdown]
# ## Two networks
#
# The config `phantom` ships with medcalib: a small 3D U-Net, few patients, no augmentation. A network in that situation
# learns its training patients by heart and grows more confident than it deserves to be. Only the loss differs between
# the two runs. MbLS adds a penalty to cross-entropy: logits further than a margin below the largest one cost something.

# %%
from medcalib.config import load
from medcalib.config.bundled import bundled
from medcalib.engine.train import train

LOSSES = {"ce": "ce", "mbls": "{name: mbls, margin: 5}"}
if FAST:
    length = ["train.epochs=1", "train.steps_per_epoch=2", "train.patch_size=[32, 32, 8]"]
else:
    length = ["train.epochs=12", "train.steps_per_epoch=40", "train.validate_every=6"]
for name, loss in LOSSES.items():
    config = load(bundled()["phantom"], data=str(data), overrides=[f"loss={loss}", *length])
    last = train(config, FOLDER / name / "run", resume=True)
    print(f"{name}: mean foreground Dice on the validation patients {last['val_dice']:.3f}")

# %% [markdown]
# ## Predict and score the test patients
#
# `predict` writes class probabilities as NIfTI files, `evaluate` turns them into counts and scores. The region belongs
# to the number: `all` is every voxel, most of them easy background; `pred_foreground` is what the network calls heart.

# %%
from medcalib.engine.evaluate import evaluate
from medcalib.engine.predict import predict
from medcalib.report.text import table


def scored(name, run, calibrator=None):
    """Predict and score the test patients with the last weights."""
    folder = FOLDER / name
    predict(run, folder / "predictions", calibrator=calibrator, weights="last")
    return evaluate(folder / "predictions", data, folder / "scores", config=config)


def show(scores):
    """Dice, and ECE of two regions, by method."""
    rows = []
    for name, found in scores.items():
        dice = found["mean"]["dice"]["foreground"]["value"]
        everywhere, heart = (found["pooled"][region]["ece"] for region in ("all", "pred_foreground"))
        rows.append([name, f"{dice:.3f}", f"{everywhere:.4f}", f"{heart:.4f}"])
    print(table(rows, ["method", "Dice", "ECE, all", "ECE, pred_foreground"]))


scores = {name: scored(name, FOLDER / name / "run") for name in LOSSES}
show(scores)

# %% [markdown]
# Dice hardly tells the two apart. In the heart MbLS is better calibrated by far. Over all voxels it is not: with the
# margin of 5, no confidence can go much beyond 0.98, and easy background deserves more than that. Which of the two
# columns matters is for you to say, and to write beside the number.

# %% [markdown]
# ## Repair the network after training
#
# Temperature scaling divides all logits by one number T. It is fitted on the validation patients, never on those that
# are scored. A T above 1 lowers every confidence. No voxel changes its class, so Dice stays the same to the last digit.

# %%
from medcalib.engine.calibrate import calibrate

file = FOLDER / "temperature.safetensors"
temperature = calibrate(FOLDER / "ce" / "run", file, method="temperature", weights="last")
print(f"T = {temperature.plain()['temperature']:.2f}")
scores["ce + temperature"] = scored("ce_temperature", FOLDER / "ce" / "run", calibrator=file)
show(scores)

# %% [markdown]
# ## Reliability diagrams, and the error that is true
#
# Each point is a bin of voxels with about the same confidence: across, what the network claims; up, how often it is
# right. Points below the dashed diagonal are overconfident. Bars below the diagram count the voxels, on a log axis.
#
# The second curve, with diamonds, takes the known posterior in place of the drawn labels. The two curves agree as well
# as they do because there are many voxels; the shaded band, which resamples patients, tells how far to trust the first.

# %%
from medcalib.metrics import CaseScores
from medcalib.report import plots


def counts_of(name, region="pred_foreground"):
    """(patient, counts) of every test case of a method."""
    files = sorted((FOLDER / name / "scores").glob("*.npz"))
    return [(found.patient_id, found.regions[region].calibration) for found in map(CaseScores.load, files)]


FOLDERS = {"ce": "ce", "mbls": "mbls", "ce + temperature": "ce_temperature"}
fig, axes = plt.subplots(1, 3, figsize=(12, 4.4))
for ax, (name, folder) in zip(axes, FOLDERS.items(), strict=True):
    per_case = counts_of(folder)
    pooled = sum(counts for _, counts in per_case)
    plots.plot_reliability(pooled, ax, region=f"{name}, pred_foreground", per_case=per_case)
fig.subplots_adjust(wspace=0.35)

# %% [markdown]
# How far is the measured error from the true one? In the figure below a point on the dashed line would be measured
# exactly. On clinical data you have only the horizontal axis; with few patients, small differences there are noise.

# %%
fig, ax = plt.subplots(figsize=(4.6, 4))
highest = 0.0
for number, (name, folder) in enumerate(FOLDERS.items()):
    for region, filled in (("all", True), ("pred_foreground", False)):
        pooled = sum(counts for _, counts in counts_of(folder, region))
        measured, true = pooled.ece(), pooled.ece(true=True)
        highest = max(highest, measured, true)
        color = plots.COLORS[number]
        face = color if filled else "none"
        ax.plot(measured, true, plots.MARKERS[number], color=color, mfc=face, ms=8, label=f"{name}, {region}")
ax.plot([0, 1.1 * highest], [0, 1.1 * highest], ls="--", lw=0.8, color="gray")
ax.set(xlabel="measured ECE (drawn labels)", ylabel="true ECE (known posterior)")
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## What to try next
#
# - Give `train.epochs` twice the number, and watch cross-entropy grow more confident while Dice hardly moves.
# - Change the `margin` of MbLS, or take another loss: `medcalib losses` lists all of them.
# - Try `method="region_temperature"` in `calibrate`: one temperature for the boundary and one for the interior.
# - `medcalib demo --out demo` tells this story with more patients, and ends with a report you can hand around.
